"""Find which network is best on your images in the minutes at hand: plan, train, rank, export, report."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from medseg.cli._arguments import (
    add_output,
    add_plan_size,
    add_settings,
    number_above_zero,
    overrides_of,
    own_process,
    positive,
    same_again,
    say,
)
from medseg.cli._executors import add_executor, executor_of, sharing_of
from medseg.errors import shown

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("data", type=Path, help="folder that holds the datalist, or the datalist; or another layout")
    add_output(parser, "folder of the comparison, new or begun", required=True)
    parser.add_argument(
        "--minutes", type=number_above_zero, required=True, metavar="M", help="for all of it, with planning and scoring"
    )
    parser.add_argument(
        "--networks",
        nargs="+",
        default=[],
        metavar="NAME",
        help="from medseg or MONAI (default: medseg's, as many as fit)",
    )
    add_plan_size(parser)
    parser.add_argument(
        "--folds", type=positive, metavar="K", help="held out in turn (default: as many as fit, 5 at most)"
    )
    parser.add_argument("--fold-key", default="fold", metavar="NAME", help="fold scheme of the datalist (fold)")
    add_executor(parser, "trainings")
    parser.add_argument(
        "--best-fold", action="store_true", help="export one network, of the best fold, not the ensemble"
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="fit a temperature of probabilities to the fold that each exported network has not seen, after the "
        "minutes: its cases are predicted again",
    )
    parser.add_argument("--no-pictures", action="store_true", help="show no case in the report")
    parser.add_argument("--mixed", action="store_true", help="go on with trainings that other code began")
    add_settings(parser, "single keys of the configuration of all trainings, such as device=cpu")
    parser.set_defaults(spelt={"fold_key": "--fold-key"}, goes_on=same_again)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    began = time.monotonic()  # what is imported now takes of the minutes
    settings = overrides_of(options)
    executor = executor_of(options)
    own_process()
    from medseg.reports.summary import HTML
    from medseg.studies.executors import cells_by
    from medseg.studies.network_comparison import compare_networks
    from medseg.studies.network_record import Asked

    asked = Asked(
        options.minutes,
        tuple(options.networks),
        dimensions=options.dimensions,
        memory=options.memory,
        folds=options.folds,
        fold_key=options.fold_key,
        workers=options.workers,
        settings=settings,
        best_fold=options.best_fold,
        calibrate=options.calibrate,
    )
    found = compare_networks(
        options.data,
        options.output,
        asked,
        executor=cells_by(executor),
        sharing=lambda: sharing_of(options, settings),
        mixed=options.mixed,
        pictures=not options.no_pictures,
        since=began,
        say=say,
    )
    places = {"model": found.model, "report": found.folder / HTML}
    lines = [f"{name}: {shown(place)}\n" for name, place in places.items()]
    sys.stdout.writelines([f"{found.ranking().to_text()}\n\n{found.verdict}\n\n", *lines])
    return 0
