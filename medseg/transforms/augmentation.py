"""The augmentation of nnU-Net as one transform: for 2D and 3D, for patches and whole images.

F. Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
https://arxiv.org/abs/1809.10486. Order, probabilities and ranges are theirs; see `medseg.transforms.spatial` and
`medseg.transforms.intensity` for what is done otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medseg.transforms.intensity import (
    RandBlurd,
    RandBrightnessd,
    RandContrastd,
    RandGammad,
    RandLowResolutiond,
    RandNegatived,
    RandNoised,
)
from medseg.transforms.reseeded import Recipe
from medseg.transforms.scene import RandMirrord
from medseg.transforms.spatial import RandSpatiald

__all__ = ["augmentation"]


def augmentation(
    roi_size: Sequence[int], mirror_axes: Sequence[int] | None = None, negative: float = 0.0, **spatial: Any
) -> Recipe:
    """Return the random transforms of a training sample with ``image`` and ``label``.

    Args:
        roi_size: edges of the patch in pixels, one an axis.
        mirror_axes: spatial axes along which samples are mirrored; ``None`` for all. Leave out an axis along which what
            is mirrored would be another class: left and right where sides are classes.
        negative: share of samples whose values are turned over, for data in which the same structure is bright in some
            images and dark in others.
        spatial: further options of `RandSpatiald`.

    Raises:
        MedsegError: if an option is out of range.
    """
    both = ("image", "label")
    turned = RandSpatiald(both, roi_size, **spatial)
    coarse = None if turned.through is None else [axis for axis in range(3) if axis != turned.through]
    mirrored = range(len(turned.roi_size)) if mirror_axes is None else mirror_axes
    return Recipe(
        [
            turned,
            RandNoised("image"),
            RandBlurd("image"),
            RandBrightnessd("image"),
            RandContrastd("image"),
            RandLowResolutiond("image", axes=coarse),
            RandGammad("image", prob=0.1, invert=True),
            RandGammad("image"),
            *([RandNegatived("image", negative)] if negative else []),
            *(RandMirrord(both, axis) for axis in mirrored),
        ]
    )
