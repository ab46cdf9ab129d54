"""Transforms that are seeded anew draw what MONAI's draw from the same seed, each by itself."""

import numpy as np
import pytest
from monai.transforms import Compose, RandFlipd, Randomizable

from medseg.transforms.intensity import RandBrightnessd, RandNoised
from medseg.transforms.reseeded import Recipe, Reseeded
from medseg.transforms.scene import RandMirrord


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32 + 5, np.uint32(9)])
def test_seeds_and_states_are_monais(seed: int) -> None:
    ours, theirs = Reseeded(), Randomizable()
    for _ in range(2):  # a second time as well
        ours.set_random_state(seed=seed)
        theirs.set_random_state(seed=seed)
        assert ours.R.rand() == theirs.R.rand()
    given = np.random.RandomState(3)
    ours.set_random_state(state=given)
    assert ours.R is given
    ours.set_random_state(seed=seed)
    assert ours.R is not given  # whoever gave it keeps its numbers
    assert given.rand() == np.random.RandomState(3).rand()


def test_a_recipe_is_monais_compose() -> None:
    def parts() -> list[Randomizable]:
        return [RandNoised("image"), RandFlipd("image"), RandBrightnessd("image"), RandMirrord("image")]

    ours, theirs = Recipe([*parts(), Recipe(parts())]), Compose([*parts(), Compose(parts())])
    for seed in (1, 2):
        for recipe in (ours, theirs):
            recipe.set_random_state(seed=seed)
        drawn = [
            [t.R.rand() for t in (*recipe.transforms[:4], *recipe.transforms[4].transforms)]
            for recipe in (ours, theirs)
        ]
        assert drawn[0] == drawn[1]
        assert len(set(drawn[0])) == 8
