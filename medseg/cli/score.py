"""Score masks that anybody made against true ones: two folders, or a folder and a datalist."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseg.cli._arguments import add_output, add_scores, scores_of, write_json

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("predictions", type=Path, help="folder of masks, or one mask")
    parser.add_argument("truths", type=Path, help="datalist or its folder; or folder of true masks of the same names")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="classes from value 0, or a dataset.json with them")
    parser.add_argument("--groups", type=Path, metavar="CSV", help="patient or slide of each: columns case and group")
    add_scores(parser, "distances and volumes unless named")
    add_output(parser, "folder for scores.json, tables, rows per case")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status: 1 if a prediction or a truth was not scored."""
    from medseg.errors import shown
    from medseg.io.folder import refuse_missing

    scores = scores_of(options)
    for folder in (options.predictions, options.truths):
        refuse_missing(folder)
    from medseg.reports.score_tables import score_tables
    from medseg.runs.report import write_report
    from medseg.runs.run_folder import RunFolder
    from medseg.studies.mask_classes import read_classes, read_groups
    from medseg.studies.mask_pairs import truths_of
    from medseg.studies.score_folders import WANTED, score_folders

    truths = truths_of(options.truths)
    data = None if isinstance(truths, Path) else truths
    found = score_folders(
        options.predictions,
        truths,
        classes=read_classes(options.labels, data) if options.labels else None,
        groups=read_groups(options.groups) if options.groups else None,
        scores=scores or WANTED,
    )
    title = f"{options.predictions.name} against {options.truths.name}"
    if options.output is not None:
        write_report(RunFolder(options.output), found.result, ".", title=title)
    if options.json:
        write_json(dict(found.result.table))
    else:
        text = "\n\n".join(table.to_text() for table in score_tables(found.result.table))
        sys.stdout.write(f"{text}\n")
    for line in found.said():
        sys.stderr.write(f"medseg: {line}\n")
    if options.output is not None:
        sys.stderr.write(f"medseg: scores, tables and rows per case are in {shown(options.output)}\n")
    return 0 if found.complete else 1
