"""TIFF, decoded by tifffile with imagecodecs (LZW, JPEG and whatever else a scanner or microscope writes)."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.io.image_file import ImageError, ImageFile, as_numbers, upright
from medseg.io.integrity import DEFLATE_RATIO, check_claim, check_count, file_size
from medseg.io.pictures import drop_opaque_alpha

__all__ = ["SUFFIXES", "open_tiff", "read_tiff"]

SUFFIXES = (".tif", ".tiff")

# Most bytes that a stored byte can stand for, by TIFF's number of the compression.
_RATIO = {1: 1, 5: 4096, 8: DEFLATE_RATIO, 32946: DEFLATE_RATIO, 32773: 64}
_RATIO_OTHER = 5000
_LOSSY = (6, 7, 22610, 33003, 33004, 33005, 34712, 34892, 50001)  # JPEG, JPEG 2000, WebP and vendors' names for them
_JPEG = (6, 7)
_ORIENTATION, _BITS = 274, 258
_LAYOUT = (  # tags without which pixels are guessed: size, bits, packing, colours, strips, tiles, kind of number
    *(256, 257, _BITS, 259, 262, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 339),
)
_TAG = re.compile(r"TiffTag (\d+) @")


@contextmanager
def open_tiff(path: Path) -> Iterator[Any]:
    """Open a TIFF with tifffile.

    It leaves out a tag that it cannot read, goes on with a guess, and says so in its log alone.

    Raises:
        ImageError: at the end, if that was a tag that says how pixels lie: they would not be the picture's.
    """
    import tifffile

    heard = _Heard()
    talker = logging.getLogger("tifffile")
    talker.addHandler(heard)
    try:
        with tifffile.TiffFile(path, _multifile=False) as file:
            yield file
    finally:
        talker.removeHandler(heard)
    if odd := sorted(heard.tags.intersection(_LAYOUT)):
        raise ImageError(f"{path}: its tag {odd[0]}, which says how pixels lie, cannot be read; restore the file")


class _Heard(logging.Handler):
    """Keeps the numbers of tags that this thread made tifffile complain of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self._thread = set[int](), threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.tags.update(map(int, _TAG.findall(record.getMessage())))


def read_tiff(path: Path, label: bool) -> ImageFile:
    """Read the picture or the stack of pages of a TIFF.

    Values are the stored ones, also where the file says that small values are white (``min-is-white``): so tifffile,
    scikit-image and ImageJ read and write them, and a label keeps its indices; a note tells of it. One-bit pictures are
    0 and 1 in a label and 0 and 255 in an image, palettes indices in a label and colours in an image, as of PNGs.

    Args:
        path: the file.
        label: whether it is a label.

    Shape:
        ``(H, W)``, ``(H, W, C)``, or of several pages ``(pages, H, W)`` or ``(pages, H, W, C)``.

    Raises:
        ImageError: if it cannot be used, among it a file of several pictures that differ in size or type.
    """
    import tifffile

    size = file_size(path)
    with open_tiff(path) as file:
        series = _only_series(path, file)
        page = series.keyframe
        check_count(path, tuple(series.shape))
        _check_colours(path, page, tifffile.PHOTOMETRIC)
        _check_segments(path, series, size)
        array = series.asarray(maxworkers=1)
        if array.shape != tuple(series.shape):
            raise ImageError(f"{path}: decodes to {array.shape}, but claims {tuple(series.shape)}; restore the file")
        axes, palette = series.axes, page.photometric == tifffile.PHOTOMETRIC.PALETTE
        notes = _notes(page, tifffile.PHOTOMETRIC)
        tag = page.tags.get(_ORIENTATION)
        coloured = page.photometric == tifffile.PHOTOMETRIC.RGB and page.samplesperpixel == 4  # some do not say more
        alpha = coloured or (bool(page.extrasamples) and page.extrasamples[-1] in (1, 2))
        colours = page.colormap if palette else None
        lossy = int(page.compression) in _LOSSY
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(1 if label else 255)
    array, channels = _arrange(path, array, axes)
    if colours is not None and not label:
        array, channels = np.ascontiguousarray(_table(colours)[array]), 3
    pages = array.ndim - (channels > 1) == 3
    orientation = int(tag.value) if tag is not None and tag.value in range(1, 9) else 1
    if not pages:
        array = upright(array, orientation)
        if alpha:
            array = drop_opaque_alpha(array)
            channels = array.shape[2] if array.ndim == 3 else 1
    elif orientation != 1:
        raise ImageError(f"{path}: its pages are stored rotated (orientation {orientation}); store them upright")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return ImageFile(
        array,
        channels,
        palette=() if colours is None else tuple(as_numbers(_table(colours)).tolist()),
        lossy=lossy,
        alpha=alpha and channels in (2, 4),
        orientation=orientation,
        notes=notes,
    )


