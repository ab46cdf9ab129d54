"""TID 1500 reports, read by dcmqi and by highdicom."""

import json
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from dicom_predictions import ALGORITHM, CLASSES, description, mask_of, series
from dicom_series import enhance
from dicom_tools import faults, run
from skimage.draw import polygon2mask

from medseg.io.dicom import read_slices
from medseg.io.images import read_image
from medseg.prediction import dicom_measurements
from medseg.prediction.dicom_measurements import measurement_report
from medseg.prediction.dicom_objects import save, segments_of
from medseg.prediction.dicom_seg import segmentation
from medseg.prediction.measurements import measure

highdicom = pytest.importorskip("highdicom", reason="DICOM SR needs highdicom; pip install 'medseg[dicom]'")


def write(folder, mask, target, doubts=()):
    image, slices, segments = read_image(folder), read_slices(folder), segments_of(description())
    measured = list(measure(mask, image.array[None].astype(np.float32), image.affine, (1, 2, 3)))
    seg = segmentation(mask, slices, segments, ALGORITHM, where="a series")
    about = {"segmentation": seg, "where": "a series", "doubts": doubts}
    made = measurement_report(measured, mask, slices, segments, ALGORITHM, **about)
    save(made, target)
    return made, seg, measured


def test_dcmqi_reads_what_was_measured(tmp_path):
    folder = series(tmp_path / "s")
    _, seg, measured = write(folder, mask_of((24, 16, 6)), tmp_path / "sr.dcm")
    assert faults(tmp_path / "sr.dcm") == []
    run("tid1500reader", "--inputDICOM", tmp_path / "sr.dcm", "--outputMetadata", tmp_path / "sr.json")
    groups = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    assert [each["TrackingIdentifier"] for each in groups] == [
        *("kidney_left", "liver_tumor", "liver_tumor, part 1", "liver_tumor, part 2", "liver_tumor, part 3", "spleen")
    ]
    by_name = {each["TrackingIdentifier"]: each for each in groups}
    for index, name in ((1, "kidney_left"), (2, "liver_tumor"), (3, "spleen")):
        group, (whole,) = by_name[name], [each for each in measured if each.index == index and each.part is None]
        assert group["segmentationSOPInstanceUID"] == seg.SOPInstanceUID
        assert group["ReferencedSegment"] == index
        assert group["TrackingUniqueIdentifier"] == seg.SegmentSequence[index - 1].TrackingUID
        numbers = {each["quantity"]["CodeMeaning"]: float(each["value"]) for each in group["measurementItems"]}
        if not whole.voxels:
            assert numbers == {"Volume": 0}
            continue
        assert numbers["Volume"] == pytest.approx(whole.size / 1000)
        for meaning, kind in (("Maximum 3D Diameter of a Mesh", "diameter"), ("Area", "area")):
            assert numbers[meaning] == pytest.approx(getattr(whole, kind))
        assert numbers["Attenuation Coefficient"] == pytest.approx(whole.mean[0])
        assert numbers.get("Number of connected parts") == (3 if index == 2 else None)
    assert by_name["kidney_left"]["FindingSite"]["CodeMeaning"] == "Kidney"
    assert by_name["liver_tumor"]["FindingSite"]["CodeMeaning"] == "Liver"


def test_a_report_that_says_something_else_is_another_object(tmp_path):
    """Under the same UID an archive kept the numbers of before, such as those of an older medseg."""
    folder, mask = series(tmp_path / "s"), mask_of((24, 16, 6))
    slices, segments = read_slices(folder), segments_of(description())
    made, seg, measured = write(folder, mask, tmp_path / "sr.dcm")
    doubtful, *_ = write(folder, mask, tmp_path / "sr.dcm", doubts=("its size is 9 mm",))
    again, *_ = write(folder, mask, tmp_path / "sr.dcm")
    longer = [replace(each, diameter=each.diameter + 1) for each in measured]
    other = measurement_report(longer, mask, slices, segments, ALGORITHM, segmentation=seg, where="a series")
    assert again.SOPInstanceUID == made.SOPInstanceUID
    assert len({each.SOPInstanceUID for each in (made, doubtful, other)}) == 3
    assert len({each.SeriesInstanceUID for each in (made, doubtful, other)}) == 1


def test_how_the_case_is_unlike_the_training_is_a_comment(tmp_path):
    """dcmqi and highdicom find the measurements as before, and dicom3tools finds no error."""
    folder, mask = series(tmp_path / "s"), mask_of((24, 16, 6))
    write(folder, mask, tmp_path / "plain.sr.dcm")
    write(folder, mask, tmp_path / "sr.dcm", doubts=("its size is 9 mm", "40 ml of it are Gefäß"))
    assert faults(tmp_path / "sr.dcm") == []
    said = "Unlike what the model was trained on: its size is 9 mm; 40 ml of it are Gefäß"
    comments = {}
    for name in ("plain.sr.dcm", "sr.dcm"):
        data = pydicom.dcmread(tmp_path / name)
        comments[name] = [
            (item.ConceptNameCodeSequence[0].CodeMeaning, item.TextValue)
            for item in data.ContentSequence
            if item.ValueType == "TEXT" and item.RelationshipType == "CONTAINS"
        ]
    assert comments == {"plain.sr.dcm": [], "sr.dcm": [("Comment", said)]}
    groups = [
        len(highdicom.sr.srread(tmp_path / name).content.get_volumetric_roi_measurement_groups()) for name in comments
    ]
    assert groups[0] == groups[1] > 0
    run("tid1500reader", "--inputDICOM", tmp_path / "sr.dcm", "--outputMetadata", tmp_path / "sr.json")
    assert len(json.loads((tmp_path / "sr.json").read_text())["Measurements"]) == 6


