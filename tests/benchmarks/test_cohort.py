"""Ratios of the cohort's sides, and the page that sets them beside their targets."""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cohort import TARGETS, run, summary

ROOT = Path(__file__).parents[2]


def round_of(scale: float) -> dict[str, Any]:
    """One round in which MONAI takes 3.5 times medseg's seconds, nnU-Net 1.4 times, and a case 2 seconds."""
    inside = {"wall": 10 * scale, "cpu": 8 * scale, "peak": 1.0, "threads": 2}
    command = {**inside, "wall": 20 * scale, "first_mask": 6.0, "after_last_forward": 1.0, "case": 2.0, "windows": 50}
    return {
        "load": scale,
        "bare": {"wall": 10 * scale, "cpu": 8 * scale, "windows": 50},
        "medseg_inside": {**inside, "wall": 10.5 * scale},
        "nnunet_inside": {**inside, "wall": 21 * scale},
        "medseg": {**command, "first_mask": 4.0, "peak": 1.4},
        "medseg_one": {**command, "peak": 1.2},
        "monai": {**command, "wall": 70 * scale},
        "nnunet": {**command, "wall": 28 * scale},
    }


def test_ratios_are_medians_over_rounds_and_the_page_says_what_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = summary([round_of(1.0), round_of(3.0), round_of(2.0)])
    assert found["ratios"]["wall"]["medseg_inside / bare"] == {"median": 1.05, "rounds": [1.05] * 3}
    assert found["sides"]["medseg"]["wall"] == 40
    assert found["load"] == [1.0, 3.0, 2.0]
    monkeypatch.syspath_prepend(ROOT / ".ci")
    page = importlib.import_module("results_cohort")
    assert page.cohort(tmp_path) == ""
    kind = {"number": 40, "window": [256, 256], "channels": [4, 8], "equal_pixels": {"monai": 1.0, "nnunet": 0.5}}
    result = {"threads": 2, "rounds": 3, "targets": TARGETS, "pictures": {**kind, **found}}
    record = {"result": result, "environment": {"cpu": {"model": "a processor"}}}
    (tmp_path / "cohort_cpu.json").write_text(json.dumps(record))
    section = page.cohort(tmp_path)
    assert "| medseg in one process / bare forwards | 1.05 | 1 | at most 1.1: met |" in section
    assert "| nnU-Net's command / `medseg predict` | 1.4 | 1 | at least 1.5: **missed** |" in section
    assert "| MONAI's command / `medseg predict` | 3.5 | 1 | at least 3: met |" in section
    assert "| `medseg predict`, start to first mask, s | 4 |  | at most 5: met |" in section
    assert "is gone / what a case takes | 0.5 |  | at most 1: met |" in section
    assert "| peak memory beside that of one image, GiB | 0.2 |  | at most 0.5: met |" in section
    assert "40 pictures, windows of 256 x 256 (50 in all)" in section


def test_a_command_is_measured_with_what_it_starts(tmp_path: Path) -> None:
    held = "x = bytearray(100 * 2**20)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {held!r}])"
    found = run([sys.executable, "-c", code], os.environ, tmp_path / "log")
    assert found["peak"] > 0.1  # GiB, of the child; or of this process, which hands its own on
    assert found["wall"] == found["ended"] - found["start"] > 0
    with pytest.raises(SystemExit, match=r"status 3\nwrong"):
        run([sys.executable, "-c", "import sys; print('wrong'); sys.exit(3)"], os.environ, tmp_path / "log")
