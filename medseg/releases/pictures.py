"""Pictures and masks of a release, strictly read, resized and written.

Resizing: pictures with Lanczos over the area that falls into a new pixel, the filter that Pillow once named
``ANTIALIAS``; masks by the share of that area which they cover.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg.io.images import ImageError, read_image

__all__ = [
    "Mask",
    "Pixels",
    "link_image",
    "read_grey",
    "read_indices",
    "read_mask",
    "resize_image",
    "resize_mask",
    "write_png",
]

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def read_grey(path: Path, *, label: bool) -> Pixels:
    """Read an 8-bit picture of one channel; three equal channels are one, palette indices count where it is a label.

    Raises:
        ImageError: if it is a colour picture or not 8 bit.
    """
    file = read_image(path, label=label)
    pixels = file.array
    if file.channels in (3, 4) and bool(np.all(pixels[..., :3] == pixels[..., :1])):
        if file.channels == 4 and bool(np.any(pixels[..., 3] != 255)):
            raise ImageError(f"{path}: is transparent in places; store it as a grey picture")
        pixels = pixels[..., 0]
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        depth = f"of type {pixels.dtype}" + (", as instance numbers are" if label else "")
        kind = "a colour picture" if file.channels > 1 else depth
        wanted = "a palette or grey PNG of class indices" if label else "an 8-bit grey picture"
        raise ImageError(f"{path}: is {kind}, but the release has {wanted}; take the file from the release again")
    return pixels


def read_indices(path: Path, image: Path, shape: tuple[int, ...]) -> Pixels:
    """Read a label of class indices.

    Args:
        path: the label.
        image: its image, for messages.
        shape: height and width of the image.

    Raises:
        ImageError: if it is a colour picture, not 8 bit, or of another size than its image.
    """
    pixels = read_grey(path, label=True)
    if pixels.shape != shape:
        raise ImageError(
            f"{path}: is {pixels.shape[0]}x{pixels.shape[1]}, but its image {image.name} is {shape[0]}x{shape[1]}; "
            "take both from the release again"
        )
    return pixels


def read_mask(path: Path) -> Mask:
    """Read a mask of 0 and 255, or of 0 and 1.

    Raises:
        ImageError: if it holds another value.
    """
    pixels = read_grey(path, label=True)
    values = set(np.unique(pixels).tolist())
    if not (values <= {0, 255} or values <= {0, 1}):
        odd = sorted(values - {0, 255})[0]
        raise ImageError(f"{path}: holds the value {odd}, but masks are 0 and 255; take it from the release again")
    mask: Mask = pixels > 0
    return mask


def link_image(source: Path, output: Path, stem: str) -> tuple[str, tuple[int, ...]]:
    """Bring an 8-bit picture of a release into ``images`` of the output folder.

    A colour picture keeps its bytes: it becomes a hard link, which takes no space, or a copy where the file system has
    none. A grey one becomes a PNG of three equal channels, since networks for colour pictures take three.

    Args:
        source: the picture.
        output: folder of the datalist.
        stem: name of the new file without its suffix.

    Returns:
        The new file's path relative to `output`, and height and width.

    Raises:
        ImageError: if it is damaged, not 8 bit, of another number of channels, or the new file itself.
    """
    file = read_image(source)
    if file.array.dtype != np.uint8 or file.channels not in (1, 3):
        raise ImageError(
            f"{source}: is {file.array.dtype} with {file.channels} channels, but the release has 8-bit RGB or grey "
            "pictures; take the file from the release again"
        )
    name = f"images/{stem}{source.suffix if file.channels == 3 else '.png'}"
    target = output / name
    if target.resolve() == source.resolve():
        raise ImageError(f"{source}: would be overwritten by what is made of it; choose another --output")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # an earlier run's link: writing into it would write into the release
    if file.channels == 1:
        write_png(target, np.repeat(file.array[..., None], 3, axis=2))
    else:
        try:
            os.link(source.resolve(), target)
        except OSError:
            shutil.copyfile(source, target)
    return name, file.shape


def resize_image(pixels: Pixels, size: int) -> Pixels:
    """Resize to ``size x size`` with anti-aliasing (Lanczos over the area that falls into a new pixel); 0 keeps."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS)) if size else pixels


def resize_mask(mask: Mask, size: int) -> Mask:
    """Resize to ``size x size``: a pixel is set where the mask covers more than half of its area; 0 keeps."""
    from PIL import Image

    if not size:
        return mask
    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize((size, size), Image.Resampling.BOX))
    resized: Mask = share > 0.5
    return resized


def write_png(path: Path, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """Write a PNG of 8 or 16 bit, and its folder."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
