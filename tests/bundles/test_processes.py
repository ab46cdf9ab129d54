"""Two processes with half the batch each learn what one learns with the whole."""

import sys
from pathlib import Path

import pytest
import torch
from bundles.helpers import ROOT, configs, losses, monai_bundle, small

BUNDLE = ROOT / "bundles" / "lfa_unet_drosophila"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")


@pytest.mark.timeout(400)
def test_two_processes_equal_one(sections: Path, tmp_path: Path) -> None:
    # Adam's first steps are the signs of gradients, rounding included; SGD shows whether the gradients are the same
    overlay = tmp_path / "sgd.yaml"
    overlay.write_text(
        "optimizer: {_target_: torch.optim.SGD, params: $@network.parameters(), lr: 0.05, momentum: 0.9}\n"
    )
    options = {
        **small(BUNDLE),
        "dataset_dir": str(sections),
        "max_epochs": 4,
        "network_def__norm": "instance",  # batch statistics are synchronised on GPUs alone
        "ema_decay": 0.9,
    }
    one = {**options, "config_file": configs(BUNDLE, "train.yaml", str(overlay)), "output_dir": str(tmp_path / "one")}
    two = {**options, "config_file": configs(BUNDLE, "train.yaml", "multi_gpu_train.yaml", str(overlay))}
    two |= {"output_dir": str(tmp_path / "two"), "batch_size": 2}
    monai_bundle("run", cwd=tmp_path, **one)
    monai_bundle("run", cwd=tmp_path, launcher=TORCHRUN, **two)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    weights = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("one", "two")]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-4)


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
