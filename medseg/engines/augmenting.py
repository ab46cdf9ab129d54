"""Where training samples are augmented: by the loading processes, or on the device that trains.

What is drawn of a sample (angles, factors, strengths, mirrors) comes from its seed, on the CPU, in both places, so that
both give the same sample within rounding. The noise alone is drawn on the device, by a generator that starts from the
sample's seed: as many numbers as there are voxels would otherwise be drawn on the CPU and copied, which is the work to
be saved. A GPU's noise is therefore not a CPU's, but the same each time on one device.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor

from medseg.engines.failures import out_of_memory
from medseg.engines.loading import SegmentationDataset, stop_workers
from medseg.engines.training_parts import agreed
from medseg.errors import MedsegError, counted
from medseg.runs.processes import rank
from medseg.runs.run import Run

__all__ = ["PLACES", "RECORD", "Pace", "augment", "measure", "settle"]

logger = logging.getLogger(__name__)

PLACES = ("loader", "device", "auto")
RECORD = "augmentation.json"
"""File of a run that says what ``auto`` measured and chose."""

_LEAST = 4  # batches between whose first and last the loader is timed
_MOST = 5.0  # seconds after which no further one is waited for
_KEPT = 4  # batches that are augmented, and steps that are taken, to time both

Batch = dict[str, Tensor]


def augment(dataset: SegmentationDataset, batch: Batch, seeds: Tensor) -> Batch:
    """Return a batch augmented, sample by sample; larger where a transform gives several samples.

    Args:
        dataset: whose augmentation it is.
        batch: tensors ``(B, C, *S)`` on any device.
        seeds: ``(B,)``, on the CPU.

    Raises:
        MedsegError: if the samples come out in different sizes.
    """
    samples: list[Batch] = []
    with _full_precision(next(iter(batch.values())).device):
        for number, seed in enumerate(seeds.tolist()):
            found = dataset.augmented({key: value[number] for key, value in batch.items()}, int(seed))
            samples += found if isinstance(found, list) else [found]
    sizes = sorted({tuple(sample["image"].shape[1:]) for sample in samples})
    if len(sizes) > 1:
        raise MedsegError(f"augmented samples have different sizes ({sizes[0]}, {sizes[1]}), which no batch can hold")
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Convolve in full precision: a blur in TF32 would round the whole image to 10 bits."""
    if device.type != "cuda":
        yield
        return
    now = torch.backends.cudnn
    with now.flags(now.enabled, now.benchmark, deterministic=now.deterministic, allow_tf32=False):
        yield


@dataclass(frozen=True)
class Pace:
    """Seconds of a batch.

    Args:
        loader: until the loader has the next one, augmented.
        plain: the same, not augmented.
        brought: until an augmented one is on the device.
        augmented: until one is on the device and augmented there.
        step: of forward and backward on it.
    """

    loader: float
    plain: float
    brought: float
    augmented: float
    step: float

    def of(self, place: str) -> float:
        """Return the seconds of a step with the augmentation in a place: loader and device work at the same time."""
        if place == "device":
            return max(self.plain, self.augmented + self.step)
        return max(self.loader, self.brought + self.step)

    @property
    def faster(self) -> str:
        """The place with the shorter step; the loader where they are equal."""
        return "device" if self.of("device") < self.of("loader") else "loader"


def settle(engine: Engine, dataset: SegmentationDataset, asked: str, run: Run, *, resumed: bool) -> None:
    """Decide where a training's samples are augmented, and set its data set to it.

    Args:
        engine: the trainer, before its first step.
        dataset: its samples.
        asked: one of `PLACES`; ``"auto"`` measures on a GPU, once in a run, and is the loader on a CPU.
        run: whose record keeps what was measured.
        resumed: whether the record's choice is kept, where there is one.
    """
    dataset.augments = True
    if asked == "loader" or (asked == "auto" and not _may_move(engine, dataset)):
        return
    if asked == "device":
        if dataset.augmentation is None:
            logger.warning("augment_on is device, but nothing is augmented")
        dataset.augments = False
        return
    path = run.folder / RECORD
    if resumed and path.is_file():
        place = str(json.loads(path.read_text(encoding="utf-8"))["augment_on"])
    else:
        place = _measured(engine, dataset, run)
    dataset.augments = place != "device"


