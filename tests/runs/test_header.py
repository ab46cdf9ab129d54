"""Weights that say what they are."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from medseg.runs.checkpoint import CheckpointError, load_checkpoint, load_weights, network_weights, save_checkpoint
from medseg.runs.header import read_header, weights_hash, write_header

HEADER = {"network": {"name": "UNet", "arguments": {"channels": (4, 8)}}, "note": None}
PLAIN = {"network": {"name": "UNet", "arguments": {"channels": [4, 8]}}, "note": None}
GARBAGE = {
    "empty": b"",
    "zeros": b"\0" * 5000,
    "text": b"garbage" * 99,
    "length": b"\xff" * 8 + b"{}",
    "brackets": b"\x80\x02" + b"]" * 90000 + b".",
    "zip": b"PK\x03\x04" + b"\0" * 99,
    "huge": (2**62).to_bytes(8, "little") + b"{",
    "huge pickle": b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x",
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    weights = network().state_dict()
    save_checkpoint(write_header(weights, HEADER), tmp_path / name)
    assert read_header(tmp_path / name) == {**PLAIN, "sha256": weights_hash(weights)}
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    load_weights(other, tmp_path / name)
    torch.testing.assert_close(dict(other.state_dict()), dict(weights), rtol=0, atol=0)


def test_pytorch_takes_no_notice(tmp_path: Path) -> None:
    weights = network().state_dict()
    save_checkpoint(write_header(weights, HEADER), tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=True)
    assert set(loaded) == set(weights)
    assert loaded._metadata["1"] == {"version": 2}, "the modules' versions are kept"
    network().load_state_dict(loaded, strict=True)


def test_the_header_of_a_larger_checkpoint(tmp_path: Path) -> None:
    headed = write_header({f"module.{k}": v for k, v in network().state_dict().items()}, HEADER)
    save_checkpoint({"epoch": 3, "network": headed, "ema": {}}, tmp_path / "last.pt")
    assert read_header(tmp_path / "last.pt") == read_header(headed)
    assert read_header(network().state_dict()) is None


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_changed_weights_are_refused(tmp_path: Path, name: str) -> None:
    headed = write_header(network().state_dict(), HEADER)
    headed["0.bias"] = headed["0.bias"] + 1
    save_checkpoint(headed, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"holds weights that were changed after their header was written"):
        load_weights(network(), tmp_path / name)


def test_every_digit_of_the_hash_counts() -> None:
    headed = write_header(network().state_dict(), HEADER)
    written = headed._metadata["medseg"]["sha256"]
    headed._metadata["medseg"]["sha256"] = written[:-1] + ("0" if written[-1] != "0" else "1")
    with pytest.raises(CheckpointError, match=f"weights that were changed .*SHA-256 {written}, the header says"):
        load_weights(network(), headed)


def test_the_hash_is_of_names_types_shapes_and_values() -> None:
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}
    same = {"b": torch.tensor(1), "a": torch.arange(6.0).reshape(3, 2).t().contiguous().t().reshape(2, 3)}
    same["a"] = torch.arange(6.0).reshape(2, 3).t().contiguous().t()  # another memory format
    assert weights_hash(same) == weights_hash(base)
    changed = [
        {**base, "b": torch.tensor(2)},
        {**base, "b": torch.tensor(1, dtype=torch.int32)},
        {**base, "a": base["a"].reshape(3, 2)},
        {"a": base["a"], "c": base["b"]},
        {**base, "a": base["a"].bfloat16()},
    ]
    assert len({weights_hash(each) for each in (base, *changed)}) == 6


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "module.module._orig_mod."]
)
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_wrappers_in_any_order(tmp_path: Path, prefix: str, key: str | None) -> None:
    target, weights = network(), {k: v + 1 for k, v in network().state_dict().items()}
    wrapped = {f"{prefix}{name}": value for name, value in weights.items()}
    torch.save(wrapped if key is None else {key: wrapped, "epoch": 1}, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    torch.testing.assert_close(dict(target.state_dict()), weights)


def test_a_part_that_was_compiled_alone_and_a_name_twice() -> None:
    assert set(network_weights({"0._orig_mod.bias": torch.zeros(1)})) == {"0.bias"}
    with pytest.raises(CheckpointError, match=r"holds 'bias' twice, once as 'module\.bias'"):
        network_weights({"bias": torch.zeros(1), "module.bias": torch.zeros(1)})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    weights, before = network().state_dict(), network()
    weights["0.bias"][1] = value
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"w\.pt has 1 weights that are NaN or infinite: 0\.bias; a network"):
        load_weights(before, tmp_path / "w.pt")
    torch.testing.assert_close(dict(before.state_dict()), dict(network().state_dict()))


def test_types_that_hold_nan_and_those_that_do_not() -> None:
    """What is loaded counts, not what it is loaded into: a NaN for a whole number, whole numbers for a float."""
    whole = {name: torch.ones_like(value, dtype=torch.int64) for name, value in network().state_dict().items()}
    target = network()
    load_weights(target, whole)
    assert target[0].weight.unique().tolist() == [1]
    with pytest.raises(CheckpointError, match=r"1 weights that are NaN or infinite: 1\.num_batches_tracked"):
        load_weights(network(), {**network().state_dict(), "1.num_batches_tracked": torch.tensor(torch.nan)})
    rotation = nn.ParameterDict({"turn": nn.Parameter(torch.ones(2, dtype=torch.complex64))})
    with pytest.raises(CheckpointError, match="NaN or infinite: turn"):
        load_weights(rotation, {"turn": torch.tensor([1, complex(0, torch.nan)])})


def test_a_mask_of_the_network_may_be_infinite() -> None:
    def masked() -> nn.Module:
        module = network()
        module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        return module

    target = masked()
    target.get_buffer("mask")[0] = 1
    load_weights(target, masked().state_dict())
    assert target.get_buffer("mask").tolist() == [0.0, -math.inf]


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / name)
    message = str(caught.value)
    assert str(tmp_path / name) in message
    assert "cannot be read" in message or "was not opened" in message
    assert "\n" not in message
