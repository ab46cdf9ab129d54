"""Train a bundle on a data set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseg.cli._arguments import (
    add_overlays,
    add_settings,
    number_above_zero,
    overrides_of,
    own_process,
    say_foreign,
)
from medseg.errors import MedsegError, shown

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundle", help="name of a bundle (medseg bundle list), or a bundle's folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder that holds the datalist")
    parser.add_argument("--fold", type=_fold, metavar="N", help="fold that is left out for the test; all for none")
    parser.add_argument("--minutes", type=number_above_zero, metavar="M", help="time, to which the schedule is fitted")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", type=Path, metavar="DIR", help="folder of the run (default: a new one in runs)")
    where.add_argument("--resume", type=Path, metavar="RUN", help="folder of the run to continue")
    add_overlays(parser)
    add_settings(parser, "single keys of the configuration, such as batch_size=4")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    overrides = overrides_of(
        options,
        fold=options.fold,
        max_minutes=options.minutes,
        output_dir=_text(options.output),
        resume=_text(options.resume),
    )
    if options.resume is not None and not options.resume.is_dir():
        raise MedsegError(f"--resume {options.resume}: no such folder; give the folder of a run")
    from medseg.bundle import library, workflow

    bundle = library.find(options.bundle)
    say_foreign(bundle)
    own_process()
    folder = workflow.train(bundle, data=options.data, overlays=options.overlays, overrides=overrides)
    sys.stdout.write(f"{shown(folder)}\n")
    return 0


def _fold(text: str) -> int | str:
    if text == "all":
        return text
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is no fold; folds count from 0, or all")
    return value


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
