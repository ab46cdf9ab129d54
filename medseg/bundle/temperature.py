"""Fits one temperature to a model's logits on validation cases, and keeps it with the weights.

Logits are divided by the temperature before they become probabilities, which makes a model as sure as it is right on
the average and changes no class (C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017,
https://arxiv.org/abs/1706.04599). It minimises the mean negative log-likelihood of voxels that are drawn evenly from
each case, as many of each. Whether that holds for other cases is looked at by groups: the temperature of one half of
them is scored on the other, and the reverse. Where it does not lower the likelihood's loss there, none is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

from medseg.errors import MedsegError, counted
from medseg.metrics.score import Score, ScoredCase
from medseg.metrics.scores.calibration import Calibration
from medseg.reports.tables import Table

__all__ = ["Fit", "Fitted", "best_temperature"]

LIMITS = (0.01, 100.0)
"""Least and largest temperature that is looked for."""
DRAWN = 20_000
"""Voxels of a case, at most."""


@dataclass(frozen=True)
class Measured:
    """How probabilities fit the truth.

    Args:
        loss: mean negative log-likelihood, in nats.
        error: expected calibration error, see `medseg.metrics.scores.calibration`.
    """

    loss: float
    error: float


@dataclass(frozen=True)
class Fitted:
    """A temperature, and what it does.

    Args:
        temperature: of all cases; 1 where it helps no other cases.
        found: the same, whether it helps or not.
        before: of all cases at temperature 1.
        after: of all cases at ``found``: on what it was fitted to.
        elsewhere: of all cases, each at the temperature of the other half of the groups; ``None`` of one group.
        cases: how many.
        voxels: drawn of them.
        on: what cases they are: ``validation``, or ``held-out``, of the fold that a run left out.
    """

    temperature: float
    found: float
    before: Measured
    after: Measured
    elsewhere: Measured | None
    cases: int
    voxels: int
    on: str = "validation"

    def plain(self) -> dict[str, Any]:
        """Return plain values."""

        def of(measured: Measured | None) -> dict[str, float] | None:
            return None if measured is None else {"loss": measured.loss, "calibration_error": measured.error}

        return {
            "temperature": self.temperature, "found": self.found, "before": of(self.before), "after": of(self.after),
            "other_half": of(self.elsewhere), "cases": self.cases, "voxels": self.voxels, "fitted_on": self.on,
        }  # fmt: skip

    def table(self) -> Table:
        """Return it as a table, with what a reader must know."""
        rows: list[list[Any]] = [["as it was trained", 1.0, self.before.loss, self.before.error]]
        rows.append(["on the cases it was fitted to", self.found, self.after.loss, self.after.error])
        if self.elsewhere is not None:
            there = self.elsewhere
            rows.append(["fitted to one half of the groups, on the other", None, there.loss, there.error])
        kept = "it is kept with the weights" if self.temperature != 1 else "none is kept: it helps no other cases"
        notes = [f"{kept[0].upper()}{kept[1:]}. The second line flatters."]
        if self.elsewhere is None:
            notes.append("All cases are of one group: whether it helps others is not known.")
        title = f"temperature fitted to {counted(self.cases, f'{self.on} case')} ({self.voxels:,} voxels)"
        columns = ["probabilities", "temperature", "negative log-likelihood", "expected calibration error"]
        return Table(columns, rows, notes, title, 1)


class Fit(Score):
    """Draws voxels of each case with their logits; a score without columns, so that it goes with the others.

    Args:
        class_names: by index.
        ignore_index: label value that counts for nothing.
        on: what cases they are, see `Fitted`.
    """

    columns: ClassVar[tuple[str, ...]] = ()

    def __init__(self, class_names: Sequence[str], ignore_index: int | None = None, on: str = "validation") -> None:
        super().__init__(class_names, ignore_index)
        self._on = on
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.logits: list[Tensor] = []  # of each case (voxels, classes)
        self.labels: list[Tensor] = []
        self.groups: list[str] = []
        self._drawn: tuple[Tensor, Tensor, Tensor] | None = None  # keys, logits, labels of the case at hand
        self._random = torch.Generator().manual_seed(0)

    def see(self, logits: Tensor, label: Tensor) -> None:
        """Draw voxels of a block: those with the smallest of random keys, over all blocks of the case.

        Args:
            logits: ``(classes, *S)``, or ``(1, *S)`` of two classes.
            label: ``(*S)``.
        """
        there = torch.ones_like(label, dtype=torch.bool) if self.ignore_index is None else label != self.ignore_index
        keys = torch.rand(int(there.sum()), generator=self._random)
        some = keys.argsort()[:DRAWN].to(logits.device)
        values = logits[:, there][:, some].float().T.cpu()
        if values.shape[1] == 1:  # the logit of the second of two classes
            values = torch.cat([torch.zeros_like(values), values], 1)
        found = keys[some.cpu()], values, label[there][some].long().cpu()
        if self._drawn is not None:
            found = tuple(torch.cat(pair) for pair in zip(self._drawn, found, strict=True))  # type: ignore[assignment]
        first = found[0].argsort()[:DRAWN]
        self._drawn = found[0][first], found[1][first], found[2][first]

    def update(self, case: ScoredCase) -> Mapping[str, float | Sequence[float]]:
        """Keep what was drawn of the case."""
        if self._drawn is not None and len(self._drawn[0]):
            self.logits.append(self._drawn[1])
            self.labels.append(self._drawn[2])
            self.groups.append(case.group or f"case {case.index}")
        self._drawn = None
        return {}

    def fitted(self) -> Fitted:
        """Return the temperature of what was drawn.

        Raises:
            MedsegError: if nothing was drawn, or no temperature within `LIMITS` is best.
        """
        if not self.logits:
            raise MedsegError(
                "no validation case has a labelled voxel to fit a temperature to; label one, or name another fold"
            )
        everything = range(len(self.logits))
        found = self._best(everything)
        if not LIMITS[0] * 1.01 < found < LIMITS[1] * 0.99:
            raise MedsegError(
                f"the best temperature is at the end of what is looked for, {found:.3g}: the {self._on} cases are all "
                "right, or no better than chance; name more of them, or train longer"
            )
        halves = self._halves()
        elsewhere = None
        if halves is not None:
            first, second = halves
            apart = [self._scaled(second, self._best(first)), self._scaled(first, self._best(second))]
            elsewhere = self._measured([each for part in apart for each in part], [*second, *first])
        before, after = (self._measured(self._scaled(everything, t), everything) for t in (1.0, found))
        helps = elsewhere is None or elsewhere.loss < before.loss
        voxels = sum(map(len, self.labels))
        return Fitted(found if helps else 1.0, found, before, after, elsewhere, len(self.labels), voxels, self._on)

    def _halves(self) -> tuple[list[int], list[int]] | None:
        names = sorted(set(self.groups))
        if len(names) < 2:
            return None
        first = set(names[::2])
        sides: tuple[list[int], list[int]] = ([], [])
        for index, group in enumerate(self.groups):
            sides[group not in first].append(index)
        return sides

    def _best(self, cases: Sequence[int]) -> float:
        return best_temperature([self.logits[i] for i in cases], [self.labels[i] for i in cases])

    def _scaled(self, cases: Sequence[int], temperature: float) -> list[Tensor]:
        return [self.logits[index] / temperature for index in cases]

    def _measured(self, logits: Sequence[Tensor], cases: Sequence[int]) -> Measured:
        score = Calibration(self.class_names)
        labels = [self.labels[index] for index in cases]
        for values, truth in zip(logits, labels, strict=True):
            score.see(values.T, truth)
        return Measured(_loss(logits, labels), float(score.compute().overall["calibration_error"]))


def _loss(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> float:
    """Return the mean negative log-likelihood, a case counting as a case."""
    return sum(float(cross_entropy(a.double(), b)) for a, b in zip(logits, labels, strict=True)) / len(logits)


def best_temperature(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> float:
    """Return the temperature by which logits fit labels best, within `LIMITS`.

    The mean negative log-likelihood is convex in its reciprocal, so that there is one minimum.

    Args:
        logits: of each case ``(voxels, classes)``.
        labels: of each case ``(voxels)``, class indices.
    """

    def loss(power: float) -> float:
        return _loss([each.double() / math.exp(power) for each in logits], labels)

    low, high = map(math.log, LIMITS)
    return math.exp(float(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x))
