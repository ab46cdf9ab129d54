"""Score a run's weights on its test images, or on others."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from medseg.cli._arguments import (
    add_output,
    add_overlays,
    add_scores,
    add_settings,
    overrides_of,
    own_process,
    scores_of,
    write_json,
)
from medseg.errors import MedsegError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("run_folder", type=Path, metavar="run", help="folder of a run")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of another datalist (default: the training's)")
    parser.add_argument(
        "--ensemble", nargs="+", default=[], metavar="RUN", help="average with these runs, of folds, on the test list"
    )
    add_output(parser, "folder of the evaluation (default: in the run's; an ensemble has none)")
    parser.add_argument(
        "--choose-postprocessing",
        action="store_true",
        help="choose it by mean Dice on the validation cases and keep it with the weights; scores nothing",
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="fit a temperature of probabilities to the validation cases, or with scored=test to those of the fold "
        "that the run left out, and keep it with the weights; scores nothing",
    )
    parser.add_argument(
        "--allow-seen", action="store_true", help="score images that the run was trained on, too; the scores say so"
    )
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    add_scores(parser, "those of the model")
    add_overlays(parser)
    add_settings(parser, "options of the evaluation, such as scored=validation")
    parser.set_defaults(spelt={"output_dir": "--output", "data": "--data", "allow_seen": "--allow-seen"})


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from medseg.bundle import workflow
    from medseg.reports.summary import summarise

    overrides = overrides_of(options)
    own_process()
    asked = [name for name in ("choose_postprocessing", "calibrate") if getattr(options, name)]
    if asked and (options.output is not None or options.json or options.scores):
        said = " and ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise MedsegError(f"{said} writes into the run; leave --output, --scores and --json out")
    if asked and options.ensemble:
        raise MedsegError(
            "each run has validation cases of its own; leave --ensemble out, and name one run after another"
        )
    if options.ensemble and options.output is None:
        raise MedsegError("an ensemble has no folder of its own; say where its scores go: --output DIR")
    for name in asked:
        table = getattr(workflow, name)(
            options.run_folder,
            data=options.data,
            overlays=options.overlays,
            overrides=overrides,
            allow_seen=options.allow_seen,
        )
        sys.stdout.write(table.to_text() + "\n")
    if asked:
        return 0
    given: dict[str, Any] = {
        "data": options.data,
        "output": options.output,
        "overlays": options.overlays,
        "overrides": overrides,
    }
    given["allow_seen"] = options.allow_seen
    if options.ensemble:
        found = workflow.evaluate_together([options.run_folder, *options.ensemble], **given, scores=scores_of(options))
    else:
        found = workflow.evaluate(options.run_folder, **given, scores=scores_of(options))
    if options.json:
        write_json(found.scores)
        return 0
    text, _ = summarise(found.folder)
    sys.stdout.write(f"{text}\n")
    return 0
