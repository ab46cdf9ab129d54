"""Checkpoints: atomic, safe to read, strict about keys."""

import errno
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import MappingProxyType

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
    unwrap,
)


def test_round_trip_and_average_first(tmp_path: Path) -> None:
    network = nn.Linear(2, 3)
    average = {k: v + 1 for k, v in network.state_dict().items()}
    save_checkpoint({"epoch": 3, "network": network.state_dict(), "ema": average}, tmp_path / "a" / "b" / "last.pt")
    loaded = load_checkpoint(tmp_path / "a" / "b" / "last.pt")
    assert loaded["epoch"] == 3
    torch.testing.assert_close(network_weights(loaded), average)
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["last.pt"]


def test_what_is_no_tensor_is_no_weight() -> None:
    assert network_weights({"epoch": 3, "a": torch.ones(1), "note": "b", "c": torch.ones(1)}).keys() == {"a", "c"}


def test_safetensors_and_wrapped_names(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network = nn.Linear(2, 3)
    save_file({f"module.{k}": v.clone() + 1 for k, v in network.state_dict().items()}, tmp_path / "w.safetensors")
    expected = {k: v + 1 for k, v in network.state_dict().items()}
    load_weights(network, tmp_path / "w.safetensors")
    torch.testing.assert_close(dict(network.state_dict()), expected)


def test_any_mapping_and_any_layout_is_written(tmp_path: Path) -> None:
    state = MappingProxyType({"weight": torch.arange(6.0).reshape(2, 3).t()})
    for name in ("w.pt", "w.safetensors"):
        save_checkpoint(state, tmp_path / name)
        assert load_checkpoint(tmp_path / name)["weight"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert load_checkpoint(tmp_path / "w.pt", map_location="meta")["weight"].device.type == "meta"


def test_a_wrapped_network_gets_the_weights() -> None:
    class Wrapper(nn.Module):
        """As ``torch.compile`` makes one."""

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self._orig_mod = network

    network = nn.Linear(2, 3)
    weights = {k: v + 1 for k, v in network.state_dict().items()}
    assert unwrap(Wrapper(Wrapper(network))) is network
    load_weights(Wrapper(network), weights)
    torch.testing.assert_close(dict(network.state_dict()), weights)


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


@pytest.mark.parametrize(("lacking", "shown"), [(7, 7), (8, 8), (9, 8), (11, 8)])
def test_no_more_than_eight_names_are_listed(lacking: int, shown: int) -> None:
    network = nn.ParameterDict({f"p{n:02}": nn.Parameter(torch.zeros(1)) for n in range(lacking)})
    names = ", ".join(f"p{n:02}" for n in range(shown)) + (f" and {lacking - 8} more" if lacking > 8 else "")
    with pytest.raises(
        CheckpointError, match=f"^state dict does not fit ParameterDict: {lacking} missing from the file: {names}. Use"
    ):
        load_weights(network, {})


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
    with pytest.raises(CheckpointError, match=r"none\.pt does not exist; train first, or name another file"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=f"checkpoint {tmp_path} is a folder; name a file in it, or name another"):
        load_checkpoint(tmp_path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("error", "told"),
    [(EOFError(), "EOFError"), (ValueError("first\nsecond"), "first"), (OSError("a" * 1000), "a" * 200)],
)
def test_what_a_reader_says_of_damage_is_told_in_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    (tmp_path / "w.pt").write_bytes(b"12345")
    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "w.pt")
    place = f"checkpoint {tmp_path / 'w.pt'} (5 bytes)"
    assert str(caught.value) == f"{place} cannot be read, it may be truncated: {told}; get the file again"


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
    assert "continue with resume" in done.stdout
    assert load_checkpoint(path)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("earlier", [False, True])
def test_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool) -> None:
    codes = [errno.ENOSPC, errno.EROFS]

    def full(descriptor: int) -> None:
        code = codes.pop(0)
        raise OSError(code, os.strerror(code))

    if earlier:
        save_checkpoint({"epoch": 1}, tmp_path / "a.pt")
    monkeypatch.setattr(os, "fsync", full)
    kept = "the earlier a.pt is intact" if earlier else "there is no earlier a.pt"
    for reason in ("the disk is full", "Read-only file system"):
        with pytest.raises(CheckpointError) as caught:
            save_checkpoint({"epoch": 2}, tmp_path / "a.pt")
        found = re.fullmatch(rf"could not write .*a\.pt: {reason} \((\d+) MiB free\); {kept}\. .*", str(caught.value))
        assert found is not None, caught.value
        assert int(found[1]) == pytest.approx(shutil.disk_usage(tmp_path).free / 2**20, rel=0.5)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"] * earlier
    assert not earlier or load_checkpoint(tmp_path / "a.pt") == {"epoch": 1}
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"Not a directory \(0 MiB free\); there is no earlier b\.pt\. Free some"):
        save_checkpoint({}, tmp_path / "file" / "a" / "b.pt")


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
    with pytest.raises(CheckpointError, match=r"has 1 parameter group, but Adam is configured now with 2"):
        restore_optimizer(torch.optim.Adam(groups, lr=0.1), torch.optim.Adam(network.parameters()).state_dict())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e5m2]
)
def test_weights_that_are_no_numbers_are_refused_by_name(kind: torch.dtype, bad: float) -> None:
    network = nn.Module()
    for name, value in (("whole", torch.zeros(2, 3)), ("single", torch.tensor(1.0)), ("none", torch.zeros(0))):
        network.register_buffer(name, value.to(kind))
    network.register_buffer("count", torch.tensor(3))
    good = {name: value.clone() for name, value in network.state_dict().items()}
    load_weights(network, good)
    for name, value in (("whole", [[0.0, 1, 2], [3, bad, 5]]), ("single", bad)):
        with pytest.raises(CheckpointError, match=rf"NaN or infinite.*{name}"):
            load_weights(network, {**good, name: torch.tensor(value).to(kind)})
