"""Score weights on a split and write the tables and pictures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from medseg.engines.checkpoint import load_weights
from medseg.engines.distributed import rank
from medseg.engines.evaluator import Evaluator
from medseg.engines.loading import stop_workers
from medseg.engines.tracking import MLflowTracker, RunFolder

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

    Returns:
        The scores, as in ``scores.json``.
    """
    load_weights(evaluator.network, ckpt)
    folder = RunFolder(output_dir)
    tracker = None
    if tracking and rank() == 0:
        tracker = MLflowTracker(tracking_uri, experiment, f"evaluate_{folder.path.name}", folder.path)
        tracker.start()
    try:
        evaluator.score(evaluator.network)
        scores = evaluator.table()
        if rank() == 0:
            write_report(folder, evaluator, ".", title=title)
            if tracker is not None:
                rows = {f"test_iou_{row['name'].replace(' ', '_')}": row["iou"] for row in scores["classes"]}
                rows["test_mean_iou"] = scores["mean_iou"]
                tracker.log_metrics({k: v for k, v in rows.items() if v is not None}, step=0)
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


def write_report(folder: RunFolder, evaluator: Evaluator, where: str, *, title: str) -> None:
    """Write what an evaluation found: scores and tables, the confusion matrix, a sheet of overlays.

    Args:
        folder: of the run.
        evaluator: after an evaluation.
        where: subfolder.
        title: heading of the pictures.
    """
    from medseg.reports.confusion import save_confusion
    from medseg.reports.overlays import overlay_sheet
    from medseg.reports.tables import to_csv, to_markdown, to_text

    target = folder.path / where
    target.mkdir(parents=True, exist_ok=True)
    table = evaluator.table()
    matrix = evaluator.matrix.matrix.cpu().numpy()
    folder.write_json(f"{where}/scores.json", {**table, "confusion_matrix": matrix.tolist(), "title": title})
    folder.write_text(f"{where}/table.md", to_markdown(table))
    folder.write_text(f"{where}/table.csv", to_csv(table))
    save_confusion(matrix, evaluator.class_names, target / "confusion_matrix.png", title=title)
    sheet = overlay_sheet(
        evaluator.cases, evaluator.class_names, ignore_index=evaluator.matrix.ignore_index, title=title
    )
    sheet.save(target / "overlays.png")
    logger.info("%s\n%s", title, to_text(table))
