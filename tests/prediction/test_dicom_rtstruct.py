"""RTSTRUCT written here, filled by plastimatch, by matplotlib and by medseg's own import, voxel by voxel."""

import numpy as np
import pydicom
import pytest
from dicom_predictions import ALGORITHM, CLASSES, GEOMETRIES, description, mask_of, on_grid, series
from dicom_series import enhance
from dicom_tools import faults, run

from medseg.importers.dicom_masks import draw_structures, rois_of
from medseg.io.dicom import read_slices
from medseg.io.images import read_image
from medseg.prediction.dicom_objects import save, segments_of
from medseg.prediction.dicom_rtstruct import structure_set
from medseg.prediction.dicom_seg import segmentation


def write(folder, mask, target):
    slices = read_slices(folder)
    made = structure_set(mask, slices, segments_of(description()), ALGORITHM, where="a series")
    save(made, target)
    return made


def holed(shape):
    """The mask of `mask_of` with two holes, an island in one of them, and voxels that touch at corners."""
    mask = mask_of(shape)
    mask[13:16, 6:12, 3], mask[18, 6:9, 3] = 0, 0
    mask[14, 8:10, 3] = 2
    mask[2, 12, 2], mask[3, 13, 2] = 1, 1
    return mask


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_round_trip_through_the_import(tmp_path, geometry):
    folder = series(tmp_path / "s", **GEOMETRIES[geometry])
    image = read_image(folder)
    mask = holed(image.shape)
    made = write(folder, mask, tmp_path / "rt.dcm")
    rois = rois_of(tmp_path / "rt.dcm")
    assert [(roi.name, roi.code["value"]) for roi in rois] == [
        ("kidney_left", "64033007"),
        ("liver_tumor", "108369006"),
    ]
    assert [roi.code for roi in rois] == [segment.code for segment in segments_of(description())[:2]], "and its side"
    for segment, index in zip(draw_structures(tmp_path / "rt.dcm", rois, image), (1, 2), strict=True):
        np.testing.assert_array_equal(segment.draw(image.shape), mask == index)
    places = {str(head.SOPInstanceUID): head for head in read_slices(folder).heads.values()}
    for region in made.ROIContourSequence:
        for contour in region.get("ContourSequence", []):
            head = places[str(contour.ContourImageSequence[0].ReferencedSOPInstanceUID)]
            normal = np.cross(head.ImageOrientationPatient[:3], head.ImageOrientationPatient[3:])
            off = np.array(contour.ContourData, float).reshape(-1, 3) - np.array(head.ImagePositionPatient, float)
            assert np.abs(off @ normal).max() < 1e-3


@pytest.mark.parametrize("geometry", ["axial", "anisotropic"])
def test_plastimatch_fills_the_same_voxels(tmp_path, geometry):
    """It looks at contours across the patient's axis alone."""
    folder = series(tmp_path / "s", **GEOMETRIES[geometry])
    image = read_image(folder)
    mask = holed(image.shape)
    write(folder, mask, tmp_path / "rt.dcm")
    run(
        *("plastimatch", "convert", "--input", tmp_path / "rt.dcm", "--referenced-ct", folder),
        *("--output-prefix", tmp_path / "p", "--prefix-format", "nrrd"),
    )
    for index in (1, 2):
        theirs = read_image(tmp_path / "p" / f"{CLASSES[index]}.nrrd", label=True)
        np.testing.assert_array_equal(on_grid(theirs, image.affine, image.shape), mask == index)


def test_frames_of_a_multi_frame_source(tmp_path):
    folder = series(tmp_path / "s", distances=(0, 2, 4, 6, 8, 10))
    order = ["03.dcm", "06.dcm", "01.dcm", "02.dcm", "05.dcm", "04.dcm"]
    path = enhance(folder, tmp_path / "e" / "mf.dcm", order)
    image = read_image(path)
    mask = holed(image.shape)
    made = write(path.parent, mask, tmp_path / "rt.dcm")
    for segment, index in zip(
        draw_structures(tmp_path / "rt.dcm", rois_of(tmp_path / "rt.dcm"), image), (1, 2), strict=True
    ):
        np.testing.assert_array_equal(segment.draw(image.shape), mask == index)
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    for contour in made.ROIContourSequence[0].ContourSequence:
        frame = contour.ContourImageSequence[0].ReferencedFrameNumber
        place = np.array(groups[frame - 1].PlanePositionSequence[0].ImagePositionPatient, float)
        normal = np.cross((0.8, 0.6, 0.0), (-0.36, 0.48, 0.8))
        assert abs((np.array(contour.ContourData[:3], float) - place) @ normal) < 1e-3


def test_whose_it_is(tmp_path):
    """As of the segmentation: a number without its issuer is another patient's, where a hospital has several."""
    held = {"PatientID": "7", "IssuerOfPatientID": "WEST", "PatientAge": "044Y", "StudyDescription": "Abdomen"}
    held |= {"PatientIdentityRemoved": "YES", "DeidentificationMethod": "by hand", "PatientWeight": "70"}

    def change(number, data):
        for name, value in held.items():
            setattr(data, name, value)

    folder = series(tmp_path / "s", change=change)
    made = write(folder, mask := holed((24, 16, 6)), tmp_path / "rt.dcm")
    slices = read_slices(folder)
    beside = segmentation(mask, slices, segments_of(description()), ALGORITHM, where="a series")
    source = next(iter(slices.heads.values()))
    for name in (*held, "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
        assert str(made.get(name) or "") == str(beside.get(name) or "") == str(source.get(name) or ""), name
    assert faults(tmp_path / "rt.dcm") == []


def test_the_standard_is_kept(tmp_path):
    folder = series(tmp_path / "s")
    made = write(folder, holed((24, 16, 6)), tmp_path / "rt.dcm")
    assert faults(tmp_path / "rt.dcm") == []
    assert [item.ROIGenerationAlgorithm for item in made.StructureSetROISequence] == ["AUTOMATIC"] * 3
    head = next(iter(read_slices(folder).heads.values()))
    read = pydicom.dcmread(tmp_path / "rt.dcm")
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert read[name].value == head[name].value
    assert write(folder, holed((24, 16, 6)), tmp_path / "again.dcm").SOPInstanceUID == made.SOPInstanceUID
    write(folder, np.zeros((24, 16, 6), np.uint8), tmp_path / "empty.dcm")
    assert faults(tmp_path / "empty.dcm") == []


def test_an_outline_of_many_points(tmp_path):
    """More than 64 KiB of text, which no explicit transfer syntax can hold."""

    def wide(number, data):
        data.Rows = data.Columns = 64
        data.PixelData = np.zeros((64, 64), np.int16).tobytes()

    folder = series(tmp_path / "s", distances=(0, 2), change=wide)
    image = read_image(folder)
    mask = np.zeros(image.shape, np.uint8)
    mask[1:, 1:, 1] = 1
    mask[2:63:2, 2:63:2, 1] = 0  # 961 holes
    made = write(folder, mask, tmp_path / "rt.dcm")
    (contour,) = made.ROIContourSequence[0].ContourSequence
    assert len("\\".join(map(str, contour.ContourData))) > 2**16
    (segment,) = draw_structures(tmp_path / "rt.dcm", rois_of(tmp_path / "rt.dcm"), image)
    np.testing.assert_array_equal(segment.draw(image.shape), mask == 1)
