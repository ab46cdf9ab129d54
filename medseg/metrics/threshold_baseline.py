"""Otsu's threshold as a baseline: what an image's grey values alone tell of the foreground.

N. Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions on Systems, Man, and Cybernetics
9(1), 1979, https://doi.org/10.1109/TSMC.1979.4310076. Deviation: colours become luminance first, and the side of the
threshold that is foreground is a choice, since nuclei are light on dark in fluorescence and dark on light in histology.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from medseg.errors import MedsegError

RULES = ("bright", "dark", "minority")

LUMINANCE = (0.2125, 0.7154, 0.0721)
"""Those of `skimage.color.rgb2gray`, whose matrix product rounds pixels of one colour to different values."""

STEPS = 2**16 - 1


def otsu_foreground(
    image: NDArray[Any], foreground: Literal["bright", "dark", "minority"] = "minority", *, spatial_dims: int = 2
) -> NDArray[np.bool_]:
    """Return where an image is foreground by Otsu's threshold of its own grey values.

    Integers that span no more than 16 bits are thresholded exactly, all else is rounded to 65,536 levels between its
    smallest and its largest value first. Colours become luminance (ITU-R BT.709).

    Args:
        image: grey, or colour with three channels first (red, green, blue).
        foreground: ``"bright"`` takes the values above the threshold, ``"dark"`` the others, ``"minority"`` the side
            with fewer pixels (the bright one, if they are as many), which is right where objects cover less than half
            of every image.
        spatial_dims: 2 or 3, which tells a grey volume from a colour image.

    Raises:
        TypeError: if the image is no array of integers or floating point.
        ValueError: if the rule is unknown, the shape fits no grey or colour image, or a value is not finite.

    Shape:
        ``(*S)``, ``(1, *S)`` or ``(3, *S)`` to ``(*S)``. An image of one value has no two sides: all is background.
    """
    if foreground not in RULES:
        raise MedsegError(f"foreground is {foreground!r}; it must be one of {', '.join(map(repr, RULES))}")
    grey = _luminance(image, spatial_dims)
    low, high = grey.min(), grey.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise MedsegError("the image holds NaN or infinite values, which have no place in a histogram; mend it first")
    if low == high:
        return np.zeros(grey.shape, dtype=bool)
    levels = _levels(grey)
    bright: NDArray[np.bool_] = levels > threshold_otsu(levels.ravel())  # a volume 3 wide would be taken for colours
    if foreground == "bright" or (foreground == "minority" and 2 * int(bright.sum()) <= bright.size):
        return bright
    return ~bright


def _levels(grey: NDArray[Any]) -> NDArray[Any]:
    """Return integers that span no more than 16 bits.

    Of floating point skimage makes 256 bins and returns the centre of one: values above it in that bin change sides.
    """
    low, high = grey.min(), grey.max()
    if grey.dtype.kind in "ui" and int(high) - int(low) <= STEPS:
        return grey
    shifted = grey.astype(np.float64) - float(low)
    levels: NDArray[np.int32] = np.rint(shifted / shifted.max() * STEPS).astype(np.int32)
    return levels


def _luminance(image: NDArray[Any], spatial_dims: int) -> NDArray[Any]:
    """Return grey values ``(*S)``, in the image's own type unless it has colours."""
    if spatial_dims not in (2, 3):
        raise MedsegError(f"spatial_dims is {spatial_dims}; it must be 2 or 3")
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "uif":
        what = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"the image is {what}, not a numpy array of integers or floating point")
    channels = 1 if image.ndim == spatial_dims else image.shape[0] if image.ndim == spatial_dims + 1 else 0
    if channels not in (1, 3) or not image.size:
        raise MedsegError(
            f"an image of shape {image.shape} is no {spatial_dims}D image of 1 or 3 channels, channels first; "
            "leave out an alpha channel with image[:3], pick one modality with image[c]"
        )
    if channels == 3:
        red, green, blue = (w * channel.astype(np.float64) for w, channel in zip(LUMINANCE, image, strict=True))
        luminance: NDArray[np.float64] = red + green + blue
        return luminance
    grey: NDArray[Any] = image.reshape(image.shape[-spatial_dims:])
    return grey
