"""DICOM SEG written here, read by highdicom, by dcmqi and by medseg's own import, voxel by voxel."""

import json
import logging
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from dicom_predictions import ALGORITHM, CLASSES, GEOMETRIES, description, mask_of, on_grid, series
from dicom_series import AXIAL, OBLIQUE, enhance
from dicom_tools import faults, run

from medseg.bundle.description import Description
from medseg.data.coding import propose_codes
from medseg.importers.dicom_masks import draw_volume
from medseg.importers.dicom_masks import segments_of as imported
from medseg.io.dicom import read_slices
from medseg.io.images import read_image
from medseg.prediction.dicom_objects import DicomError, save, segments_of
from medseg.prediction.dicom_rtstruct import structure_set
from medseg.prediction.dicom_seg import fractional_segmentation, segmentation

highdicom = pytest.importorskip("highdicom", reason="DICOM SEG needs highdicom; pip install 'medseg[dicom]'")


def write(folder, mask, target, kind="binary"):
    slices = read_slices(folder)
    if kind == "fractional":
        chances = np.stack([0.8 * (mask == index) for index in range(len(CLASSES))]).astype(np.float16)
        made = fractional_segmentation(chances, slices, segments_of(description()), ALGORITHM, where="a series")
    else:
        made = segmentation(mask, slices, segments_of(description()), ALGORITHM, where="a series", kind=kind)
    save(made, target)
    return made


@pytest.mark.parametrize(
    ("geometry", "kind"),
    [*((geometry, "binary") for geometry in GEOMETRIES), ("oblique", "labelmap"), ("oblique", "fractional")],
)
def test_voxel_by_voxel(tmp_path, geometry, kind):
    """dcmqi's itk images and highdicom's volumes hold the same voxels, placed by affines that neither took from us."""
    folder = series(tmp_path / "s", **GEOMETRIES[geometry])
    image = read_image(folder)
    mask = mask_of(image.shape)
    write(folder, mask, tmp_path / "seg.dcm", kind)

    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    volume = seg.get_volume(combine_segments=False, allow_missing_positions=True)
    lps = np.diag([-1, -1, 1, 1]) @ volume.affine  # slices, rows, columns
    affine = lps[:, [2, 1, 0, 3]]
    for place, number in enumerate(seg.segment_numbers):
        theirs = type(image)(volume.array[..., place].transpose(2, 1, 0), 1, affine=affine, kind="volume")
        np.testing.assert_array_equal(on_grid(theirs, image.affine, image.shape), mask == number)

    (tmp_path / "q").mkdir()
    run(
        "segimage2itkimage", "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path / "q",
        *("--outputType", "nrrd"), *("--prefix", "seg"), *(["--mergeSegments"] if kind == "labelmap" else []),
    )  # fmt: skip
    for number in (1, 2):
        theirs = read_image(tmp_path / "q" / (f"seg-{number}.nrrd" if kind != "labelmap" else "seg-1.nrrd"), label=True)
        if kind == "labelmap":
            theirs = type(theirs)(theirs.array == number, 1, affine=theirs.affine, kind="volume")
        np.testing.assert_array_equal(on_grid(theirs, image.affine, image.shape), mask == number)
    about = json.loads((tmp_path / "q" / "seg-meta.json").read_text())["segmentAttributes"]
    codes = {each["SegmentedPropertyTypeCodeSequence"]["CodeValue"] for several in about for each in several}
    assert codes == {"64033007", "108369006", "78961009"}


