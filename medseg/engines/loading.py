"""Data sets and loaders whose randomness depends on (seed, epoch, sample) alone.

What a sample looks like in an epoch is then the same for any number of workers or processes, and a resumed run sees
what an uninterrupted one would have seen, with no random state to save.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor, get_track_meta, set_track_meta
from monai.transforms import Compose, Transform
from torch import Tensor
from torch.utils.data import DistributedSampler

from medseg.errors import MedsegError
from medseg.runs.processes import rank, world_size

logger = logging.getLogger(__name__)

_MEMORY_SHARE = 0.25  # of the free memory that a cache may take


class SegmentationDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Samples of a datalist: fixed transforms, cached in memory where they fit, then seeded augmentation.

    Args:
        data: entries with ``image`` and ``label`` paths, as ``Datalist.split`` gives them.
        transform: deterministic dictionary transforms (load, scale, ...).
        augmentation: random dictionary transforms, applied after the cache.
        seed: of the augmentation.
        cache: ``True`` keeps transformed samples in memory if all fit in a quarter of the free memory,
            ``False`` reads them anew each time.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[..., Any] | Sequence[Callable[..., Any]],
        augmentation: Sequence[Callable[..., Any]] | None = None,
        seed: int = 0,
        cache: bool = True,
    ) -> None:
        self.data = list(data)
        self.seed = seed
        fixed = transform if isinstance(transform, Compose) else Compose(transform)
        self.augmentation = Compose(list(augmentation)) if augmentation else None
        self._base: torch.utils.data.Dataset[Any] = Dataset(self.data, _Plain(fixed))
        self._decided = not cache
        self._fixed = fixed

    def prepare(self) -> None:
        """Fill the cache, once, where the samples fit."""
        if self._decided or not self.data:
            return
        self._decided = True
        first = _Plain(self._fixed)(self.data[0])
        size = sum(v.numel() * v.element_size() for v in first.values() if isinstance(v, Tensor)) * len(self.data)
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if size > _MEMORY_SHARE * free:
            logger.info("%d samples (%.1f GiB) are read from disk each epoch", len(self.data), size / 2**30)
            return
        workers = min(8, os.cpu_count() or 1)
        self._base = CacheDataset(
            self.data, _Plain(self._fixed), num_workers=workers, copy_cache=False, progress=False, runtime_cache=False
        )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.data)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return sample ``index`` or, as the sampler asks for it, sample ``(epoch, index)``."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        self.prepare()
        return self._augmented(dict(self._base[index]), epoch, index)

    def read(self, index: int) -> dict[str, Any]:
        """Return sample ``index`` of the first epoch from its files: nothing is kept, and no other one is read."""
        return self._augmented(_Plain(self._fixed)(self.data[index]), 0, index)

    def _augmented(self, sample: dict[str, Any], epoch: int, index: int) -> dict[str, Any]:
        if self.augmentation is not None:
            sample.pop("affine", None)  # augmented, an image lies nowhere
            state = np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)
            self.augmentation.set_random_state(seed=int(state[0]))
            tracked = get_track_meta()
            set_track_meta(False)  # samples are plain tensors here; tracking each operation doubles its time
            try:
                sample = self.augmentation(sample)
            finally:
                set_track_meta(tracked)
        return _plain_tensors(sample)


class _Plain(Transform):  # MONAI's cache keeps the results of its own transforms alone
    """Run transforms and keep plain tensors: what a network needs, at a tenth of MetaTensor's cost per operation."""

    def __init__(self, transform: Compose) -> None:
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
    """Shuffle by (seed, epoch), share between processes, and hand ``(epoch, index)`` to the data set."""

    def __iter__(self) -> Iterator[Any]:
        """Yield ``(epoch, index)``; process r of W takes every W-th of one global order."""
        return iter([(self.epoch, index) for index in super().__iter__()])


def make_loader(
    dataset: SegmentationDataset,
    batch_size: int,
    *,
    shuffle: bool,
    num_workers: int = 0,
    seed: int = 0,
    pin_memory: bool = False,
) -> DataLoader:
    """Build the loader of one process.

    Args:
        dataset: the samples.
        batch_size: samples a batch and process.
        shuffle: training order (by seed and epoch, incomplete last batch dropped) or the given order.
        num_workers: loading processes.
        seed: of the order.
        pin_memory: page-locked batches, for a GPU.

    Raises:
        ValueError: if there is no sample, or fewer than one batch.
    """
    if len(dataset) == 0:
        raise MedsegError("the split holds no sample; check the datalist, `fold` and `validation_fold`")
    processes = world_size()
    if shuffle and batch_size * processes > len(dataset):
        raise MedsegError(
            f"batch_size {batch_size} x {processes} process(es) is more than the {len(dataset)} training samples; "
            "lower --batch_size"
        )
    dataset.prepare()
    own_numbers = torch.Generator().manual_seed(seed)  # else each pass would draw from those that dropout draws from
    options: dict[str, Any] = {"num_workers": num_workers, "pin_memory": pin_memory, "generator": own_numbers}
    if num_workers:
        options["persistent_workers"] = True
    if shuffle:
        sampler = EpochSampler(dataset, processes, rank(), shuffle=True, seed=seed, drop_last=True)
        return DataLoader(dataset, batch_size=batch_size, sampler=sampler, drop_last=True, **options)
    if processes > 1:  # every sample exactly once, so that the confusion matrix counts none twice
        own = torch.utils.data.Subset(dataset, range(rank(), len(dataset), processes))
        return DataLoader(own, batch_size=batch_size, **options)
    return DataLoader(dataset, batch_size=batch_size, **options)


def stop_workers(engine: Engine) -> None:
    """End the loading processes of an engine's loader; the next run of the engine starts new ones.

    Left to the garbage collector, each is waited for until PyTorch kills it after five seconds.

    Args:
        engine: with a ``data_loader``.
    """
    engine._dataloader_iter = None
    if isinstance(engine.data_loader, DataLoader):
        engine.data_loader._iterator = None
