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
from medseg.bundle import assembly, library, workflow
from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist, datalist_file
from medseg.data.fingerprint import fingerprint
from medseg.errors import MedsegError, shown
from medseg.importers.writing import import_folder
from medseg.reports.tables import Table
from medseg.runs.paths import resolve_path
from medseg.studies import fingerprint_page, plan_bundle
from medseg.studies.baseline import score_most_frequent, score_otsu
from medseg.studies.plan import DEFAULT_NETWORK, load_data, make_plan

__all__ = ["BASELINE", "Trained", "new_folder", "plan_and_train", "resume_planned"]

BASELINE = "baseline.json"


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
        rows = [_row("network", self.scores), _row(str(self.baseline["title"]), self.baseline)]
        return Table.of(rows, notes=[f"means over {self.scores['per_case']['cases']} images left out of the training"])


def new_folder(data: str | os.PathLike[str]) -> Path:
    """Return a folder of its own below ``runs``, named after the data and the time."""
    path = Path(os.path.abspath(data))
    name = path.name if path.is_dir() else path.parent.name
    return Path("runs") / f"{name}_{time.strftime('%Y%m%d_%H%M%S')}"


def plan_and_train(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    network: str = DEFAULT_NETWORK,
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
    planned = folder / "plan"
    plan_bundle.refuse_taken(planned)
    datalist = _data(data, folder, say)
    check_datalist(datalist).raise_for_errors()
    parts = _parts(datalist, changes)
    plan = make_plan(datalist, network=network, dimensions=dimensions, memory=memory, minutes=minutes, say=say)
    plan_bundle.write(plan, datalist, planned)
    say(f"planned: {plan.network.value['name']}, {plan.network.why}; see {planned / 'docs' / 'README.md'}")
    named = {"output_dir": str(folder / "run"), "run_name": folder.name}
    run = workflow.train(planned, data=datalist.path, overrides={**named, **changes})
    return _finished(planned, run, datalist, parts)


def resume_planned(
    data: str | os.PathLike[str], run: str | Path, *, overrides: Mapping[str, Any] | None = None
) -> Trained:
    """Go on with a training that `plan_and_train` began, and score it.

    Args:
        data: as it was.
        run: its folder, or the one that holds it.
        overrides: as they were, or what shall be otherwise from now on, such as ``{"batch_size": 1}``.

    Raises:
        MedsegError: if there is no such run, or it cannot go on so.
    """
    folder, changes = library.run_folder(run), dict(overrides or {})
    planned, made = folder.parent / "plan", folder.parent / "data"
    if not planned.is_dir():
        raise MedsegError(
            f"{shown(folder)}: no plan lies beside it, so that its bundle is not known; name that, and --data DIR"
        )
    datalist = load_data(made if datalist_file(made).is_file() else data)
    parts = _parts(datalist, changes)
    workflow.train(planned, data=datalist.path, overrides={"resume": str(folder), **changes})
    return _finished(planned, folder, datalist, parts)


def _finished(planned: Path, run: Path, datalist: Datalist, parts: Any) -> Trained:
    """Score what a run left out, beside what needs no network."""
    scores = workflow.evaluate(run).scores
    baseline = _baseline(datalist, parts)
    fingerprint_page.write(fingerprint(datalist), run)
    with atomic_write(run / BASELINE) as temporary:
        temporary.write_text(json.dumps(baseline), encoding="utf-8")
    return Trained(planned, run, scores, baseline)


def _parts(datalist: Datalist, changes: Mapping[str, Any]) -> Any:
    return assembly.split(datalist, {"validation_fold": None, **_split_of(changes)})


def _data(where: str | os.PathLike[str], folder: Path, say: Callable[[str], None]) -> Datalist:
    """Return the datalist of the data, made anew where there is none yet."""
    path = resolve_path(where)
    if not path.is_dir() or datalist_file(path).is_file():
        return load_data(path)
    made = import_folder(path, folder / "data")
    left_out = f", {len(made.left_out)} files left out" if made.left_out else ""
    say(f"{made.found.layout}: {made.found.why}; {len(made.datalist.entries())} images{left_out}: {made.datalist.path}")
    return made.datalist


def _split_of(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: changes[key] for key in ("fold", "fold_key", "validation_fold") if key in changes}


def _baseline(data: Datalist, parts: Any) -> dict[str, Any]:
    training, _, test = parts
    return score_otsu(data, test) if data.num_classes == 2 else score_most_frequent(data, training, test)


def _row(name: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    per_case = scores["per_case"]
    return {"": name} | {f"Dice {row['name']}": row.get("dice") for row in per_case["classes"]}