@pytest.mark.parametrize("kind", ["binary", "fractional"])
def test_the_standard_is_kept(tmp_path, kind):
    """dciodvfy of 2022 knows no label maps."""
    folder = series(tmp_path / "s")
    write(folder, mask_of((24, 16, 6)), tmp_path / "seg.dcm", kind)
    assert faults(tmp_path / "seg.dcm") == []
    write(folder, np.zeros((24, 16, 6), np.uint8), tmp_path / "empty.dcm", kind)
    assert faults(tmp_path / "empty.dcm") == []


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_round_trip_through_the_import(tmp_path, kind):
    folder = series(tmp_path / "s", turn=OBLIQUE)
    image = read_image(folder)
    mask = mask_of(image.shape)
    write(folder, mask, tmp_path / "seg.dcm", kind)
    rois = imported(tmp_path / "seg.dcm")
    assert [roi.name for roi in rois] == CLASSES[1:]
    proposed = propose_codes(dict(enumerate(CLASSES)))
    assert {roi.number: roi.code for roi in rois} == proposed
    for segment, index in zip(draw_volume(tmp_path / "seg.dcm", rois, image), (1, 2, 3), strict=True):
        np.testing.assert_array_equal(segment.draw(image.shape), mask == index)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_more_segments_than_a_byte_counts(tmp_path, kind):
    """Of a label map, segment 1 was imported with the voxels of 257."""
    folder = series(tmp_path / "s")
    image, first = read_image(folder), segments_of(description())[0]
    mask = np.zeros(image.shape, np.uint16)
    mask.flat[:900:3] = np.arange(1, 301)
    segments = [replace(first, number=number, index=number, label=f"s{number}") for number in range(1, 301)]
    made = segmentation(mask, read_slices(folder), segments, ALGORITHM, where="a series", kind=kind)
    save(made, tmp_path / "seg.dcm")
    rois = imported(tmp_path / "seg.dcm")
    found = np.zeros(image.shape, np.uint16)
    for segment, roi in zip(draw_volume(tmp_path / "seg.dcm", rois, image), rois, strict=True):
        found += segment.draw(image.shape).astype(np.uint16) * np.uint16(roi.number)
    np.testing.assert_array_equal(found, mask)


def test_frames_of_a_multi_frame_source(tmp_path):
    """The source's frames lie in no order; each frame written refers to the one of its place."""
    folder = series(tmp_path / "s", distances=(0, 2, 4, 6, 8, 10))
    order = ["03.dcm", "06.dcm", "01.dcm", "02.dcm", "05.dcm", "04.dcm"]
    path = enhance(folder, tmp_path / "e" / "mf.dcm", order)
    image = read_image(path)
    mask = mask_of(image.shape)
    seg = write(path.parent, mask, tmp_path / "seg.dcm")
    rois = imported(tmp_path / "seg.dcm")
    for segment, index in zip(draw_volume(tmp_path / "seg.dcm", rois, image), (1, 2, 3), strict=True):
        np.testing.assert_array_equal(segment.draw(image.shape), mask == index)
    places = [group.PlanePositionSequence[0].ImagePositionPatient for group in _groups(pydicom.dcmread(path))]
    for group in _groups(seg):
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        assert group.PlanePositionSequence[0].ImagePositionPatient == places[source.ReferencedFrameNumber - 1]


def test_slices_of_a_tilted_gantry_stay_where_they_are(tmp_path):
    """No volume of highdicom's is sheared: frames are compared one by one."""
    folder = series(tmp_path / "s", turn=AXIAL, shift=(0, -0.2679, 0))
    slices = read_slices(folder)
    mask = mask_of(slices.shape)
    seg = write(folder, mask, tmp_path / "seg.dcm")
    places = [plane.position.tolist() for plane in slices.stack.planes]
    frames = highdicom.seg.segread(tmp_path / "seg.dcm").pixel_array
    for frame, group in zip(frames, _groups(seg), strict=True):
        z = places.index([float(value) for value in group.PlanePositionSequence[0].ImagePositionPatient])
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(frame > 0, number == mask[:, :, z].T)


@pytest.mark.parametrize(
    "name", ["dicom_mr_hippocrop/study1", "dicom_mr_hippocrop/study3_t1post", "dicom_ct_dcmqi/24x38x3/multiframe"]
)
def test_real_series(real_data, tmp_path, name):
    """One without a date of birth, an oblique one, and one file of several frames."""
    image = read_image(real_data / name)
    mask = np.zeros(image.shape, np.uint8)
    mask[4:15, 8:12, :2], mask[10:20, 2:9, 1:3] = 1, 2
    write(real_data / name, mask, tmp_path / "seg.dcm")
    segments = draw_volume(tmp_path / "seg.dcm", imported(tmp_path / "seg.dcm"), image)
    for segment, index in zip(segments, (1, 2, 3), strict=True):
        np.testing.assert_array_equal(segment.draw(image.shape), mask == index)
    run(
        "segimage2itkimage", "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path, "--outputType", "nrrd"
    )
    for number in (1, 2):
        theirs = read_image(tmp_path / f"{number}.nrrd", label=True)
        np.testing.assert_array_equal(on_grid(theirs, image.affine, image.shape), mask == number)


def _groups(data):
    return data.PerFrameFunctionalGroupsSequence


