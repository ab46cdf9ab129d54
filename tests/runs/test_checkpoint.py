"""Checkpoints: atomic, safe to read, strict about keys."""

import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from bombs import write_bomb
from torch import nn

from medseg.runs.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_weights,
    network_weights,
    restore_optimizer,
    save_checkpoint,
)


def test_round_trip_and_average_first(tmp_path: Path) -> None:
    network = nn.Linear(2, 3)
    average = {k: v + 1 for k, v in network.state_dict().items()}
    save_checkpoint({"epoch": 3, "network": network.state_dict(), "ema": average}, tmp_path / "a" / "last.pt")
    loaded = load_checkpoint(tmp_path / "a" / "last.pt")
    assert loaded["epoch"] == 3
    torch.testing.assert_close(network_weights(loaded), average)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["last.pt"]


def test_safetensors_and_wrapped_names(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network = nn.Linear(2, 3)
    save_file({f"module.{k}": v.clone() + 1 for k, v in network.state_dict().items()}, tmp_path / "w.safetensors")
    expected = {k: v + 1 for k, v in network.state_dict().items()}
    load_weights(network, tmp_path / "w.safetensors")
    torch.testing.assert_close(dict(network.state_dict()), expected)


def test_differing_keys_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"weight": torch.zeros(4, 2), "extra": torch.zeros(1)}, path)
    network = nn.Linear(2, 3)
    before = network.weight.detach().clone()
    with pytest.raises(CheckpointError) as caught:
        load_weights(network, path)
    message = str(caught.value)
    assert str(path) in message
    assert "1 missing from the file: bias" in message
    assert "1 in the file but not in the network: extra" in message
    assert "weight (4, 2) instead of (3, 2)" in message
    torch.testing.assert_close(network.weight.detach(), before)


def test_another_number_of_classes_is_named(tmp_path: Path) -> None:
    """Weights for 19 classes, of a head of its own and one behind it, in a network for the 21 of a datalist."""

    def network(classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, classes, 1), nn.ConvTranspose2d(classes, classes, 2))

    path = tmp_path / "model.pt"
    torch.save(network(19).state_dict(), path)
    with pytest.raises(CheckpointError) as caught:
        load_weights(network(21), path)
    message = str(caught.value)
    assert message.startswith(f"checkpoint {path} does not fit Sequential: 4 of another shape: 1.weight (19, 8, 1, 1)")
    assert "as weights for 19 classes do in a network for 21: use the datalist and out_channels that" in message
    assert "or train anew for 21 classes" in message
    for other in (nn.Conv2d(1, 8, 3), nn.Conv2d(3, 16, 5), nn.Linear(3, 8)):  # channels, two edges, no edges
        with pytest.raises(CheckpointError, match="of another shape") as caught:
            load_weights(nn.Sequential(other), {"0.weight": torch.zeros(8, 3, 3, 3), "0.bias": torch.zeros(8)})
        assert "classes" not in str(caught.value)
        assert "Use the network_def" in str(caught.value)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_malicious_pickle_is_not_executed(tmp_path: Path, writer: str) -> None:
    path, proof = tmp_path / "w.pt", tmp_path / "executed"
    write_bomb(path, proof, writer, "network")
    with pytest.raises(CheckpointError, match=r"w\.pt holds Python objects"):
        load_checkpoint(path)
    assert not proof.exists()


def test_truncated_missing_and_wrong_content(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    save_checkpoint({"weight": torch.rand(100, 100)}, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="may be truncated"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pt")
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        load_checkpoint(path)


def test_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the write fails half-way, as it would there."""
    script = textwrap.dedent(
        """
        import resource, signal, sys, torch
        from medseg.runs.checkpoint import CheckpointError, save_checkpoint
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            save_checkpoint({"w": torch.rand(1000, 1000), "epoch": 2}, sys.argv[1])
        except CheckpointError as error:
            print(error)
            sys.exit(3)
        """
    )
    assert resource.RLIMIT_FSIZE is not None
    path = tmp_path / "last.pt"
    save_checkpoint({"w": torch.ones(2), "epoch": 1}, path)
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "could not write checkpoint" in done.stdout
    assert "the earlier last.pt is intact" in done.stdout
    assert "--resume" in done.stdout
    assert load_checkpoint(path)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_settings_stay_as_configured(caplog: pytest.LogCaptureFixture) -> None:
    network = torch.nn.Linear(2, 1)
    before = torch.optim.Adam(network.parameters(), lr=0.1, betas=(0.9, 0.99))
    before.param_groups[0]["initial_lr"] = 0.1
    network(torch.ones(1, 2)).sum().backward()
    before.step()
    now = torch.optim.Adam(network.parameters(), lr=0.01, betas=(0.9, 0.99))
    now.param_groups[0]["initial_lr"] = 0.01
    restore_optimizer(now, before.state_dict())
    assert now.param_groups[0]["initial_lr"] == 0.01
    assert now.state_dict()["state"][0]["step"] == 1
    assert [r.getMessage() for r in caplog.records] == [
        "initial_lr of parameter group 0 was 0.1 so far and is 0.01 from now on"
    ]
    with pytest.raises(CheckpointError, match=r"has no .*momentum.*, but SGD is configured"):
        restore_optimizer(torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), before.state_dict())
    groups = [{"params": [network.weight]}, {"params": [network.bias]}]
    with pytest.raises(CheckpointError, match=r"has 1 parameter groups, but Adam is configured now with 2"):
        restore_optimizer(torch.optim.Adam(groups, lr=0.1), torch.optim.Adam(network.parameters()).state_dict())
