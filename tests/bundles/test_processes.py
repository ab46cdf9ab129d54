"""Two processes with half the batch each, augmenting on their device, learn what one learns with the whole.

They are forked with what torchrun tells its processes; with ``MEDSEG_TEST_WHOLE=1`` torchrun itself starts them.
"""

import os
import sys
from pathlib import Path

import pytest
import torch
from bundles.helpers import ROOT, configs, losses, monai_bundle, small

from medseg.runs.lock import FolderLock

BUNDLE = ROOT / "bundles" / "lfa_unet_drosophila"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")


@pytest.mark.timeout(400)
def test_two_processes_equal_one(sections: Path, tmp_path: Path) -> None:
    # Adam's first steps are the signs of gradients, rounding included; SGD shows whether the gradients are the same
    overlay = tmp_path / "sgd.yaml"
    overlay.write_text(
        "optimizer: {_target_: torch.optim.SGD, params: $@network.parameters(), lr: 0.01, momentum: 0.9}\n"
        "augmentation: [{_target_: RandFlipd, keys: [image, label], prob: 0.5, spatial_axis: 0}]\n"
    )
    options = {
        **small(BUNDLE),
        "dataset_dir": str(sections),
        "max_epochs": 2,
        "network_def__dropout": 0.2,
        "ema_decay": 0.9,
        "max_minutes": 60,  # far away: rates follow the first process's clock
    }
    one = {**options, "config_file": configs(BUNDLE, "train.yaml", str(overlay)), "output_dir": str(tmp_path / "one")}
    two = {**options, "config_file": configs(BUNDLE, "train.yaml", "multi_gpu_train.yaml", str(overlay))}
    two |= {"runs_dir": str(tmp_path / "runs"), "batch_size": 2, "augment_on": "device"}
    monai_bundle("run", cwd=tmp_path, **one)
    monai_bundle(
        "run", cwd=tmp_path, processes=2, launcher=TORCHRUN if os.environ.get("MEDSEG_TEST_WHOLE") else None, **two
    )
    (run,) = (tmp_path / "runs").iterdir()  # named by the time of one of them, and told to the other
    assert run.name.startswith(f"{BUNDLE.name}_2")
    assert not (run / ".lock").exists()
    assert len(losses(run)) == 2
    assert losses(run) == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    weights = [torch.load(folder / "model.pt", weights_only=True) for folder in (tmp_path / "one", run)]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-4)


def test_a_locked_folder_ends_all_processes(sections: Path, tmp_path: Path) -> None:
    """The first process is refused, says why, and the other does not wait for it: nobody else ends it here."""
    (tmp_path / "run").mkdir()
    lock = FolderLock(tmp_path / "run")
    lock.acquire()
    options = {**small(BUNDLE), "dataset_dir": str(sections), "batch_size": 2, "output_dir": str(tmp_path / "run")}
    options["config_file"] = configs(BUNDLE, "train.yaml", "multi_gpu_train.yaml")
    done = monai_bundle("run", cwd=tmp_path, processes=2, ok=False, **options)
    lock.release()
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert said.count(f"error: {tmp_path / 'run'} is in use by process {os.getpid()} on ") == 1
    assert "Traceback" not in said
    assert list((tmp_path / "run").iterdir()) == []


FAULT = """
import os
from medseg.errors import MedsegError

def fail(image):
    if os.environ["RANK"] == "1":
        raise MedsegError("one.png cannot be read; restore it")
    return image
"""


def test_one_that_fails_ends_all_and_says_why_once(sections: Path, tmp_path: Path) -> None:
    """The second process finds a fault that the first does not have; nobody else ends the first here."""
    (tmp_path / "fault.py").write_text(FAULT)
    overlay = tmp_path / "fault.yaml"
    overlay.write_text("augmentation: [{_target_: Lambdad, keys: image, func: $__import__('fault').fail}]\n")
    options = {**small(BUNDLE), "dataset_dir": str(sections), "batch_size": 2, "output_dir": str(tmp_path / "run")}
    options["config_file"] = configs(BUNDLE, "train.yaml", "multi_gpu_train.yaml", str(overlay))
    done = monai_bundle("run", cwd=tmp_path, processes=2, ok=False, **options)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert said.count("error: ") == 1
    assert "error: one.png cannot be read; restore it" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / ".lock").exists()


def test_overlay_needs_torchrun(sections: Path, tmp_path: Path) -> None:
    done = monai_bundle(
        "run",
        cwd=tmp_path,
        ok=False,
        config_file=configs(BUNDLE, "train.yaml", "multi_gpu_train.yaml"),
        dataset_dir=str(sections),
        **small(BUNDLE),
    )
    assert done.returncode != 0
    assert "torchrun --nproc_per_node" in done.stderr
