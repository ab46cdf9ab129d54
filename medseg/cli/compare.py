"""Put evaluations of the same images into one table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    from medseg.reports.tables import FORMATS

    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="evaluations of the same images")
    parser.add_argument(
        "--otsu", type=Path, metavar="DATALIST", help="add Otsu's threshold on the same images as a row"
    )
    parser.add_argument(
        "--foreground", choices=("minority", "bright", "dark"), default="minority", help="side of Otsu's"
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="of the table")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from medseg.studies import comparison

    methods = [comparison.load_method(folder) for folder in options.folders]
    comparison.check_same_data(methods)
    if options.otsu is not None:
        methods.insert(0, comparison.otsu_method(methods, options.otsu, options.foreground))
    sys.stdout.write(comparison.table_of(comparison.rows_of(methods)).to(options.format))
    return 0
