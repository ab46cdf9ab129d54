"""Chooses a model's postprocessing on validation cases, and keeps it with the weights.

For each class but the first, alone: no step; holes filled; the largest part kept; parts below one of several sizes
removed; and these with holes filled. The steps with the highest mean Dice over the validation cases win, the simplest
of equals, if they gain at least `LEAST_GAIN`; a class that no case's truth holds gets none. Of a case, a class in
neither truth nor prediction is not counted, as in an evaluation. Steps are out that take parts of which more than
`MOST_TRUE` are there: a second lesion that was found weighs little in a Dice. Where class 0 is an object as others are,
what is taken from a class must not cost it more than the class gains. Test cases have no part in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.affines import single_axes
from medseg.bundle.description import Description
from medseg.bundle.record import rewrite
from medseg.errors import counted
from medseg.metrics.physical import Unit
from medseg.metrics.score import Pooled, Score, ScoredCase
from medseg.reports.palette import background_index
from medseg.reports.tables import Cell, Table
from medseg.transforms.postprocess import Postprocess, Steps

__all__ = ["CANDIDATES", "LEAST_GAIN", "MOST_TRUE", "Choice", "Chosen", "keep"]

LEAST_GAIN = 0.001
"""Of the mean Dice: less is left to chance."""
MOST_TRUE = 0.05
"""Of the parts that steps take: share that may lie in the truth, by half or more of themselves."""
SIZES = (10.0, 30.0, 100.0, 300.0, 1000.0)
"""Smallest parts that are tried, in cubic mm (of pictures: in pixels)."""
_PARTS = (Steps(), *(Steps(min_size=size) for size in SIZES), Steps(largest=True))
CANDIDATES = (
    *_PARTS[:1], Steps(fill_holes=True), *_PARTS[1:],
    *(Steps(parts.min_size, parts.largest, fill_holes=True) for parts in _PARTS[1:]),
)  # fmt: skip
"""The simpler ones first."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Chosen:
    """What was chosen for a class.

    Args:
        name: of the class.
        steps: nothing where none gains enough.
        before: mean Dice over the validation cases without any.
        after: with the steps.
        cases: in how many the class was counted before.
    """

    name: str
    steps: Steps
    before: float
    after: float
    cases: int

    def plain(self) -> dict[str, Any]:
        """Return plain values; ``None`` for NaN."""
        numbers = {"before": self.before, "after": self.after}
        return {
            "class": self.name,
            "steps": self.steps.plain(),
            **{key: None if math.isnan(value) else value for key, value in numbers.items()},
            "cases": self.cases,
        }


