"""Puts together what is the same in every bundle: split, network, trainer, evaluator, evaluation.

A bundle's YAML names these with ``_target_`` or in an expression; what they need beside their arguments they read from
the running configuration's options (`medseg.bundle.options`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from medseg.bundle import start as bundle
from medseg.bundle.evaluation import evaluate
from medseg.data.datalist import Datalist, Entry
from medseg.engines.evaluator import Evaluator
from medseg.engines.loading import SegmentationDataset
from medseg.engines.parallel import parallel
from medseg.engines.trainer import Trainer
from medseg.runs.processes import pick_device, world_size
from medseg.runs.run import Run

_TRAINER = (
    "batch_size", "num_workers", "val_interval", "schedule", "schedule_power", "warmup", "max_minutes", "precision",
    "channels_last", "compile", "accumulation_steps", "clip_grad_norm", "ema_decay", "early_stop", "resume", "seed",
)  # fmt: skip
_EVALUATOR = ("batch_size", "num_workers", "precision", "channels_last")
_TRACKING = ("tracking_uri", "experiment")


def split(data: Datalist) -> tuple[list[Entry], list[Entry], list[Entry]]:
    """Return training, validation and test entries by ``fold_key``, ``fold`` and ``validation_fold``."""
    options = bundle.options()
    return data.split(options.fold, fold_key=options.fold_key, validation_fold=options.validation_fold)


def place(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Bring a network to its device, and under ``torchrun`` into all processes.

    Args:
        network: as its definition gives it.
        device: this process's.
    """
    network = network.to(pick_device(device))
    return parallel(network, device) if world_size() > 1 else network


def trainer(
    max_epochs: int,
    device: torch.device | str,
    data: Datalist,
    dataset: SegmentationDataset,
    network: nn.Module,
    loss_function: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    inferer: Inferer | None = None,
    evaluator: Evaluator | None = None,
    handlers: Sequence[Any] = (),
) -> Trainer:
    """Build the trainer and its run's record.

    Args:
        max_epochs: epochs of the whole schedule.
        device: where to train.
        data: the datalist, for the record.
        dataset: training samples.
        network: on ``device``.
        loss_function: as in `Trainer`.
        optimizer: over the network's parameters.
        inferer: of the training forward.
        evaluator: validates.
        handlers: further ones, such as `FactorisationWarmUp`: each is attached to the trainer.
    """
    options = bundle.options()
    dataset.seed = options.seed
    publish = options.publish if options.publish is not None else str(Path(bundle.root()) / "models" / "model.pt")
    run = Run(
        bundle.run_folder(),
        config=bundle.resolved_config,
        datalist=data,
        split=options.only("fold_key", "fold", "validation_fold"),
        publish=publish,
        tracking=options.mlflow,
        **_tracking(),
    )
    built = Trainer(
        max_epochs,
        device,
        dataset,
        network,
        loss_function,
        optimizer,
        run,
        inferer=inferer,
        evaluator=evaluator,
        **options.only(*_TRAINER),
    )
    for handler in handlers:
        handler.attach(built)
    return built


def evaluator(
    device: torch.device | str,
    data: Datalist,
    dataset: SegmentationDataset,
    network: nn.Module,
    inferer: Inferer | None = None,
    batch_size: int | None = None,
) -> Evaluator:
    """Build the evaluator.

    Args:
        device: where to evaluate.
        data: the datalist, for its classes and ignore label.
        dataset: samples to score.
        network: on ``device``.
        inferer: sliding window or simple.
        batch_size: images a forward; by default the option of that name. Images of different sizes need 1.
    """
    settings = bundle.options().only(*_EVALUATOR) | ({} if batch_size is None else {"batch_size": batch_size})
    return Evaluator(device, dataset, network, data.labels, ignore_index=data.ignore_index, inferer=inferer, **settings)


def evaluation(
    evaluator: Evaluator,
    data: Datalist,
    ckpt: str | Path,
    instances: dict[str, Any] | None = None,
    scored: str = "test",
    boundary: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Score weights on the evaluator's samples and write the report into ``output_dir``.

    Args:
        evaluator: over the split to score.
        data: the datalist, for the title.
        ckpt: weights.
        instances: arguments of `InstanceCounter`, for instance scores too.
        scored: which part of the split the evaluator's samples are: ``"test"`` or ``"validation"``, for the record.
        boundary: arguments of `BoundaryCounter`, for boundary F-scores too; ``{}`` for its defaults.

    Returns:
        The scores, as in ``scores.json``.
    """
    options = bundle.options()
    output = options.output_dir or str(Path(bundle.root()) / "evaluation")
    lists = options.fold is None or not data.fold_keys
    title = (
        f"{data.name}, {scored} list" if lists else f"{data.name}, {scored} fold {options.fold} of {options.fold_key}"
    )
    record = {"name": data.name, "fingerprint": data.fingerprint(), "split": scored, "images": len(evaluator.dataset)}
    return evaluate(
        evaluator,
        ckpt,
        output,
        title=title,
        tracking=options.mlflow,
        data={**record, **options.only("fold_key", "fold", "validation_fold")},
        instances=instances,
        boundary=boundary,
        **_tracking(),
    )


def _tracking() -> dict[str, Any]:
    options = bundle.options()
    return {"tracking_uri": options.tracking_uri, "experiment": options.experiment or Path(bundle.root()).name}
