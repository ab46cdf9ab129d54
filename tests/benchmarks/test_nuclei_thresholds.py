"""The best threshold of an image: against every threshold there is, tried one by one."""

import numpy as np
import pytest

from benchmarks.nuclei_thresholds import best_dice, pooled


def test_no_other_threshold_is_better() -> None:
    random = np.random.default_rng(0)
    score = random.integers(0, 12, (16, 16)) / 12  # many pixels of one value, which no threshold parts
    truth = score + random.normal(0, 0.3, score.shape) > 0.6
    tried = [2 * (truth & (score >= at)).sum() / (truth.sum() + (score >= at).sum()) for at in np.unique(score)]
    assert best_dice(score, truth) == pytest.approx(max(tried))
    assert best_dice(truth.astype(float), truth) == 1
    assert best_dice(score, np.zeros_like(truth)) == 1


def test_kinds_are_told_apart() -> None:
    rows = [
        {"kind": "grey", "network": 0.5, "network_best": 0.7, "grey_best": 0.6},
        {"kind": "grey", "network": 0.7, "network_best": 0.9, "grey_best": 0.9},
        {"kind": "colour", "network": 0.2, "network_best": 0.4, "grey_best": 0.8},
    ]
    every, grey, colour = pooled(rows)
    assert [(line["kind"], line["images"]) for line in (every, grey, colour)] == [(None, 3), ("grey", 2), ("colour", 1)]
    assert grey["above_grey"]["mean"] == pytest.approx(0.05)
    assert colour["above_grey"]["mean"] == pytest.approx(-0.4)
    assert every["network"]["mean"] == pytest.approx(1.4 / 3)
