"""Masks of volumes: NIfTI by nibabel, NRRD and MHA by itk, with the image's place and nothing else of its header."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.affines import voxel_edges
from medseg.io import nifti
from medseg.io.image_file import Affine, in_rows
from medseg.io.itk_formats import ITK_LOCK, LPS_TO_RAS, require_itk
from medseg.io.placement import compare

__all__ = ["write_itk", "write_nifti"]

_FORMS = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z"),
)
_EXACT = 1e-3  # voxels: as near as float32 and a quaternion come
_SCANNER = 1


def write_nifti(mask: NDArray[Any], affine: Affine, target: Path, *, source: Path | None, keep_header: bool) -> None:
    """Write a NIfTI mask: affine and codes of the image, qform and sform in one place.

    Args:
        mask: uint8 or uint16.
        affine: of the image, ``(4, 4)``.
        target: the file.
        source: the image's file; a NIfTI's form codes, unit and version are kept.
        keep_header: keep its other fields and extensions too.
    """
    import nibabel

    mask = in_rows(mask.T).T  # as it is written, slice by slice
    if source is None or not source.name.lower().endswith(nifti.SUFFIXES):
        image = nibabel.Nifti1Image(mask, affine)
        image.set_sform(affine, code=_SCANNER)
        image.set_qform(affine, code=_SCANNER)
        if not compare(affine, image.get_qform(), mask.shape).same:  # sheared, which a qform cannot hold
            image.set_qform(None)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, target)
        return
    original = nifti.header_of(source)
    kind = nibabel.Nifti2Image if isinstance(original, nibabel.Nifti2Header) else nibabel.Nifti1Image
    stored = mask.reshape(_stored_shape(original.get_data_shape(), mask.shape), order="F")
    header: Any = nibabel.load(source).header.copy() if keep_header else kind.header_class()
    header.set_data_dtype(mask.dtype)
    header.set_data_shape(stored.shape)
    header["cal_max"] = header["cal_min"] = 0
    header.set_xyzt_units(original.get_xyzt_units()[0])
    header.set_zooms(np.nan_to_num(original["pixdim"][1 : stored.ndim + 1], nan=1, posinf=1))
    header["pixdim"][0] = original["pixdim"][0]  # the qform's handedness
    for field in _FORMS:
        header[field] = original[field]
    _agree(header, affine, stored.shape)
    nibabel.save(kind(stored, None, header), target)


def _agree(header: Any, affine: Affine, shape: tuple[int, ...]) -> None:
    """Put qform and sform where the image was read to lie; what lies there already stays to the last digit."""
    qform, sform = int(header["qform_code"]), int(header["sform_code"])
    if compare(affine, header.get_best_affine(), shape).voxels >= _EXACT:
        sform = sform or _SCANNER
        header.set_sform(affine, code=sform)
    placed = nifti.qform_of(header)
    if sform and qform and (placed is None or compare(affine, placed, shape).voxels >= _EXACT):
        header.set_qform(affine, code=qform)
        if not compare(affine, header.get_qform(), shape).same:  # sheared
            header["qform_code"] = 0
    edges = voxel_edges(affine)[: len(shape)]
    if not header["qform_code"] and not np.allclose(header["pixdim"][1 : len(edges) + 1], edges, rtol=_EXACT):
        header["pixdim"][1 : len(edges) + 1] = edges  # nothing else needs them, and ITK's spacing is theirs


def _stored_shape(stored: tuple[int, ...], mask: tuple[int, ...]) -> tuple[int, ...]:
    """Return the mask's shape with the axes of one voxel that the file has and the array may have lost."""
    spatial = tuple(int(edge) for edge in stored[:3])
    return spatial if math.prod(spatial) == math.prod(mask) and len(spatial) >= len(mask) else mask


def write_itk(mask: NDArray[Any], affine: Affine, target: Path, *, source: Path | None, keep_header: bool) -> None:
    """Write an NRRD or MHA mask, compressed.

    Args:
        mask: uint8 or uint16.
        affine: of the image, ``(4, 4)``.
        target: the file; its suffix is the format.
        source: the image's file.
        keep_header: keep the image's own fields too.
    """
    itk = require_itk(target)
    affine = LPS_TO_RAS @ affine
    axes = mask.ndim
    spacing = np.linalg.norm(affine[:axes, :axes], axis=0)
    with ITK_LOCK:
        image = itk.image_from_array(np.ascontiguousarray(mask.T))  # itk's arrays are z first
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(affine[:axes, 3].tolist())
        image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(affine[:axes, :axes] / spacing)))
        if keep_header and source is not None and source.is_file():
            original = itk.imread(str(source))  # must outlive its dictionary
            image.SetMetaDataDictionary(original.GetMetaDataDictionary())
        itk.imwrite(image, str(target), compression=True)
