"""Data sets and loaders whose randomness depends on (seed, epoch, sample) alone.

What a sample looks like in an epoch is then the same for any number of workers or processes, and a resumed run sees
what an uninterrupted one would have seen, with no random state to save.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import (
    CacheDataset,
    DataLoader,
    Dataset,
    MetaTensor,
    get_track_meta,
    list_data_collate,
    set_track_meta,
)
from monai.transforms import Compose, Transform
from numpy.random import Generator, SeedSequence
from torch import Tensor
from torch.utils.data import DistributedSampler

from medseg.caller import spelt
from medseg.data.file_facts import usual_workers
from medseg.engines.case_files import CaseFiles, size_of
from medseg.engines.memory import free_memory
from medseg.engines.packing import pack
from medseg.errors import MedsegError, counted, few
from medseg.io.parts import stored_bytes
from medseg.runs.processes import rank, world_size
from medseg.transforms.reseeded import Recipe

__all__ = ["SEED", "Draw", "EpochSampler", "SegmentationDataset", "different_sizes", "make_loader", "stop_workers"]

SEED = "augmentation_seed"
"""Key of a sample that is still to be augmented: what `SegmentationDataset.augmented` draws from."""

logger = logging.getLogger(__name__)

_MEMORY_SHARE = 0.25  # of the free memory that a cache may take

Sample = dict[str, Any]


class Draw(NamedTuple):
    """What the sampler asks a data set for.

    Args:
        epoch: of the training.
        case: its number in the data set.
        visit: how often the case was drawn in this epoch before.
        foreground: whether a patch must hold a structure.
    """

    epoch: int
    case: int
    visit: int = 0
    foreground: bool = False


class SegmentationDataset(torch.utils.data.Dataset[Any]):
    """Samples of a datalist: fixed transforms, kept in memory or on disk, then seeded augmentation.

    Args:
        data: entries with ``image`` and ``label`` paths, as ``Datalist.split`` gives them.
        transform: deterministic dictionary transforms (load, scale, ...).
        augmentation: random dictionary transforms, applied after the cache. One that gives a list of samples (MONAI's
            ``RandCropByPosNegLabeld`` with ``num_samples``) makes the batch so many times larger.
        seed: of the augmentation.
        cache: ``True`` keeps transformed samples in memory if all fit in a quarter of the free memory,
            ``False`` reads them anew each time.
        files: where samples are kept on disk if they do not fit in memory; without it they are read anew each time.
        picture: dictionary transforms that give ``image`` as people are shown it, on the grid of the sample's or, with
            ``image_affine``, where that says, and ``window``, the values that are black and white, where it has one;
            by default what ``transform`` gives.
    """

    foreground = 0.0  # share of samples that are drawn to hold a structure
    redraws = False  # whether a batch may hold a case more than once
    augments = True  # whether samples come augmented; else with the seed, for `augmented`
    same_size = False  # whether samples are known to have one size before the augmentation
    chances: Callable[[], Sequence[float]] | None = None  # of each case to be drawn; None draws them alike

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[..., Any] | Sequence[Callable[..., Any]],
        augmentation: Sequence[Callable[..., Any]] | None = None,
        seed: int = 0,
        cache: bool = True,
        files: CaseFiles | None = None,
        picture: Callable[..., Any] | None = None,
    ) -> None:
        self.data = list(data)
        self.seed = seed
        fixed = transform if isinstance(transform, Compose) else Compose(transform)
        self.augmentation = Recipe(list(augmentation)) if augmentation else None
        self._fixed = _Plain(fixed)
        self._picture = self._fixed if picture is None else _Plain(picture)
        self._base: torch.utils.data.Dataset[Any] = Dataset(self.data, self._fixed)
        self._decided = not cache
        self._files = files

    def prepare(self) -> None:
        """Fill the cache, once, where the samples fit."""
        if self._decided or not self.data:
            return
        self._decided = True
        size = self._size()
        free = free_memory()
        if size <= _MEMORY_SHARE * free:
            workers = usual_workers()
            self._base = CacheDataset(
                self.data, self._fixed, num_workers=workers, copy_cache=False, progress=False, runtime_cache=False
            )
        elif self._files is not None and self._files.have_room(size):
            number = counted(len(self.data), "sample")
            logger.info("%s (%.1f GiB) kept in %s", number, size / 2**30, self._files.folder)
            self._base = self._files.dataset(self.data, self._fixed)
        else:
            logger.info("%s (%.1f GiB) read from disk each epoch", counted(len(self.data), "sample"), size / 2**30)

    def _size(self) -> int:
        """Return the bytes that all samples take, from the first one and the sizes of the files."""
        first = size_of(self._fixed(self.data[0]))
        stored = [stored_bytes(entry.get("image", ())) or 1 for entry in self.data]
        return math.ceil(first * max(len(stored), sum(stored) / max(1, stored[0])))

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.data)

    def __getitem__(self, key: int | tuple[int, int] | Draw) -> Any:
        """Return sample ``index`` or, as the sampler asks for it, that of a `Draw`; a list where a transform does."""
        draw = Draw(0, key) if isinstance(key, int) else key if isinstance(key, Draw) else Draw(*key)
        self.prepare()
        sample, seed = self._taken(dict(self._base[draw.case]), draw)
        if self.augments or self.augmentation is None:
            return self.augmented(sample, seed)
        return {**sample, SEED: torch.tensor(seed)}

    def whole(self, index: int) -> Sample:
        """Return case ``index`` before anything is drawn, from its files: nothing is kept, and no other one is read."""
        return self._fixed(self.data[index])

    def drawn(self, index: int, sample: Sample) -> Any:
        """Return what the first epoch draws of a case; a list where a transform does.

        Args:
            index: of the case.
            sample: as `whole` gives it.
        """
        return self.augmented(*self._taken(dict(sample), Draw(0, index)))

    def picture(self, index: int) -> Sample:
        """Return the image of case ``index`` as people are shown it, read from its files."""
        return self._picture(self.data[index])

    def _taken(self, sample: Sample, draw: Draw) -> tuple[Sample, int]:
        """Return what is drawn of a case, not yet augmented, and the seed of its augmentation."""
        visits = [draw.visit] if draw.visit else []
        seeds = SeedSequence([self.seed, draw.epoch, draw.case, *visits])
        sample = self._cut(sample, draw, seeds)
        if self.augmentation is not None:
            sample.pop("affine", None)  # augmented, an image lies nowhere
        return _plain_tensors(sample), int(seeds.generate_state(1)[0])

    def augmented(self, sample: Sample, seed: int) -> Any:
        """Return a sample augmented and brought to its size; a list where a transform gives one.

        Args:
            sample: plain tensors ``(C, *S)``, on any device.
            seed: of all that is drawn, the same numbers on every device but for the noise itself.
        """
        found: Any = sample
        if self.augmentation is not None:
            self.augmentation.set_random_state(seed=seed)
            tracked = get_track_meta()
            set_track_meta(False)  # samples are plain tensors here; tracking each operation doubles its time
            try:
                found = self.augmentation(sample)
            finally:
                set_track_meta(tracked)
        if isinstance(found, list):
            return [self._finish(_plain_tensors(part)) for part in found]
        return self._finish(_plain_tensors(found))

    def _cut(self, sample: Sample, draw: Draw, seeds: SeedSequence) -> Sample:
        """Take a part of a case; here, the whole."""
        return sample

    def _finish(self, sample: Sample) -> Sample:
        """Bring an augmented sample to its size; here, as it is."""
        return sample


class _Plain(Transform):  # MONAI's cache keeps the results of its own transforms alone
    """Run transforms and keep plain tensors: what a network needs, at a tenth of MetaTensor's cost per operation."""

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.transform = transform

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any]:
        sample = self.transform(dict(entry))
        label = sample.get("label")
        # of a stack of pictures, which lies nowhere, MetaTensor makes an affine up; the file's own is kept beside it
        placed = isinstance(label, MetaTensor) and label.ndim == 4 and "original_affine" in label.meta
        place = {"affine": label.affine} if placed else {}
        return _plain_tensors({**sample, **place})