def _may_move(engine: Engine, dataset: SegmentationDataset) -> bool:
    """Return whether the device could be the faster place, and batches get there whatever sample is drawn."""
    whole = dataset.same_size or engine.data_loader.batch_size == 1
    return engine.state.device.type == "cuda" and dataset.augmentation is not None and whole


def _measured(engine: Engine, dataset: SegmentationDataset, run: Run) -> str:
    """Measure, say and record what is faster."""
    workers = engine.data_loader.num_workers
    where = f"in {counted(workers, 'loading process', 'loading processes')}" if workers else "between the steps"
    pace = measure(engine, dataset)
    record: dict[str, Any] = {"augment_on": "loader" if pace is None else pace.faster, "num_workers": workers}
    if pace is None:
        logger.warning("augmentation: %s, as one of its transforms cannot run on %s", where, engine.state.device)
    else:
        shown = {"device": f"on {engine.state.device}", "loader": where}
        first, second = sorted(shown, key=lambda place: place != pace.faster)
        logger.info(
            "augmentation: %s (a step takes %.3g ms), not %s (%.3g ms); measured, kept in %s",
            shown[first], 1000 * pace.of(first), shown[second], 1000 * pace.of(second), RECORD,
        )  # fmt: skip
        record["seconds_a_batch"] = asdict(pace)
    if rank() == 0:
        run.files.write_json(RECORD, record)
    return str(record["augment_on"])


def measure(engine: Engine, dataset: SegmentationDataset) -> Pace | None:
    """Time loader, augmentation and step on some batches of an epoch that is not trained; nothing learns.

    Args:
        engine: the trainer, before its first step.
        dataset: its samples.

    Returns:
        The slowest process's seconds; ``None`` if the augmentation does not run on the device.
    """
    device = engine.state.device
    loader, ready = _loaded(engine, dataset, augments=True)
    plain, raw = _loaded(engine, dataset, augments=False)
    failed, augmented = False, 0.0
    try:
        augmented = _timed(lambda number: _prepared(engine, raw[number % len(raw)]), device)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:  # of a transform that knows no GPU
        if out_of_memory(error):
            raise
        logger.warning("augmentation on %s: %s", device, str(error).splitlines()[0][:200] if str(error) else error)
        failed = True
    if agreed([float(failed)], device)[0]:
        return None
    brought = _timed(lambda number: _prepared(engine, ready[number % len(ready)]), device)
    image, targets = _prepared(engine, ready[0])
    return Pace(*agreed([loader, plain, brought, augmented, _step(engine, image, targets)], device))


def _prepared(engine: Engine, batch: Mapping[str, Tensor]) -> Any:
    return engine.prepare_batch(dict(batch), engine.state.device, engine.non_blocking)


def _loaded(engine: Engine, dataset: SegmentationDataset, *, augments: bool) -> tuple[float, list[Batch]]:
    """Return the seconds that the loader takes for a batch when nothing else is done, and the last batches."""
    dataset.augments = augments
    loader = engine.data_loader
    wanted = 1 + max(_LEAST, 2 * loader.num_workers)  # two rounds of the processes
    stamps = [time.perf_counter()]
    kept: list[Batch] = []
    try:
        for batch in itertools.islice(loader, wanted):
            stamps.append(time.perf_counter())
            kept = [*kept[1 - _KEPT :], batch]
            if len(stamps) > 2 and stamps[-1] - stamps[0] > _MOST:
                break
    finally:
        stop_workers(engine)
    first = 1 if len(stamps) > 2 else 0  # the first batch waits for the processes to start
    return (stamps[-1] - stamps[first]) / (len(stamps) - 1 - first), kept


def _timed(work: Callable[[int], object], device: torch.device) -> float:
    """Return the mean seconds of some work that is repeated, after a first time that does not count."""
    work(0)
    _wait(device)
    start = time.perf_counter()
    for number in range(_KEPT):
        work(number)
    _wait(device)
    return (time.perf_counter() - start) / _KEPT


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _step(engine: Engine, image: Tensor, targets: Any) -> float:
    """Return the seconds of forward and backward; the network is afterwards as it was."""
    network = engine.network.train()
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    context: AbstractContextManager[Any] = nullcontext()
    if engine.amp and engine.scaler is not None:
        context = torch.autocast("cuda", **engine.amp_kwargs)

    def step(_: int) -> None:
        with context:
            loss = engine.loss_function(engine.inferer(image, network), targets).mean()
        loss.backward()

    try:
        return _timed(step, engine.state.device)
    finally:
        network.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
