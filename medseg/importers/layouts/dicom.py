"""DICOM: series of slices with DICOM SEG or RTSTRUCT files that refer to them, wherever the files lie.

Segmentations are found by the series that they refer to, not by folder. The entry's image is the folder of its series,
or one slice, which stands for it, where others share the folder. Patients are told apart by PatientID, of which only a
hash is kept. Masks are drawn by `medseg.importers.dicom_masks`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medseg.errors import few, shown
from medseg.importers.dicom_masks import Roi, draw_structures, draw_volume, is_striped, rois_of, segments_of
from medseg.importers.drawing import numbered
from medseg.importers.folder import Folder, stem_of
from medseg.importers.groups import hidden_identity
from medseg.importers.layout import Case, Draw, Found, ImportingError, Layout, Options, Question
from medseg.io.dicom import is_dicom
from medseg.io.dicom_heads import quiet

__all__ = ["Dicom"]

_TAGS = [
    *("SeriesInstanceUID", "StudyInstanceUID", "Modality", "PatientID", "FrameOfReferenceUID", "Rows"),
    *("ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence"),
]
_MASKS = ("SEG", "RTSTRUCT")


class Dicom(Layout):
    """Series, and segmentations that refer to them."""

    name = "dicom"
    looks_for = "DICOM files of the modality SEG or RTSTRUCT beside DICOM images"

    def __init__(self) -> None:
        self._heads: dict[Path, dict[Path, Any]] = {}

    def recognise(self, folder: Folder) -> str | None:
        """Look at the modality of every DICOM file."""
        counts = Counter(str(head.get("Modality")) for head in self._read(folder).values())
        masks = [f"{counts[kind]} {kind}" for kind in _MASKS if counts[kind]]
        return f"DICOM files: {', '.join(masks)}" if masks and len(counts) > len(masks) else None

    def read(self, folder: Folder, options: Options) -> Found:
        """Draw the segmentations of every series."""
        heads = self._read(folder)
        found = Found(self.name, "said so", [], grouped_by="a patient (a hash of PatientID)")
        series: dict[str, list[Path]] = defaultdict(list)
        for path, head in heads.items():
            if head.get("Modality") not in _MASKS and "Rows" in head:
                series[str(head.get("SeriesInstanceUID"))].append(path)
        by_series: dict[str, list[Path]] = defaultdict(list)
        for path, head in heads.items():
            if head.get("Modality") in _MASKS:
                referred = next((uid for uid in _refers(head) if uid in series), None)
                if referred is None:
                    found.left_out[path] = "refers to a series that is not here"
                else:
                    by_series[referred].append(path)
        found.left_out |= {
            path: "no segmentation refers to its series"
            for uid in series
            if uid not in by_series
            for path in series[uid]
        }
        chosen = {uid: _chosen(masks, folder, options, found) for uid, masks in by_series.items()}
        rois = {path: _rois(folder, path, heads[path], found) for masks in chosen.values() for path in masks}
        named = list(dict.fromkeys(roi.name for several in rois.values() for roi in several))
        found.labels = numbered(named, options, folder.root)
        codes = {roi.name: roi.code for several in rois.values() for roi in several if roi.code}
        found.about["codes"] = {index: codes[name] for index, name in found.labels.items() if name in codes}
        modalities = {str(heads[series[uid][0]].get("Modality")) for uid in chosen}
        found.modality = ("/".join(sorted(modalities)),)
        for uid, masks in chosen.items():
            files = sorted(series[uid])
            for path in masks:
                _check_frame(path, heads[path], heads[files[0]], options, folder)
            label = _drawer(masks, rois, heads, found, options)
            head = heads[files[0]]
            group = hidden_identity(str(head.get("PatientID") or head.get("StudyInstanceUID")))
            home = _home(files, folder)
            alone = sum(any(path.parent == home for path in others) for others in series.values()) == 1
            whole = alone and home != folder.root
            name = folder.rel(home) if whole else stem_of(files[0])
            image = home if whole else files[0]
            found.cases.append(Case(name, (image,), label, "training", group, (*files, *masks)))
        return found

    def _read(self, folder: Folder) -> dict[Path, Any]:
        """Return the tags of every DICOM file, read once."""
        if folder.root not in self._heads:
            import pydicom

            made: dict[Path, Any] = {}
            with quiet():
                for path in (path for path in folder.files if is_dicom(path)):
                    try:
                        made[path] = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
                    except Exception as error:  # pydicom raises nearly every type on damaged bytes
                        folder.reasons[path] = f"damaged DICOM file ({type(error).__name__})"
            self._heads = {folder.root: made}
        return self._heads[folder.root]


def _home(files: Sequence[Path], folder: Folder) -> Path:
    """Return the folder of a series."""
    others = sorted({path.parent for path in files} - {files[0].parent})
    if others:
        raise ImportingError(
            f"{shown(folder.rel(files[0]))}: its series goes on in {shown(folder.rel(others[0]))}; put its slices into "
            "one folder"
        )
    return files[0].parent


def _refers(head: Any) -> list[str]:
    """Return the series that a segmentation refers to."""
    direct = [str(item.SeriesInstanceUID) for item in head.get("ReferencedSeriesSequence", [])]
    studies = [
        study
        for frame in head.get("ReferencedFrameOfReferenceSequence", [])
        for study in frame.get("RTReferencedStudySequence", [])
    ]
    return direct + [str(s.SeriesInstanceUID) for study in studies for s in study.get("RTReferencedSeriesSequence", [])]


def _chosen(masks: Sequence[Path], folder: Folder, options: Options, found: Found) -> list[Path]:
    """Return the segmentations of one series that are taken: the only one, the one that is named, or all."""
    if len(masks) == 1 or options.labels == "all":
        return list(masks)
    fitting = [path for path in masks if options.labels and options.labels in (path.name, folder.rel(path))]
    if len(fitting) != 1:
        named = ", ".join(shown(folder.rel(path)) for path in masks)
        raise Question(
            f"{shown(folder.root)}: several segmentations refer to one series ({named}); name one with --labels, or "
            "all to join "
            "them",
            "labels",
            "all",
        )
    found.left_out |= {path: "another segmentation of its series was named" for path in masks if path not in fitting}
    return fitting


def _rois(folder: Folder, path: Path, head: Any, found: Found) -> list[Roi]:
    """Return what a segmentation draws; markers of points, such as an isocentre, are no class, and told."""
    every = segments_of(path) if head.get("Modality") == "SEG" else rois_of(path)
    markers = [roi.name for roi in every if not roi.area]
    if markers:
        found.notes.append(f"{folder.rel(path)}: {', '.join(map(shown, markers))}: points without an area, not drawn")
    return [roi for roi in every if roi.area]


def _check_frame(path: Path, head: Any, image: Any, options: Options, folder: Folder) -> None:
    """Refuse a segmentation whose frame of reference is not its image's."""
    frames = [str(item.get("FrameOfReferenceUID")) for item in head.get("ReferencedFrameOfReferenceSequence", [])]
    frames = frames or [str(head.get("FrameOfReferenceUID"))]
    if str(image.get("FrameOfReferenceUID")) not in frames and not options.any_frame:
        raise ImportingError(
            f"{shown(folder.rel(path))}: its frame of reference is not that of the series that it refers to, so that "
            "places may "
            "differ; if they are known to be the same, say --any-frame"
        )


def _drawer(
    masks: Sequence[Path], rois: dict[Path, list[Roi]], heads: dict[Path, Any], found: Found, options: Options
) -> Draw:
    readers = [
        partial(draw_volume if heads[path].get("Modality") == "SEG" else draw_structures, path, rois[path])
        for path in masks
    ]

    def draw(image: Any) -> Any:
        from medseg.importers.drawing import paint

        segments = [segment for read in readers for segment in read(image)]
        striped = [shown(str(each.name)) for each in segments if is_striped(each.draw(image.shape))]
        if striped:
            found.notes.append(
                f"{shown(masks[0].name)}: {few(striped)}: drawn in no two slices that follow each other; where "
                "structures go through those between, interpolate their contours with the program that drew them"
            )
        return paint(segments, image.shape, found.labels, options.order, masks[0], found.lost)

    return draw
