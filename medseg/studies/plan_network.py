"""Which size of a network fits the memory and the minutes: tried on the device at hand, from counted to measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from medseg.bundle import networks
from medseg.engines.memory import free_memory
from medseg.errors import MedsegError
from medseg.studies import complexity
from medseg.studies.measures import StepSettings
from medseg.studies.paper_figures import Row
from medseg.studies.plan_arguments import ROOM, VOLUMES_A_BATCH, arguments, with_room
from medseg.studies.plan_rules import Chosen, PlanError, levels, smaller

__all__ = [
    "BASES", "STEPS", "Candidate", "Limits", "Measured", "candidates", "choose",
    "larger_batch", "memory_limit", "wanted_steps",
]  # fmt: skip

BASES = (32, 24, 16, 12, 8)
"""Channels of the finest level that are tried; each level has twice those of the one before, up to
`medseg.studies.plan_arguments.MOST_CHANNELS`."""
STEPS = 450
"""Steps a class beside the background that a training must have before a larger network is worth it; see `wanted`."""
_LEAST_STEPS = 900
_MOST_STEPS = 3600  # of eight classes: of more nothing was measured
BATCH_PIXELS = 256 * 256  # of a batch of pictures: more steps are worth more than larger ones, see docs/plans.md
PICTURES_A_BATCH = 4  # at least: statistics of fewer are no batch's
SHARE = 0.85  # of the clock that the bare step has in a training with its data and records: 0.83 to 0.93 on a CPU
_SMALLEST = {2: 96**2, 3: 32**3}  # pixels of a patch below which only want of memory goes
_TRIES = 8
_WIDER = 4.0  # times the operations a second that wide layers do beside narrow ones, at most
_NEAR = 1.2  # times the budget that a cost may be, foreseen from another patch of the same width, to be measured
_SURE = 0.9  # the same when `_TRIES` were all too slow
SEEN_A_BATCH = 0.05  # share of all pixels of the training that a batch holds at most (nnU-Net)
_GAIN = 1.25  # times the patches a second that twice the batch must do
_MEASURES = ("parameters", "memory", "training")
_SAFETY = 0.8  # of the memory of a device, or half of what a computer has free


@dataclass(frozen=True)
class Candidate:
    """A network, a patch and a batch.

    Args:
        network: ``name`` and arguments, without the number of channels and classes.
        patch: edges in pixels.
        batch: patches a step.
        base: channels of the finest level, 0 where the network has no such argument.
    """

    network: Mapping[str, Any]
    patch: tuple[int, ...]
    batch: int
    base: int = 0


@dataclass(frozen=True)
class Measured:
    """What a candidate costs on a device.

    Args:
        candidate: what was measured.
        seconds: of a training step.
        memory: bytes that a training of it takes at its peak.
        macs: multiply-adds of one patch forward.
        parameters: learned values.
        tried: lines on what else was tried, for the reader.
    """

    candidate: Candidate
    seconds: float
    memory: int
    macs: int
    parameters: int = 0
    tried: tuple[str, ...] = field(default=())

    def steps(self, minutes: float) -> int:
        """Return the steps of a training of so many minutes."""
        return int(60 * minutes * SHARE / self.seconds)


@dataclass(frozen=True)
class Limits:
    """What a network is planned for, and what its training may take.

    Args:
        channels: of the images.
        classes: of the labels.
        minutes: of the training.
        memory: bytes that a step may take.
        device: where it is measured.
        steps: that the training should have.
        step: how it takes them.
        progress: called with a line at each measurement.
    """

    channels: int
    classes: int
    minutes: float
    memory: int
    device: torch.device
    steps: int = _LEAST_STEPS
    step: StepSettings = field(default_factory=lambda: StepSettings.of({}))
    progress: Callable[[str], None] = lambda line: None

    @property
    def seconds(self) -> float:
        """Seconds that a step may take."""
        return 60 * self.minutes * SHARE / self.steps

    def hold(self, found: Measured | None) -> bool:
        """Return whether what was measured, if it could be, keeps within them."""
        return found is not None and found.memory <= self.memory and found.seconds <= self.seconds


def wanted_steps(classes: int) -> int:
    """Return the steps that a training should have, see ``docs/plans.md``.

    Patches are centred on classes in turn: each class is to have as many of them, up to eight classes.

    Args:
        classes: of the labels, the background among them.
    """
    return min(_MOST_STEPS, max(_LEAST_STEPS, STEPS * (classes - 1)))


def memory_limit(gib: float | None, device: torch.device) -> Chosen:
    """Return the bytes that a training step may take, and where the number is from."""
    if gib is not None:
        return Chosen(int(gib * 2**30), f"--memory {gib:g}")
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return Chosen(
            int(_SAFETY * free), f"{100 * _SAFETY:.0f} % of what is free on {torch.cuda.get_device_name(device)}"
        )
    return Chosen(free_memory() // 2, "half of the memory that is free")


def candidates(
    name: str, patch: Sequence[int], edges: Sequence[float], voxel: Sequence[float] | None
) -> list[Candidate]:
    """Return what could be trained: every base with the patch and its smaller ones, down to a quarter of an image.

    Args:
        name: of the network.
        patch: largest patch.
        edges: of the median image in voxels.
        voxel: size of a voxel in mm; ``None`` where axes are alike.
    """
    axes, found = len(patch), []
    size: list[int] | None = list(patch)
    while size is not None:
        rounded, strides = levels(size, voxel)
        if min(rounded) < ROOM[-1]:
            rounded = with_room(rounded, arguments(name, strides, BASES[0], axes)[0])
        pixels = math.prod(rounded)
        batch = VOLUMES_A_BATCH if axes == 3 else max(PICTURES_A_BATCH, min(16, BATCH_PIXELS // pixels))
        for base in BASES:
            given, used = arguments(name, strides, base, axes)
            candidate = Candidate(given, tuple(rounded), batch, used)
            if candidate not in found:
                found.append(candidate)
        size = smaller(size, edges) if pixels > _SMALLEST[axes] else None
    return found


def choose(
    tried: Sequence[Candidate],
    limits: Limits,
    *,
    asked: str = "",
    accept: Callable[[Measured], None] = lambda expected: None,
) -> Measured:
    """Return the costliest candidate that fits the memory and trains enough steps in the minutes.

    Operations are counted for all; the cheapest is measured, and from it the costliest that could do is found, measured
    too, and so on downwards. What a width was seen to do in a second holds for its other patches; after several that
    were all too slow, only what is surely quick enough by that is measured. Where none has enough steps, the cheapest
    is taken.

    Args:
        tried: candidates.
        limits: of the training.
        asked: what all candidates have because somebody wants it so, for messages.
        accept: called before the first measurement with the costliest candidate that can be built, of which nothing is
            known but its operations; may refuse the plan.

    Raises:
        PlanError: if no candidate can be built, or none fits.
    """
    lines: list[str] = []
    every = [(_macs(c, limits, lines), c) for c in tried]
    counted = sorted(((n, c) for n, c in every if n is not None), key=lambda pair: pair[0] * pair[1].batch)
    if not counted:
        wanted = f" with {asked}" if asked else ""
        raise PlanError(f"network {tried[0].network['name']} cannot be built for these images{wanted}: {lines[0]}")
    accept(Measured(counted[-1][1], limits.seconds, 0, counted[-1][0]))
    last: Measured | None = None
    for number, (macs, candidate) in enumerate(counted):  # the cheapest that runs at all
        last = _measure(candidate, macs, limits, lines)
        if last is not None and last.memory <= limits.memory:
            counted = counted[number + 1 :]
            break
        if last is None:
            raise PlanError(f"the smallest plan for these images cannot be trained here: {lines[-1]}")
        raise PlanError(
            f"{_said(candidate)} is the smallest plan for these images and takes {last.memory / 2**30:.3g} GiB, the "
            f"limit is {limits.memory / 2**30:.3g} GiB; raise --memory, or choose a smaller --network"
        )
    assert last is not None
    best, refused = last, sum(macs is None for macs, _ in every)
    # a GPU takes its time for a small step whatever there is to do: nothing follows from it for larger ones
    paces = {last.candidate.base: _pace(last)} if limits.device.type == "cpu" else {}
    for macs, candidate in reversed(counted):
        near = len(lines) < refused + _TRIES
        if _foreseen(paces, candidate.base, near=near) * macs * candidate.batch > limits.seconds:
            continue
        found = _measure(candidate, macs, limits, lines)
        if found is not None and limits.hold(found):
            best = found
            break
        if found is not None:
            paces[candidate.base] = _pace(found)
        if len(lines) >= refused + 2 * _TRIES:
            break
    return replace(best, tried=tuple(lines))


def _foreseen(paces: Mapping[int, float], base: int, *, near: bool) -> float:
    """Return the least seconds of an operation that a width may need: near what was seen, or surely no more."""
    if base not in paces:
        return min(paces.values(), default=0.0) / _WIDER if near else math.inf
    return paces[base] / (_NEAR if near else _SURE)


def _pace(measured: Measured) -> float:
    """Return the seconds of one operation."""
    return measured.seconds / max(1, measured.macs * measured.candidate.batch)


def larger_batch(best: Measured, limits: Limits, *, pixels: float) -> Measured:
    """Return a plan's network with the batch that a GPU is busy with: small steps leave it idle.

    The batch is doubled while that does a quarter more patches a second, and memory, steps and data allow it.

    Args:
        best: what was chosen.
        limits: on a CPU the batch stays.
        pixels: of all images together.
    """
    if limits.device.type == "cpu":
        return best
    most = int(SEEN_A_BATCH * pixels / math.prod(best.candidate.patch))
    lines = list(best.tried)
    while best.candidate.batch < most:
        wider = replace(best.candidate, batch=min(2 * best.candidate.batch, most))
        found = _measure(wider, best.macs, limits, lines)
        if found is None or not limits.hold(found):
            break
        if found.seconds / wider.batch > best.seconds / best.candidate.batch / _GAIN:
            break
        best = found
    return replace(best, tried=tuple(lines))


def _row(candidate: Candidate, channels: int, classes: int) -> Row:
    kind = networks.resolve(str(candidate.network["name"]))
    kwargs = {key: value for key, value in candidate.network.items() if key not in ("name", "spatial_dims")}
    target = f"{kind.__module__}.{kind.__qualname__}"
    return Row(str(candidate.network["name"]), target, channels, classes, candidate.patch, kwargs)


def _macs(candidate: Candidate, limits: Limits, lines: list[str]) -> int | None:
    """Return the multiply-adds of one patch; ``None``, with a line on it, where the network has no such size."""
    record = complexity.measure([_row(candidate, limits.channels, limits.classes)], ("macs",))["rows"][0]
    if record["macs"] is None:
        lines.append(f"{_said(candidate)}: {_reason(record)}")
        return None
    return int(record["macs"])


def _reason(record: Mapping[str, Any]) -> str:
    reasons = list(record["errors"].values())
    return str(reasons[0]).splitlines()[0] if reasons else "no reason is known"


def _measure(candidate: Candidate, macs: int, limits: Limits, lines: list[str]) -> Measured | None:
    row = _row(candidate, limits.channels, limits.classes)
    limits.progress(f"measuring {_said(candidate)}")
    try:
        record = complexity.measure(
            [row], _MEASURES, batch_size=candidate.batch, device=str(limits.device), step=limits.step
        )
    except MedsegError as error:
        raise PlanError(str(error)) from error
    held = record["rows"][0]
    if held["errors"] or not held["training"]:
        lines.append(f"{_said(candidate)}: {_reason(held)}")
        return None
    seconds = limits.step.accumulation_steps * candidate.batch / held["training"]["training"]
    memory = int(held["memory_bytes"]) + _beside(candidate, int(held["parameters"]), limits)
    lines.append(f"{_said(candidate)}: {seconds:.3g} s a step, {memory / 2**30:.3g} GiB")
    return Measured(candidate, seconds, memory, macs, int(held["parameters"]))


def _beside(candidate: Candidate, parameters: int, limits: Limits) -> int:
    """Return the bytes that a training holds beside the step that is measured.

    These are the average of the weights, the batch to come with its labels, and what the loss makes of a batch, which
    the measured step has not: logits, probabilities, targets and their gradient, each in 4 bytes.
    """
    pixels = candidate.batch * math.prod(candidate.patch)
    return 4 * (parameters + pixels * (limits.channels + 1 + 4 * limits.classes))


def _said(candidate: Candidate) -> str:
    size = " x ".join(map(str, candidate.patch))
    base = f" from {candidate.base} channels" if candidate.base else ""
    return f"{candidate.network['name']}{base}, patch {size}, batch {candidate.batch}"
