"""A run that is killed with SIGKILL, again and again, ends with the weights of one that was not."""

import signal
import sys
from pathlib import Path

import pytest
import torch
from bundles.helpers import ROOT, configs, losses, monai_bundle, small

BUNDLE = ROOT / "bundles" / "lfa_unet_drosophila"
DRIVER = Path(__file__).with_name("kill_driver.py")
EPOCHS = 4


def start(folder: Path, sections: Path, moment: str, *, resume: bool) -> int:
    """Run or resume a training that dies at the given moment; returns its exit status."""
    done = monai_bundle(
        "run",
        cwd=folder.parent,
        launcher=(sys.executable, str(DRIVER), moment, "-m"),
        ok=False,
        config_file=configs(BUNDLE, "train.yaml", "demo.yaml"),
        dataset_dir=str(sections),
        output_dir=str(folder),
        max_epochs=EPOCHS,
        max_minutes="None",
        validation_fold=1,
        network_def__dropout=0.2,
        resume=resume,
        **small(BUNDLE),
    )
    if moment == "none":
        assert done.returncode == 0, done.stdout + done.stderr
    return done.returncode


@pytest.mark.timeout(600)
def test_killed_and_resumed_equals_uninterrupted(sections: Path, tmp_path: Path) -> None:
    """Dropout, augmentation, averaging, Adam and a cosine schedule; killed before the first checkpoint, in the middle
    of an epoch, half-way through writing a checkpoint, and between the best and the last one."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    start(whole, sections, "none", resume=False)
    for moment in ("iteration:2", "after:best.pt:1", "iteration:5", "during:last.pt:1"):
        status = start(broken, sections, moment, resume=moment != "iteration:2")
        assert status == -signal.SIGKILL, f"{moment}: the run ended with {status} before it was killed"
    start(broken, sections, "none", resume=True)
    for name in ("model.pt", "checkpoints/last.pt", "checkpoints/best.pt"):
        expected, found = (torch.load(run / name, weights_only=True) for run in (whole, broken))
        for timing in ("seconds",):
            expected.pop(timing, None)
            found.pop(timing, None)
        _assert_identical(found, expected, name)
    assert losses(broken) == losses(whole)
    assert len(losses(whole)) == EPOCHS


def _assert_identical(found: object, expected: object, place: str) -> None:
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor)
        assert torch.equal(found, expected), place
    elif isinstance(expected, dict):
        assert isinstance(found, dict)
        assert found.keys() == expected.keys(), place
        for key in expected:
            _assert_identical(found[key], expected[key], f"{place}/{key}")
    elif isinstance(expected, list):
        assert isinstance(found, list)
        assert len(found) == len(expected), place
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            _assert_identical(one, other, f"{place}/{number}")
    else:
        assert found == expected, place


def test_a_run_is_not_overwritten(sections: Path, tmp_path: Path) -> None:
    options = {"config_file": configs(BUNDLE, "train.yaml"), "dataset_dir": str(sections), **small(BUNDLE)}
    options |= {"output_dir": str(tmp_path / "run"), "max_epochs": 1}
    monai_bundle("run", cwd=tmp_path, **options)
    kept = (tmp_path / "run" / "model.pt").read_bytes()
    again = monai_bundle("run", cwd=tmp_path, ok=False, **options)
    assert again.returncode != 0
    assert again.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "already holds a run; continue it with --resume" in again.stderr
    assert (tmp_path / "run" / "model.pt").read_bytes() == kept
