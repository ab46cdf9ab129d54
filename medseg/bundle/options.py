"""What any training can be told on its command line, beside the keys that its bundle's YAML declares.

A bundle's YAML holds what differs from other bundles; everything here has one meaning and one default for all of them.
``--schedule cosine`` on the command line and ``schedule: cosine`` in a YAML file do the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Options:
    """Options of the data, the training and the records.

    Args:
        datalist: JSON file; by default ``datalist.json`` in ``dataset_dir``.
        fold_key: fold scheme of the datalist, such as ``fold`` or ``fold_random``.
        fold: the fold that is left out for the test.
        validation_fold: the fold that picks the best weights: a number, ``next`` (the one after the test fold), or
            ``None`` (``null`` in YAML) for none.
        roi_size: window that no image may be smaller than, unless there is an ignore label to pad with.
        batch_size: samples a step and process.
        num_workers: loading processes.
        val_interval: epochs between validations.
        max_minutes: wall-clock budget, to which the schedule is fitted.
        schedule: ``constant``, ``poly`` or ``cosine``, iteration by iteration.
        schedule_power: exponent of ``poly``.
        warmup: iterations of linear rise.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        channels_last: keep activations channels-last.
        compile: pass the network through ``torch.compile``.
        accumulation_steps: batches a step of the optimiser.
        clip_grad_norm: largest norm of the gradient.
        ema_decay: decay of averaged weights, which are then validated and saved.
        early_stop: validations without a better score before training ends.
        seed: of first weights, order, augmentation and dropout.
        resume: ``True`` for the newest unfinished run, or the folder of a run.
        runs_dir: folder of all runs; by default ``runs`` in the bundle.
        run_name: of a new run; by default the bundle's name and the time.
        output_dir: the run's folder; by default ``run_name`` in ``runs_dir``.
        publish: file that gets the trained weights; by default the bundle's ``models/model.pt``, ``False`` for none.
        mlflow: record in MLflow (``tracking`` is an argument of MONAI's own).
        tracking_uri: MLflow server; by default a database beside the runs.
        experiment: name of the MLflow experiment; by default the bundle's name.
    """

    datalist: str | None = None
    fold_key: str = "fold"
    fold: int | None = 0
    validation_fold: int | str | None = "next"
    roi_size: list[int] | None = None
    batch_size: int = 1
    num_workers: int = 0
    val_interval: int = 1
    max_minutes: float | None = None
    schedule: str = "constant"
    schedule_power: float = 0.9
    warmup: int = 0
    precision: str = "auto"
    channels_last: bool = True
    compile: bool = False
    accumulation_steps: int = 1
    clip_grad_norm: float | None = None
    ema_decay: float | None = None
    early_stop: int | None = None
    seed: int = 0
    resume: bool | str = False
    runs_dir: str | None = None
    run_name: str | None = None
    output_dir: str | None = None
    publish: str | bool | None = None
    mlflow: bool = True
    tracking_uri: str | None = None
    experiment: str | None = None

    @classmethod
    def names(cls) -> list[str]:
        """Return the options' names."""
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Options:
        """Build from a configuration's top level; its other keys are left aside."""
        return cls(**{name: values[name] for name in cls.names() if name in values})

    def only(self, *names: str) -> dict[str, Any]:
        """Return some options by name."""
        return {name: getattr(self, name) for name in names}
