"""What the blocks of one image add up to: its mask, and what sinks want beside it, each in the least memory."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from medseg.bundle.description import Description
from medseg.engines.ensemble import logits_of
from medseg.inferers.blocks import Block, classes_of
from medseg.io.placement import Grid
from medseg.metrics.uncertainty import entropy_of, may_hold_something, probabilities_of
from medseg.prediction.sinks import PROBABILITIES, UNCERTAINTY, Result
from medseg.reports.palette import background_index
from medseg.transforms.postprocess import Postprocess

__all__ = ["Collected", "counts_of"]

_IN_MEMORY = 256 * 2**20  # bytes of probabilities; more are mapped from the disk
_AT_ONCE = 2**20  # voxels that are counted at once: to count takes 8 bytes each


class Collected:
    """Adds up the blocks of one image.

    Args:
        grid: of the image's file.
        description: of the model.
        wants: what is made beside the mask, see `medseg.prediction.sinks`.
        at_once: whether a voxel's class is that of its largest logit; else logits are kept for ``finish``.
        finish: dictionary transforms of what ``pred`` holds: indices ``(1, *S)``, or the logits that were kept.
        values: of the image as it was read.
        scratch: folder for what is too large for memory.
    """

    def __init__(
        self,
        grid: Grid,
        description: Description,
        wants: frozenset[str],
        *,
        at_once: bool = True,
        finish: Callable[..., Any] | None = None,
        values: Tensor | None = None,
        scratch: Path | None = None,
    ) -> None:
        self._finish, self._values = finish, values
        self._grid, self._description, self._at_once, self._scratch = grid, description, at_once, scratch
        self._uncertain = UNCERTAINTY in wants
        self._probable = PROBABILITIES in wants
        self._indices: Tensor | None = None
        self._logits: Tensor | None = None
        self._probabilities: NDArray[Any] | None = None
        self._entropy = np.zeros(grid.shape, np.float16) if self._uncertain else None
        self._background = background_index(description.classes)
        self._members = 0
        self._sums: Tensor | None = None  # of entropy and disagreement where there may be something, and how many

    @property
    def classes_alone(self) -> bool:
        """Whether all that is wanted of one network's logits is the class of each voxel."""
        return self._at_once and not self._uncertain and not self._probable

    def add(self, blocks: Sequence[Block]) -> None:
        """Add a block.

        Args:
            blocks: of each network, all of one place.

        Shape:
            ``(1, classes, *S)``, or of one channel ``(1, 1, *S)``.
        """
        at, logits = blocks[0]
        self._members = len(blocks)
        if len(blocks) > 1 or self._uncertain or self._probable:
            members = [probabilities_of(block.logits, dim=1) for block in blocks]
            mean = members[0] if len(members) == 1 else torch.stack(members).mean(0)
            self._beside(at[1:], mean, members)
            if len(blocks) > 1:
                logits = logits_of(mean)
        if self._at_once:
            self.put(at, classes_of(logits))
            return
        if self._logits is None:
            self._logits = torch.empty((logits.shape[1], *self._grid.shape))
        self._logits[(slice(None), *at[1:])] = logits[0].float().cpu()

    def put(self, at: Sequence[slice], found: Tensor) -> None:
        """Put the classes of a block where it lies.

        Args:
            at: a slice of the batch, then one of each spatial axis.
            found: indices ``(1, *S)``, as `classes_of` returns them.
        """
        if self._indices is None:
            self._indices = torch.empty(self._grid.shape, dtype=found.dtype, device=found.device)
        self._indices[tuple(at[1:])] = found[0]

    def land(self) -> None:
        """Bring what was added from the device to the computer's memory: whoever finishes it needs no device."""
        if self._indices is not None:
            self._indices = self._indices.cpu()

    def _beside(self, at: tuple[slice, ...], mean: Tensor, members: Sequence[Tensor]) -> None:
        if self._probable:
            if self._probabilities is None:
                self._probabilities = self._room((mean.shape[1], *self._grid.shape))
            self._probabilities[(slice(None), *at)] = mean[0].half().cpu().numpy()
        if self._entropy is not None:
            entropy = entropy_of(mean, dim=1)
            self._entropy[at] = entropy[0].half().cpu().numpy()
            apart = entropy - torch.stack([entropy_of(each, dim=1) for each in members]).mean(0)
            likely = may_hold_something(mean, self._background, dim=1)
            sums = torch.stack([(entropy * likely).sum(), (apart * likely).sum(), likely.sum()]).double()
            self._sums = sums if self._sums is None else self._sums + sums

    def _room(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return an array, in a file without a name where it is large: however the process ends, the file goes."""
        if 2 * math.prod(shape) <= _IN_MEMORY:
            return np.empty(shape, np.float16)
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            if hasattr(os, "posix_fallocate"):  # a page that finds no room later would end the process
                os.posix_fallocate(file.fileno(), 0, 2 * math.prod(shape))
            return np.memmap(file, np.float16, "w+", shape=shape)

    @property
    def nbytes(self) -> int:
        """About how much memory the result takes, but for what is mapped from the disk."""
        voxels = math.prod(self._grid.shape)
        values = 0 if self._values is None else self._values.nbytes
        held = self._probabilities
        in_memory = 0 if held is None or isinstance(held, np.memmap) else held.nbytes
        return voxels * (1 + 2 * self._uncertain) + values + in_memory

    def result(self) -> Result:
        """Finish the mask, and return what came out."""
        found = self._indices[None] if self._indices is not None else self._logits
        assert found is not None
        if self._finish is not None:
            done = self._finish({"pred": found.float()})["pred"]
            found = done.as_tensor() if isinstance(done, MetaTensor) else torch.as_tensor(done)
        steps = Postprocess(self._description.postprocess, self._description.classes)
        mask = steps(_whole(found[0]), self._grid.affine if len(self._grid.shape) == 3 else None)  # pixels, as scored
        return Result(
            mask,
            self._grid,
            values=None if self._values is None else self._values.numpy(),
            probabilities=self._probabilities,
            entropy=self._entropy,
            numbers=self._numbers(),
        )

    def _numbers(self) -> dict[str, float]:
        if self._sums is None:
            return {}
        entropy, apart, count = self._sums.tolist()
        numbers = {"uncertainty": entropy / max(1.0, count)}
        if self._members > 1:
            numbers["disagreement"] = apart / max(1.0, count)
        return numbers


def _whole(indices: Tensor) -> NDArray[Any]:
    """Return indices as uint8 or uint16: MONAI's postprocessing gives them as floating point."""
    array = np.asarray(indices)
    if array.dtype == np.uint8:
        return array
    return array.astype(np.uint16 if array.max(initial=0) > 255 else np.uint8)


def counts_of(mask: NDArray[Any]) -> dict[int, int]:
    """Return how many voxels of a mask each class has that is there; to sort them takes ten times as long.

    Args:
        mask: ``(*S)``, uint8 or uint16.
    """
    voxels = mask.reshape(-1)
    counts = np.zeros(np.iinfo(mask.dtype).max + 1, np.int64)
    for start in range(0, len(voxels), _AT_ONCE):
        counts += np.bincount(voxels[start : start + _AT_ONCE], minlength=len(counts))
    return {int(index): int(counts[index]) for index in np.flatnonzero(counts)}