def test_what_an_object_says(tmp_path):
    folder = series(tmp_path / "s")
    image, mask = read_slices(folder), mask_of((24, 16, 6))
    seg = write(folder, mask, tmp_path / "seg.dcm")
    assert seg.NumberOfFrames == 3 + 3  # of six slices, for each of two classes
    first = next(iter(image.heads.values()))
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "StudyDate"):
        assert seg[name].value == first[name].value
    assert seg.SeriesInstanceUID != first.SeriesInstanceUID
    referred = {item.ReferencedSOPInstanceUID for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referred == {head.SOPInstanceUID for head in image.heads.values()}
    places = {head.SOPInstanceUID: head.ImagePositionPatient for head in image.heads.values()}
    for group in _groups(seg):
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        place = group.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(place, places[source.ReferencedSOPInstanceUID], atol=1e-4)
    kidney, tumour, _ = seg.SegmentSequence
    algorithm = kidney.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (ALGORITHM.name, ALGORITHM.version)
    assert algorithm.AlgorithmParameters == f"weights_sha256={ALGORITHM.digest}"
    side = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert (side.CodeValue, side.CodeMeaning) == ("7771000", "Left")
    assert tumour.AnatomicRegionSequence[0].CodeMeaning == "Liver"
    assert tumour.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert len({item.TrackingUID for item in seg.SegmentSequence}) == 3


def test_the_same_prediction_has_the_same_uids(tmp_path):
    folder = series(tmp_path / "s")
    mask = mask_of((24, 16, 6))
    once, again, other = (write(folder, each, tmp_path / "seg.dcm") for each in (mask, mask.copy(), mask[::-1]))
    assert (once.SOPInstanceUID, once.SeriesInstanceUID) == (again.SOPInstanceUID, again.SeriesInstanceUID)
    assert other.SOPInstanceUID != once.SOPInstanceUID
    assert other.SeriesInstanceUID == once.SeriesInstanceUID
    assert [item.TrackingUID for item in other.SegmentSequence] == [item.TrackingUID for item in once.SegmentSequence]


@pytest.mark.parametrize(
    "changed", [{"label": "kidney"}, {"code": propose_codes({1: "spleen"})[1]}, {"colour": (1, 2, 3)}]
)
def test_the_same_voxels_of_another_meaning_are_another_object(tmp_path, changed):
    """Under the same UID an archive kept the object of the wrong code and said that it had stored the right one."""
    slices, mask = read_slices(series(tmp_path / "s")), mask_of((24, 16, 6))
    first, *others = segments_of(description())
    for make in (segmentation, structure_set):
        once = make(mask, slices, [first, *others], ALGORITHM, where="a series")
        other = make(mask, slices, [replace(first, **changed), *others], ALGORITHM, where="a series")
        assert once.SOPInstanceUID != other.SOPInstanceUID
        assert once.SeriesInstanceUID == other.SeriesInstanceUID


@pytest.mark.parametrize("kind", ["segmentation", "structures"])
def test_labels_that_a_tag_cannot_hold_stay_apart(tmp_path, kind):
    """What reads labels, as our import does, would take two of the same 64 characters for one class."""
    long = "the part of the liver that drains into the left hepatic vein, segment "
    segments = segments_of(description())
    named = [long + "2", long + "3", "left\\upper\n lobe"]
    segments = [replace(each, label=label) for each, label in zip(segments, named, strict=True)]
    slices = read_slices(series(tmp_path / "s"))
    write_object = segmentation if kind == "segmentation" else structure_set
    save(write_object(mask_of(slices.shape), slices, segments, ALGORITHM, where="a series"), tmp_path / "made.dcm")
    made = pydicom.dcmread(tmp_path / "made.dcm")
    items, tag = (
        (made.SegmentSequence, "SegmentLabel") if kind == "segmentation" else (made.StructureSetROISequence, "ROIName")
    )
    assert [item[tag].value for item in items] == [f"{long[:60]} (1)", f"{long[:60]} (2)", "left/upper lobe"]


def test_a_mask_without_a_voxel(tmp_path, capfd):
    folder = series(tmp_path / "s")
    seg = write(folder, np.zeros((24, 16, 6), np.uint8), tmp_path / "seg.dcm")
    assert seg.NumberOfFrames == len(CLASSES) - 1  # an object without a frame is none
    image = read_image(folder)
    segments = draw_volume(tmp_path / "seg.dcm", imported(tmp_path / "seg.dcm"), image)
    assert not any(segment.draw(image.shape).any() for segment in segments)
    assert capfd.readouterr() == ("", "")


def test_probabilities_are_kept_in_steps(tmp_path):
    folder = series(tmp_path / "s")
    slices = read_slices(folder)
    chances = np.random.default_rng(0).random((len(CLASSES), *slices.shape), np.float32)
    chances[3] = 1e-3  # below half a step: nowhere
    seg = fractional_segmentation(chances, slices, segments_of(description()), ALGORITHM, where="a series")
    save(seg, tmp_path / "seg.dcm")
    read = highdicom.seg.segread(tmp_path / "seg.dcm")
    array = read.get_volume(combine_segments=False, rescale_fractional=True).array[::-1]  # first slice last: its custom
    assert np.abs(array[..., 0].transpose(2, 1, 0) - chances[1]).max() <= 0.5 / 255 + 1e-6
    assert seg.NumberOfFrames == 12
    assert str(read.segmentation_fractional_type.value) == "PROBABILITY"


def test_tags_that_are_missing_or_wrong(tmp_path, caplog, capfd):
    """Nothing of them is said, and what DICOM lets be empty is."""

    def change(number, data):
        for name in ("PatientBirthDate", "AccessionNumber", "ReferringPhysicianName"):
            if name in data:
                delattr(data, name)
        with pydicom.config.disable_value_validation():
            data.PatientSex, data.StudyDate, data.SpecificCharacterSet = "Geheimes", "yesterday", "ISO_IR 100"
            data.PatientName = "Müller-Geheim^^^^^^^^"

    folder = series(tmp_path / "s", change=change)
    with caplog.at_level(logging.DEBUG):
        seg = write(folder, mask_of((24, 16, 6)), tmp_path / "seg.dcm")
    assert (seg.PatientBirthDate, seg.PatientSex, seg.StudyDate) == (None, None, None)
    assert str(pydicom.dcmread(tmp_path / "seg.dcm").PatientName) == "Müller-Geheim^^^^^^^^"
    assert "Geheim" not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PatientBirthDate", "19500000"),
        ("PatientBirthDate", "00000000"),
        ("StudyDate", "20240231"),
        ("StudyTime", "2560"),
    ],
)
def test_a_day_that_is_none_costs_no_mask(tmp_path, name, value):
    """Of a year alone, archives and programs that take names out make such dates."""

    def change(number, data):
        with pydicom.config.disable_value_validation():
            setattr(data, name, value)

    folder = series(tmp_path / "s", change=change)
    seg = write(folder, mask_of((24, 16, 6)), tmp_path / "seg.dcm")
    assert seg[name].value is None
    assert seg.PatientID == next(iter(read_slices(folder).heads.values())).PatientID


