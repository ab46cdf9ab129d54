"""Small DICOM series made of pydicom's own CT slice, wherever they are to lie."""

import functools
import io

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

OBLIQUE = ((0.8, 0.6, 0.0), (-0.36, 0.48, 0.8))
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
ORIGIN = (10.0, 20.0, 30.0)


def write_series(folder, distances, change=None, *, turn=OBLIQUE, spacing=(0.5, 0.75), shape=(16, 24), shift=(0, 0, 0)):
    """Write slices at distances (mm) along the normal of a plane, named against their order.

    ``change(number, data)`` may change a slice before it is written; ``shift`` moves a slice by so much for each mm, as
    a tilted gantry does.
    """
    folder.mkdir(exist_ok=True, parents=True)
    row, column = (np.array(direction) for direction in turn)
    for number, distance in enumerate(distances):
        data = pydicom.dcmread(io.BytesIO(_slice()))
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"1.2.3.{number + 1}"
        place = np.array(ORIGIN) + distance * (np.cross(row, column) + np.array(shift))
        data.ImagePositionPatient = [f"{value:.6f}" for value in place]
        data.ImageOrientationPatient = [*row, *column]
        data.PixelSpacing, data.SliceThickness = list(spacing), 2
        data.Rows, data.Columns = shape
        data.InstanceNumber = number + 1
        data.PixelData = np.full(shape, 100 * number, np.int16).tobytes()
        if change is not None:
            change(number, data)
        data.save_as(folder / f"{len(distances) - number:02d}.dcm")
    return folder


@functools.cache
def _slice():
    with open(str(get_testdata_file("CT_small.dcm", download=False)), "rb") as file:
        return file.read()


def tags(**values):
    """Return a change that gives each slice its own values of tags, one a slice."""

    def change(number, data):
        for name, given in values.items():
            setattr(data, name, given[number])

    return change


def enhance(folder, target, order, *, transforms=None):
    """Join the slices of a folder into one multi-frame file, frames in the given order of file names."""
    slices = [pydicom.dcmread(folder / name) for name in order]
    joined = pydicom.dcmread(folder / order[0])
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(joined, name)
    joined.file_meta.MediaStorageSOPInstanceUID = joined.SOPInstanceUID = generate_uid()
    joined.file_meta.MediaStorageSOPClassUID = joined.SOPClassUID = pydicom.uid.EnhancedCTImageStorage
    joined.NumberOfFrames = len(slices)
    joined.PixelData = b"".join(data.PixelData for data in slices)
    joined.PerFrameFunctionalGroupsSequence = [
        _group(data, None if transforms is None else transforms[number]) for number, data in enumerate(slices)
    ]
    shared = Dataset()
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=slices[0].ImageOrientationPatient)]
    measures = _item(PixelSpacing=slices[0].PixelSpacing, SliceThickness=slices[0].SliceThickness)
    shared.PixelMeasuresSequence = [measures]
    joined.SharedFunctionalGroupsSequence = [shared]
    target.parent.mkdir(exist_ok=True, parents=True)
    joined.save_as(target)
    return target


def _group(data, transform):
    group = _item(PlanePositionSequence=[_item(ImagePositionPatient=data.ImagePositionPatient)])
    if transform is not None:
        slope, intercept = transform
        group.PixelValueTransformationSequence = [_item(RescaleSlope=slope, RescaleIntercept=intercept)]
    return group


def _item(**values):
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item
