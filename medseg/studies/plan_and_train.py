"""One command for a newcomer: plan a data set, train, score what was left out, and say what it is worth."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.atomic import atomic_write, nothing_left
from medseg.bundle import library, networks, workflow
from medseg.bundle.data import load_data, split
from medseg.bundle.early import refuse_unread
from medseg.bundle.options import OF_A_RUN, Options
from medseg.bundle.ready import refuse_unlabelled
from medseg.bundle.source import read_source
from medseg.caller import spelt
from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist, Parts, datalist_file
from medseg.errors import MedsegError, counted, few, shown
from medseg.reports.score_tables import mean_text
from medseg.reports.tables import Table
from medseg.runs.paths import resolve_path
from medseg.runs.report import PER_CASE, read_rows, write_compared
from medseg.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from medseg.metrics.intervals import Interval
    from medseg.studies.baseline import Baseline

__all__ = [
    "BASELINE",
    "ELSEWHERE",
    "KEYS",
    "Trained",
    "data_of",
    "new_folder",
    "plan_and_train",
    "refuse_keys",
    "resume_planned",
]

BASELINE = "baseline.json"
KEYS = (*Options.names(), "model", "network_def", "loss", "optimizer", "augmentation", "handlers", "device")
"""Keys of a planned bundle's configuration that may be changed: others are refused before anything is measured."""
ELSEWHERE = "; what a folder of images and labels holds is said to `medseg import FOLDER -o DIR`"
_OPTION = re.compile(r"--[a-z]")
_NOTES = 5  # of an import; an importer may have one an object


@dataclass(frozen=True)
class Trained:
    """What came out.

    Args:
        plan: folder of the planned bundle.
        run: folder of the run, with the model and the report.
        scores: of the test images, as in ``scores.json``.
        rows: of each test image, as in ``scores_per_case.csv``.
        baseline: what needs no network, on the same images.
        kinds: of each test image.
        classes: names of the classes that are foreground.
        steps: that the training had, and that a plan asks for.
        untrained: names of classes that no image of the training shows.
    """

    plan: Path
    run: Path
    scores: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    baseline: Baseline
    kinds: Sequence[str]
    classes: Sequence[str]
    steps: tuple[int, int]
    untrained: Sequence[str] = ()

    @cached_property
    def difference(self) -> tuple[float | None, Interval | None]:
        """Return by how much the mean Dice of an image is above the baseline's, and the interval of that."""
        from medseg.studies.kinds import groups_of_cases, mean_over_cases, means_of_cases

        ours, theirs = (means_of_cases(rows, self.classes) for rows in (self.rows, self.baseline.rows))
        return mean_over_cases(ours - theirs, groups_of_cases(self.rows))

    def tables(self) -> list[Table]:
        """Return the network beside the baseline: by class, and by kind of image where there are several."""
        from medseg.studies.kinds import kinds_table

        per_case, other = self.scores["per_case"], self.baseline.title
        rows = [
            _row("network", per_case, self.classes),
            _row(other, self.baseline.scores["per_case"], self.classes),
        ]
        better, interval = self.difference
        shown = " [95 % interval]" if interval is not None else ", too few for intervals"
        notes = [f"means over {counted(per_case['cases'], 'image')} left out of the training{shown}"]
        notes.append(_trained(*self.steps))
        if self.untrained:
            notes.append(
                f"no image of the training shows {few(self.untrained)}: nothing is learned of it, and its scores, "
                "which are in the means, say nothing; leave out another fold, or spread its images over the folds"
            )
        if lost := [row["name"] for row in per_case["classes"] if row["name"] in self.classes and _lost(row)]:
            notes.append(f"{few(lost)}: found in none of the images that hold it; give more minutes")
        if better is not None:
            notes.append(
                f"Dice of an image, mean over {few(self.classes)}, network less {other}: {mean_text(better, interval)}"
            )
            notes.append(_verdict(better, interval, other))
        by_kind = kinds_table(self.kinds, {"network": self.rows, other: self.baseline.rows}, self.classes)
        return [Table.of(rows, notes=notes), *([] if by_kind is None else [by_kind])]

    @property
    def warning(self) -> str | None:
        """The verdict, where the network is not better than what needs none."""
        better, interval = self.difference
        if better is None or _better(better, interval):
            return None
        return _verdict(better, interval, self.baseline.title)

    def record(self) -> dict[str, Any]:
        """Return the baseline's scores, and how far the network is above it, as plain values."""
        better, interval = self.difference
        held = {"title": self.baseline.title, "difference": {"dice": better, "interval": interval}}
        return {**self.baseline.scores, **held}


