"""Write a mask for each image of a file, a folder, a datalist or an archive's studies, and what else is asked for."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cli._arguments import add_overlays, add_settings, overrides_of, own_process
from medseg.errors import shown, together
from medseg.io.dicomweb_address import is_address
from medseg.prediction.outputs import OUTPUTS

if TYPE_CHECKING:
    from medseg.prediction.archive_input import ArchiveOptions

__all__ = ["add_arguments", "run"]

_ARCHIVE = ("study", "ca", "credentials", "plain_http")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", help="folder of a run or an ensemble, a packed model, or a bundle with weights")
    parser.add_argument(
        "images",
        help="an image, a folder of images or DICOM series, a datalist, or an archive: dicomweb://HOST:PORT/PATH",
    )
    parser.add_argument("masks", type=Path, help="folder for the masks and all other outputs")
    parser.add_argument(
        "--ensemble", nargs="+", default=[], metavar="MODEL", help="average with these models, of folds"
    )
    parser.add_argument("--tta", action="store_true", help="average over the mirror images that it was trained on")
    for name, output in OUTPUTS.items():
        parser.add_argument(f"--{name}", dest="outputs", action="append_const", const=name, help=output.about)
    parser.add_argument("--series", type=Path, metavar="FILE", help="rules: which DICOM series the model takes (YAML)")
    parser.add_argument(
        "--codes", type=Path, metavar="FILE", help="coded concepts of classes for DICOM (a datalist, JSON)"
    )
    parser.add_argument("--overwrite", action="store_true", help="also do images whose mask is there, whatever made it")
    parser.add_argument(
        "--keep-identifiers",
        action="store_true",
        help="keep what names a patient: texts of headers in masks, DICOM's tags in the record of the run",
    )
    parser.add_argument(
        "--backend", choices=("torch", "onnx", "openvino"), default="torch", help="what runs it, see medseg export"
    )
    parser.add_argument(
        "--trust", action="store_true", help="run the code of the package that the model's network is of"
    )
    parser.add_argument(
        "--signed-by", type=Path, metavar="KEY", help="public key that must have signed the packed model"
    )
    _add_archive(parser)
    add_overlays(parser)
    add_settings(parser, "device, precision, num_workers, or how whole images are predicted: inference#overlap=0.5")
    parser.set_defaults(
        spelt={
            "overwrite": "--overwrite",
            "codes": "--codes",
            "series": "--series",
            "keep_identifiers": "--keep-identifiers",
            **{key: f"--{key.replace('_', '-')}" for key in (*_ARCHIVE, "series_uid")},
        }
    )


def _add_archive(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "an archive (dicomweb://, or dicomweb+http:// on this computer)",
        "The user and the password are MEDSEG_DICOMWEB_USER and MEDSEG_DICOMWEB_PASSWORD of the environment.",
    )
    group.add_argument("--study", action="append", metavar="UID", help="a study of it; may be given again")
    group.add_argument("--series-uid", action="append", metavar="UID", help="only this series; may be given again")
    group.add_argument("--no-push", action="store_true", help="do not store DICOM objects there; they stay here alone")
    group.add_argument("--ca", type=Path, metavar="FILE", help="certificates (PEM) to trust, of a hospital's own")
    group.add_argument("--credentials", type=Path, metavar="FILE", help="netrc file with user and password, mode 600")
    group.add_argument("--plain-http", action="store_true", help="accept what is not encrypted, to other computers")


def _archive_of(options: argparse.Namespace) -> ArchiveOptions | None:
    """Return what is asked of an archive; ``None`` where nothing is."""
    given = [options.study, options.series_uid, options.no_push, options.ca, options.credentials, options.plain_http]
    if not (any(given) or is_address(options.images)):
        return None
    from medseg.prediction.archive_input import ArchiveOptions

    return ArchiveOptions(
        options.study or (),
        options.series_uid or (),
        push=not options.no_push,
        ca=options.ca,
        credentials=options.credentials,
        plain_http=options.plain_http,
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from medseg.prediction.predict import predict
    from medseg.reports.progress import progress_bar

    overrides = overrides_of(options)
    own_process(lean=True)
    with progress_bar("predicting") as progress:
        outcome = predict(
            [options.model, *options.ensemble],
            options.images if is_address(options.images) else Path(options.images),
            options.masks,
            outputs=options.outputs or (),
            tta=options.tta,
            overlays=options.overlays,
            overrides=overrides,
            overwrite=options.overwrite,
            series=options.series,
            codes=options.codes,
            keep_identifiers=options.keep_identifiers,
            trust=options.trust,
            backend=options.backend,
            signed_by=options.signed_by,
            archive=_archive_of(options),
            progress=progress if sys.stderr.isatty() else None,  # elsewhere lines of the log tell
        )
    sys.stderr.writelines(f"medseg: error: {line}\n" for line in together(outcome.failures, "image"))
    sys.stderr.writelines(f"medseg: left out: {line}\n" for line in together(outcome.left_out))
    said = [f"{outcome.written} written"]
    if outcome.skipped:
        said.append(f"{outcome.skipped} skipped, their masks are there (--overwrite does them again)")
    said += [f"{outcome.stored} stored in the archive"] * bool(outcome.stored)
    said += [f"{outcome.present} there before"] * bool(outcome.present)
    said += [f"{len(outcome.failures)} failed"] * bool(outcome.failures)
    said += [f"{len(outcome.left_out)} left out"] * bool(outcome.left_out)
    sys.stdout.write(f"{shown(options.masks)}: {', '.join(said)}\n")
    return 1 if outcome.failures or outcome.missed or not (outcome.written or outcome.skipped) else 0
