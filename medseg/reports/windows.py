"""Which values of an image are black and which are white in a picture: a window of Hounsfield units, or percentiles.

A CT has values from air (-1000) to metal (thousands): over all of them the organs are one grey. It is shown as
radiologists look at it, through a window whose width and level stand beside the picture: the model's own, where a range
cuts off what it sees and organs show in it, or else the usual one of soft tissue. Other values have no scale of their
own, and are shown from their 0.5th to their 99.5th percentile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SOFT_TISSUE", "Window", "about", "as_window", "contrast", "sampled", "stretched", "to_rgb", "window_of"]

Window = tuple[float, float]
"""What is black and what is white."""

SOFT_TISSUE: Window = (-160.0, 240.0)
"""Width 400, level 40, in Hounsfield units."""

_WIDEST = 1600.0  # that of the lung is 1500; through a wider one organs are one grey
_SAMPLED = 200_000  # values that are looked at
_LESS_THAN_TISSUE = -200.0  # Hounsfield: fat lies above
_AIR = (-1100.0, -500.0)  # outside the body to the denser lung
_SHARE = 0.01  # of the values that are less than tissue, at least

Pixels = NDArray[np.uint8]


def window_of(values: NDArray[Any], own: Window | None = None, modality: str = "") -> Window | None:
    """Return the window that an image is shown through; ``None`` where its own values decide.

    Args:
        values: of the image as its file holds them, of any shape.
        own: of the model that looks at it; one that is too wide to show organs does not count.
        modality: as DICOM has it (``"CT"``, ``"MR"``); empty where it is not known: the values tell then.
    """
    if own is not None and own[1] - own[0] <= _WIDEST:
        return own
    return SOFT_TISSUE if modality == "CT" or (not modality and _hounsfield(values)) else None


def _hounsfield(values: NDArray[Any]) -> bool:
    """Return whether much is less than tissue, and most of that is air or what a scanner pads with (one value)."""
    numbers = sampled(values.reshape(-1), _SAMPLED)
    low = numbers[numbers <= _LESS_THAN_TISSUE]
    if low.size <= _SHARE * numbers.size:
        return False
    return bool(np.mean(((low >= _AIR[0]) & (low <= _AIR[1])) | (low == low.min())) > 0.5)


def sampled(numbers: NDArray[Any], wanted: int) -> NDArray[Any]:
    """Return evenly spaced values of an image, from all of its rows, columns and slices.

    The step has no factor in common with how many there are: one that is a multiple of the slices would take a voxel of
    each row from the first slice, and none from the others.

    Args:
        numbers: all values, one after the other.
        wanted: about how many are taken of more.

    Shape:
        ``(N,)`` to ``(M,)``.
    """
    step = max(1, numbers.size // wanted)
    while math.gcd(step, numbers.size) > 1:
        step += 1
    return numbers[::step]


def as_window(held: Sequence[float] | NDArray[Any] | None) -> Window | None:
    """Return a window that a file or a sample holds as two numbers; ``None`` where it holds none."""
    return None if held is None else (float(held[0]), float(held[1]))


def about(window: Window | None) -> str:
    """Return what stands beside a picture that is shown through a window; nothing where it is shown by percentiles."""
    if window is None:
        return ""
    low, high = window
    usual = " (soft tissue)" if tuple(window) == SOFT_TISSUE else ""
    return f"window {high - low:g}, level {(low + high) / 2:g}{usual}"


def to_rgb(image: NDArray[Any], window: Window | None = None) -> Pixels:
    """Bring a picture ``(C, H, W)`` to ``(H, W, 3)``; three channels are colours, of others the first is shown.

    Args:
        image: the picture.
        window: what is black and white; ``None`` stretches the contrast.
    """
    shown = image if image.shape[0] == 3 else image[:1]
    scaled = stretched(shown, *(contrast(shown) if window is None else window))
    return (np.repeat(scaled, 3, axis=0) if len(scaled) == 1 else scaled).transpose(1, 2, 0)


def contrast(values: NDArray[Any]) -> Window:
    """Return the 0.5th and 99.5th percentile of the finite values."""
    numbers = values.astype(np.float32)
    finite = numbers[np.isfinite(numbers)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def stretched(values: NDArray[Any], low: float, high: float) -> Pixels:
    """Return values from black to white as 0 to 255; NaN is black.

    Args:
        values: of any shape.
        low: what is black.
        high: what is white.
    """
    scaled = (values.astype(np.float32) - low) / (high - low)
    return np.asarray((np.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) * 255).round(), np.uint8)
