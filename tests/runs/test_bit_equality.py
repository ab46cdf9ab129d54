"""A run that is killed with SIGKILL and continued is, bit for bit, the one that was left alone."""

from pathlib import Path

import pytest
from runs.killed_runs import OPERATIONS, outcome, start, unequal


@pytest.mark.timeout(300)
def test_killed_and_continued_equals_uninterrupted(tmp_path: Path) -> None:
    """Killed at a moment that the clock chooses and in a write; with loading processes and without: the same bits."""
    _, seconds = start(tmp_path / "whole", 0)
    killed = [
        start(tmp_path / "broken", 2, seconds=0.4 * seconds)[0],
        start(tmp_path / "broken", 0, die_at=OPERATIONS // 3)[0],  # however far the first one came
    ]
    assert killed[1], "the process did not get as far as the file operation"
    start(tmp_path / "broken", 2)
    assert unequal(outcome(tmp_path / "broken"), outcome(tmp_path / "whole")) == []
    assert list((tmp_path / "broken").rglob(".*")) == []


def test_a_difference_is_seen(tmp_path: Path) -> None:
    start(tmp_path / "run", 0, die_at=3 * OPERATIONS)
    start(tmp_path / "run", 0)
    found = outcome(tmp_path / "run")
    name = "model.pt/head.bias"
    changed = found[name].clone()
    changed.view(-1)[0] = changed.view(-1)[0].nextafter(changed.new_tensor(9.0))
    assert unequal({**found, name: changed}, found) == [name]
    assert unequal({key: value for key, value in found.items() if key != "epoch 2 loss"}, found) == ["epoch 2 loss"]
