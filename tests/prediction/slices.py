"""Slices of DICOM series, small enough for tests."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def dicom_slice(path: Path, series: str, place: float, value: int) -> None:
    """Write a slice of 4 x 3 pixels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    head: Any = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    head.SOPClassUID, head.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    head.SeriesInstanceUID, head.StudyInstanceUID, head.Modality = series, "1.2.3", "CT"
    head.PatientName, head.PatientID = "Secret^Name", "4711"
    head.Rows, head.Columns, head.SamplesPerPixel = 3, 4, 1
    head.PhotometricInterpretation, head.PixelRepresentation = "MONOCHROME2", 0
    head.BitsAllocated = head.BitsStored = 16
    head.HighBit = 15
    head.PixelSpacing, head.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
    head.ImagePositionPatient = [0, 0, place]
    head.PixelData = np.full((3, 4), value, np.uint16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    head.save_as(path, enforce_file_format=True)