def test_a_source_that_cannot_be_referred_to(tmp_path):
    folder = series(tmp_path / "s", change=lambda number, data: delattr(data, "FrameOfReferenceUID"))
    with pytest.raises(DicomError, match=r"^a series: 0\d.dcm does not state its FrameOfReferenceUID, .* NIfTI mask"):
        write(folder, mask_of((24, 16, 6)), tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists()


def test_a_mask_of_another_size(tmp_path):
    folder = series(tmp_path / "s")
    with pytest.raises(DicomError, match=r"the mask is 16 x 24 x 6, its series 24 x 16 x 6; bring it back"):
        write(folder, np.zeros((16, 24, 6), np.uint8), tmp_path / "seg.dcm")


@pytest.mark.parametrize("write_object", [segmentation, structure_set])
def test_an_index_that_is_no_class(tmp_path, write_object):
    """It was background in the object, and a voxel of its own in the mask beside it."""
    slices = read_slices(series(tmp_path / "s"))
    mask = mask_of(slices.shape)
    mask[0, 0, 0] = len(CLASSES)
    with pytest.raises(DicomError, match=r"the mask holds 4, which is none of the model's classes"):
        write_object(mask, slices, segments_of(description()), ALGORITHM, where="a series")


def test_classes_without_a_code():
    network = {"name": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3}
    made = Description.of({"name": "m", "network": network, "classes": ["background", "liver", "thing"]})
    with pytest.raises(DicomError, match=r"^the classes 2 \(thing\) have no code, .* name them in the datalist"):
        segments_of(made)
    own = {"value": "X1", "scheme": "99LOCAL", "meaning": "Thing"}
    assert [each.code["value"] for each in segments_of(made, {2: own})] == ["10200004", "X1"]


def test_without_highdicom(tmp_path, monkeypatch):
    folder = series(tmp_path / "s")
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(
        DicomError, match=r"writing DICOM SEG needs highdicom; install it: pip install 'medseg\[dicom\]'"
    ):
        write(folder, mask_of((24, 16, 6)), tmp_path / "seg.dcm")