def assert_drawn(path, mask, measured, written):
    """Draw the outlines of a class's parts back, each on the slice or frame that it refers to."""
    slices = read_slices(path)
    places = {
        (str(slices.heads[plane.path].SOPInstanceUID), None if plane.frame is None else plane.frame + 1): z
        for z, plane in enumerate(slices.stack.planes)
    }
    report = highdicom.sr.srread(written).content
    groups = report.get_volumetric_roi_measurement_groups(graphic_type=highdicom.sr.GraphicTypeValues.POLYLINE)
    assert len(groups) == 3
    drawn = np.zeros(mask.shape, int)
    parts = [each for each in measured if each.index == 2 and each.part is not None]
    for group, part in zip(groups, parts, strict=True):
        voxels = 0
        for region in group.roi:
            image = region.ContentSequence[0].ReferencedSOPSequence[0]
            place = places[image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber")]
            inside = polygon2mask((16, 24), region.value[:, ::-1] - 0.5).T  # 0, 0 is the first pixel's corner
            drawn[:, :, place] += inside
            voxels += inside.sum()
        assert voxels == part.voxels
    np.testing.assert_array_equal(drawn, mask == 2)


def test_frames_of_one_file(tmp_path):
    """Of each such series the report failed, by tags that only single slices have at that place."""
    folder, mask = series(tmp_path / "s"), mask_of((24, 16, 6))
    order = [f"{number:02d}.dcm" for number in (3, 1, 6, 2, 5, 4)]
    file = enhance(folder, tmp_path / "e" / "mf.dcm", order)
    *_, plain = write(folder, mask, tmp_path / "plain.dcm")
    _, seg, measured = write(file, mask, tmp_path / "sr.dcm")
    assert [each.row(CLASSES) for each in measured] == [each.row(CLASSES) for each in plain]
    assert faults(tmp_path / "sr.dcm") == []
    run("tid1500reader", "--inputDICOM", tmp_path / "sr.dcm", "--outputMetadata", tmp_path / "sr.json")
    groups = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    assert {each.get("segmentationSOPInstanceUID") for each in groups} >= {seg.SOPInstanceUID}
    assert_drawn(file, mask, measured, tmp_path / "sr.dcm")


def test_a_part_is_drawn_where_it_lies(tmp_path):
    folder = series(tmp_path / "s")
    mask = mask_of((24, 16, 6))
    made, _, measured = write(folder, mask, tmp_path / "sr.dcm")
    assert_drawn(folder, mask, measured, tmp_path / "sr.dcm")
    assert made.CompletionFlag == "COMPLETE"
    assert made.VerificationFlag == "UNVERIFIED"


def test_of_many_parts_the_largest_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_measurements, "MOST_PARTS", 2)
    folder = series(tmp_path / "s")
    write(folder, mask_of((24, 16, 6)), tmp_path / "sr.dcm")
    labels = [
        item.ContentSequence[0].TextValue
        for item in _groups(pydicom.dcmread(tmp_path / "sr.dcm"))
        if item.ContentSequence[0].TextValue.startswith("liver")
    ]
    assert labels == ["liver_tumor", "liver_tumor, part 1", "liver_tumor, part 2"]


def _groups(data):
    (measurements,) = (
        item for item in data.ContentSequence if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    )
    return measurements.ContentSequence


def test_a_mask_without_a_voxel(tmp_path):
    folder = series(tmp_path / "s")
    write(folder, np.zeros((24, 16, 6), np.uint8), tmp_path / "sr.dcm")
    assert faults(tmp_path / "sr.dcm") == []
    assert len(_groups(pydicom.dcmread(tmp_path / "sr.dcm"))) == len(CLASSES) - 1


def test_the_patient_is_that_of_the_series(tmp_path):
    """Of each object, though all are made of the same tags; which stay as they were read."""

    def change(number, data):
        data.PatientName, data.PatientSex, data.StudyDate = "Somebody^Else", "none", "yesterday"

    with pydicom.config.disable_value_validation():
        folder = series(tmp_path / "s", change=change)
    slices = read_slices(folder)
    for _ in range(2):
        write(folder, mask_of((24, 16, 6)), tmp_path / "sr.dcm")
        assert str(pydicom.dcmread(tmp_path / "sr.dcm").PatientName) == "Somebody^Else"
    mask = mask_of((24, 16, 6))
    for _ in range(2):
        segmentation(mask, slices, segments_of(description()), ALGORITHM, where="a series")
    head = next(iter(slices.heads.values()))
    assert (head.PatientName, head.PatientSex, head.StudyDate) == ("Somebody^Else", "none", "yesterday")
