"""Chooses a model's postprocessing on validation cases, and keeps it with the weights.

For each class but the first, alone: no step; holes filled; the largest part kept; parts below one of several sizes
removed; and these with holes filled. The steps with the highest mean Dice over the validation cases win, the simplest
of equals, if they gain at least `LEAST_GAIN`; a class that no case's truth holds gets none. Of a case, a class in
neither truth nor prediction is not counted, as in an evaluation. Test cases have no part in it.
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

from medseg.bundle.description import Description
from medseg.bundle.record import rewrite
from medseg.errors import counted
from medseg.metrics.physical import Unit
from medseg.metrics.score import Pooled, Score, ScoredCase
from medseg.reports.tables import Cell, Table
from medseg.transforms.postprocess import Postprocess, Steps

__all__ = ["CANDIDATES", "LEAST_GAIN", "Choice", "Chosen", "keep"]

LEAST_GAIN = 0.001
"""Of the mean Dice: less is left to chance."""
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
        self.true: list[NDArray[np.bool_]] = []  # of each case: which classes the truth holds

    def update(self, case: ScoredCase) -> Mapping[str, float | Sequence[float]]:
        """Try all candidates on a case, whose prediction must come without any."""
        voxel = self.unit.size(case)  # refuses a mixture: sizes in cubic mm and in pixels make no choice
        guess, label = (each.cpu().numpy() for each in (case.prediction, case.label))
        counted = np.ones(label.shape, bool) if self.ignore_index is None else label != self.ignore_index
        boxes = ndimage.find_objects(guess, max_label=max(1, len(self.class_names) - 1))
        found = np.full((len(self.class_names), len(CANDIDATES)), math.nan)
        true = np.array([int((label == index).sum()) for index in range(len(self.class_names))])
        for index in range(1, len(self.class_names)):
            box = boxes[index - 1]
            if box is None:
                found[index] = 0.0 if true[index] else math.nan
                continue
            part, wanted, seen = guess[box], label[box] == index, counted[box]
            for place, steps in enumerate(CANDIDATES):
                kept = steps.apply(part == index, part == 0, voxel) & seen
                whole = int(kept.sum()) + int(true[index])
                found[index, place] = 2 * int((kept & wanted).sum()) / whole if whole else math.nan
        self.dice.append(found)
        self.true.append(true > 0)
        return {}

    def compute(self) -> Pooled:
        """Return the choice as plain values."""
        return Pooled(details={"classes": [each.plain() for each in self.chosen()]} if self.dice else {})

    def chosen(self) -> list[Chosen]:
        """Return what is best for each class but the first."""
        dice = np.stack(self.dice)
        true = [any(of_cases) for of_cases in zip(*self.true, strict=True)]
        result = []
        for index in range(1, len(self.class_names)):
            means = [_mean(dice[:, index, place]) for place in range(len(CANDIDATES))]
            best = 0
            if true[index]:
                most = max(means)
                near = next(place for place, mean in enumerate(means) if mean >= most - 1e-9)
                best = near if means[near] >= means[0] + LEAST_GAIN else 0
            cases = int((~np.isnan(dice[:, index, 0])).sum())
            result.append(Chosen(self.class_names[index], CANDIDATES[best], means[0], means[best], cases))
        return result


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
    note = f"None where the mean Dice gains less than {LEAST_GAIN}. A gain on the cases that it was chosen by flatters."
    return Table(["class", "steps", "Dice before", "Dice after", "n"], rows, [note], title, 1)


def _words(steps: Steps, unit: str) -> str:
    words = [f"parts from {steps.min_size:g} {'mm3' if unit == 'mm' else 'pixels'}"] if steps.min_size else []
    words += ["largest part"] if steps.largest else []
    return " and ".join([*words, *(["holes filled"] if steps.fill_holes else [])]) or "none"
