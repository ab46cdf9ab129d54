"""Export a trained network to ONNX, OpenVINO, torch.export or TorchScript, compared with PyTorch on real images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseg.cli._arguments import add_output, number_above_zero, positive
from medseg.errors import MedsegError, shown

__all__ = ["add_arguments", "run"]

_TENSORRT = (
    "a TensorRT engine fits one GPU and one version, and is built where it runs: medseg export MODEL --to onnx, then "
    "there trtexec --onnx=model.onnx --saveEngine=model.plan --shapes=image:BATCHxCHANNELSxSIZE (--fp16), see "
    "docs/how-to/export.md; nothing of it was tried by medseg"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", help="folder of a run, a packed model, or a bundle with weights")
    formats = ("onnx", "openvino", "torch-export", "torchscript", "tensorrt")
    parser.add_argument("--to", required=True, choices=formats, help="format")
    add_output(parser, "file (default: beside the weights, where predict --backend finds it)", metavar="FILE")
    parser.add_argument("--size", type=positive, nargs="+", metavar="EDGE", help="that it takes (default: any)")
    parser.add_argument("--half", action="store_true", help="fp16; of openvino the weights alone")
    parser.add_argument("--images", type=Path, metavar="DIR", help="to compare on (default: the training's)")
    parser.add_argument(
        "--tolerance",
        type=number_above_zero,
        metavar="NUMBER",
        help="largest difference of a probability (default: 0.001, of fp16 0.02)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if options.to == "tensorrt":
        raise MedsegError(_TENSORRT)
    from medseg.prediction.export import export

    report = export(
        options.model,
        options.to,
        options.output,
        size=options.size,
        half=options.half,
        images=options.images,
        tolerance=options.tolerance,
    )
    sizes = ", ".join(" x ".join(map(str, size)) for size in report.sizes)
    sys.stdout.write(f"{report.table().to_text()}\n\n")
    sys.stdout.write(
        f"compared on {report.images} images, {report.forwards} forwards of {sizes}\n"
        f"largest difference: {report.logits:.2g} in a logit, {report.probability:.2g} in a probability; "
        f"{report.changed:.3%} of pixels change class\n{shown(report.path)}\n"
    )
    return 0
