"""One command for a newcomer: plan a data set, train, score what was left out, and say what it is worth."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.atomic import atomic_write
from medseg.bundle import library, networks, workflow
from medseg.bundle.data import load_data, split
from medseg.bundle.early import refuse_unread
from medseg.bundle.options import Options
from medseg.caller import spelt
from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist, Parts, datalist_file
from medseg.errors import MedsegError, counted
from medseg.reports.tables import Table
from medseg.runs.paths import resolve_path

__all__ = ["BASELINE", "Trained", "new_folder", "plan_and_train"]

BASELINE = "baseline.json"
KEYS = (*Options.names(), "model", "network_def", "loss", "optimizer", "augmentation", "handlers", "device")
"""Keys of a planned bundle's configuration that may be changed: others are refused before anything is measured."""


@dataclass(frozen=True)
class Trained:
    """What came out.

    Args:
        plan: folder of the planned bundle.
        run: folder of the run, with the model and the report.
        scores: of the test images, as in ``scores.json``.
        baseline: the same of what needs no network.
    """

    plan: Path
    run: Path
    scores: Mapping[str, Any]
    baseline: Mapping[str, Any]

    def table(self) -> Table:
        """Return the network beside the baseline: means over the cases of each class."""
        number = counted(self.scores["per_case"]["cases"], "image")
        rows = [_row("network", self.scores), _row(str(self.baseline["title"]), self.baseline)]
        return Table.of(rows, notes=[f"means over {number} left out of the training"])


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
    progress: Callable[[int, int | None], None] | None = None,
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
        progress: called while images are measured.
        say: called with a line of news.

    Raises:
        MedsegError: with what is wrong, before the first step.
    """
    folder, changes = resolve_path(output), dict(overrides or {})
    planned = folder / "plan"
    refuse_unread("train", [key.split("#")[0] for key in changes], KEYS)
    library.refuse_taken(planned)
    datalist = _data(data, folder, say)
    if network is not None:
        networks.resolve(network)
    parts = split(datalist, {"validation_fold": None, **_split_of(changes)})
    _refuse_unscored(datalist, parts)
    check_datalist(datalist).raise_for_errors()
    from medseg.studies import plan_bundle
    from medseg.studies.plan import make_plan

    plan = make_plan(
        datalist, network=network, dimensions=dimensions, memory=memory, minutes=minutes, progress=progress, say=say
    )
    plan_bundle.write(plan, datalist, planned)
    say(f"planned: {plan.network.value['name']}, {plan.network.why}; see {planned / 'docs' / 'README.md'}")
    run = workflow.train(
        planned, data=datalist.path, overrides={"output_dir": str(folder / "run"), "run_name": folder.name, **changes}
    )
    scores = workflow.evaluate(run).scores
    baseline = _baseline(datalist, parts)
    with atomic_write(run / BASELINE) as temporary:
        temporary.write_text(json.dumps(baseline), encoding="utf-8")
    return Trained(planned, run, scores, baseline)


def _data(where: str | os.PathLike[str], folder: Path, say: Callable[[str], None]) -> Datalist:
    """Return the datalist of the data, made anew where there is none yet."""
    path = resolve_path(where)
    if not path.is_dir() or datalist_file(path).is_file():
        return load_data(path)
    from medseg.importers.writing import import_folder

    made = import_folder(path, folder / "data")
    left_out = f", {counted(len(made.left_out), 'file')} left out" if made.left_out else ""
    number = counted(len(made.datalist.entries()), "image")
    say(f"{made.found.layout}: {made.found.why}; {number}{left_out}: {made.datalist.path}")
    return made.datalist


def _refuse_unscored(data: Datalist, parts: Parts) -> None:
    """Refuse a split that leaves nothing to score: said before the training, not after it."""
    if not any("label" in entry for entry in parts[2]):
        raise MedsegError(
            f"{data.path}: no labelled image is left to score; name one of several folds with {spelt('fold', 'N')}, or "
            "plan first and train on everything: medseg plan DATA -o BUNDLE, medseg train BUNDLE --data DATA --fold all"
        )


def _split_of(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: changes[key] for key in ("fold", "fold_key", "validation_fold") if key in changes}


def _baseline(data: Datalist, parts: Any) -> dict[str, Any]:
    from medseg.studies.baseline import score_most_frequent, score_otsu

    training, _, test = parts
    return score_otsu(data, test) if data.num_classes == 2 else score_most_frequent(data, training, test)


def _row(name: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    per_case = scores["per_case"]
    return {"": name} | {f"Dice {row['name']}": row.get("dice") for row in per_case["classes"]}
