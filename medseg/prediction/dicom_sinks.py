"""DICOM objects beside the masks of DICOM series: segmentations, structure sets, measurements.

``CASE.seg.dcm``, ``CASE.rtstruct.dcm`` and ``CASE.sr.dcm``. They belong to the patient's archive and carry
the patient's tags, which DICOM asks for; a case that is no DICOM series has none.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from medseg.io.dicom import Slices, is_dicom, read_slices
from medseg.io.placement import Grid
from medseg.prediction.dicom_objects import Algorithm, DicomError, require_highdicom, save, segments_of
from medseg.prediction.dicom_seg import fractional_segmentation, segmentation
from medseg.prediction.dicom_written import codes_of, codes_said, refers_to
from medseg.prediction.sinks import PROBABILITIES, VALUES, Case, Result, RunInfo

__all__ = ["DicomSeg", "FractionalSeg", "LabelmapSeg", "Measured", "Structures"]


class _DicomSink:
    """What DICOM objects share: segments, algorithm, and a series that they are about."""

    wants: frozenset[str] = frozenset()
    ending = ""
    sequence = "SegmentSequence"

    def open(self, run: RunInfo) -> None:
        """Begin a run.

        Raises:
            MedsegError: if a class has no code, or highdicom is not there.
        """
        require_highdicom("writing DICOM objects")
        self._segments = segments_of(run.description)
        digests = sorted(maker.weights for maker in run.makers)
        digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
        self._algorithm = Algorithm(run.description.name, digest)

    def files(self, case: Case) -> list[Path]:
        """Return the object's file."""
        return [case.beside(self.ending)]

    def has(self, case: Case) -> bool:
        """Return whether an object that is there has the codes that classes have now; where there is none, true."""
        *_, file = self.files(case)
        wanted = [codes_of(segment) for segment in self._segments]
        return not file.is_file() or codes_said(file, self.sequence) == wanted

    def refuse(self, case: Case, grid: Grid) -> None:
        """Refuse what is no DICOM series, before it is predicted.

        Raises:
            DicomError: with the reason.
        """
        if len(case.files) > 1 or not (case.image.is_dir() or is_dicom(case.image)):
            raise DicomError("it is no DICOM series, which DICOM objects are about; leave it out for them")

    def write(self, case: Case, result: Result) -> None:
        """Write the object.

        Raises:
            MedsegError: if the case's tags do not allow an object about it.
        """
        save(self._made(case, result, read_slices(case.image)), *self.files(case))

    def close(self) -> None:
        """End the run."""

    def _made(self, case: Case, result: Result, slices: Slices) -> Any:
        raise NotImplementedError


class DicomSeg(_DicomSink):
    """A binary segmentation, which every reader of DICOM SEG knows."""

    ending = ".seg.dcm"
    kind = "binary"

    def _made(self, case: Case, result: Result, slices: Slices) -> Any:
        return segmentation(result.mask, slices, self._segments, self._algorithm, where=case.name, kind=self.kind)


class LabelmapSeg(DicomSeg):
    """A segmentation of one frame a slice, whatever the number of classes; few readers know it yet."""

    ending = ".labelmap.seg.dcm"
    kind = "labelmap"


class FractionalSeg(_DicomSink):
    """A segmentation of probabilities, before postprocessing."""

    wants = frozenset({PROBABILITIES})
    ending = ".fractional.seg.dcm"

    def _made(self, case: Case, result: Result, slices: Slices) -> Any:
        assert result.probabilities is not None
        return fractional_segmentation(result.probabilities, slices, self._segments, self._algorithm, where=case.name)


class Structures(_DicomSink):
    """Outlines."""

    ending = ".rtstruct.dcm"
    sequence = "RTROIObservationsSequence"

    def _made(self, case: Case, result: Result, slices: Slices) -> Any:
        from medseg.prediction.dicom_rtstruct import structure_set

        return structure_set(result.mask, slices, self._segments, self._algorithm, where=case.name)


class Measured(_DicomSink):
    """Measurements as a structured report, and the binary segmentation that it refers to."""

    wants = frozenset({VALUES})
    ending = ".sr.dcm"

    def files(self, case: Case) -> list[Path]:
        """Return the report's file and the segmentation's."""
        return [case.beside(self.ending), case.beside(DicomSeg.ending)]

    def has(self, case: Case) -> bool:
        """Return whether the segmentation that is there has the codes of now, and the report is about it."""
        report, beside = self.files(case)
        return super().has(case) and (not report.is_file() or refers_to(report, beside))

    def write(self, case: Case, result: Result) -> None:
        """Write both.

        Raises:
            MedsegError: if the case is no DICOM series, or its tags do not allow an object about it.
        """
        from medseg.prediction.dicom_measurements import measurement_report
        from medseg.prediction.measurements import measure

        slices = read_slices(case.image)
        about = (result.mask, slices, self._segments, self._algorithm)
        segmented = segmentation(*about, where=case.name)
        indices = [segment.index for segment in self._segments]
        measured = list(measure(result.mask, result.values, result.grid.affine, indices))
        report = measurement_report(measured, *about, segmentation=segmented, where=case.name, doubts=result.doubts)
        target, beside = self.files(case)
        save(segmented, beside)
        save(report, target)
