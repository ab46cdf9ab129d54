"""Train a bundle on a data set; without a bundle, plan one for the data, train it and score it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from medseg.cli._arguments import (
    add_output,
    add_overlays,
    add_plan,
    add_settings,
    number_above_zero,
    overrides_of,
    own_process,
    say,
    say_foreign,
)
from medseg.errors import MedsegError, meant, shown

__all__ = ["add_arguments", "run"]

_PLANNED = ("network", "dimensions", "memory")
_SPELT = {
    "fold": "--fold",
    "max_minutes": "--minutes",
    "output_dir": "--output",
    "resume": "--resume",
    "start_from": "--weights",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundle", help="name or folder of a bundle (medseg bundle list); or data, to plan one for them")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder that holds the datalist, for a bundle")
    parser.add_argument("--fold", type=_fold, metavar="N", help="fold that is left out for the test (0); all for none")
    parser.add_argument("--minutes", type=number_above_zero, metavar="M", help="time, to which the schedule is fitted")
    where = parser.add_mutually_exclusive_group()
    parser.add_argument("--weights", metavar="RUN|FILE", help="of the whole network, to start from: a run's, or a file")
    add_output(where, "folder of the run (default: a new one in runs)")
    where.add_argument("--resume", type=Path, metavar="RUN", help="folder of the run to continue")
    add_plan(parser)
    add_overlays(parser)
    add_settings(parser, "single keys of the configuration, such as batch_size=4")
    parser.set_defaults(spelt={**_SPELT, "dataset_dir": "--data"}, goes_on=_goes_on)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    overrides = overrides_of(
        options,
        fold=options.fold,
        max_minutes=options.minutes,
        output_dir=_text(options.output),
        resume=_text(options.resume),
        start_from=options.weights,
    )
    if options.resume is not None and not options.resume.is_dir():
        way = meant(options.resume, "give the folder of a run", Path.is_dir)
        raise MedsegError(f"--resume {options.resume}: no such folder; {way}")
    from medseg.bundle import library, workflow

    if options.data is None:
        return _without_bundle(options, overrides)
    planned = [f"--{name}" for name in _PLANNED if getattr(options, name) is not None]
    if planned:
        raise MedsegError(f"{planned[0]} is for a plan; a bundle has its own: leave it out, or leave --data out")
    bundle = library.find(options.bundle)
    say_foreign(bundle)
    own_process()
    folder = workflow.train(bundle, data=options.data, overlays=options.overlays, overrides=overrides)
    sys.stdout.write(f"{shown(folder)}\n")
    return 0


def _without_bundle(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Plan, train and score; or go on with what was planned."""
    from medseg.bundle import library
    from medseg.reports.summary import HTML
    from medseg.studies.plan_and_train import new_folder, plan_and_train, resume_planned

    where = Path(options.bundle).expanduser()
    if options.bundle in library.names() or (where / "configs").is_dir():
        raise MedsegError(f"{options.bundle} is a bundle; say what it is trained on with --data DIR")
    if not where.exists():
        library.refuse_unknown(options.bundle, "bundle or folder of data")
    if options.overlays:
        raise MedsegError(f"--with {options.overlays[0]}: a plan has no overlays; change single keys with KEY=VALUE")
    planned = [f"--{name}" for name in _PLANNED if getattr(options, name) is not None]
    if planned and options.resume is not None:
        raise MedsegError(f"{planned[0]} is for a plan, which the run to resume has: leave it out")
    own_process()
    if options.resume is not None:
        overrides.pop("resume")
        done = resume_planned(where, options.resume, overrides=overrides)
    else:
        done = plan_and_train(
            where,
            overrides.pop("output_dir", None) or new_folder(where),
            network=options.network,
            dimensions=options.dimensions,
            memory=options.memory,
            overrides=overrides,
            say=say,
        )
    tables = "\n".join(table.to("text") for table in done.tables())
    places = {"model": done.run, "plan": done.plan, "report": done.run / HTML}
    lines = [f"{name}: {shown(place)}\n" for name, place in places.items()]
    sys.stdout.writelines([f"{tables}\n", *lines])
    return 0


def _goes_on(options: argparse.Namespace, error: BaseException) -> list[str] | None:
    """Return the words that go on with a training that was broken off; ``None`` where none had begun."""
    begun = [Path(note) for note in getattr(error, "__notes__", ()) if Path(note).is_dir()]  # see workflow.train
    output = options.resume or options.output
    if output is not None and (output / "plan" / "configs").is_dir():
        begun = [output]
    elif begun and options.data is None:
        begun = [begun[0].parent]  # that of the plan
    if not begun:
        return None
    named = {"--data": options.data, "--fold": options.fold, "--minutes": options.minutes}
    words = ["train", options.bundle]
    for option, value in named.items():
        words += [] if value is None else [option, f"{value:g}" if isinstance(value, float) else str(value)]
    words += ["--with", *options.overlays] if options.overlays else []
    words += ["--resume", os.path.relpath(begun[0]) if output is None else str(begun[0])]
    return [*words, *(f"{key}={json.dumps(value)}" for key, value in options.settings if key != "output_dir")]


def _fold(text: str) -> int | str:
    if text == "all":
        return text
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no fold; folds count from 0, or all")
    return int(text)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
