"""Load images and labels of any format in one step: (C, H, W) or (C, H, W, D), labels as indices.

MONAI's loader turns a PNG on its side unless told otherwise, hands TIFF to ITK (on its side too) and starts every
reader it knows. This one has two: MONAI's for NIfTI, and one for pixel formats that keeps rows first.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data import ImageReader, MetaTensor, NibabelReader, PILReader
from monai.transforms import EnsureChannelFirst, MapTransform
from PIL import Image

from medseg.errors import MedsegError

PIXEL_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


class PixelReader(PILReader):
    """Read PNG, JPEG, BMP and TIFF as ``(H, W)`` or ``(H, W, C)``; an opaque alpha channel is left out.

    Args:
        indices: keep palette indices (labels) instead of the palette's colours (images).
    """

    def __init__(self, *, indices: bool = False) -> None:
        super().__init__(converter=self._convert, reverse_indexing=False)
        self.indices = indices

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        """Return whether all files have a pixel format's suffix."""
        names = filename if isinstance(filename, list | tuple) else [filename]
        return all(Path(str(name)).suffix.lower() in PIXEL_SUFFIXES for name in names)

    def _convert(self, image: Image.Image) -> Image.Image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            image.close()
            raise MedsegError(f"holds {frames} pages; split it into one file a page, or store a volume")
        try:
            image.load()  # closes the file, unless it is broken
        except BaseException:
            image.close()
            raise
        if image.mode == "P" and not self.indices:
            return image.convert("RGB")
        if image.mode in ("RGBA", "LA") and image.getextrema()[-1] == (255, 255):
            return image.convert(image.mode[:-1])
        return image.convert("L") if image.mode == "1" and not self.indices else image

    def _get_spatial_shape(self, img: Image.Image) -> np.ndarray[Any, Any]:
        return np.asarray((img.height, img.width))


class LoadImagesd(MapTransform):
    """Dictionary transform: paths to channel-first ``MetaTensor``.

    Args:
        keys: of paths.
        label_keys: which of them are labels: read as indices and kept as integers.
        allow_missing_keys: skip keys that are not there.
        keep_uint8: leave images of 8 bits as they are, a quarter of the memory; they are then normalised on the device
            (`medseg.transforms.normalise`).

    Raises:
        ValueError: if a file cannot be read; the message names it.

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
        self._image = (PixelReader(), NibabelReader())
        self._label = (PixelReader(indices=True), NibabelReader())

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load the files."""
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            path = loaded[key]
            try:
                value = _load(path, self._label if key in self.label_keys else self._image)
            except Exception as error:  # PIL, nibabel and zlib each raise errors of their own, which name no file
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise MedsegError(f"{key} {path} cannot be read: {reason[0]}") from error
            if key in self.label_keys:
                value = _as_indices(value, path)
            elif not (self.keep_uint8 and value.dtype == torch.uint8):
                value = value.float()
            loaded[key] = value
        return loaded


def _load(path: str | Path, readers: Sequence[ImageReader]) -> MetaTensor:
    reader = next((r for r in readers if r.verify_suffix(str(path))), None)
    if reader is None:
        raise MedsegError(f"its format is not one of {', '.join((*PIXEL_SUFFIXES, '.nii', '.nii.gz'))}")
    array, meta = reader.get_data(reader.read(str(path)))
    meta["filename_or_obj"] = str(path)
    writable = np.array(array)  # PIL's is not
    loaded = MetaTensor.ensure_torch_and_prune_meta(writable, meta)
    return cast(MetaTensor, EnsureChannelFirst()(loaded))


def _as_indices(label: MetaTensor, path: Any) -> MetaTensor:
    if label.is_floating_point() and not bool((label == label.round()).all()):
        raise MedsegError(f"label {path} holds fractional values; a label is class indices")
    if label.dtype in (torch.uint8, torch.bool):
        return label.to(torch.uint8)
    small = label.numel() == 0 or (int(label.min()) >= 0 and int(label.max()) <= 255)
    return label.to(torch.uint8 if small else torch.int32)
