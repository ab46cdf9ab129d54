"""Random transforms that are given a new seed for each sample.

MONAI makes a ``RandomState`` for each seed, which first asks the system for random numbers and then forgets them:
0.17 ms each, and a recipe of nnU-Net's kind holds a dozen. The one that is there draws the same from the same seed.
"""

from __future__ import annotations

import numpy as np
from monai.transforms import Compose, Randomizable
from monai.utils import MAX_SEED

__all__ = ["Recipe", "Reseeded"]


class Reseeded(Randomizable):
    """Base of random transforms: a seed is set in 0.002 ms."""

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Reseeded:
        """Draw from now on as MONAI's transforms do with the same seed or state.

        Args:
            seed: of the numbers.
            state: that gives the numbers, in place of a seed.
        """
        if seed is None:
            super().set_random_state(state=state)
            return self
        if "_numbers" not in vars(self):
            self._numbers = np.random.RandomState(0)
        self._numbers.seed(int(seed) % MAX_SEED)
        self.R = self._numbers
        return self


class Recipe(Compose, Reseeded):
    """MONAI's ``Compose``, as quickly seeded."""
