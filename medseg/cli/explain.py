"""Draw what a trained network attends to in images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseg.cli._arguments import add_output, positive, write_json
from medseg.errors import shown

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", help="a run, a bundle with weights, or weights")
    parser.add_argument(
        "--image", type=Path, nargs="+", action="extend", required=True, metavar="PATH", help="images or folders"
    )
    add_output(parser, "folder for the sheets and arrays", required=True)
    parser.add_argument(
        "--maps", nargs="+", action="extend", default=[], metavar="NAME", help="which maps to show (default: all)"
    )
    parser.add_argument(
        "--roi", type=positive, nargs="+", default=(), metavar="EDGE", help="look at a centred region of that size"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there, whatever they are of")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from medseg.bundle.library import weights_file
    from medseg.io.folder import refuse_missing
    from medseg.reports.progress import progress_bar

    weights = weights_file(options.model)
    for image in options.image:
        refuse_missing(image)
    from medseg.prediction.model import load
    from medseg.studies.explain import explain
    from medseg.studies.explainable import explainable

    bundle = explainable(load(weights), weights)
    with progress_bar("explaining") as update:
        done = explain(
            bundle,
            options.image,
            options.output,
            maps=options.maps,
            roi=options.roi,
            overwrite=options.overwrite,
            progress=update,
        )
    if options.json:
        write_json(done)
    else:
        for entry in done["written"]:
            sys.stdout.write(f"{shown(entry['sheet'])}: {', '.join(entry['maps'])}\n")
        if done["skipped"]:
            sys.stdout.write(f"{len(done['skipped'])} skipped: their files are there (--overwrite does them again)\n")
    for failure in done["failures"]:
        sys.stderr.write(f"medseg: error: {shown(failure['image'])}: {shown(failure['reason'])}\n")
    return 1 if done["failures"] else 0
