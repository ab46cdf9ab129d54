"""The memory of a prediction is that of its logits once, and of its classes far less than that."""

import subprocess
import sys
from pathlib import Path

import pytest
from inferers.peaks import ENVIRONMENT

TESTS = Path(__file__).parents[1]
LOGITS, CLASSES = 1.25, 0.3  # times the logits of the whole image
WAYS = {
    "logits": LOGITS,
    "logits of slices": LOGITS,
    "logits of resized": LOGITS,
    "logits of flips": LOGITS,
    "classes": CLASSES,
    "classes of slices": CLASSES,
    "mask": CLASSES,
    "mask of resampled": CLASSES,
    "fed": CLASSES,
}


@pytest.fixture(scope="module")
def ratios() -> dict[str, float]:
    if not Path("/proc/self/clear_refs").is_file():
        pytest.skip("the peak of a process's memory can be reset on Linux alone")
    command = [sys.executable, "-W", "ignore", "-m", "inferers.peaks", *WAYS]
    paths = {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", **ENVIRONMENT}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=TESTS, env=paths)
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    return {way: float(ratio) for ratio, way in lines}


@pytest.mark.parametrize("way", WAYS)
def test_memory(ratios: dict[str, float], way: str) -> None:
    assert ratios[way] <= WAYS[way]
    if WAYS[way] == LOGITS:
        assert ratios[way] >= 1, "the logits themselves were not counted: the measurement is broken"
    else:
        assert ratios[way] > 0.01
