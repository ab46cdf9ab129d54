"""Parameter groups: every trainable parameter once, at the right rate, also along a schedule and after a resume."""

from pathlib import Path

import pytest
import torch
from torch import nn

from medseg.engines.parameter_groups import parameter_groups
from medseg.engines.schedule import Schedule


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)
        self.context = nn.Parameter(torch.rand(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encoder(x)
        result: torch.Tensor = self.head(torch.einsum("cd,bdhw->bchw", self.context, x))
        return result


def named(network: nn.Module, groups: list[dict[str, object]]) -> dict[object, list[str]]:
    """Return the names of each group's parameters."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {g["name"]: sorted(names[id(p)] for p in g["params"]) for g in groups}  # type: ignore[attr-defined]


ENCODER = ["encoder.0.bias", "encoder.0.weight", "encoder.1.bias", "encoder.1.weight"]
DECODER = ["context", "head.bias", "head.weight"]


def test_encoder_and_decoder() -> None:
    network = Small()
    groups = parameter_groups(network, 0.01)
    assert named(network, groups) == {"encoder": ENCODER, "decoder": DECODER}
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.1])
    assert [set(group) for group in groups] == [{"name", "params", "lr"}] * 2  # weight decay is the optimiser's
    optimizer = torch.optim.SGD(groups, lr=0.01, weight_decay=5e-4)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 5e-4]


def test_no_decay_for_norm_and_bias() -> None:
    network = Small()
    groups = parameter_groups(network, 0.01, 2.0, weight_decay=1e-4, no_decay_for_norm_and_bias=True)
    assert named(network, groups) == {
        "encoder": ["encoder.0.weight"],
        "encoder_no_decay": ["encoder.0.bias", "encoder.1.bias", "encoder.1.weight"],
        "decoder": ["context", "head.weight"],
        "decoder_no_decay": ["head.bias"],
    }
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.01, 0.02, 0.02])
    optimizer = torch.optim.SGD(groups, lr=0.5, weight_decay=7.0)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4, 0.0, 1e-4, 0.0]


def test_frozen_parameters_are_in_no_group() -> None:
    network = Small()
    network.encoder[1].requires_grad_(False)
    network.context.requires_grad_(False)
    groups = named(network, parameter_groups(network, 0.01))
    assert groups == {"encoder": ["encoder.0.bias", "encoder.0.weight"], "decoder": ["head.bias", "head.weight"]}
    network.encoder.requires_grad_(False)
    assert named(network, parameter_groups(network, 0.01)) == {"decoder": ["head.bias", "head.weight"]}
    network.requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter of Small is frozen"):
        parameter_groups(network, 0.01)


def test_encoders_inside_wrappers_and_shared_parameters() -> None:
    inner = Small()
    inner.head.weight = nn.Parameter(torch.rand(2, 4, 1, 1))
    inner.tied = nn.Module()
    inner.tied.encoder = nn.Linear(2, 2)
    inner.again = inner.tied.encoder  # seen as decoder too, and counted once
    network = nn.ModuleDict({"module": inner, "encoders": nn.Linear(3, 3)})
    groups = parameter_groups(network, 0.1)
    everything = [id(p) for group in groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in network.parameters())
    names = named(network, groups)
    assert names["encoder"] == [
        *(f"module.{name}" for name in ENCODER),
        "module.tied.encoder.bias",
        "module.tied.encoder.weight",
    ]
    assert "encoders.weight" in names["decoder"]


def test_each_group_follows_the_schedule_from_its_own_rate(tmp_path: Path) -> None:
    """Also after a resume: the groups of a checkpoint bring their first rates along."""
    network = Small()
    optimizer = torch.optim.SGD(parameter_groups(network, 0.01), lr=1.0, momentum=0.9)
    schedule = Schedule(optimizer, "poly", 10)
    for iteration in range(6):
        schedule.step(iteration)
        rates = [0.01 * (1 - iteration / 10) ** 0.9, 0.1 * (1 - iteration / 10) ** 0.9]
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(rates)
        network(torch.rand(1, 1, 4, 4)).sum().backward()
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "last.pt")
    resumed = torch.optim.SGD(parameter_groups(Small(), 0.01), lr=1.0, momentum=0.9)
    schedule = Schedule(resumed, "poly", 10)
    resumed.load_state_dict(torch.load(tmp_path / "last.pt", weights_only=True))
    schedule.step(6)
    assert [group["lr"] for group in resumed.param_groups] == pytest.approx([0.01 * 0.4**0.9, 0.1 * 0.4**0.9])
    assert [group["name"] for group in resumed.param_groups] == ["encoder", "decoder"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0 and decoder_factor 10.0; both must be above 0"),
        ({"lr": 0.1, "decoder_factor": -1.0}, "decoder_factor -1.0"),
        ({"lr": 0.1, "weight_decay": -1e-4}, "weight_decay is -0.0001"),
    ],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parameter_groups(Small(), **options)


def test_a_network_without_encoder() -> None:
    with pytest.raises(ValueError, match="Linear has no module called 'encoder'"):
        parameter_groups(nn.Linear(2, 2), 0.1)
