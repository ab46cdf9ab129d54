"""Which epoch's weights are the best."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from typing import Any

from medseg.caller import spelt
from medseg.errors import MedsegError

ALWAYS_LOWER = frozenset({"val_loss"})
_USUAL = ("val_mean_iou", "val_mean_dice", "val_case_mean_dice", "val_accuracy", "val_loss")


class Selection:
    """Keep the best value of one validation score.

    Args:
        key: name of the score.
        lower_is_better: names of scores of which less is better, besides ``val_loss``.
        known: names that a validation can give, where they are known before the first.

    Raises:
        MedsegError: if ``key`` is not among ``known``.
    """

    def __init__(self, key: str, *, lower_is_better: Collection[str] = (), known: Collection[str] = ()) -> None:
        self.key = key
        self.sign = -1.0 if key in ALWAYS_LOWER or key in lower_is_better else 1.0
        self.score: float | None = None
        self.epoch = 0
        self._known = set(known)
        if self._known:
            self._refuse_unless(key in self._known, self._known)

    def update(self, scores: Mapping[str, float], epoch: int) -> bool:
        """Return whether the epoch is the best so far; one that lacks the score, or has NaN, is not.

        Args:
            scores: of the validation.
            epoch: its number, from 1.

        Raises:
            MedsegError: if no validation has given a score of this name.
        """
        self._refuse_unless(self.key in scores or self.key in self._known, scores)
        self._known.add(self.key)  # a class that is neither there nor predicted has no score in some epochs
        value = float(scores.get(self.key, math.nan))
        if math.isnan(value) or (self.score is not None and self.sign * value <= self.sign * self.score):
            return False
        self.score, self.epoch = value, epoch
        return True

    def _refuse_unless(self, found: bool, names: Collection[str]) -> None:
        if not found:
            near = difflib.get_close_matches(self.key, sorted(names), 1)
            usual = [name for name in _USUAL if name in names] or sorted(names)[: len(_USUAL)]
            raise MedsegError(
                f"select_by is {self.key!r}, which no validation gives; "
                f"{f'did you mean {near[0]}? ' if near else ''}Usual are {', '.join(usual)}; the lines of a run's "
                f"metrics.jsonl name all {len(names)}"
            )

    def state(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return {"by": self.key, "score": self.score, "epoch": self.epoch}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            MedsegError: if the best was chosen by another score.
        """
        if state["by"] != self.key:
            raise MedsegError(
                f"the run has selected its best weights by {state['by']} so far, and select_by is {self.key} now; go "
                f"on with {spelt('select_by', state['by'])}, or start a new run with another {spelt('output_dir')}"
            )
        self.score, self.epoch = state["score"], int(state["epoch"])