def refuse_keys(changes: Mapping[str, Any]) -> None:
    """Refuse keys that no plan holds.

    Args:
        changes: that a plan, which no training follows at once, is to keep to.

    Raises:
        MedsegError: naming the key, and where it is given.
    """
    for key in changes:
        if key.split("#")[0] in OF_A_RUN or key == "network_def#seed":
            raise MedsegError(f"{spelt(key)} is of a training, not of a plan; give it to `medseg train BUNDLE`")
    refuse_unread("plan", [key.split("#")[0] for key in changes], KEYS)


def new_folder(data: str | os.PathLike[str]) -> Path:
    """Return a folder of its own below ``runs``, named after the data and the time."""
    path = Path(os.path.abspath(data))
    name = path.name if path.is_dir() else path.parent.name
    return Path("runs") / f"{name}_{time.strftime('%Y%m%d_%H%M%S')}"


def plan_and_train(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    network: str | None = None,
    dimensions: int | None = None,
    memory: float | None = None,
    minutes: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Plan, train and score.

    Args:
        data: folder of the datalist, or the datalist; or a folder in another layout, see `medseg.importers`.
        output: folder that gets ``plan`` and ``run``, and ``data`` where a datalist is to be made.
        network: see `make_plan`.
        dimensions: see `make_plan`.
        memory: GiB, see `make_plan`.
        minutes: of the training.
        overrides: single keys of the configuration, such as ``{"fold": 1}``.
        say: called with a line of news.

    Raises:
        MedsegError: with what is wrong, before the first step.
    """
    folder, changes = resolve_path(output), dict(overrides or {})
    refuse_unread("train", [key.split("#")[0] for key in changes], KEYS, ELSEWHERE)
    library.refuse_taken(folder / "plan")
    if network is not None:
        networks.resolve(network)
    with nothing_left(folder, ("data", "plan"), folder / "run"):
        datalist = data_of(data, folder, say)
        parts: Parts = ([], [], []) if changes.get("fold") == "all" else _parts(datalist, changes)
        _refuse_unscored(datalist, parts)
        say("reading and checking the images")
        from medseg.studies.plan import DEFAULT_NETWORK  # and PyTorch, for which the mistakes above do not wait
        from medseg.studies.plan_asked import Asked

        Asked.of(changes, network or DEFAULT_NETWORK)
        minutes = changes.pop("max_minutes", minutes)
        check_datalist(datalist).raise_for_errors()
        wanted = {"network": network, "dimensions": dimensions, "memory": memory, "minutes": minutes}
        run = _planned_run(datalist, folder, wanted, changes, say)
    return _finished(folder / "plan", run, datalist, parts)


def _planned_run(
    data: Datalist,
    folder: Path,
    wanted: Mapping[str, Any],
    changes: Mapping[str, Any],
    say: Callable[[str], None],
) -> Path:
    """Plan and train; what the training would refuse is refused before the device is measured."""
    from medseg.studies import plan_bundle

    told = {"output_dir": str(folder / "run"), "run_name": folder.name, **changes}
    plan = plan_bundle.plan_for(data, changes, run=told, device=changes.get("device"), say=say, **wanted)
    # its folder is any plan's
    planned = plan_bundle.write(plan, data, folder / "plan", plan_bundle.name_of(plan, data))
    say(f"planned: {plan.network.value['name']}, {plan.network.why}; see {planned / 'docs' / 'README.md'}")
    return workflow.train(planned, data=data.path, overrides=told)


def resume_planned(
    data: str | os.PathLike[str], run: str | Path, *, overrides: Mapping[str, Any] | None = None
) -> Trained:
    """Go on with what `plan_and_train` began, from its plan where no training had begun, and score it.

    Args:
        data: as it was.
        run: its folder, or the one that holds it.
        overrides: as they were, or what shall be otherwise from now on, such as ``{"batch_size": 1}``.

    Raises:
        MedsegError: if there is no such run, or it cannot go on so.
    """
    where, changes = resolve_path(run), dict(overrides or {})
    folder = where / "run" if (where / "plan" / "configs").is_dir() else library.run_folder(where)
    planned, made = folder.parent / "plan", folder.parent / "data"
    if not planned.is_dir():
        raise MedsegError(
            f"{shown(folder)}: no plan lies beside it, so that its bundle is not known; name that, and --data DIR"
        )
    datalist = load_data(made if datalist_file(made).is_file() else data)
    parts = _parts(datalist, changes)
    workflow.train(planned, data=datalist.path, overrides={"resume": str(folder), **changes})
    return _finished(planned, folder, datalist, parts)


def _finished(planned: Path, run: Path, datalist: Datalist, parts: Parts) -> Trained:
    """Score what a run left out, beside what needs no network."""
    from medseg.data.fingerprint import fingerprint
    from medseg.data.kinds import kinds_of, never_shown
    from medseg.studies.plan_network import wanted_steps
    from medseg.studies.report import make_report

    found, facts = workflow.evaluate(run), fingerprint(datalist)
    objects = [name for index, name in enumerate(facts.classes) if index != facts.background]
    baseline = _baseline(datalist, parts, read_source(planned).description.scores)
    done = Trained(
        planned, run, found.scores, read_rows(found.folder / PER_CASE), baseline, kinds_of(datalist, parts[2]),
        objects, (int(RunFolder(run).read_metrics()[-1]["steps"]), wanted_steps(len(facts.classes))),
        [name for name in never_shown(datalist, parts[0]) if name in objects],
    )  # fmt: skip
    with atomic_write(run / BASELINE) as temporary:
        temporary.write_text(json.dumps(done.record()), encoding="utf-8")
    write_compared(run, found.folder, done.tables(), done.warning)
    make_report(run, data=datalist)
    return done


def _parts(datalist: Datalist, changes: Mapping[str, Any]) -> Parts:
    asked = {key: changes[key] for key in ("fold", "fold_key", "validation_fold") if key in changes}
    return split(datalist, {"validation_fold": None, **asked})


def data_of(where: str | os.PathLike[str], folder: Path, say: Callable[[str], None]) -> Datalist:
    """Return the datalist of the data, made anew where there is none yet.

    Args:
        where: folder of the datalist, the datalist, or a folder in another layout, see `medseg.importers`.
        folder: whose ``data`` gets a datalist that is made.
        say: called with a line of news.

    Raises:
        MedsegError: if there is none and none can be made; what only a person knows, `medseg import` is told.
    """
    path = resolve_path(where)
    if not path.is_dir() or datalist_file(path).is_file():
        return load_data(path)
    from medseg.importers.layout import ImportingError
    from medseg.importers.writing import import_folder

    try:
        made = import_folder(path, folder / "data")
    except ImportingError as error:
        if _OPTION.search(str(error)) is None:
            raise
        typed = shlex.quote(os.fspath(where))  # its options are of another command than the one that was typed
        way = f"give that option to `medseg import {typed} -o DIR`, then DIR in place of {typed}"
        raise MedsegError(f"{error}; {way}") from None
    left_out = f", {counted(len(made.left_out), 'file')} left out" if made.left_out else ""
    number = counted(len(made.datalist.entries()), "image")
    say(f"{made.found.layout}: {made.found.why}; {number}{left_out}: {made.datalist.path}")
    for note in made.found.notes[:_NOTES]:
        say(note)
    if len(made.found.notes) > _NOTES:
        say(f"and {counted(len(made.found.notes) - _NOTES, 'note')} more, which `medseg import` prints")
    return made.datalist


def _refuse_unscored(data: Datalist, parts: Parts) -> None:
    """Refuse a split that leaves nothing to score: said before the training, not after it."""
    if not any("label" in entry for entry in parts[2]):
        raise MedsegError(
            f"{data.path}: no labelled image is left to score; name one of several folds with {spelt('fold', 'N')}, or "
            "plan first and train on everything: medseg plan DATA -o BUNDLE, medseg train BUNDLE --data DATA --fold all"
        )
    refuse_unlabelled(data, parts[2], "test")


def _baseline(data: Datalist, parts: Parts, scores: Mapping[str, Mapping[str, Any]]) -> Baseline:
    from medseg.studies.baseline import score_most_frequent, score_otsu

    training, _, test = parts
    if data.num_classes == 2:
        return score_otsu(data, test, scores=scores)
    return score_most_frequent(data, training, test, scores=scores)


def _better(better: float, interval: Interval | None) -> bool:
    return (better if interval is None else interval[0]) > 0


def _verdict(better: float, interval: Interval | None, other: str) -> str:
    """Return in words what a difference to the baseline says."""
    most = better if interval is None else interval[1]
    if _better(better, interval):
        return f"the network is better than {other}" + ("" if interval is not None else " on these few")
    if most > 0:
        return f"these images do not tell the network from {other}: give more minutes, or more images"
    return f"the network is no better than {other}: do not use it; give more minutes, and look at the worst cases"


def _lost(row: Mapping[str, Any]) -> bool:
    """Return whether a class was missed in every image that holds it."""
    return bool(0 < row["missed"] == row["n"]["dice"] - row["invented"])


def _trained(had: int, wanted: int) -> str:
    """Return in words whether a training was long enough that its scores say what the network can do."""
    said = f"the network had {counted(had, 'step')} of training, a plan asks for {wanted:,}"
    return said if had >= wanted else f"{said}: it may not be done learning; give more minutes"


def _row(name: str, per_case: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    line: dict[str, Any] = {"": name}
    for column, heading in (("dice", "Dice"), ("hd95", "HD95")):
        for row in per_case["classes"]:
            if row["name"] not in classes or column not in row:
                continue
            unit = f" in {per_case['units'][column]}" if column in per_case["units"] else ""
            line[f"{heading} {row['name']}{unit}"] = (
                None if row[column] is None else mean_text(row[column], row["interval"].get(column))
            )
    return line
