"""Score weights on a split, write the tables and pictures, and record what was scored with what."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from medseg.bundle.description import BESIDE_PAPER
from medseg.engines.ensemble import members_of
from medseg.engines.evaluator import PREFIX, Evaluator
from medseg.engines.loading import stop_workers
from medseg.errors import MedsegError
from medseg.io.parts import file_hash
from medseg.reports.palette import Named
from medseg.runs import provenance
from medseg.runs.checkpoint import unwrap
from medseg.runs.metadata import weights_hash
from medseg.runs.processes import rank
from medseg.runs.report import write_report
from medseg.runs.run_folder import METRICS
from medseg.runs.tracking import MLflowTracker, RunFolder, training_run

logger = logging.getLogger(__name__)

RECORD = "evaluation.json"
ALWAYS: Mapping[str, Mapping[str, Any]] = {"calibration": {}}
"""What an evaluation scores beside overlap, unless ``scores`` leaves it out; validations within a training do not."""


def evaluate(
    evaluator: Evaluator,
    ckpt: Sequence[str | Path],
    output_dir: str | Path,
    *,
    title: str,
    scores: Mapping[str, Mapping[str, Any] | None] | None = None,
    beside_paper: Literal["pooled", "per_case"] | None = None,
    tracking: bool = True,
    tracking_uri: str | None = None,
    experiment: str = "medseg",
    data: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    colours: Named | None = None,
    unlike: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Evaluate a network and write ``scores.json``, ``scores_per_case.csv``, tables, confusion matrix, overlays.

    Args:
        evaluator: over the split to score.
        ckpt: file of the weights that the evaluator's network holds, of each member of an ensemble, for the record.
        output_dir: where the report goes.
        title: heading of the pictures, such as the data set and split.
        scores: options by name of further scores, see `medseg.metrics.score`; ``None`` for options leaves one out.
        beside_paper: which of the two means stands beside the figures of the network's paper, where that is known.
        tracking: whether MLflow is told, as a run of its own, below the training's where that is there.
        tracking_uri: as in `Run`.
        experiment: as in `Run`.
        data: what was scored, for ``data.json``: fingerprint and split.
        config: resolved configuration, for ``config.yaml``.
        seed: of the configuration, for the record.
        colours: that classes name, by index, for the pictures.
        unlike: settings in which the members of an ensemble differ, and what was taken, for the record.

    Returns:
        The scores, as in ``scores.json``.

    Raises:
        MedsegError: if ``scores`` names what is unknown, or gives an option that its score does not take.
    """
    if beside_paper is not None and beside_paper not in BESIDE_PAPER:
        raise MedsegError(f"beside_paper is {beside_paper!r}; it must be one of {', '.join(BESIDE_PAPER)}, or null")
    evaluator.use_scores({**ALWAYS, **(scores or {})})
    folder = RunFolder(output_dir)
    members = zip(ckpt, members_of(evaluator.network), strict=True)
    weights = [{**describe_weights(file), "values": weights_hash(unwrap(each).state_dict())} for file, each in members]
    record = {
        "weights": weights[0] if len(weights) == 1 else {"members": weights},
        **({} if len(ckpt) == 1 else {"members_differ": list(unlike)}),
        "postprocess": {} if evaluator.postprocess is None else evaluator.postprocess.plain(),
        "temperatures": list(evaluator.temperatures),
        "network": describe_network(evaluator.network),
        "scores": dict(scores or {}),
        "data": dict(data or {}),
        "seed": seed,
        "title": title,
    }
    tracker = None
    if tracking and rank() == 0:
        name, parent = f"evaluate_{folder.path.name}", training_run(ckpt[0]) if len(ckpt) == 1 else None
        tracker = MLflowTracker(tracking_uri, experiment, name, folder.path, parent=parent)
        tracker.start()
    try:
        found = evaluator.score(evaluator.network)
        evaluator.warn_of_one_class()
        result = evaluator.result().with_scores({} if beside_paper is None else {"beside_paper": beside_paper})
        if rank() == 0:
            write_records(folder, {**record, "grid": result.table["grid"]}, data, config)
            write_report(folder, result, ".", title=title, colours=colours)
            if tracker is not None:
                tracker.log_params(record)
                part = str((data or {}).get("split", "test"))  # scores of training images are no test's
                tracker.log_metrics({f"{part}_{k.removeprefix(PREFIX)}": v for k, v in found.items()}, step=0)
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
    return dict(result.table)


def write_records(
    folder: RunFolder, record: Mapping[str, Any], data: Mapping[str, Any] | None, config: Mapping[str, Any] | None
) -> None:
    """Write what a reader of the scores must know to get them again.

    Args:
        folder: of the evaluation.
        record: weights, network, scores, seed.
        data: what was scored.
        config: resolved configuration.
    """
    environment = provenance.collect()
    folder.write_json(RECORD, {**record, "commit": environment["git"]})
    folder.write_json("environment.json", environment)
    if data is not None:
        folder.write_json("data.json", dict(data))
    if config is not None:
        folder.write_config(config)


def describe_weights(ckpt: str | Path) -> dict[str, Any]:
    """Return the name of weights, the SHA-256 of their file, and the run whose folder they lie in.

    Names of folders above the run, or above the file where it lies in no run, are left out: they may name a person.

    Args:
        ckpt: the file.
    """
    path = Path(ckpt).resolve()
    run = next((folder for folder in (path.parent, path.parent.parent) if (folder / METRICS).is_file()), None)
    name = path.name if run is None else path.relative_to(run).as_posix()
    return {"file": name, "sha256": file_hash(path), "run": None if run is None else run.name}


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Return a network's class, where it is from, and the number of its parameters.

    Args:
        network: wrapped or not; of an ensemble the first member's.
    """
    inner = unwrap(members_of(network)[0])
    kind = type(inner)
    number = sum(parameter.numel() for parameter in inner.parameters())
    return {"name": kind.__name__, "module": kind.__module__, "parameters": number}
