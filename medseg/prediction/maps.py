"""Values from 0 to 1 for each voxel, where the image lies: NIfTI for volumes, TIFF for pictures, a part at a time.

NIfTI has no 16-bit floating point: values are stored as unsigned 16-bit integers with the slope 1/65535, which readers
apply, at most 0.0000077 off; TIFF holds float16. Neither holds anything of the image's header but its place.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medseg.affines import voxel_edges
from medseg.atomic import atomic_write
from medseg.io.images import image_suffix
from medseg.io.placement import Grid, compare, to_stored
from medseg.prediction.sinks import Case

__all__ = ["map_path", "write_map"]

_PICTURES = (".png", ".tif", ".tiff")
_STEPS = 65535
_OFFSET = 352  # of the values: the header and four bytes that say that there is no extension
_LEVEL = 1  # of gzip: what noise there is in the low bits no level makes much smaller


def map_path(case: Case, kind: str) -> Path:
    """Return the file of a case's map: beside the mask, in a format that holds it.

    Args:
        case: the case.
        kind: of `medseg.io.folder.MAPS`.
    """
    picture = image_suffix(case.target) in _PICTURES
    return case.beside(f".{kind}{'.tif' if picture else '.nii.gz'}")


def write_map(values: NDArray[Any], grid: Grid, target: Path) -> None:
    """Write a map, or one a class, atomically.

    Args:
        values: from 0 to 1; may be memory-mapped.
        grid: of the image, upright.
        target: as `map_path` has it. Folders are made.

    Shape:
        ``(*S)`` or ``(classes, *S)``. In NIfTI the classes are the fourth axis; in TIFF they are pages, and of an image
        of pages all pages of a class follow each other.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    maps = values if values.ndim > len(grid.shape) else values[None]
    with atomic_write(target) as temporary:
        if grid.affine is None:
            _write_tiff(maps, grid, temporary)
        else:
            with (  # no name and no time in it: the same map is the same bytes
                open(temporary, "wb") as plain,
                gzip.GzipFile("", "wb", _LEVEL, plain, mtime=0) as file,
            ):
                _write_nifti(maps, grid.affine, file)  # type: ignore[arg-type]


def _write_nifti(maps: NDArray[Any], affine: NDArray[np.float64], file: BinaryIO) -> None:
    import nibabel

    header: Any = nibabel.Nifti1Header()
    header.set_data_dtype("<u2")
    shape = maps.shape[1:] + (1,) * (4 - maps.ndim)
    header.set_data_shape((*shape, len(maps)) if len(maps) > 1 else shape)
    header.set_slope_inter(1 / _STEPS, 0)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    header["pixdim"][1:4] = voxel_edges(affine)
    if not compare(affine, header.get_qform(), shape).same:  # sheared, which a qform cannot hold
        header.set_qform(None, code=0)
    header.set_xyzt_units("mm")
    header["vox_offset"] = _OFFSET
    header.write_to(file)
    for one in maps:
        for plane in np.moveaxis(one.reshape(shape), 2, 0):  # the first axis runs fastest in the file
            file.write(np.rint(plane.astype(np.float32) * _STEPS).astype("<u2").tobytes(order="F"))


def _write_tiff(maps: NDArray[Any], grid: Grid, temporary: Path) -> None:
    import tifffile

    pages = (
        np.ascontiguousarray(to_stored(page, grid.orientation).astype(np.float16))
        for one in maps
        for page in (one if one.ndim == 3 else one[None])
    )
    first = to_stored(maps[0] if maps.ndim == 3 else maps[0][0], grid.orientation)
    number = len(maps) * (maps.shape[1] if maps.ndim == 4 else 1)
    options: dict[str, Any] = {"compression": "zlib", "photometric": "minisblack", "metadata": None}
    if grid.orientation in range(2, 9):
        options["extratags"] = [(0x112, "H", 1, grid.orientation, True)]
    tifffile.imwrite(temporary, pages, shape=(number, *first.shape), dtype=np.float16, software=False, **options)
