"""Write what a run or predictions are worth into one HTML file, to read, print and send."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseg.errors import shown

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("folder", type=Path, help="folder of a run, of an evaluation or of predicted masks")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the HTML file (default: report.html in the folder)"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="of a run: its data, if they moved; of masks: their images"
    )
    parser.add_argument(
        "--keep-identifiers",
        action="store_true",
        help="call cases by the names of their files, which may name patients (default: by numbers)",
    )
    parser.set_defaults(spelt={"data": "--data"})


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from medseg.studies.report import make_report

    path = make_report(options.folder, options.output, data=options.data, keep_identifiers=options.keep_identifiers)
    sys.stdout.write(f"{shown(path)}\n")
    return 0
