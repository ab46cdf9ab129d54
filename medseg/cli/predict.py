"""Write a mask for each image of a folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseg.cli._arguments import add_overlays, add_settings, overrides_of, own_process
from medseg.errors import shown, together

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", help="folder of a run, a packed model, or a bundle with weights")
    parser.add_argument("images", type=Path, help="an image, or a folder of images")
    parser.add_argument("masks", type=Path, help="folder for the masks")
    parser.add_argument("--overwrite", action="store_true", help="also do images whose mask is there, whatever made it")
    parser.add_argument("--keep-header", action="store_true", help="keep descriptions and names in the masks' headers")
    parser.add_argument(
        "--backend", choices=("torch", "onnx", "openvino"), default="torch", help="what runs it, see medseg export"
    )
    parser.add_argument(
        "--trust", action="store_true", help="run the code of the package that the model's network is of"
    )
    add_overlays(parser)
    add_settings(parser, "device, precision, num_workers, or how whole images are predicted: inference#overlap=0.5")
    parser.set_defaults(spelt={"overwrite": "--overwrite", "keep_header": "--keep-header"})


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from medseg.prediction.predict import predict

    overrides = overrides_of(options)
    own_process()
    outcome = predict(
        options.model,
        options.images,
        options.masks,
        overlays=options.overlays,
        overrides=overrides,
        overwrite=options.overwrite,
        keep_header=options.keep_header,
        trust=options.trust,
        backend=options.backend,
    )
    sys.stderr.writelines(f"medseg: error: {line}\n" for line in together(outcome.failures, "image"))
    sys.stderr.writelines(f"medseg: left out: {line}\n" for line in together(outcome.left_out))
    said = [f"{outcome.written} written"]
    if outcome.skipped:
        said.append(f"{outcome.skipped} skipped, their masks are there (--overwrite does them again)")
    said += [f"{len(outcome.failures)} failed"] * bool(outcome.failures)
    said += [f"{len(outcome.left_out)} left out"] * bool(outcome.left_out)
    sys.stdout.write(f"{shown(options.masks)}: {', '.join(said)}\n")
    return 1 if outcome.failures or outcome.missed or not (outcome.written or outcome.skipped) else 0
