"""The pace of a training: what is measured of it, by how many images, and that it is kept."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medseg.errors import MedsegError
from medseg.studies import complexity, paces
from medseg.studies.measures import StepSettings, TrainingStep
from medseg.studies.paces import Pace, Paces, measured_pace
from medseg.studies.paper_figures import Row

UNET = Row("a", "medseg.networks.unet.UNet", 1, 2, (32, 32), {"channels": (4, 8)})
ASPP = Row("b", "medseg.networks.deeplabv3_plus.DeepLabV3Plus", 3, 2, (64, 64), {"encoder": "resnet18"})
CPU = torch.device("cpu")
STEP = StepSettings.of({})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDSEG_CACHE", str(tmp_path))
    return tmp_path / "paces"


class Slow:
    """A step that takes an image's seconds for each of its images, by a clock that nobody waits for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.steps: list[int] = []
        self._seconds, self._now = seconds, 0.0
        monkeypatch.setattr(paces, "_step", lambda row, images, device, settings: lambda: self._take(images))
        monkeypatch.setattr(time, "perf_counter", lambda: self._now)

    def _take(self, images: int) -> None:
        self.steps.append(images)
        self._now += self._seconds * images


@pytest.mark.parametrize(
    ("seconds", "steps", "images"),
    [(0.01, [1, 1, 8, 8], 8), (1.0, [1, 1], 1), (20.0, [1], 1)],
    ids=["the whole batch is short", "one image, warmed up", "one long step"],
)
def test_steps_by_their_length(seconds: float, steps: list[int], images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch, seconds)
    found = measured_pace(UNET, 1, 8, CPU, STEP)
    assert (slow.steps, found.images) == (steps, images)
    assert found.images_per_second == pytest.approx(1 / seconds)


def test_a_real_step_trains_all_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it computes, not by how long: the shapes that go in, in training, and a gradient for every weight."""
    seen: list[tuple[int, ...]] = []
    networks: list[nn.Module] = []

    def watch(row: Row, images: int, device: torch.device, settings: StepSettings) -> TrainingStep:
        step = made(row, images, device, settings)
        step.network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
        networks.append(step.network)
        return step

    made = complexity.training_step
    monkeypatch.setattr(complexity, "training_step", watch)
    found = measured_pace(UNET, 1, 3, CPU, STEP)
    assert found.images == 3
    assert found.images_per_second > 0
    assert seen == [(1, 1, 32, 32)] * 2 + [(3, 1, 32, 32)] * 2
    assert networks[-1].training
    assert all(weight.grad is not None for weight in networks[-1].parameters())


def test_two_images_for_a_network_that_one_does_not_suffice() -> None:
    """The pooled branch of atrous spatial pyramid pooling normalises one value a channel and image."""
    with pytest.raises(ValueError, match="batch normalisation got one image"):
        measured_pace(ASPP, 1, 4, CPU, STEP)
    found, error = paces._measured(ASPP, 4, STEP)
    assert found is not None, error
    assert found.images in (2, 4)
    none, error = paces._measured(ASPP, 1, STEP)
    assert none is None
    assert "batch normalisation got one image" in error


def test_kept_by_what_is_computed_not_by_its_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def measure(_: Any, row: Row, batch: int, step: StepSettings) -> tuple[Pace, str]:
        asked.append((row, batch))
        return Pace(4.0, batch), ""

    monkeypatch.setattr(paces, "isolated", measure)
    assert Paces().of(UNET, 2, STEP, "a") == Pace(4.0, 2)
    assert Paces().of(replace(UNET, name="other"), 2, STEP, "b") == Pace(4.0, 2)
    assert len(asked) == 1
    (file,) = cache.iterdir()
    kept = json.loads(file.read_text())
    assert (kept["batch"], kept["images_per_second"], kept["row"]["size"]) == (2, 4.0, [32, 32])
    for other in (replace(UNET, size=(64, 64)), replace(UNET, kwargs={"channels": (4, 16)})):
        Paces().of(other, 2, STEP, "c")
    Paces().of(UNET, 3, STEP, "d")
    assert len(asked) == len(list(cache.iterdir())) == 4
    Paces().of(UNET, 3, replace(STEP, accumulation_steps=4), "e")  # each batch of them takes what one does
    assert len(asked) == 4
    file.write_text(file.read_text()[:20])  # as no process leaves it
    assert Paces().of(UNET, 2, STEP, "a") == Pace(4.0, 2)
    assert len(asked) == 5
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    Paces().of(UNET, 2, STEP, "a")
    assert len(asked) == 6
    Paces().of(UNET, 2, replace(STEP, precision="bf16"), "a")
    assert len(asked) == 7


def test_what_fails_is_told_once_and_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(paces, "isolated", lambda *_: (None, "no room"))
    known = Paces(asked.append)
    for _ in range(2):
        with pytest.raises(MedsegError, match="no room"):
            known.of(UNET, 2, STEP, "a")
    assert asked == ["measuring 1 of 1: a"]
    assert not cache.exists()


def test_broken_off_nothing_is_lost(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [replace(UNET, size=(edge, edge)) for edge in (16, 32, 48)]

    def measure(_: Any, row: Row, batch: int, step: StepSettings) -> tuple[Pace, str]:
        if row.size == (48, 48):
            raise KeyboardInterrupt
        return Pace(1.0, batch), ""

    monkeypatch.setattr(paces, "isolated", measure)
    with pytest.raises(KeyboardInterrupt):
        _ = [Paces().of(row, 2, STEP, "a") for row in rows]
    assert len(list(cache.iterdir())) == 2
    assert Paces().missing((row, 2, STEP) for row in rows) == 1
