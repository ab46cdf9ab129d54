"""Write a mask for each image of a file, a folder, a datalist or an archive's studies, and what else is asked for."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.atomic import atomic_write
from medseg.cli._arguments import add_outputs, add_overlays, add_settings, end_with_input, overrides_of, own_process
from medseg.cli._executors import add_executor, executor_of
from medseg.errors import MedsegError, shown, together
from medseg.io.dicomweb_address import is_address

if TYPE_CHECKING:
    from medseg.prediction.archive_input import ArchiveOptions
    from medseg.prediction.shared import Shared

__all__ = ["add_arguments", "run"]

_ARCHIVE = ("study", "ca", "credentials", "plain_http")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", help="folder of a run or an ensemble, a packed model, or a bundle with weights")
    parser.add_argument(
        "images",
        help="an image, a folder of images or DICOM series, a datalist or its folder, or dicomweb://HOST:PORT/PATH",
    )
    parser.add_argument("masks", type=Path, help="folder for the masks and all other outputs")
    parser.add_argument(
        "--ensemble", nargs="+", default=[], metavar="MODEL", help="average with these models, of folds"
    )
    parser.add_argument("--tta", action="store_true", help="average over the mirror images that it was trained on")
    add_outputs(parser)
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
    _add_parts(parser)
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


def _add_parts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several processes, on this machine or others")
    add_executor(group, "parts of the cohort")
    group.add_argument("--cases", type=Path, metavar="FILE", help="only the cases that this JSON list names")
    group.add_argument("--told", type=Path, metavar="FILE", help="write what became of the cases to this file (JSON)")
    group.add_argument("--tied", action="store_true", help="end at once when standard input closes")


def _shared_by(options: argparse.Namespace) -> Shared | None:
    """Return who does the cohort in parts; ``None`` where this process does all of it."""
    if options.workers == 1 and options.executor == "here" and not options.job:
        return None
    from medseg.prediction.shared import Shared

    return Shared(executor_of(options), options.workers)


def _cases_of(options: argparse.Namespace) -> list[str] | None:
    if options.cases is None:
        return None
    try:
        names = json.loads(options.cases.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MedsegError(f"--cases {shown(options.cases)} cannot be read ({error}); name a JSON list") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise MedsegError(f'--cases {shown(options.cases)} is no list of names; write it as ["a.png", "sub/b.png"]')
    return names


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

    overrides, cases = overrides_of(options), _cases_of(options)
    own_process(lean=True)
    if options.tied:
        end_with_input()
    shared = _shared_by(options)
    with progress_bar("predicting") as progress:
        outcome = predict(
            [options.model, *options.ensemble],
            options.images,
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
            cases=cases,
            shared=shared,
            progress=progress if sys.stderr.isatty() else None,  # elsewhere lines of the log tell
        )
    if options.told is not None:
        with atomic_write(options.told) as temporary:
            temporary.write_text(json.dumps(vars(outcome)), encoding="utf-8")
    sys.stderr.writelines(f"medseg: error: {line}\n" for line in together(outcome.failures, "image"))
    sys.stderr.writelines(f"medseg: left out: {line}\n" for line in together(outcome.left_out))
    said = [f"{outcome.written} written"]
    if outcome.skipped:
        said.append(f"{outcome.skipped} skipped, their masks are there (--overwrite does them again)")
    said += [f"{outcome.stored} stored in the archive"] * bool(outcome.stored)
    said += [f"{outcome.present} in the archive before"] * bool(outcome.present)
    said += [f"{len(outcome.failures)} failed"] * bool(outcome.failures)
    said += [f"{len(outcome.left_out)} left out"] * bool(outcome.left_out)
    sys.stdout.write(f"{shown(options.masks)}: {', '.join(said)}\n")
    return 1 if outcome.failures or outcome.missed or not (outcome.written or outcome.skipped) else 0
