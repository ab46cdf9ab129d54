"""How many images a network trains in a second on this device, by few steps, and kept: asked again, it is known.

A CPU takes as long for each of a few images as of many, so that one or two stand for a batch whose step would take
minutes, or more memory than there is.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from medseg.atomic import atomic_write
from medseg.data.file_facts import cache_folder
from medseg.engines.failures import out_of_memory
from medseg.engines.memory import keep_freed_memory
from medseg.errors import MedsegError, shown
from medseg.runs.provenance import collect
from medseg.studies import complexity
from medseg.studies.isolated import isolated
from medseg.studies.measures import StepSettings, TrainingStep, seconds
from medseg.studies.paper_figures import Row

__all__ = ["Pace", "Paces"]

_SHORT_SECONDS = 5.0  # of a step of the whole batch, as fewer images foretell it: it is worth its time
_LONG_SECONDS = 10.0  # of a first step, of which warming up is so little that it is the measurement


@dataclass(frozen=True)
class Pace:
    """How fast a network trains.

    Args:
        images_per_second: that are trained.
        images: of the step that was measured.
    """

    images_per_second: float
    images: int


class Paces:
    """Paces of a device, each in a file of medseg's cache folder, whole or not there.

    Kept are those that were measured, by network, image, batch, how a step is taken, device and versions; why one could
    not be is not, since that may hang on what else runs.

    Args:
        say: called with a line before each measurement.
    """

    def __init__(self, say: Callable[[str], None] = lambda line: None) -> None:
        self.folder = cache_folder() / "paces"
        self._say = say
        self._total = self._done = 0
        self._failed: dict[str, MedsegError] = {}
        found = collect()
        self._device = {
            "versions": {name: found["packages"][name] for name in ("medseg", "torch")},
            "device": found["gpus"][0]["name"] if torch.cuda.is_available() else found["cpu"]["model"],
            "threads": found["threads"],
        }

    def missing(self, asked: Iterable[tuple[Row, int, StepSettings]]) -> int:
        """Say how many have to be measured, and return that.

        Args:
            asked: network and image, the images of a batch, and how a step is taken.
        """
        files = {self._file(*each): self.known(*each) for each in asked}
        self._total = sum(pace is None for pace in files.values())
        if self._total:
            self._say(
                f"{self._total} steps are to be measured here, {len(files) - self._total} are known; each is kept in "
                f"{shown(self.folder)} when it is measured"
            )
        return self._total

    def known(self, row: Row, batch: int, step: StepSettings) -> Pace | None:
        """Return a pace that was measured before.

        Args:
            row: network and image, whatever its name.
            batch: images of a batch.
            step: how it is taken; of accumulated batches each takes what one does.
        """
        try:
            held = json.loads(self._file(row, batch, step).read_text(encoding="utf-8"))
            return Pace(float(held["images_per_second"]), int(held["images"]))
        except (OSError, ValueError, KeyError, TypeError):  # not there, or not whole: it is measured
            return None

    def of(self, row: Row, batch: int, step: StepSettings, name: str) -> Pace:
        """Return a pace, measured where it is not known.

        Args:
            row: network and image, whatever its name.
            batch: images of a batch.
            step: how it is taken.
            name: of the row, for the news.

        Raises:
            MedsegError: if it cannot be measured.
        """
        held = self.known(row, batch, step)
        if held is not None:
            return held
        file = self._file(row, batch, step)
        if file.stem in self._failed:
            raise self._failed[file.stem]
        self._done += 1
        self._say(f"measuring {self._done} of {max(self._done, self._total)}: {name}")
        measured, error = isolated(_measured, row, batch, step)
        if measured is None:
            self._failed[file.stem] = MedsegError(error)
            raise self._failed[file.stem]
        self._keep(file, self._key(row, batch, step) | asdict(measured))
        return measured

    def _key(self, row: Row, batch: int, step: StepSettings) -> dict[str, Any]:
        described = asdict(replace(row, name="", source=""))
        held = {key: value for key, value in described.items() if value}
        return self._device | {"row": held, "batch": batch, "step": asdict(_alone(step))}

    def _file(self, row: Row, batch: int, step: StepSettings) -> Path:
        key = json.dumps(self._key(row, batch, step), sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def _keep(self, file: Path, record: dict[str, Any]) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as temporary:
                temporary.write_text(json.dumps(record, default=str, indent=1), encoding="utf-8")
        except OSError as error:
            self._say(f"{shown(file)}: a measured step cannot be kept ({error.strerror}); set MEDSEG_CACHE")


def _measured(row: Row, batch: int, settings: StepSettings) -> tuple[Pace | None, str]:
    """Do what a process of its own is for; errors go back as text, since not all of them can be pickled."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_freed_memory(device)
    error = ""
    for images in _tried(batch, device):
        try:
            return measured_pace(row, images, batch, device, settings), ""
        except Exception as problem:  # such as of a norm that one value a channel does not suffice
            error = f"{type(problem).__name__}: {problem}"
            if out_of_memory(problem):
                return None, f"a step does not fit in the memory of {device}"
    return None, error


def _tried(batch: int, device: torch.device) -> Iterator[int]:
    """Yield the images to begin with: on a CPU one, and two for a network that cannot be trained by one."""
    if device.type != "cpu":
        yield batch
    else:
        yield from range(1, min(2, batch) + 1)


def measured_pace(row: Row, images: int, batch: int, device: torch.device, settings: StepSettings) -> Pace:
    """Return the pace by one step to warm up and one that counts; a GPU, whose steps are short, is given some more.

    Args:
        row: network and image.
        images: of the first step.
        batch: images of the step that is taken instead where it is short.
        device: that computes.
        settings: how a step is taken; one batch's is measured of several that are accumulated.
    """
    step = _step(row, images, device, settings)
    if device.type != "cpu":
        return Pace(images / seconds(step, device)[0], images)
    first = _timed(step)
    if first > _LONG_SECONDS:
        return Pace(images / first, images)
    second = _timed(step)
    if second * batch / images > _SHORT_SECONDS or images == batch:
        return Pace(images / second, images)
    del step
    whole = _step(row, batch, device, settings)
    whole()
    return Pace(batch / _timed(whole), batch)


def _alone(settings: StepSettings) -> StepSettings:
    """Return the settings of one batch, whether or not several are accumulated."""
    return replace(settings, accumulation_steps=1)


def _step(row: Row, images: int, device: torch.device, settings: StepSettings) -> TrainingStep:
    step = complexity.training_step(row, images, device, _alone(settings))
    if settings.compile:
        step()  # compiles, which is no step
    return step


def _timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
