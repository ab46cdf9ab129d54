"""Score weights on a split and write the tables and pictures."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medseg.engines.boundary_scores import BoundaryCounter
from medseg.engines.evaluator import Evaluator
from medseg.engines.instance_scores import InstanceCounter
from medseg.engines.loading import stop_workers
from medseg.errors import MedsegError
from medseg.runs.checkpoint import load_weights
from medseg.runs.processes import rank
from medseg.runs.report import write_report
from medseg.runs.tracking import MLflowTracker, RunFolder

logger = logging.getLogger(__name__)


def evaluate(
    evaluator: Evaluator,
    ckpt: str | Path,
    output_dir: str | Path,
    *,
    title: str,
    tracking: bool = True,
    tracking_uri: str | None = None,
    experiment: str = "medseg",
    data: Mapping[str, Any] | None = None,
    instances: Mapping[str, Any] | None = None,
    boundary: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Load weights, evaluate, and write ``scores.json``, tables, confusion matrix and overlays.

    Args:
        evaluator: over the split to score.
        ckpt: weights: a bundle's ``model.pt``, or a checkpoint of a run.
        output_dir: where the report goes.
        title: heading of the pictures, such as the data set and split.
        tracking: whether MLflow is told, as a run of its own.
        tracking_uri: as in `Run`.
        experiment: as in `Run`.
        data: what was scored, for ``data.json``: fingerprint and split.
        instances: arguments of `InstanceCounter`, for instance scores too.
        boundary: arguments of `BoundaryCounter`, for boundary F-scores too; ``{}`` for its defaults.

    Returns:
        The scores, as in ``scores.json``.

    Raises:
        ValueError: if ``instances`` or ``boundary`` holds what its counter does not take.
        CheckpointError: if the weights do not fit.
    """
    wanted = {"instances": (InstanceCounter, instances), "boundary": (BoundaryCounter, boundary)}
    counters = {
        name: _counter(name, kind, evaluator, given) for name, (kind, given) in wanted.items() if given is not None
    }
    load_weights(evaluator.network, ckpt)
    folder = RunFolder(output_dir)
    tracker = None
    if tracking and rank() == 0:
        tracker = MLflowTracker(tracking_uri, experiment, f"evaluate_{folder.path.name}", folder.path)
        tracker.start()
    try:
        evaluator.score(evaluator.network)
        more = {name: counter.scores() for name, counter in counters.items()}
        scores = {**evaluator.table(), **more}
        if rank() == 0:
            if data is not None:
                folder.write_json("data.json", dict(data))
            write_report(folder, evaluator.result(more), ".", title=title)
            if tracker is not None:
                tracker.log_metrics(_logged(scores), step=0)
                for path in sorted(folder.path.glob("*.*")):
                    tracker.log_artifact(path)
    except BaseException:
        if tracker is not None:
            tracker.finish("FAILED")
        raise
    finally:
        stop_workers(evaluator)
    if tracker is not None:
        tracker.finish("FINISHED")
    return scores


def _logged(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return what of the scores MLflow is told."""
    rows = {f"test_iou_{row['name'].replace(' ', '_')}": row["iou"] for row in scores["classes"]}
    rows["test_mean_iou"] = scores["mean_iou"]
    if "instances" in scores:
        rows["test_instance_ap"] = scores["instances"]["per_image"]["average_precision"]
    if "boundary" in scores:
        rows["test_boundary_f"] = scores["boundary"]["mean_f_score"]
    return {name: value for name, value in rows.items() if value is not None}


def _counter(name: str, kind: Callable[..., Any], evaluator: Evaluator, given: object) -> Any:
    """Build a counter of further scores, or raise ValueError saying which arguments it takes."""
    takes = list(inspect.signature(kind).parameters)[1:]
    if not isinstance(given, Mapping):
        raise MedsegError(f"`{name}` is {given!r}; give its options ({', '.join(takes)}), {{}} for their defaults")
    unknown = [key for key in given if key not in takes]
    if unknown:
        raise MedsegError(f"`{name}` has no option {unknown[0]!r}; it takes {', '.join(takes)}")
    return kind(evaluator, **given)
