"""PNG, JPEG and BMP, decoded by Pillow; PNGs of 16-bit colour by imagecodecs, since Pillow cuts them to 8 bits."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.io.dicom_heads import quiet
from medseg.io.image_file import ImageError, ImageFile, as_numbers, upright
from medseg.io.integrity import check_claim, check_png, file_size

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SUFFIXES", "drop_opaque_alpha", "read_picture"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")

_JPEG_RATIO = 1200  # a bit for each block of 64 samples, twice, in a progressive file of one colour
_BMP_RATIO = 128  # two bytes of run-length code stand for 255 pixels
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B", "I", "F")
_PRINT = "CMYK"
_ORIENTATION = 274
_GREY = 0
_BAND = 1 << 18  # pixels


def read_picture(path: Path, label: bool) -> ImageFile:
    """Read a PNG, JPEG or BMP, upright.

    A palette is indices where the file is a label and colours where it is an image. Grey values of 1, 2 and 4 bits are
    the stored numbers in a label, and spread over 0 to 255 in an image, as every viewer shows them. Alpha that is
    opaque everywhere is left out. Colours for print (CMYK) become RGB in an image, without their profile. Of a JPEG of
    many pictures (MPO, from stereo and telephone cameras) the first counts.

    Args:
        path: the file.
        label: whether it is a label.

    Raises:
        ImageError: if it cannot be used.
    """
    from PIL import Image

    size = file_size(path)
    with path.open("rb") as file:
        start = file.read(40)
    bits, colour = (8, -1)
    if start.startswith(b"\x89PNG"):
        bits, colour = check_png(path)
    try:
        with quiet(), Image.open(path, formats=("PNG", "JPEG", "BMP")) as image:
            lossy = image.format in ("JPEG", "MPO")
            if not start.startswith(b"\x89PNG"):
                _check_claim(path, image, start, size, lossy)
            notes = _count_pictures(path, image)
            _check_mode(path, image.mode, label)
            notes += ("its CMYK colours are read as RGB, without their profile",) * (image.mode == _PRINT)
            two_greys = image.format == "BMP" and _two_greys(path, image.mode, start)
            if not two_greys:
                image.load()
            palette = _palette(image)
            orientation = image.getexif().get(_ORIENTATION, 1)  # of a PNG, known only after its pixels
            deep = bits == 16 and colour != _GREY
            if two_greys:
                array = _read_two_greys(path, label)
            elif deep:
                array = _read_deep_colours(path)
            else:
                array = _pixels(image, label, bits)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: {error}; if the file is not damaged, cut it into parts") from error
    orientation = orientation if orientation in range(1, 9) else 1
    array = drop_opaque_alpha(upright(array, orientation))
    channels = array.shape[2] if array.ndim == 3 else 1
    alpha = channels in (2, 4)
    return ImageFile(array, channels, palette=palette, lossy=lossy, alpha=alpha, orientation=orientation, notes=notes)


def _palette(image: Image.Image) -> tuple[int, ...]:
    """Return the colours of a palette as 24-bit numbers, none of a picture without one."""
    held = (image.getpalette("RGB") or []) if image.mode == "P" else []
    return tuple(as_numbers(np.array(held, np.uint8).reshape(-1, 3)).tolist())


def drop_opaque_alpha(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Leave out the last of 2 or 4 channels where it is opaque everywhere.

    Args:
        array: ``(H, W)`` or ``(H, W, C)``, whose last channel is alpha if C is 2 or 4.
    """
    if array.ndim != 3 or array.shape[2] not in (2, 4) or array.dtype.kind != "u":
        return array
    if not bool(np.all(array[..., -1] == np.iinfo(array.dtype).max)):
        return array
    return np.ascontiguousarray(array[..., :-1] if array.shape[2] == 4 else array[..., 0])


def _check_claim(path: Path, image: Image.Image, start: bytes, size: int, lossy: bool) -> None:
    shape = (image.height, image.width, len(image.getbands()))
    claimed = float(image.height * image.width * len(image.getbands()))
    if lossy:
        check_claim(path, shape, claimed, size, _JPEG_RATIO)
        return
    bits, packed = _bmp_form(start)
    if packed in (1, 2):
        check_claim(path, shape, claimed, size, _BMP_RATIO)
    else:
        check_claim(path, shape, image.height * image.width * bits / 8, size)


def _count_pictures(path: Path, image: Image.Image) -> tuple[str, ...]:
    count = getattr(image, "n_frames", 1)
    if count == 1:
        return ()
    if image.format == "PNG":
        raise ImageError(f"{path}: is an animation of {count} pictures; store each in a file of its own")
    return (f"holds {count} pictures; the first is read",)


def _two_greys(path: Path, mode: str, start: bytes) -> bool:
    """Return whether a BMP is black and white by its palette, but of a byte a pixel, which Pillow reads as bits.

    Raises:
        ImageError: if it is of 4 bits and grey by its palette, which Pillow does not read either.
    """
    bits = _bmp_form(start)[0]
    if mode in ("1", "L") and bits not in (1, 8):
        raise ImageError(f"{path}: holds greys of {bits} bits by a palette; store it with 8 bits, or as PNG")
    return mode == "1" and bits == 8


def _read_two_greys(path: Path, label: bool) -> npt.NDArray[np.uint8]:
    import imagecodecs

    indices = np.asarray(imagecodecs.bmp_decode(path.read_bytes(), asrgb=False))
    return indices if label else (indices > 0) * np.uint8(255)


def _bmp_form(start: bytes) -> tuple[int, int]:
    """Return a BMP's bits a pixel and its compression, as far as its header is long enough to tell."""
    if len(start) < 34 or start[14] < 40:
        return 8, 0
    bits, packed = struct.unpack("<HI", start[28:34])
    return int(bits), int(packed)


def _check_mode(path: Path, mode: str, label: bool) -> None:
    if mode not in _MODES and (label or mode != _PRINT):
        raise ImageError(f"{path}: holds colours as {mode}; convert it to grey or RGB")


def _pixels(image: Image.Image, label: bool, bits: int) -> npt.NDArray[Any]:
    if image.mode in ("P", _PRINT) and not label:
        return _as_array(image.convert("RGB"))
    if image.mode == "1":
        array = np.asarray(image).astype(np.uint8)
        return array if label else array * np.uint8(255)
    array = _as_array(image)
    if label and image.mode == "L" and bits in (2, 4):
        return array // np.uint8(255 // (2**bits - 1))
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _as_array(image: Image.Image) -> npt.NDArray[Any]:
    """Copy a picture in bands of rows: all at once Pillow takes twice its size on the way."""
    band = max(1, _BAND // max(image.width, 1))
    if image.height <= band:
        return np.array(image)
    first = np.asarray(image.crop((0, 0, image.width, min(band, image.height))))
    array = np.empty((image.height, *first.shape[1:]), first.dtype)
    for top in range(0, image.height, band):
        array[top : top + band] = image.crop((0, top, image.width, min(top + band, image.height)))
    return array


def _read_deep_colours(path: Path) -> npt.NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.png_decode(path.read_bytes()))
