"""Along which axes random transforms mirror a sample, MONAI's and ours: where sides are classes, that exchanges them.

A rotation exchanges nothing: a patient who lies the other way round has his left kidney on his left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from monai.transforms import Flip, Flipd, RandAxisFlip, RandAxisFlipd, RandFlip, RandFlipd

from medseg.transforms.scene import RandMirrord

__all__ = ["mirrored"]


def mirrored(transforms: Iterable[Callable[..., Any]], axes: int) -> dict[str, list[int]]:
    """Return the axes that transforms mirror along, each from 0 on, by the name of the transform.

    Args:
        transforms: of samples; those that hold others, such as ``Compose`` and ``OneOf``, are looked into.
        axes: how many a sample has.
    """
    found: dict[str, set[int]] = {}
    for each in transforms:
        name = type(each).__name__
        if inner := getattr(each, "transforms", None):
            for key, several in mirrored(inner, axes).items():
                found.setdefault(key, set()).update(several)
        elif isinstance(each, Flip | Flipd | RandFlip | RandFlipd):
            found.setdefault(name, set()).update(_axes(getattr(each, "flipper", each).spatial_axis, axes))
        elif isinstance(each, RandAxisFlip | RandAxisFlipd):
            found.setdefault(name, set()).update(range(axes))
        elif isinstance(each, RandMirrord):
            found.setdefault(name, set()).update(_axes(each.axis, axes))
    return {name: sorted(several) for name, several in found.items()}


def _axes(said: Sequence[int] | int | None, axes: int) -> list[int]:
    """Return axes as MONAI means them: none is all, and -1 the last."""
    listed = range(axes) if said is None else [said] if isinstance(said, int) else said
    return [axis % axes for axis in listed]
