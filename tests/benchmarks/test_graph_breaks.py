"""Compiling: a network that torch takes whole has no break, one that looks at a value has; the command writes both."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import graph_breaks
from medseg.studies.isolated import EndedError


class Looks(nn.Module):
    """Breaks where a Python number decides."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.layer(image)
        return found * 2 if found.mean().item() > 0 else found * 3


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, beyond a break
def test_breaks_are_counted() -> None:
    found = graph_breaks.row_of(Looks(), 2, "aot_eager")
    assert found["evaluation_breaks"] == found["training_breaks"] == 1
    assert found["evaluation_reasons"]
    assert found["difference"] < 1e-6
    assert found["gradients_finite"]


def test_the_command_writes_a_row_a_number_of_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_breaks, "SIZES", {2: (32, 32), 3: (16, 16, 16)})
    monkeypatch.setattr(graph_breaks.networks, "create", small)
    monkeypatch.setattr(graph_breaks, "isolated", lambda function, *words: function(*words))
    for _ in range(2):  # again in the place of the first
        graph_breaks.main(["--networks", "emanet", "unet", "--json", str(tmp_path / "x.json")])
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert [(row["network"], row["dims"]) for row in rows] == [("emanet.EMANet", 2), ("unet.UNet", 2), ("unet.UNet", 3)]
    assert all(row["evaluation_breaks"] == row["training_breaks"] == 0 for row in rows)
    assert all(row["gradients_finite"] and row["difference"] < 1e-5 for row in rows)


def test_a_network_that_ends_its_process_costs_its_own_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As FCN-8s of volumes does, whose first dense layer has 700 million weights, where memory is short."""

    def ended(_: object, name: str, dims: int, backend: str) -> dict[str, str]:
        if dims == 3:
            raise EndedError("its process was ended from outside")
        return {"backend": backend}

    monkeypatch.setattr(graph_breaks, "isolated", ended)
    graph_breaks.main(["--networks", "fcn8s", "unet", "--json", str(tmp_path / "x.json")])
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert [(row["network"], row["dims"], "error" in row) for row in rows] == [
        ("fcn8s.FCN8s", 2, False), ("fcn8s.FCN8s", 3, True), ("unet.UNet", 2, False), ("unet.UNet", 3, True),
    ]  # fmt: skip


def small(name: str, dims: int, channels: int, classes: int) -> nn.Module:
    """Return what needs the same axes and computes next to nothing."""
    if name == "emanet.EMANet" and dims == 3:
        raise ValueError("takes pictures")
    return (nn.Conv2d if dims == 2 else nn.Conv3d)(channels, classes, 3)


@pytest.mark.parametrize("name", ["lfa_unet", "bcdu_net", "emanet"])
def test_networks_are_taken_whole(name: str) -> None:
    """Windows, a recurrence and bases that are kept: where breaks are likeliest; all by the command."""
    torch.manual_seed(0)
    kwargs = {"encoder": "resnet18.tv_in1k"} if name == "emanet" else {"channels": [4, 8, 8]}
    network = graph_breaks.networks.create(name, 2, 3, 2, **kwargs)
    found = graph_breaks.row_of(network, 2, "aot_eager")
    assert (found["evaluation_breaks"], found["training_breaks"]) == (0, 0)
    assert found["gradients_finite"]
    assert found["difference"] < 1e-5
