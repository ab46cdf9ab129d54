"""What a score of an evaluation is: values for each case, and values for the whole set.

A new score is one file, ``medseg/metrics/scores/<name>.py``, that holds one subclass of `Score`, and its test; the name
of the file is its name in an evaluation's ``scores: {name: options}``. A class of another package is named by its
dotted path instead. Every score goes by the same road into ``scores_per_case.csv``, ``scores.json``, the tables,
``metrics.jsonl`` and MLflow.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medseg.affines import voxel_edges, voxel_volume
from medseg.errors import MedsegError

_HERE = "medseg.metrics.scores"


def _no_map(key: str) -> NDArray[Any]:
    raise MedsegError(f"the case has no map {key!r}; prepare the data with it, or leave the score out")


@dataclass(frozen=True)
class ScoredCase:
    """One image with its truth and its prediction.

    Args:
        index: place in the data set.
        name: what to call it: its file's name, or a hash of it.
        prediction: class indices ``(*S)``.
        label: class indices ``(*S)``, the ignore label among them.
        group: what it belongs to (patient, section, slide), ``""`` where that is not known.
        affine: ``(4, 4)``, voxel to patient in mm; ``None`` where the place is not known, as of pictures.
        logits: what the network gave, ``(classes, *S)``; ``None`` where the prediction has none, as a threshold's.
        read: gives a further map of the case by its key in the datalist, such as ``instances``.
    """

    index: int
    name: str
    prediction: Tensor
    label: Tensor
    group: str = ""
    affine: NDArray[np.float64] | None = None
    logits: Tensor | None = None
    read: Callable[[str], NDArray[Any]] = _no_map

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Edges of a voxel in mm along each axis; ``None`` where they are not known."""
        if self.affine is None:
            return None
        return tuple(float(edge) for edge in voxel_edges(self.affine))

    @property
    def voxel_volume(self) -> float | None:
        """Cubic mm of a voxel, less than its edges multiplied where slices are sheared; ``None`` where not known."""
        return None if self.affine is None else voxel_volume(self.affine)


@dataclass(frozen=True)
class Pooled:
    """What a score says of the whole set; NaN is undefined.

    Args:
        classes: by name, a value for each class.
        overall: by name, a value of the set.
        details: further plain values, for ``scores.json`` under the score's name.
        notes: what a reader must know of them, a sentence each.
    """

    classes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    overall: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Score(ABC):
    """A score of an evaluation; what follows are the parts that an own one may set or write.

    Args:
        class_names: by index.
        ignore_index: label value that counts for nothing.
        **options: keyword arguments of the subclass, which are its options.
    """

    columns: ClassVar[tuple[str, ...]]
    """Names of the scores of a case. Each has a mean over the cases."""
    counts: ClassVar[tuple[str, ...]] = ()
    """Names of what else is written down for a case, such as a number of pixels."""
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    """Which columns and which of the overall scores are errors."""
    signed: ClassVar[frozenset[str]] = frozenset()
    """Which columns are best at 0, with errors to both sides: no best weights are picked by them."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Keys that each entry of the datalist must have."""

    def __init__(self, class_names: Sequence[str], ignore_index: int | None = None) -> None:
        self.class_names = list(class_names)
        self.ignore_index = ignore_index

    @property
    def units(self) -> Mapping[str, str]:
        """Units of ``columns`` and ``counts`` that have one, known once a case was counted."""
        return {}

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the means over the cases must know, a sentence each."""
        return ()

    def see(self, logits: Tensor, label: Tensor) -> None:  # noqa: B027  most scores go by classes alone
        """Look at what the network gave, in blocks that cover the case, before `update` is called with it.

        Args:
            logits: ``(classes, *S)`` of a block.
            label: ``(*S)``, class indices of the block, the ignore label among them.
        """

    @abstractmethod
    def update(self, case: ScoredCase) -> Mapping[str, float | Sequence[float]]:
        """Count a case.

        Args:
            case: the case.

        Returns:
            For each of ``columns`` and ``counts`` a list with a value a class, or one value of the whole case. NaN is
            not counted: what is in neither truth nor prediction has no score; what is in one alone scores the worst.
        """

    def compute(self) -> Pooled:
        """Return the scores of all cases so far together; those that have none but per case return nothing."""
        return Pooled()

    def reset(self) -> None:  # noqa: B027  a score of single cases has nothing to forget
        """Forget everything."""

    def merge(self, everyone: Sequence[Self]) -> None:  # noqa: B027  as for reset
        """Become what all processes have counted together.

        Args:
            everyone: this score in every process, this one among them, in order; process k of n has every n-th case
                from the k-th on.
        """


def score_names() -> list[str]:
    """Return the names of the scores that come with medseg."""
    package = importlib.import_module(_HERE)
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def find_score(name: str) -> type[Score]:
    """Return the class of a score.

    Args:
        name: of a file of ``medseg/metrics/scores``, or the dotted path of a class.

    Raises:
        MedsegError: if there is no such score.
    """
    module, _, wanted = name.rpartition(".")
    if not module:
        module, wanted = f"{_HERE}.{name}", ""
        if not name.isidentifier() or importlib.util.find_spec(module) is None:
            raise MedsegError(
                f"`scores` names {name!r}; there are {', '.join(score_names())}, or give the dotted path of a class"
            )
    try:
        held = vars(importlib.import_module(module))
    except ImportError as error:
        raise MedsegError(f"`scores` names {name!r}, but {module} cannot be imported: {error}") from error
    kinds = [
        value
        for key, value in held.items()
        if inspect.isclass(value) and issubclass(value, Score) and value.__module__ == module and wanted in ("", key)
    ]
    if len(kinds) != 1:
        raise MedsegError(f"`scores` names {name!r}, but {module} holds {len(kinds)} such scores; it must hold one")
    return kinds[0]


def make_score(name: str, options: object, class_names: Sequence[str], ignore_index: int | None) -> Score:
    """Build a score.

    Args:
        name: see `find_score`.
        options: keyword arguments of its class, ``{}`` for their defaults.
        class_names: by index.
        ignore_index: label value that counts for nothing.

    Raises:
        MedsegError: if there is no such score, or it does not take the options.
    """
    kind = find_score(name)
    takes = [key for key in inspect.signature(kind).parameters if key not in ("class_names", "ignore_index")]
    listed = ", ".join(takes) or "no options"
    if not isinstance(options, Mapping):
        raise MedsegError(f"`scores: {name}` is {options!r}; give its options ({listed}), {{}} for their defaults")
    unknown = [key for key in options if key not in takes]
    if unknown:
        raise MedsegError(f"`scores: {name}` has no option {unknown[0]!r}; it takes {listed}")
    return kind(class_names, ignore_index, **options)
