"""A batch as one tensor: what a loading process hands over, pins and copies is counted by tensors.

Each tensor that comes from a loading process is a file descriptor, sent over a connection of its own, which takes the
training process's time (``python -m benchmarks.packing``): on a GPU, small networks wait for the processor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["PackedBatch", "pack"]

_ALIGNED = 64  # bytes, as PyTorch's own memory is on a CPU


class Place(NamedTuple):
    """Where a tensor lies.

    Args:
        first: byte.
        kind: of its numbers.
        shape: its edges.
    """

    first: int
    kind: torch.dtype
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """The byte after its last."""
        return self.first + math.prod(self.shape) * self.kind.itemsize


class PackedBatch(Mapping[str, Tensor]):
    """Tensors by name, which all lie in one.

    Args:
        data: bytes.
        places: of the tensors in it.
    """

    def __init__(self, data: Tensor, places: Mapping[str, Place]) -> None:
        self.data = data
        self.places = dict(places)

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor, which is a part of the one."""
        place = self.places[name]
        return self.data[place.first : place.end].view(place.kind).view(place.shape)

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self.places)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.places)

    def pin_memory(self) -> PackedBatch:
        """Return the batch in page-locked memory, as PyTorch's loader asks for it."""
        return PackedBatch(self.data.pin_memory(), self.places)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> PackedBatch:
        """Return the batch on a device, by one copy.

        Args:
            device: where to.
            non_blocking: whether to go on before it is there, from page-locked memory.
        """
        return PackedBatch(self.data.to(device, non_blocking=non_blocking), self.places)


def pack(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a batch as one tensor; one that holds anything but plain tensors stays as it is.

    Args:
        batch: by name.
    """
    if not batch or not all(type(value) is Tensor for value in batch.values()):
        return batch
    places, first = {}, 0
    for name, value in batch.items():
        places[name] = Place(first, value.dtype, tuple(value.shape))
        first = -(-places[name].end // _ALIGNED) * _ALIGNED
    data = torch.empty(first, dtype=torch.uint8)
    packed = PackedBatch(data, places)
    for name, value in batch.items():
        packed[name].copy_(value)
    return packed
