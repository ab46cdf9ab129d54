"""A study of two networks and three folds, killed five times in earnest, ends in the table of one left alone."""

import os
from pathlib import Path

import pytest
from studies.killed_studies import campaign


@pytest.mark.timeout(4 * 3600)
@pytest.mark.skipif(
    "MEDSEG_TEST_WHOLE" not in os.environ, reason="some twenty trainings in their own processes: MEDSEG_TEST_WHOLE=1"
)
@pytest.mark.parametrize(
    ("executor", "job"),
    [("here", []), ("submitit", ["--job", "cluster=local"]), ("ray", ["--job", "address=local"])],
    ids=["here", "submitit", "ray"],
)
def test_killed_five_times_it_ends_in_the_same_table(tmp_path: Path, executor: str, job: list[str]) -> None:
    if executor != "here":
        pytest.importorskip(executor, reason=f"the extra {executor} is not installed")
    campaign(tmp_path, 5, ["--workers", "2", "--executor", executor, *job])
