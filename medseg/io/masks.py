"""Write a predicted mask where its image lies: on its stored grid, with its geometry and a clean header.

A mask has the format of its image where that can hold class indices and their place: NIfTI, NRRD and MHA (MHD becomes
one file), TIFF and PNG; of other pictures (JPEG, MPO, BMP) it is a PNG, of a DICOM series a NIfTI. Nothing else
of the image's header comes along (its description, database name and extensions may name a patient) unless asked for.

A picture that is stored turned (EXIF orientation) is predicted upright. Its mask is turned back onto the stored pixels
and carries the same tag: who applies the tag sees both upright, and who ignores it sees both as stored.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.atomic import atomic_write
from medseg.errors import MedsegError
from medseg.io import dicom, pictures
from medseg.io.images import ImageFile, image_suffix, read_image
from medseg.io.mask_volumes import write_itk, write_nifti
from medseg.io.placement import Grid, to_stored
from medseg.io.tiff import open_tiff
from medseg.reports.palette import Named, class_colours, class_palette

__all__ = ["image_suffix", "mask_path", "write_mask"]

_KEPT = (".png", ".tif", ".tiff", ".nii", ".nii.gz", ".nrrd", ".mha")
_ONE_FILE = {".mhd": ".mha", ".hdr": ".nii", **dict.fromkeys(dicom.SUFFIXES, ".nii.gz")}
_NIFTI = (".nii", ".nii.gz")
_ITK = (".nrrd", ".mha")
_TIFF = (".tif", ".tiff")
_EXIF_ORIENTATION = 0x112
_UNITS = (1, 2, 3)  # of a resolution in TIFF: none, inch, centimetre
_DENSEST = 2**32  # what a fraction of TIFF's holds


def mask_path(image: Path, folder: Path, output_dir: Path) -> Path:
    """Return where the mask of ``image`` goes: the same name and subfolder, and a suffix that can hold a mask.

    Args:
        image: the input, inside ``folder``; a folder is a DICOM series.
        folder: of all inputs; ``image`` itself where that is the only one.
        output_dir: of all masks.
    """
    inner = image.relative_to(folder) if image != folder else Path(image.name)
    target = output_dir / inner
    if image.is_dir():
        return target.with_name(f"{target.name}.nii.gz")
    suffix = image_suffix(image)
    if suffix in _KEPT:
        return target
    stem = target.name[: -len(suffix)] if suffix else target.name
    return target.with_name(stem + _ONE_FILE.get(suffix, ".png" if suffix else ".nii.gz"))


def write_mask(
    mask: NDArray[Any],
    image: ImageFile | Grid | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
    colours: Named | None = None,
    keep_header: bool = False,
    sync_name: bool = True,
) -> None:
    """Write a mask atomically, as 8 bits where its values allow, else 16.

    Args:
        mask: class indices on the grid of the image as `read_image` gives it, upright.
        image: where the mask lies: the image as it was read, its grid, or its file, which is then read again.
        target: the file to write; its suffix is the format, see `mask_path`. Folders are made.
        source: the image's file, if ``image`` is not one: codes of the geometry and tags of resolution come from it.
        class_names: the background among them is black in a PNG; without names, class 0 is.
        colours: that classes name, see `medseg.reports.palette.class_colours`.
        keep_header: also keep what else the header of a NIfTI, NRRD or MHA image says.
        sync_name: see `medseg.atomic.atomic_write`.

    Shape:
        mask ``(H, W)``, ``(Z, H, W)`` for a stack of pictures, ``(X, Y, Z)`` for a volume.

    Raises:
        ValueError: if the mask holds anything but class indices from 0 to 65535, does not have the image's size, or the
            target's format cannot hold its place.
    """
    target = Path(target)
    if isinstance(image, ImageFile | Grid):
        file = None if source is None else Path(source)
    else:
        file = Path(image) if source is None else Path(source)
        image = read_image(image)
    grid = image if isinstance(image, Grid) else Grid.of(image)
    called = file or target
    indices = _as_indices(mask, called)
    if indices.shape != grid.shape:
        size, wanted = (" x ".join(map(str, shape)) for shape in (indices.shape, grid.shape))
        raise MedsegError(f"the mask of {called} is {size}, the image {wanted}; bring it back to the image's grid")
    suffix = image_suffix(target)
    _check_format(grid, suffix, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target, sync_name=sync_name) as temporary:
        if grid.affine is not None and suffix in _NIFTI:
            write_nifti(indices, grid.affine, temporary, source=file, keep_header=keep_header)
        elif grid.affine is not None:
            write_itk(indices, grid.affine, temporary, source=file, keep_header=keep_header)
        elif suffix in _TIFF:
            _write_tiff(to_stored(indices, grid.orientation), grid, temporary, file)
        else:
            palette = _mask_palette(class_names, colours)
            _write_png(to_stored(indices, grid.orientation), grid, temporary, file, palette)


def _as_indices(mask: NDArray[Any], called: Path) -> NDArray[Any]:
    """Return the mask as uint8 or uint16."""
    array = np.asarray(mask)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise MedsegError(f"the mask of {called} holds NaN or infinite values; the network's output is not finite")
        if not np.array_equal(array, np.rint(array)):
            raise MedsegError(f"the mask of {called} holds fractional values; a mask is class indices")
    elif array.dtype.kind not in "bui":
        raise MedsegError(f"the mask of {called} holds values of type {array.dtype}; a mask is class indices")
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise MedsegError(f"the mask of {called} holds the value {low if low < 0 else high}; indices are 0 to 65535")
    return np.ascontiguousarray(array, np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16)


def _check_format(grid: Grid, suffix: str, target: Path) -> None:
    if suffix not in _KEPT:
        raise MedsegError(
            f"{target}: {target.suffix or 'no suffix'} is no format of a mask; known are {', '.join(_KEPT)}"
        )
    volumes = (*_NIFTI, *_ITK)
    if grid.affine is not None and suffix not in volumes:
        raise MedsegError(f"{target}: {suffix} cannot hold where a volume lies; write {', '.join(volumes)}")
    if grid.affine is None and suffix in volumes:
        known = ", ".join((".png", *_TIFF))
        raise MedsegError(
            f"{target}: {suffix} says where a mask lies in the patient, and its image does not; write {known}"
        )
    if suffix == ".png" and len(grid.shape) != 2:
        raise MedsegError(f"{target}: PNG cannot hold the {grid.shape[0]} pages of the image; write .tif")


def _mask_palette(names: Sequence[str] | None, colours: Named | None) -> list[int]:
    """Return 256 colours by index, the same as in overlays; the background is black."""
    black = (0, 0, 0)
    held = {key: colour for key, colour in (colours or {}).items() if int(key) < 256}
    if names is None:
        first: list[Any] = [black if not any(int(key) == 0 for key in held) else class_colours(256, held)[0]]
    else:
        first = [colour or black for colour in class_palette(names, colours)][:256]
    return [value for colour in (*first, *class_colours(256, held)[len(first) :]) for value in colour]


def _write_png(indices: NDArray[Any], grid: Grid, temporary: Path, source: Path | None, palette: Sequence[int]) -> None:
    from PIL import Image

    options: dict[str, Any] = {"compress_type": zlib.Z_RLE}  # a third of the time, and runs is what masks are made of
    if source is not None and image_suffix(source) in pictures.SUFFIXES:
        with Image.open(source) as original:
            resolution = original.info.get("dpi")
        options |= {"dpi": tuple(map(float, resolution))} if resolution else {}
    if grid.orientation in range(2, 9):
        exif = Image.Exif()
        exif[_EXIF_ORIENTATION] = grid.orientation
        options["exif"] = exif
    picture = Image.fromarray(indices)
    if indices.dtype == np.uint8:
        picture.putpalette(list(palette))
    picture.save(temporary, format="PNG", **options)


def _write_tiff(indices: NDArray[Any], grid: Grid, temporary: Path, source: Path | None) -> None:
    import tifffile

    options: dict[str, Any] = {"compression": "zlib", "photometric": "minisblack", "metadata": None}
    if source is not None and image_suffix(source) in _TIFF:
        options |= _tiff_scale(source, indices.ndim)
    if grid.orientation in range(2, 9):
        options["extratags"] = [(_EXIF_ORIENTATION, "H", 1, grid.orientation, True)]
    tifffile.imwrite(temporary, indices, software=False, **options)


def _tiff_scale(source: Path, axes: int) -> dict[str, Any]:
    """Return the size of a pixel as the image's tags, ImageJ's or OME's header state it, for `tifffile.imwrite`."""
    from tifffile import xml2dict

    options: dict[str, Any] = {}
    with open_tiff(source) as file:
        tags = file.pages.first.tags
        if "XResolution" in tags and "YResolution" in tags:
            resolution = [_density(tags[name].value) for name in ("XResolution", "YResolution")]
            unit = tags.get("ResolutionUnit")
            if all(resolution) and (unit is None or unit.value in _UNITS):
                options["resolution"] = tuple(resolution)
                options["resolutionunit"] = 2 if unit is None else int(unit.value)  # TIFF 6.0: inch if nothing is said
        if file.imagej_metadata:  # `None` in other files
            kept = {key: file.imagej_metadata[key] for key in ("spacing", "unit") if key in file.imagej_metadata}
            options |= {"imagej": True, "metadata": {**kept, "axes": "ZYX"[-axes:]}}
        elif file.ome_metadata:
            with contextlib.suppress(SyntaxError, KeyError, TypeError):  # no XML, or none of OME: nothing to keep
                images = xml2dict(file.ome_metadata)["OME"]["Image"]
                pixels = (images[0] if isinstance(images, list) else images)["Pixels"]
                kept = {key: value for key, value in pixels.items() if key.startswith("PhysicalSize")}
                options |= {"ome": True, "metadata": {**kept, "axes": "ZYX"[-axes:]}}
    return options


def _density(value: Any) -> Any:
    """Return pixels a unit as `tifffile.imwrite` takes it; ``None`` where a tag holds none, such as 0/0."""
    if isinstance(value, tuple):
        return value if len(value) == 2 and min(value) > 0 else None
    return value if isinstance(value, int | float) and 0 < value < _DENSEST else None
