"""What the simulation of paired tests draws is what it says, and its tables are a study's."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import paired_tests
from medseg.metrics.paired_tests import compare, holm


def test_pairs_are_those_of_a_study() -> None:
    random = np.random.default_rng(1)
    sizes = paired_tests.sizes_of(15, True, random)
    values = paired_tests.better(paired_tests.scores(4, sizes, True, random), sizes, random)
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    own = {(a, b): compare(values[a], values[b], groups) for a, b in itertools.combinations(range(4), 2)}
    found, by_test = paired_tests.held(values, sizes)
    corrected = holm([pair.p for pair in own.values()])
    assert by_test == [each < 0.05 for each in corrected]
    for (key, pair), each in zip(own.items(), corrected, strict=True):
        assert (found[key].p, found[key].corrected, found[key].side) == (pair.p, each, pair.side)
        assert found[key].difference == pytest.approx(pair.difference)
        assert found[key].interval == (pair.interval if each < 0.05 else None)


def test_scores_are_skewed_and_groups_unequal() -> None:
    random = np.random.default_rng(2)
    sizes = paired_tests.sizes_of(4000, True, random)
    assert (sizes.min(), sizes.max()) == (1, 40)
    skewed = paired_tests.scores(2, sizes, True, random)[0]
    assert 0.85 < np.median(skewed) < 1
    assert np.mean(skewed < 0.6) == pytest.approx(paired_tests.FAILS * 0.75, abs=0.02)
    assert 0 <= skewed.min() < skewed.max() <= 1
    assert abs(np.mean((paired_tests.scores(2, sizes, False, random)[0] - 0.8) ** 3)) < 1e-4
    alike = paired_tests.scores(2, sizes, False, random)
    changed = paired_tests.with_other_failures(alike.copy(), sizes, random)[1] - alike[1]
    assert changed.mean() == pytest.approx(0, abs=0.005)
    assert np.mean(changed > 0) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(("skewed", "unequal"), [(False, True), (True, True)])
def test_alike_networks_seldom_differ(skewed: bool, unequal: bool) -> None:
    """In 5 of 100 tables at most; of 200 tables, three deviations are 5 of 100 more."""
    found = paired_tests.measured(3, 12, skewed=skewed, unequal=unequal, draws=200)
    assert found["holds"] <= found["test"] < 0.1


def test_the_command_writes_a_row_a_setting(tmp_path: Path) -> None:
    paired_tests.main(["--draws", "4", "--groups", "12", "--json", str(tmp_path / "x.json")])
    rows = json.loads((tmp_path / "x.json").read_text())["result"]["rows"]
    assert len(rows) == 4 * (2 + 1 + 2)
    assert all(0 <= row["holds"] <= row["test"] <= 1 for row in rows)
