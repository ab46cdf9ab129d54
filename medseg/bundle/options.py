"""What any training or evaluation can be told: one meaning and one default for all bundles.

A bundle's generated YAML lists them all at its top level and hands them on by name, so that ``--schedule cosine`` on
the command line, a line in `bundle.yaml` and an overlay do the same, and nothing acts by its name alone.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from medseg.errors import MedsegError

__all__ = ["OF_A_RUN", "OptionError", "Options"]

OF_A_RUN = (
    "datalist", "dataset_dir", "runs_dir", "output_dir", "run_name", "publish", "resume", "start_from", "fold",
    "fold_key", "scored", "seed", "hide_names", "mlflow", "tracking_uri", "experiment", "register", "device",
)  # fmt: skip
"""Keys of one training, which no plan holds."""
_PATHS = ("datalist", "runs_dir", "output_dir", "publish", "resume", "start_from")
_SWITCHES = ("channels_last", "compile", "hide_names", "mlflow", "slices")
_WHOLE = {
    "batch_size": 1, "num_workers": 0, "val_interval": 1, "max_epochs": 1, "warmup": 0, "accumulation_steps": 1,
    "early_stop": 1, "seed": 0, "iterations": 1,
}  # fmt: skip


_NUMBERS = ("max_minutes", "learning_rate", "clip_grad_norm", "ema_decay", "schedule_power")
_CHOICES = {
    "scored": ("test", "validation", "training"),
    "augment_on": ("loader", "device", "auto"),
    "schedule": ("constant", "poly", "cosine", "steps"),
}


class OptionError(MedsegError):
    """An option that is not there, or holds what it must not."""


@dataclass(frozen=True)
class Options:
    """Options of the data, the training and the records.

    Args:
        datalist: JSON file; by default ``datalist.json`` or ``dataset.json`` in ``dataset_dir``.
        fold_key: fold scheme of the datalist, such as ``fold`` or ``fold_random``.
        fold: the fold that is left out for the test; ``None`` for the fixed lists, ``all`` to train on everything.
        validation_fold: the fold that picks the best weights: a number, ``next`` (the one after the test fold), or
            ``None`` (``null`` in YAML) for none.
        scored: which part of the split an evaluation scores: ``test``, ``validation`` or ``training``.
        planned_for: fingerprint of the data that a plan was made for, which refuses other data; ``None`` for any.
        max_epochs: epochs of the whole schedule.
        max_minutes: wall-clock budget, to which the schedule is fitted.
        batch_size: samples a step and process.
        learning_rate: of the optimiser, which may give groups of their own.
        patch: edges of the patches that training images are cut to, each at a random place; smaller images are padded.
            The sliding window of validation and prediction is as large unless the bundle says otherwise.
        foreground: share of a batch's patches that is centred on a voxel of a class, evenly over a case's classes but
            the background.
        slices: patches of a 2D network are cut from slices of volumes, in the plane that the model names; each patch
            from a slice drawn anew.
        balance_kinds: how far kinds of training images (in colour or grey, of bright or dark objects, large) are drawn
            alike: 0 draws images alike, 1 kinds alike, 0.5 kinds as the square roots of how many images they have.
        iterations: steps an epoch, for which cases are drawn again; ``None`` for a pass over them.
        augment_on: where samples are augmented: by the ``loader``, on the ``device`` that trains, or ``auto``: what is
            faster on a GPU, measured once when the run begins.
        select_by: validation score that picks the best weights.
        hide_names: call cases by a hash of their file's name in tables and pictures, where names must not show.
        val_interval: epochs between validations.
        schedule: ``constant``, ``poly``, ``cosine`` or ``steps``, step by step.
        schedule_power: exponent of ``poly``.
        schedule_steps: shares of the schedule, rising between 0 and 1, at each of which the rate of ``steps`` falls to
            a tenth.
        warmup: steps of linear rise.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        channels_last: keep activations channels-last; volumes on a GPU, where that is slower, stay as they are.
        compile: pass the network through ``torch.compile``.
        accumulation_steps: batches a step of the optimiser.
        clip_grad_norm: largest norm of the gradient.
        ema_decay: decay of averaged weights, which are then validated and saved.
        early_stop: validations without a better score before training ends.
        num_workers: loading processes.
        seed: of first weights, order, augmentation and dropout.
        start_from: weights of the whole network that training starts from, a file or the folder of a run; those of an
            encoder are then not asked for (by MONAI's own command say ``encoder_weights`` ``random``).
        resume: ``True`` for the newest unfinished run, or the folder of a run.
        runs_dir: folder of all runs.
        run_name: of a new run; by default the bundle's name and the time.
        output_dir: the run's folder; by default ``run_name`` in ``runs_dir``.
        publish: file that gets the trained weights too; ``True`` for the bundle's ``models/model.pt``.
        mlflow: record in MLflow (``tracking`` is an argument of MONAI's own).
        tracking_uri: MLflow server; by default a database beside the runs.
        experiment: name of the MLflow experiment; by default the bundle's name.
        register: name under which MLflow gets the trained model.
    """

    datalist: str | None = None
    fold_key: str = "fold"
    fold: int | str | None = 0
    validation_fold: int | str | None = "next"
    scored: str = "test"
    planned_for: str | None = None
    max_epochs: int = 100
    max_minutes: float | None = None
    batch_size: int = 1
    learning_rate: float = 0.001
    patch: list[int] | None = None
    foreground: float = 0.0
    slices: bool = False
    balance_kinds: float = 0.0
    iterations: int | None = None
    augment_on: str = "loader"
    select_by: str = "val_mean_iou"
    hide_names: bool = False
    val_interval: int = 1
    schedule: str = "constant"
    schedule_power: float = 0.9
    schedule_steps: list[float] = field(default_factory=list)
    warmup: int = 0
    precision: str = "auto"
    channels_last: bool = True
    compile: bool = False
    accumulation_steps: int = 1
    clip_grad_norm: float | None = None
    ema_decay: float | None = None
    early_stop: int | None = None
    num_workers: int = 0
    seed: int = 0
    start_from: str | None = None
    resume: bool | str = False
    runs_dir: str = "runs"
    run_name: str | None = None
    output_dir: str | None = None
    publish: str | bool = False
    mlflow: bool = True
    tracking_uri: str | None = None
    experiment: str | None = None
    register: str | None = None

    @classmethod
    def names(cls) -> list[str]:
        """Return the options' names."""
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return every option's default."""
        return dataclasses.asdict(cls())

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Options:
        """Build from a mapping.

        Raises:
            OptionError: if a name is unknown, or a value is of the wrong kind.
        """
        known = cls.names()
        for name, value in values.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise OptionError(f"there is no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
            _check(name, value)
        if values.get("schedule") == "steps" and not values.get("schedule_steps"):
            raise OptionError(
                "schedule is 'steps', but schedule_steps names none; give the shares of the schedule at which the rate "
                "falls to a tenth, such as schedule_steps=[0.5,0.75]"
            )
        return cls(**{name: _read(name, value) for name, value in values.items()})

    def only(self, *names: str) -> dict[str, Any]:
        """Return some options by name."""
        return {name: getattr(self, name) for name in names}


def _check(name: str, value: Any) -> None:
    wrong = ""
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _SWITCHES and not isinstance(value, bool):
        wrong = "give True or False"
    elif name in _WHOLE and value is not None and not (whole and value >= _WHOLE[name]):
        wrong = f"give a whole number of at least {_WHOLE[name]}"
    elif name in _NUMBERS and value is not None and not (number and value > 0):
        wrong = "give a number above 0"
    elif name in _CHOICES and value not in _CHOICES[name]:
        wrong = f"choose one of {', '.join(_CHOICES[name])}"
    elif name == "patch" and value is not None and not _is_size(value):
        wrong = "give one edge in pixels for each axis, or null"
    elif name == "schedule_steps" and not _are_shares(value):
        wrong = "give shares of the schedule between 0 and 1, rising, such as [0.5, 0.75]"
    elif name in ("foreground", "balance_kinds") and not (number and 0 <= value <= 1):
        wrong = "give a number from 0 to 1" if name == "balance_kinds" else "give a share between 0 and 1"
    if wrong:
        raise OptionError(f"{name} is {value!r}; {wrong}")


def _is_size(value: Any) -> bool:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return listed and bool(value) and all(isinstance(edge, int) and edge > 0 for edge in value)


def _are_shares(value: Any) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return False
    if not all(isinstance(share, int | float) and not isinstance(share, bool) for share in value):
        return False
    return all(one < other for one, other in pairwise((0, *value, 1)))


def _read(name: str, value: Any) -> Any:
    if name in _PATHS and value is not None and not isinstance(value, bool):
        return str(value)
    return list(value) if name in ("patch", "schedule_steps") and value is not None else value
