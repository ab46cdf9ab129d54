"""Load images and labels of any format in one step: (C, H, W) or (C, X, Y, Z), labels as indices.

What is loaded is what `medseg.io.images.read_image` reads, so that the data check and a network see the same values.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import SpaceKeys

from medseg.io.channels import first_of
from medseg.io.image_file import in_rows
from medseg.io.images import ImageError, ImageFile, read_image
from medseg.io.labels import VALUES_KEY, map_values

__all__ = ["ALPHA", "NOTES", "STORED_ORIENTATION", "LoadImagesd", "is_stack"]

ALPHA = "alpha"
"""What a loaded image says of its last channel: whether it is opacity."""

STORED_ORIENTATION = "stored_orientation"
"""What a loaded image says of how its file stores it: the EXIF or TIFF tag 274, though the image itself is upright."""

NOTES = "notes"
"""What a loaded image says that a reader should be told of it, in one text; empty where there is nothing."""

_PAGES = "pages"  # of the meta data: MetaTensor makes an affine up where there is none


def is_stack(image: Any) -> bool:
    """Return whether a loaded image is a stack of pages, ``(C, pages, H, W)``, which lies nowhere in a patient."""
    return isinstance(image, MetaTensor) and image.ndim == 4 and bool(image.meta.get(_PAGES))


class LoadImagesd(MapTransform):
    """Dictionary transform: paths to channel-first ``MetaTensor``.

    Args:
        keys: of paths.
        label_keys: which of them are labels: read as indices and kept as integers. Where the datalist maps stored
            values (`Datalist.absolute` puts the mapping into the entry), ``label`` is mapped.
        allow_missing_keys: skip keys that are not there.
        keep_uint8: leave images of 8 bits as they are, a quarter of the memory; they are then normalised on the device
            (`medseg.transforms.normalise`).

    Raises:
        ImageError: if a file cannot be read, or a label is no class indices of one channel; the message begins with
            its path.

    Shape:
        images ``(C, *S)`` float32, or uint8 where ``keep_uint8`` says so; labels ``(1, *S)`` uint8, or int32 where a
        value is above 255 or negative.
    """

    def __init__(
        self,
        keys: Sequence[Hashable] | Hashable,
        label_keys: Sequence[Hashable] = ("label",),
        allow_missing_keys: bool = False,
        keep_uint8: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_keys = tuple(label_keys)
        self.keep_uint8 = keep_uint8

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load the files."""
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            path = loaded[key]
            label = key in self.label_keys
            image = read_image(path, label=label)
            if label:
                named = loaded.get(VALUES_KEY) if key == "label" else None
                if named:
                    image = replace(image, array=map_values(image.array, named, path))
                array = _indices(image, path)
            else:
                array = image.array if self.keep_uint8 and image.array.dtype == np.uint8 else _float32(image.array)
            loaded[key] = _meta_tensor(array, image, path)
        return loaded


def _float32(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which whoever uses it refuses
        return array.astype(np.float32, copy=False)


def _indices(image: ImageFile, path: Any) -> np.ndarray[Any, Any]:
    array = image.array
    if image.channels > 1:
        raise ImageError(f"{path}: label with {image.channels} channels; store one channel of class indices")
    if array.dtype.kind == "f":
        raise ImageError(f"{path}: label holds fractional values; a label is class indices")
    if array.dtype == np.uint8:
        return array
    low, high = int(array.min()), int(array.max())
    if low < -(2**31) or high >= 2**31:
        raise ImageError(f"{path}: label holds values from {low} to {high}; a label is class indices")
    return array.astype(np.uint8 if low >= 0 and high <= 255 else np.int32)


def _meta_tensor(array: np.ndarray[Any, Any], image: ImageFile, path: Any) -> MetaTensor:
    first = np.moveaxis(array, -1, 0) if image.channels > 1 else array[None]
    values = in_rows(first)  # own memory, which torch may write into
    meta: dict[str, Any] = {"filename_or_obj": first_of(path), "spatial_shape": np.asarray(image.shape)}
    meta |= {STORED_ORIENTATION: image.orientation, ALPHA: image.alpha, NOTES: "; ".join(image.notes)}
    if image.affine is None:
        meta[_PAGES] = len(image.shape) == 3
        return MetaTensor(torch.from_numpy(values), meta=meta)
    affine = torch.from_numpy(image.affine.copy())
    meta |= {"original_affine": affine.clone(), "space": SpaceKeys.RAS}
    return MetaTensor(torch.from_numpy(values), affine=affine, meta=meta)
