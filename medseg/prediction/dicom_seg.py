"""Predictions as DICOM Segmentation objects, by highdicom.

Frames lie where the source's slices lie and refer to them; those without a voxel are left out. Each class is a segment
with its coded concept (PS3.3, C.8.20.4), the algorithm that made it, and a tracking UID.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.io.dicom import Slices
from medseg.prediction.dicom_objects import (
    CHARACTERS,
    MANUFACTURER,
    Algorithm,
    DicomError,
    Segment,
    category_of,
    check_grid,
    concept,
    made_by,
    meaning_of,
    name_patient,
    numbered,
    put_modifiers,
    require_highdicom,
    said_by,
    series_number,
    sources_of,
    stable_uid,
)

__all__ = ["KINDS", "fractional_segmentation", "segmentation", "tracking_uid"]

KINDS = ("binary", "labelmap")
"""A frame a segment and slice, a bit a voxel, which every reader knows; or a frame a slice, which few know yet."""

_LEVELS = 255
_MOST_BYTES = 8 * 2**30  # of the probabilities, which highdicom takes at once
_TEXT = 64  # longest description (VR LO)


def segmentation(
    mask: npt.NDArray[Any],
    slices: Slices,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    *,
    where: str,
    kind: str = "binary",
) -> Any:
    """Return a mask as a DICOM SEG.

    Args:
        mask: class indices.
        slices: the series that the mask lies on.
        segments: see `medseg.prediction.dicom_objects.segments_of`.
        algorithm: what made it.
        where: what the series is called, for messages.
        kind: of `KINDS`.

    Shape:
        mask ``(X, Y, Z)`` as `medseg.io.dicom.read_dicom` gives the series.

    Raises:
        DicomError: if highdicom is not there, the mask does not lie on the series, or tags of it are not sound.
    """
    if kind not in KINDS:
        raise DicomError(f"a segmentation of the kind {kind!r} is not known; choose of {', '.join(KINDS)}")
    check_grid(mask.shape, slices, where)
    frames = _frames(numbered(mask, segments), slices)
    digest = hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()
    return _object(frames, slices, segments, algorithm, where, kind.upper(), digest)


def fractional_segmentation(
    probabilities: npt.NDArray[Any], slices: Slices, segments: Sequence[Segment], algorithm: Algorithm, *, where: str
) -> Any:
    """Return probabilities as a fractional DICOM SEG, in steps of 1/255.

    Args:
        probabilities: of each class, 0 to 1.
        slices: the series that they lie on.
        segments: see `medseg.prediction.dicom_objects.segments_of`.
        algorithm: what made them.
        where: what the series is called, for messages.

    Shape:
        probabilities ``(classes, X, Y, Z)``.

    Raises:
        DicomError: see `segmentation`; or if they are more than 8 GiB as float32, or no probabilities.
    """
    check_grid(probabilities.shape[1:], slices, where)
    size = 4 * len(segments) * int(np.prod(slices.shape))
    if size > _MOST_BYTES:
        raise DicomError(
            f"{where}: {len(segments)} probabilities a voxel are {size / 2**30:.1f} GiB, which one object cannot take; "
            "write a mask as a binary segmentation and the probabilities as NIfTI"
        )
    stacked = np.empty((*slices.shape[::-1], len(segments)), np.float32)
    for place, segment in enumerate(segments):
        of_class = np.asarray(probabilities[segment.index], np.float32)
        if not (np.isfinite(of_class).all() and of_class.min(initial=0) >= -1e-3 and of_class.max(initial=0) <= 1.001):
            raise DicomError(f"{where}: the probabilities of class {segment.index} are not all from 0 to 1")
        stacked[..., place] = _frames(np.rint(of_class.clip(0, 1) * _LEVELS) / _LEVELS, slices)
    digest = hashlib.sha256(stacked.data).hexdigest()
    return _object(stacked, slices, segments, algorithm, where, "FRACTIONAL", digest)


def tracking_uid(slices: Slices, segment: Segment, algorithm: Algorithm, *part: int) -> str:
    """Return what a model's segment, or a part of it, is called in all objects about one series."""
    head = next(iter(slices.heads.values()))
    return stable_uid("tracking", head.get("SeriesInstanceUID"), algorithm.name, segment.label, *part)


def _frames(volume: npt.NDArray[Any], slices: Slices) -> npt.NDArray[Any]:
    """Return ``(X, Y, Z)`` as frames ``(Z, rows, columns)`` in the order of the source's files and frames."""
    frames = volume.transpose(2, 1, 0)
    order = [plane.frame for plane in slices.stack.planes]
    if all(frame is None for frame in order):
        return frames
    return frames[np.argsort([frame or 0 for frame in order])]


def _object(
    frames: npt.NDArray[Any],
    slices: Slices,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    where: str,
    kind: str,
    digest: str,
) -> Any:
    highdicom = require_highdicom("writing DICOM SEG")
    sources = sources_of(slices, where)
    about = (sources[0].SeriesInstanceUID, algorithm.name, algorithm.digest, kind)
    empty = not frames.any()  # an object without a frame is none: the first slice's are then kept
    with said_by(where):
        made = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=frames[:1] if empty else frames,
            segmentation_type=kind,
            segment_descriptions=[_description(segment, slices, algorithm) for segment in segments],
            series_instance_uid=stable_uid("series", *about),
            series_number=series_number(sources[0], 0),
            sop_instance_uid=stable_uid("segmentation", *about, digest, meaning_of(segments)),
            instance_number=1,
            fractional_type="PROBABILITY" if kind == "FRACTIONAL" else None,
            max_fractional_value=_LEVELS,
            plane_positions=_first_place(slices) if empty else None,
            omit_empty_frames=not empty,
            content_description=f"Segmentation by {algorithm.name}"[:_TEXT],
            content_label="SEGMENTATION",
            series_description=f"{algorithm.name} segmentation"[:_TEXT],
            specific_character_set=CHARACTERS,
            **made_by(algorithm),
        )
        made.BurnedInAnnotation = "NO"
        made.ContentCreatorName = MANUFACTURER
        name_patient(made, slices)
    return made


def _first_place(slices: Slices) -> list[Any]:
    import highdicom

    planes = slices.stack.planes
    first = min(planes, key=lambda plane: plane.frame or 0) if planes[0].frame is not None else planes[0]
    return [highdicom.PlanePositionSequence("PATIENT", first.position.tolist())]


def _description(segment: Segment, slices: Slices, algorithm: Algorithm) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    region = segment.code.get("region")
    identification = highdicom.AlgorithmIdentificationSequence(
        name=algorithm.name[:_TEXT],
        family=codes.DCM.ArtificialIntelligence,
        version=algorithm.version,
        source=MANUFACTURER,
        parameters={"weights_sha256": algorithm.digest},
    )
    made = highdicom.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.tag,
        segmented_property_category=category_of(segment.code),
        segmented_property_type=concept(segment.code),
        algorithm_type="AUTOMATIC",
        algorithm_identification=identification,
        tracking_uid=tracking_uid(slices, segment, algorithm),
        tracking_id=segment.tag,
        anatomic_regions=[concept(region)] if region else None,
        display_color=highdicom.color.CIELabColor.from_rgb(*segment.colour),
    )
    where = made.AnatomicRegionSequence[0] if region else None
    put_modifiers(segment.code, made.SegmentedPropertyTypeCodeSequence[0], where)
    return made