def _only_series(path: Path, file: Any) -> Any:
    """Return the one series of pages; smaller copies of it (pyramids, thumbnails) do not count."""
    if not file.series:
        raise ImageError(f"{path}: holds no picture; restore the file")
    whole = [series for series in file.series if not getattr(series.keyframe, "is_reduced", False)]
    if len(whole) > 1:
        shapes = ", ".join("x".join(map(str, series.shape)) for series in whole[:3])
        raise ImageError(f"{path}: holds {len(whole)} different pictures ({shapes}); store each in a file of its own")
    return whole[0] if whole else file.series[0]


def _check_colours(path: Path, page: Any, kinds: Any) -> None:
    if page.photometric == kinds.RGB and (page.samplesperpixel < 3 or page.bitspersample == 1):
        raise ImageError(
            f"{path}: says RGB, but has {page.samplesperpixel} samples a pixel of {page.bitspersample} bits; restore "
            "the file"
        )
    known = (kinds.MINISWHITE, kinds.MINISBLACK, kinds.RGB, kinds.PALETTE, kinds.MASK)
    if page.photometric in known or (page.photometric == kinds.YCBCR and int(page.compression) in _JPEG):
        return
    name = getattr(page.photometric, "name", page.photometric)
    raise ImageError(f"{path}: holds colours as {name}; convert it to grey or RGB")


def _check_segments(path: Path, series: Any, size: int) -> None:
    """Every strip and tile must lie inside the file and be large enough for the pixels it claims."""
    page = series.keyframe
    if page.is_tiled:
        check_count(path, (page.tilelength, page.tilewidth, page.tiledepth, page.samplesperpixel))
        segment = page.tilelength * page.tilewidth * page.tiledepth * page.bitspersample / 8
        allowed = max(4 * page.size * page.bitspersample / 8, 1 << 24)  # a tile may be larger than a small picture
        if segment > allowed:
            raise ImageError(
                f"{path}: claims tiles of {page.tilelength}x{page.tilewidth} pixels for {page.imagelength}x"
                f"{page.imagewidth}; it is damaged, restore the file"
            )
    if _BITS not in page.tags and int(page.compression) == 1 and sum(page.databytecounts) >= page.size:
        raise ImageError(f"{path}: does not say how many bits a pixel has (tag {_BITS}); restore the file")
    ratio = _RATIO.get(int(page.compression), _RATIO_OTHER)
    claimed = page.size * page.bitspersample / 8
    if series.dataoffset is not None:  # pages stored as one block, ImageJ's and tifffile's among them
        check_claim(path, tuple(series.shape), series.nbytes, max(size - series.dataoffset, 0))
        return
    for number, part in enumerate(series.pages):
        if part is None:
            raise ImageError(f"{path}: page {number} lies in another file; store all pages in one")
        offsets, counts = part.dataoffsets, part.databytecounts
        if not counts or any(count == 0 for count in counts):
            raise ImageError(f"{path}: page {number} has a part without pixels; restore the file")
        if any(start + count > size for start, count in zip(offsets, counts, strict=True)):
            raise ImageError(f"{path}: ends too early, page {number} lies beyond its end; restore the file")
        check_claim(path, tuple(series.shape), claimed, sum(counts), ratio)


def _notes(page: Any, kinds: Any) -> tuple[str, ...]:
    if page.photometric == kinds.MINISWHITE:
        return ("says that small values are white (min-is-white); values are taken as they are stored",)
    return ()


def _arrange(path: Path, array: npt.NDArray[Any], axes: str) -> tuple[npt.NDArray[Any], int]:
    """Bring pages, rows and columns to the front and channels (C), samples of a pixel (S) or both to the end."""
    last = [axis for axis in ("C", "S") if axis in axes]
    rest = [axis for axis in axes if axis not in last and (axis in "YX" or array.shape[axes.index(axis)] > 1)]
    if "".join(rest)[-2:] != "YX" or len(rest) > 3:
        named = ", ".join(f"{axis} {edge}" for axis, edge in zip(axes, array.shape, strict=True))
        raise ImageError(f"{path}: has the axes {named}; store one picture or one stack of pages a file")
    single = [axis for axis in axes if axis not in rest and axis not in last]
    array = array.transpose([axes.index(axis) for axis in (*single, *rest, *last)])
    array = array.reshape(*array.shape[len(single) : len(single) + len(rest)], -1)
    channels = array.shape[-1]
    return (array if channels > 1 else array[..., 0]), channels


def _table(colours: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Return a colour map ``(3, N)`` of 16 bits, of which some writers fill only the lower 8, as ``(N, 3)``."""
    table = colours if int(colours.max(initial=0)) < 256 else colours >> 8
    return table.astype(np.uint8).T
