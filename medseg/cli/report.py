"""Print the scores of a run and where its pictures are."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseg.cli._arguments import write_json

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("folder", type=Path, help="folder of a run or of an evaluation")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from medseg.reports.summary import summarise

    text, scores = summarise(options.folder)
    if options.json:
        write_json(scores)
    else:
        mean = scores["mean_iou"]
        last = "mean IoU absent" if mean is None else f"mean IoU {mean:.3f}"
        sys.stdout.write(f"{text}\n\n{last}\n")
    return 0