class Choice(Score):
    """Dice of every class of every case after each candidate; a score without columns, so that it goes with the others.

    Args:
        class_names: by index.
        ignore_index: label value that counts for nothing.
    """

    columns: ClassVar[tuple[str, ...]] = ()

    def __init__(self, class_names: Sequence[str], ignore_index: int | None = None) -> None:
        super().__init__(class_names, ignore_index)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.unit = Unit()
        self.dice: list[Values] = []  # of each case (classes, candidates)
        self.first: list[Values] = []  # the same of class 0, after what is done to each class
        self.taken = np.zeros((len(self.class_names), len(CANDIDATES), 2), np.int64)  # parts, and those that are there
        self.true: list[NDArray[np.bool_]] = []  # of each case: which classes the truth holds

    def update(self, case: ScoredCase) -> Mapping[str, float | Sequence[float]]:
        """Try all candidates on a case, whose prediction must come without any."""
        voxel = self.unit.size(case)  # refuses a mixture: sizes in cubic mm and in pixels make no choice
        single = single_axes(case.label.shape)
        guess, label = (each.cpu().numpy().squeeze(single) for each in (case.prediction, case.label))
        counted = np.ones(label.shape, bool) if self.ignore_index is None else label != self.ignore_index
        boxes = ndimage.find_objects(guess, max_label=max(1, len(self.class_names) - 1))
        found = np.full((len(self.class_names), len(CANDIDATES)), math.nan)
        first = np.full_like(found, _dice(guess[counted] == 0, label[counted] == 0))
        true = np.array([int((label == index).sum()) for index in range(len(self.class_names))])
        for index in range(1, len(self.class_names)):
            box = boxes[index - 1]
            if box is None:
                found[index] = 0.0 if true[index] else math.nan
                continue
            part, wanted, seen = guess[box], label[box] == index, counted[box]
            background, zeros = (label[box] == 0) & seen, int(((guess == 0) & counted).sum())
            sizes, within = _parts(part == index, wanted)
            right = int(((guess == 0) & (label == 0) & counted).sum())
            for place, steps in enumerate(CANDIDATES):
                done = steps.apply(part == index, part == 0, voxel)
                kept = done & seen
                whole = int(kept.sum()) + int(true[index])
                found[index, place] = 2 * int((kept & wanted).sum()) / whole if whole else math.nan
                freed, filled = (part == index) & ~done, done & (part == 0)
                more = int((freed & seen).sum()) - int((filled & seen).sum())
                better = int((freed & background).sum()) - int((filled & background).sum())
                all_zeros = zeros + more + int(((label == 0) & counted).sum())
                first[index, place] = 2 * (right + better) / all_zeros if all_zeros else math.nan
                gone = ~steps.stays(sizes, voxel)[1:]
                self.taken[index, place] += int(gone.sum()), int((gone & (2 * within >= sizes)[1:]).sum())
        self.dice.append(found)
        self.first.append(first)
        self.true.append(true > 0)
        return {}

    def compute(self) -> Pooled:
        """Return the choice as plain values."""
        return Pooled(details={"classes": [each.plain() for each in self.chosen()]} if self.dice else {})

    def chosen(self) -> list[Chosen]:
        """Return what is best for each class but the first."""
        dice, first = np.stack(self.dice), np.stack(self.first)
        true = [any(of_cases) for of_cases in zip(*self.true, strict=True)]
        beside = background_index(self.class_names) != 0  # what is taken from a class is given to another one
        result = []
        for index in range(1, len(self.class_names)):
            means = [_mean(dice[:, index, place]) for place in range(len(CANDIDATES))]
            best = 0
            if true[index]:
                others = [_mean(first[:, index, place]) if beside else 0.0 for place in range(len(CANDIDATES))]
                gains = [mean - means[0] for mean in means]
                fit = [
                    place for place, gain in enumerate(gains)
                    if min(gain, gain + others[place] - others[0]) >= LEAST_GAIN and self._may(index, place)
                ]  # fmt: skip
                most = max((gains[place] for place in fit), default=0.0)
                best = next((place for place in fit if gains[place] >= most - 1e-9), 0)
            cases = int((~np.isnan(dice[:, index, 0])).sum())
            result.append(Chosen(self.class_names[index], CANDIDATES[best], means[0], means[best], cases))
        return result

    def _may(self, index: int, place: int) -> bool:
        """Return whether what steps take of a class is hardly ever there."""
        parts, there = self.taken[index, place]
        return bool(there <= MOST_TRUE * parts)


def _parts(mask: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the voxels of each part of a class, and how many of them are true; of what is no part first."""
    parts, number = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, mask.ndim))
    sizes, within = (np.bincount(each.ravel(), minlength=number + 1) for each in (parts, parts[wanted]))
    return sizes, within


def _dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    whole = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / whole if whole else math.nan


def _mean(values: Values) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else math.nan


def keep(weights: Path, description: Description, chosen: Sequence[Chosen]) -> Description:
    """Write the steps into what the weights say of themselves; their values stay as they are.

    Args:
        weights: a file of weights with a header.
        description: of the model.
        chosen: for each class.

    Returns:
        The description with the steps.
    """
    steps = {each.name: each.steps.plain() for each in chosen if each.steps.plain()}
    Postprocess(steps, description.classes)
    described = Description.of({**description.to_dict(), "postprocess": steps})
    rewrite(weights, described)
    return described


def table_of(chosen: Sequence[Chosen], cases: int, unit: str) -> Table:
    """Return the choice as a table.

    Args:
        chosen: for each class.
        cases: of the validation.
        unit: ``"mm"`` or ``"pixels"``.
    """
    rows: list[list[Cell]] = [
        [each.name, _words(each.steps, unit), each.before, each.after, each.cases] for each in chosen
    ]
    after = [each.after for each in chosen]
    before = [each.before for each in chosen]
    rows.append(["mean", "", _mean(np.array(before)), _mean(np.array(after)), cases])
    title = f"postprocessing chosen on {counted(cases, 'validation case')}, each class by itself"
    note = (
        f"None where the mean Dice gains less than {LEAST_GAIN}, or more than {100 * MOST_TRUE:g} % of the parts that "
        "are taken are there. A gain on the cases that it was chosen by flatters."
    )
    return Table(["class", "steps", "Dice before", "Dice after", "n"], rows, [note], title, 1)


def _words(steps: Steps, unit: str) -> str:
    words = [f"parts from {steps.min_size:g} {'mm3' if unit == 'mm' else 'pixels'}"] if steps.min_size else []
    words += ["largest part"] if steps.largest else []
    return " and ".join([*words, *(["holes filled"] if steps.fill_holes else [])]) or "none"
