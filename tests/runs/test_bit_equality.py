"""A run that is killed with SIGKILL and continued is, bit for bit, the one that was left alone."""

from pathlib import Path

import pytest
from runs.killed_runs import OPERATIONS, outcome, start, unequal


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that was left alone, and how long it took."""
    folder = tmp_path_factory.mktemp("left_alone") / "whole"
    return folder, start(folder, 0)[1]


@pytest.mark.timeout(300)
def test_killed_and_continued_equals_uninterrupted(whole: tuple[Path, float], tmp_path: Path) -> None:
    """Killed at a moment that the clock chooses and in a write; with loading processes and without: the same bits."""
    folder, seconds = whole
    killed = [
        start(tmp_path / "broken", 2, epochs=1, seconds=0.05 * seconds)[0],  # most of it is still to come
        start(tmp_path / "broken", 0, die_at=OPERATIONS // 3)[0],
    ]
    assert killed == [True, True]
    start(tmp_path / "broken", 2)
    assert unequal(outcome(tmp_path / "broken"), outcome(folder)) == []
    assert list((tmp_path / "broken").rglob(".*")) == []


def test_a_difference_is_seen(whole: tuple[Path, float]) -> None:
    found = outcome(whole[0])
    name = "model.pt/head.bias"
    changed = found[name].clone()
    changed.view(-1)[0] = changed.view(-1)[0].nextafter(changed.new_tensor(9.0))
    assert unequal({**found, name: changed}, found) == [name]
    assert unequal({key: value for key, value in found.items() if key != "epoch 2 loss"}, found) == ["epoch 2 loss"]
