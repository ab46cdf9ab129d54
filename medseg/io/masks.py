"""Write a predicted mask in the format, size and geometry of the image that it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.atomic import atomic_write
from medseg.errors import MedsegError

_LOSSY = (".jpg", ".jpeg")
_VOLUMES = (".nii", ".nii.gz")


def image_suffix(path: Path) -> str:
    """Return ``.nii.gz`` whole, and otherwise the last suffix, in lower case."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def mask_path(image: Path, folder: Path, output_dir: Path) -> Path:
    """Return where the mask of ``image`` goes: the same name and subfolder; JPEG images get PNG masks.

    Args:
        image: the input, inside ``folder``.
        folder: of all inputs.
        output_dir: of all masks.
    """
    target = output_dir / image.relative_to(folder)
    return target.with_suffix(".png") if image_suffix(image) in _LOSSY else target


def write_mask(mask: NDArray[Any], image: Path, target: Path) -> None:
    """Write a mask atomically.

    Args:
        mask: class indices ``(H, W)`` or ``(H, W, D)``.
        image: the input, whose size, affine and spacing the mask gets.
        target: the file to write; PNG carries a palette, so that it can be looked at, over plain indices.

    Raises:
        ValueError: if the mask has not the image's size.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    kind = np.uint8 if mask.max(initial=0) < 256 else np.uint16
    suffix = image_suffix(target)
    if suffix in _VOLUMES:
        _write_nifti(mask.astype(kind), image, target)
        return
    from PIL import Image

    with Image.open(image) as original:
        size, resolution = original.size, original.info.get("dpi")
    if (mask.shape[1], mask.shape[0]) != size:
        raise MedsegError(f"the mask of {image} is {mask.shape[1]} x {mask.shape[0]}, the image {size[0]} x {size[1]}")
    picture = Image.fromarray(mask.astype(kind))
    options: dict[str, Any] = {"dpi": resolution} if resolution else {}
    if suffix in (".tif", ".tiff"):
        options["compression"] = "tiff_deflate"
    elif suffix == ".png" and kind is np.uint8:
        picture.putpalette(_palette())
    with atomic_write(target) as temporary:
        picture.save(temporary, format=Image.registered_extensions()[suffix], **options)


def _write_nifti(mask: NDArray[Any], image: Path, target: Path) -> None:
    import nibabel

    original = nibabel.load(image)
    if mask.shape != original.shape[: mask.ndim]:
        raise MedsegError(f"the mask of {image} has shape {mask.shape}, the image {original.shape}")
    header = original.header.copy()
    header.set_data_dtype(mask.dtype)
    header.set_slope_inter(1, 0)
    header["cal_max"] = header["cal_min"] = 0
    single = all(size == 1 for size in original.shape[mask.ndim :])  # otherwise the channels of the image
    written = type(original)(mask.reshape(original.shape) if single else mask, original.affine, header)
    with atomic_write(target) as temporary:
        nibabel.save(written, temporary)


def _palette() -> list[int]:
    """Return 256 colours for indices: black first, then the Wong palette, then evenly spread hues."""
    import colorsys

    first = [(0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0)]
    first.append((204, 121, 167))
    rest = [colorsys.hsv_to_rgb(n * 0.618034 % 1, 0.65, 0.95) for n in range(256 - len(first))]
    return [v for colour in first for v in colour] + [round(255 * v) for colour in rest for v in colour]