def _plain_tensors(sample: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in sample.items():
        if isinstance(value, Tensor):
            plain[key] = value.as_tensor() if hasattr(value, "as_tensor") else value
        elif isinstance(value, np.ndarray):
            plain[key] = torch.from_numpy(np.ascontiguousarray(value))
    return plain


class EpochSampler(DistributedSampler[Any]):
    """Order cases by (seed, epoch), share them between processes, and hand a `Draw` to the data set.

    Args:
        dataset: the cases.
        batch_size: samples a step and process.
        processes: W.
        rank: r; process r takes every W-th of one global order.
        seed: of the order.
        iterations: steps an epoch, for which cases are drawn again; ``None`` for as many draws as there are cases.

    Each case is drawn as often as any other to within one; where the data set says their ``chances``, as many draws as
    there are cases hold each as often as expected of it, to within one, and so of all cases with one chance together.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        batch_size: int,
        processes: int = 1,
        rank: int = 0,
        *,
        seed: int = 0,
        iterations: int | None = None,
    ) -> None:
        super().__init__(dataset, processes, rank, shuffle=True, seed=seed, drop_last=True)
        self.cases = len(dataset)
        self.foreground = dataset.foreground
        self.step = batch_size * processes
        self.samples = self.num_samples if iterations is None else iterations * batch_size
        self.chances = None if dataset.chances is None else np.asarray(dataset.chances(), np.float64)

    def __len__(self) -> int:
        """Return the number of samples of this process in an epoch."""
        return self.samples

    def __iter__(self) -> Iterator[Any]:
        """Yield what this process takes."""
        return itertools.islice(self._global(), self.rank, self.samples * self.num_replicas, self.num_replicas)

    def _global(self) -> Iterator[Draw]:
        """Yield the order of all processes together, without end."""
        flags, visits = self._flags(), [0] * self.cases
        for turn in itertools.count():
            for index in self._order(turn):
                yield Draw(self.epoch, index, visits[index], next(flags))
                visits[index] += 1

    def _order(self, turn: int) -> list[int]:
        """Return as many draws as there are cases."""
        shuffled = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.cases, generator=shuffled).numpy()
        if turn:
            order = self._numbers(turn).permutation(self.cases)
        if self.chances is None:
            return [int(index) for index in order]
        # systematic sampling: cases lie side by side, each as wide as it is expected, those of one chance together;
        # equally spaced points, the first at random, say how often each is taken
        numbers = self._numbers(turn, 0, 1)
        order = order[np.argsort(self.chances[order], kind="stable")]
        ends = np.cumsum(self.chances[order]) / self.chances.sum() * self.cases
        ends[-1] = self.cases
        taken = np.diff(np.floor(ends + numbers.random()), prepend=0.0).astype(int)
        return [int(index) for index in numbers.permutation(np.repeat(order, taken))]

    def _flags(self) -> Iterator[bool]:
        """Yield, step by step, as many ``True`` as the share says, at places that change: no process gets them all."""
        for step in itertools.count():
            first, last = (math.floor((step + end) * self.step * self.foreground + 0.5) for end in (0, 1))
            if first == last:  # there is nothing to draw
                yield from itertools.repeat(False, self.step)
                continue
            places = self._numbers(0, step).permutation(self.step)
            yield from (bool(place < last - first) for place in places)

    def _numbers(self, *words: int) -> Generator:
        return np.random.default_rng([self.seed, self.epoch, *words])


def make_loader(
    dataset: SegmentationDataset,
    batch_size: int,
    *,
    shuffle: bool,
    num_workers: int = 0,
    seed: int = 0,
    pin_memory: bool = False,
    iterations: int | None = None,
) -> DataLoader:
    """Build the loader of one process.

    Args:
        dataset: the samples.
        batch_size: samples a batch and process.
        shuffle: training order (by seed and epoch, incomplete last batch dropped) or the given order.
        num_workers: loading processes.
        seed: of the order.
        pin_memory: page-locked batches, for a GPU.
        iterations: batches an epoch in training order, however many cases there are; ``None`` for a pass over them, or
            for one batch of patches where that is more than a pass.

    Raises:
        MedsegError: if there is no sample, or fewer whole images than one batch without ``iterations``.
    """
    if len(dataset) == 0:
        raise MedsegError("the split holds no sample; check the datalist, `fold` and `validation_fold`")
    processes = world_size()
    few = shuffle and iterations is None and batch_size * processes > len(dataset)
    if few and dataset.redraws:
        iterations = 1
    elif few:
        raise MedsegError(
            f"batch_size {batch_size} x {counted(processes, 'process', 'processes')} is more than the "
            f"{counted(len(dataset), 'training sample')}; lower {spelt('batch_size')}, or give {spelt('iterations')}, "
            "for which samples are drawn again"
        )
    dataset.prepare()
    own_numbers = torch.Generator().manual_seed(seed)  # else each pass would draw from those that dropout draws from
    options: dict[str, Any] = {"num_workers": num_workers, "pin_memory": pin_memory, "generator": own_numbers}
    if num_workers:
        options["persistent_workers"] = True
    if shuffle:
        sampler = EpochSampler(dataset, batch_size, processes, rank(), seed=seed, iterations=iterations)
        options["collate_fn"] = _batch
        return DataLoader(dataset, batch_size=batch_size, sampler=sampler, drop_last=True, **options)
    if processes > 1:  # every sample exactly once, so that the confusion matrix counts none twice
        own = torch.utils.data.Subset(dataset, range(rank(), len(dataset), processes))
        return DataLoader(own, batch_size=batch_size, **options)
    return DataLoader(dataset, batch_size=batch_size, **options)


def _batch(samples: list[Any]) -> Any:
    """Put samples together; those that are still to be augmented must have one size."""
    if isinstance(samples[0], dict) and SEED in samples[0]:
        sizes = sorted({tuple(sample["image"].shape[1:]) for sample in samples})
        if len(sizes) > 1:
            raise MedsegError(different_sizes(sizes, len(samples)))
    batch = list_data_collate(samples)
    return batch if torch.utils.data.get_worker_info() is None else pack(batch)


def different_sizes(sizes: Sequence[Sequence[int]], batch_size: int) -> str:
    """Return why samples of these sizes cannot be augmented on the device.

    Args:
        sizes: edges of the samples before the augmentation.
        batch_size: samples a batch.
    """
    listed = few(["x".join(map(str, size)) for size in sizes], 4)
    return (
        f"augment_on is device, but training samples differ in size before the augmentation ({listed}), so that no "
        f"batch of {batch_size} reaches the device; give {spelt('augment_on', 'loader')}, {spelt('patch')}, or "
        f"{spelt('batch_size', 1)}"
    )


def stop_workers(engine: Engine) -> None:
    """End the loading processes of an engine's loader; the next run of the engine starts new ones.

    Left to the garbage collector, each is waited for until PyTorch kills it after five seconds.

    Args:
        engine: with a ``data_loader``.
    """
    engine._dataloader_iter = None
    if isinstance(engine.data_loader, DataLoader):
        engine.data_loader._iterator = None
