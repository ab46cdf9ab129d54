"""Which candidate of a network is chosen: by counted and measured cost, memory and minutes."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from bundle.test_volumes import NETWORKS
from costs import PACE, PARAMETERS, Device

from medseg.bundle import networks
from medseg.studies import complexity, plan_arguments, plan_network
from medseg.studies.plan_arguments import arguments
from medseg.studies.plan_asked import Asked
from medseg.studies.plan_network import (
    Candidate,
    Limits,
    candidates,
    choose,
    larger_batch,
    memory_limit,
    wanted_steps,
)
from medseg.studies.plan_rules import PlanError

CPU = torch.device("cpu")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()
    monkeypatch.setattr(complexity, "measure", made.measure)
    return made


def tried(patch: tuple[int, ...] = (32, 32, 16)) -> list[Candidate]:
    return candidates("unet", patch, patch, (1.0, 1.0, 1.0))


def test_candidates_hold_every_base_with_falling_patches() -> None:
    found = tried()
    assert {candidate.base for candidate in found} == set(plan_network.BASES)
    assert found[0].patch == (32, 32, 16)
    assert all(candidate.batch == 2 for candidate in found)
    assert found[0].network["strides"] == [[2, 2, 2], [2, 2, 2], [2, 2, 1]]
    assert found[0].network["channels"] == [32, 64, 128, 256]
    assert found[0].network["norm"] == ["instance", {"affine": True}]
    for candidate in found[:: len(plan_network.BASES)]:
        described = dict(candidate.network) | {"channels": [2] * len(candidate.network["channels"])}
        network = networks.create(described.pop("name"), described.pop("spatial_dims"), 1, 2, **described)
        assert network(torch.zeros(1, 1, *candidate.patch)).shape == (1, 2, *candidate.patch)


def test_pictures_fill_a_batch() -> None:
    found = candidates("unet", (256, 256), (256, 256), None)
    assert (found[0].patch, found[0].batch) == ((256, 256), 4)
    assert candidates("unet", (512, 512), (512, 512), None)[0].batch == 4
    assert found[0].network.get("norm") is None  # batch normalisation, as the network has it


def test_networks_without_strides_have_the_levels_of_the_thin_axis() -> None:
    given, base = arguments("attention_unet", [[2, 2, 1], [2, 2, 2]], 8, 3)
    assert given["channels"] == [8, 16]
    assert "strides" not in given
    assert base == 8
    given, base = arguments("focusnet_pp", [[2, 2]], 8, 2)
    assert (given, base) == ({"name": "focusnet_pp", "spatial_dims": 2}, 0)


@pytest.mark.parametrize("patch", [(32, 40, 32), (64, 64, 16)])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_volumes_can_be_planned(name: str, patch: tuple[int, ...]) -> None:
    """Also those of a fixed depth, which levels that follow from the patch do not fit."""
    found = [
        each
        for each in candidates(name, patch, patch, (1.0, 1.0, 5.0 if patch[2] == 16 else 1.0))
        if each.base in (0, 16)
    ]
    given = dict(found[-1].network)
    with torch.device("meta"):
        network = networks.create(given.pop("name"), given.pop("spatial_dims"), 1, 3, **given).eval()
        assert network(torch.zeros(1, 1, *found[-1].patch)).shape == (1, 3, *found[-1].patch)


def costs(found: Sequence[Candidate]) -> list[float]:
    result = []
    for candidate in found:
        row = plan_network._row(candidate, 1, 2)
        result.append(PACE * complexity.measure([row], ("macs",))["rows"][0]["macs"] * candidate.batch)
    return result


def test_the_costliest_that_has_its_steps_is_chosen(device: Device) -> None:
    found = tried()
    seconds = costs(found)
    limit = sorted(seconds)[len(found) // 2]  # half of them are quick enough
    minutes = limit * 500 / plan_network.SHARE / 60 * 1.0001
    best = choose(found, Limits(1, 2, minutes, 2**40, CPU, 500))
    assert best.seconds == pytest.approx(limit)
    assert best.steps(minutes) >= 500
    assert len(device.measured) <= 10  # few of them are measured


def test_narrow_layers_do_not_hide_what_wide_ones_can(device: Device) -> None:
    """A processor pads 8 channels to its 16: the cheapest, measured first, is slow for its operations."""
    device.slower = {8: 3.0, 12: 1.8, 24: 1.2}
    found = tried()
    wide = next(each for each in found if each.base == 16 and each.patch == found[0].patch)
    limit = 1.05 * costs([wide])[0]  # wide enough for the largest patch with 16 channels, and not for 24 or 32
    best = choose(found, Limits(1, 2, limit * 900 / plan_network.SHARE / 60, 2**40, CPU))
    assert best.candidate == wide
    assert len(device.measured) <= 5


def test_many_that_are_just_too_slow_do_not_end_in_the_cheapest(device: Device) -> None:
    """Seen with slices and 8 minutes: the eighth was too slow by 6 %, and 5,040 steps of 8 channels were planned."""
    found = candidates("unet", (192, 160), (391, 355), None)
    seconds = costs(found)
    limit = sorted(seconds)[len(found) // 2]
    for candidate, cost in zip(found, seconds, strict=True):
        slow = max(cost, 1.06 * limit) if cost > limit / 2 else cost
        device.seconds[candidate.base, candidate.patch] = slow
    best = choose(found, Limits(1, 3, limit * 900 / plan_network.SHARE / 60, 2**40, CPU))
    assert limit / 4 < best.seconds <= limit / 2
    assert len(device.measured) <= 2 * plan_network._TRIES


def test_the_least_time_of_a_gpus_step_hides_nothing(device: Device) -> None:
    found = tried()
    device.least = 50 * max(costs(found))  # all sizes take the same
    minutes = 1.1 * device.least * 900 / plan_network.SHARE / 60
    best = choose(found, Limits(1, 2, minutes, 2**40, torch.device("cuda")))
    assert (best.candidate.base, best.candidate.patch) == (32, found[0].patch)


def test_memory_bounds_it(device: Device) -> None:
    found = tried()
    limit = 80 * 12 * 32 * 32 * 16 + 4 * PARAMETERS + 4 * 2 * 32 * 32 * 16 * 10
    best = choose(found, Limits(1, 2, 1e6, limit, CPU))
    assert best.memory <= limit
    assert best.candidate.base in (12, 16, 24, 32)
    assert any("GiB" in line for line in best.tried)
    voxels = best.candidate.batch * torch.tensor(best.candidate.patch).prod().item()
    step = 80 * best.candidate.base * voxels // best.candidate.batch
    # beside the step: averaged weights; image, labels; and of 2 classes logits, probabilities, targets, gradients
    assert best.memory == step + 4 * PARAMETERS + 4 * voxels * (1 + 1 + 4 * 2)


def test_each_class_has_as_many_steps() -> None:
    assert [wanted_steps(classes) for classes in (1, 2, 3, 5, 21)] == [900, 900, 900, 1800, 3600]


def test_few_minutes_give_the_cheapest(device: Device) -> None:
    found = tried()
    best = choose(found, Limits(1, 2, 1e-6, 2**40, CPU))
    assert best.seconds == pytest.approx(min(costs(found)))


def test_what_fails_is_left_out(device: Device) -> None:
    device.fails_above = 12
    best = choose(tried(), Limits(1, 2, 1e6, 2**40, CPU))
    assert best.candidate.base <= 12
    assert any("does not fit" in line for line in best.tried)


def test_memory_that_nothing_fits_is_said(device: Device) -> None:
    with pytest.raises(
        PlanError, match=r"unet from 8 .* is the smallest plan for these images and takes .* raise --mem"
    ):
        choose(tried(), Limits(1, 2, 5, 1000, CPU))


def test_a_network_that_takes_no_volumes_is_named() -> None:
    with pytest.raises(PlanError, match="network psp_net cannot be built for these images"):
        choose([Candidate({"name": "psp_net", "spatial_dims": 3}, (32, 32, 32), 2)], Limits(1, 2, 1, 2**40, CPU))


def test_limits_of_memory() -> None:
    assert memory_limit(1.5, CPU).value == 1.5 * 2**30
    assert 0 < memory_limit(None, CPU).value < 2**50


def test_sizes_that_a_network_has_not_are_left_out(device: Device) -> None:
    """SegResNet doubles its channels at every level, and its groups of 8 do not divide 12."""
    found = candidates("segresnet", (128, 128), (128, 128), None)
    assert max(max(each.network["channels"]) for each in found) == plan_arguments.MOST_CHANNELS[2]
    best = choose(found, Limits(1, 2, 1e6, 2**50, CPU))
    assert best.candidate.base == 32
    assert 12 not in {base for base, _ in device.measured}
    assert any("must be divisible" in line for line in best.tried)


@pytest.mark.parametrize(
    ("pixels", "memory", "minutes", "expected"),
    [(1e9, 2**40, 1e6, 8), (1e6, 2**40, 1e6, 3), (1e9, 5000, 1e6, 4), (1e9, 2**40, 0.17, 2)],
)
def test_a_gpu_gets_the_batch_that_keeps_it_busy(
    monkeypatch: pytest.MonkeyPatch, pixels: float, memory: int, minutes: float, expected: int
) -> None:
    seconds = {2: 0.010, 3: 0.010, 4: 0.011, 8: 0.015, 16: 0.030}  # from 8 on the device is busy

    def measure(candidate: Candidate, macs: int, *_: object) -> plan_network.Measured:
        return plan_network.Measured(candidate, seconds[candidate.batch], 1000 * candidate.batch, macs)

    monkeypatch.setattr(plan_network, "_measure", measure)
    start = plan_network.Measured(tried()[0], seconds[2], 2000, 1)
    gpu = Limits(1, 2, minutes, memory, torch.device("cuda"))
    on_gpu = larger_batch(start, gpu, pixels=pixels)
    assert on_gpu.candidate.batch == expected
    assert on_gpu.seconds == seconds[expected]
    assert larger_batch(start, replace(gpu, device=CPU), pixels=pixels) is start


def test_levels_that_are_asked_for_are_those_that_the_patch_has() -> None:
    def strides(levels: int, *patch: int) -> list[list[list[int]]]:
        kept = Asked(tuple(patch), None, {"channels": [2] * levels}).kept(tried(patch))
        return [each.network["strides"] for each in kept]

    assert strides(2, 32, 32, 16) == [[[2, 2, 2]]]
    assert strides(3, 16, 16, 16) == [[[2, 2, 2], [2, 2, 2]]]
    assert strides(4, 16, 16, 8) == [[[2, 2, 2], [2, 2, 1], [2, 2, 2]]]
    assert strides(5, 16, 16, 4) == [[[2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]]]
    assert strides(6, 16, 16, 4) == strides(5, 16, 16, 4)  # which no network of six levels takes
