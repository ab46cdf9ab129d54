"""DICOM SEG and RTSTRUCT, against what dcmqi made of the same segmentations and against contours drawn here."""

import json
import shutil

import numpy as np
import pydicom
import pytest
from dicom_series import AXIAL, OBLIQUE, ORIGIN, tags, write_series
from dicom_tools import run, tool
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medseg.importers.layout import ImportingError, Question
from medseg.io.images import read_image
from medseg.io.placement import compare


def masks(made):
    """Name of each case to its image and label."""
    entries = [made.datalist.absolute(entry) for entry in made.datalist.training]
    names = [case.name for case in made.found.cases]
    return {
        name: (read_image(entry["image"]), read_image(entry["label"], label=True))
        for name, entry in zip(names, entries, strict=True)
    }


@pytest.fixture
def dcmqi(real_data):
    pytest.importorskip("highdicom", reason="DICOM SEG needs highdicom; pip install 'medseg[dicom]'")
    return real_data / "dicom_ct_dcmqi"


def test_seg_against_dcmqi(dcmqi, bring, left_out):
    with pytest.raises(
        Question, match=r"several segmentations refer to one series \(liver.dcm, partial_overlaps.dcm\)"
    ) as e:
        bring(source=dcmqi)
    assert e.value.proposal == "all"
    made = bring(source=dcmqi, labels="liver.dcm")
    assert made.found.layout == "dicom"
    assert made.datalist.class_names == ["background", "Liver"]
    assert made.datalist.codes[1]["value"] == "T-62000"
    for name, reference in (("ct-3slice", "liver_seg.nrrd"), ("24x38x3/image", "24x38x3/nrrd/label.nrrd")):
        image, label = masks(made)[name]
        theirs = read_image(dcmqi / reference, label=True)
        step = compare(image.affine, theirs.affine, image.shape)
        assert step.same, step
        np.testing.assert_array_equal(label.array > 0, theirs.array > 0)
        assert compare(image.affine, label.affine, image.shape).same
    assert left_out(made)["partial_overlaps.dcm"] == "another segmentation of its series was named"
    assert left_out(made)["24x38x3/multiframe/mf.dcm"] == "no segmentation refers to its series"


@pytest.mark.parametrize(
    ("turn", "spacing", "step"),
    [
        (AXIAL, (0.7, 0.7), 2.0),
        (((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)), (0.5, 0.75), 3.0),
        (((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)), (0.3, 1.2), 5.0),
        (OBLIQUE, (0.5, 0.75), 1.25),
    ],
    ids=["axial", "flipped", "swapped and anisotropic", "oblique"],
)
def test_a_seg_that_dcmqi_wrote(make, bring, tmp_path, turn, spacing, step):
    """The mask is given to it in mm, as NRRD; what comes back lies there voxel by voxel."""
    pytest.importorskip("highdicom", reason="DICOM SEG needs highdicom; pip install 'medseg[dicom]'")
    tool("itkimage2segimage")
    itk = pytest.importorskip("itk")
    folder = write_series(make.root / "case" / "image", [step * n for n in range(5)], turn=turn, spacing=spacing)
    mask = np.random.default_rng(0).integers(0, 3, (5, 16, 24)).astype(np.uint8)  # slices, rows, columns
    given = itk.image_from_array(mask)
    row, column = (np.array(direction) for direction in turn)
    given.SetDirection(itk.matrix_from_array(np.array([row, column, np.cross(row, column)]).T.copy()))
    given.SetSpacing([spacing[1], spacing[0], step])
    given.SetOrigin(list(ORIGIN))
    itk.imwrite(given, str(tmp_path / "mask.nrrd"))
    code = {"CodeValue": "85756007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Tissue"}
    kinds = dict.fromkeys(("SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"), code)
    segments = [{"labelID": n, "SegmentLabel": f"c{n}", "SegmentAlgorithmType": "MANUAL", **kinds} for n in (1, 2)]
    (tmp_path / "about.json").write_text(json.dumps({"segmentAttributes": [segments], "SeriesNumber": "300"}))
    run(
        *("itkimage2segimage", "--inputImageList", tmp_path / "mask.nrrd", "--inputDICOMDirectory", folder),
        *("--outputDICOM", folder.parent / "seg.dcm", "--inputMetadata", tmp_path / "about.json", "--skip", "0"),
    )
    ((image, label),) = masks(bring()).values()
    assert compare(image.affine, label.affine, image.shape).same
    theirs = read_image(tmp_path / "mask.nrrd", label=True)
    voxels = np.argwhere(np.ones(image.shape, bool))
    places = np.c_[voxels, np.ones(len(voxels))] @ image.affine.T @ np.linalg.inv(theirs.affine).T
    found = theirs.array[tuple(np.rint(places[:, :3]).astype(int).T)]
    np.testing.assert_allclose(places, np.rint(places), atol=1e-3)
    np.testing.assert_array_equal(label.array[tuple(voxels.T)], found)


def test_what_lies_outside_of_its_series_is_not_cut_off(dcmqi, make, bring):
    """The liver of three slices, of which one was lost, would have become the liver of two."""
    shutil.copytree(dcmqi / "ct-3slice", make.root / "ct-3slice")
    shutil.copyfile(dcmqi / "liver.dcm", make.root / "liver.dcm")
    ((_, label),) = masks(bring(output="whole")).values()
    whole = np.count_nonzero(label.array)
    (make.root / "ct-3slice" / "01.dcm").unlink()
    lost = min(np.count_nonzero(label.array[..., end]) for end in (0, 2))
    with pytest.raises(ImportingError, match=r"liver.dcm: \d+ of its \d+ voxels lie outside of its series of 2") as e:
        bring()
    assert str(whole) in str(e.value)
    assert lost > 0


@pytest.mark.parametrize("stated", [3.3, 5.0, 1.25, None])
def test_frames_lie_where_they_say_whatever_the_header_says_of_their_distance(dcmqi, make, bring, stated):
    """Series often state the thickness of their slices there, and what is made of them copies it."""
    shutil.copytree(dcmqi / "ct-3slice", make.root / "ct-3slice")
    seg = pydicom.dcmread(dcmqi / "liver.dcm")
    seg.save_as(make.root / "liver.dcm")
    ((_, expected),) = masks(bring(output="right")).values()
    (measures,) = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    del measures.SpacingBetweenSlices
    if stated is not None:
        measures.SpacingBetweenSlices = stated
    seg.save_as(make.root / "liver.dcm")
    ((_, label),) = masks(bring(output="otherwise")).values()
    np.testing.assert_array_equal(label.array, expected.array)


def test_a_series_is_its_folder(dcmqi, bring):
    made = bring(source=dcmqi, labels="liver.dcm")
    named = [entry["image"] for entry in made.datalist.training]
    assert all((made.datalist.root / image).is_dir() for image in named)
    copied = bring(source=dcmqi, labels="liver.dcm", output="copied", copy=True)
    places = [copied.datalist.root / entry["image"] for entry in copied.datalist.training]
    assert [path.relative_to(copied.datalist.root).parts[0] for path in places] == ["images"] * len(places)
    for first, second in zip(named, places, strict=True):
        ours, theirs = read_image(made.datalist.root / first), read_image(second)
        np.testing.assert_array_equal(ours.array, theirs.array)
        assert compare(ours.affine, theirs.affine, ours.shape).same
    assert copied.datalist.contents()[copied.datalist.training[0]["image"]] == made.datalist.contents()[named[0]]


def test_a_series_that_shares_its_folder_is_a_slice(dcmqi, make, bring):
    shutil.copytree(dcmqi, make.root)
    for path in (make.root / "ct-3slice").iterdir():
        path.rename(make.root / "24x38x3" / "image" / f"other_{path.name}")
    made = bring(labels="liver.dcm")
    assert all(str(entry["image"]).endswith(".dcm") for entry in made.datalist.training)
    assert len(set(made.datalist.contents().values())) == len(made.datalist.contents())


def test_a_series_in_two_folders_is_refused(dcmqi, make, bring):
    shutil.copytree(dcmqi, make.root)
    (make.root / "more").mkdir()
    (make.root / "ct-3slice" / "03.dcm").rename(make.root / "more" / "03.dcm")
    with pytest.raises(ImportingError, match=r"ct-3slice/01.dcm: its series goes on in more; put its slices into one"):
        bring(labels="liver.dcm")


def test_no_name_of_a_patient_is_written(dcmqi, bring):
    made = bring(source=dcmqi, labels="liver.dcm")
    identity = str(pydicom.dcmread(dcmqi / "ct-3slice/01.dcm", stop_before_pixels=True).PatientID)
    assert identity
    assert all(entry["group"].startswith("patient_") for entry in made.datalist.training)
    assert identity not in made.datalist.path.read_text()


def test_overlapping_segments(dcmqi, bring):
    with pytest.raises(
        Question, match=r"partial_overlaps.dcm: GREEN and ORANGE overlap in \d+ pixels; .* --order GREEN,ORANGE"
    ):
        bring(source=dcmqi, labels="partial_overlaps.dcm")
    made = bring(source=dcmqi, labels="partial_overlaps.dcm", order=("file",))
    assert made.datalist.class_names[2:] == ["GREEN", "ORANGE", "PURPLE", "LIGHT_BLUE", "DARK_BLUE"]


def test_threshold_of_highdicom(real_data, bring, left_out):
    pytest.importorskip("highdicom")
    made = bring(source=real_data / "dicom_ct_highdicom")
    ((image, label),) = masks(made).values()
    np.testing.assert_array_equal(label.array == 1, image.array > 200)
    assert left_out(made)["seg_image_ct_true_fractional.dcm"] == "refers to a series that is not here"


@pytest.fixture
def structures(real_data, make):
    """The two slices and the structure set of rt-utils, which tests may change."""
    shutil.copytree(real_data / "dicom_rtstruct_rtutils", make.root)
    path = make.root / "rt.dcm"

    def change(function):
        head = pydicom.dcmread(path)
        function(head)
        head.save_as(path)

    return change


def write_seg(folder, slices, target):
    """Write a SEG of one segment that fills some slices, from the foot upwards."""
    import highdicom

    images = sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda image: float(image.ImagePositionPatient[2]))
    tissue = highdicom.sr.CodedConcept("85756007", "SCT", "Tissue")
    described = highdicom.seg.SegmentDescription(
        1, "c1", tissue, tissue, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
    )
    mask = np.zeros((len(images), images[0].Rows, images[0].Columns), np.uint8)
    mask[slices, 2:9, 3:12] = 1
    kind = highdicom.seg.SegmentationTypeValues.BINARY
    uids = [highdicom.UID(), 1, highdicom.UID(), 1]
    highdicom.seg.Segmentation(images, mask, kind, [described], *uids, "m", "m", "1", "1").save_as(target)


def contour(points, kind="CLOSED_PLANAR"):
    item = Dataset()
    item.ContourGeometricType = kind
    item.NumberOfContourPoints = len(points)
    item.ContourData = [value for point in points for value in point]
    return item


def square(low, high, z):
    return contour([(low, low, z), (high, low, z), (high, high, z), (low, high, z)])


def test_frame_of_reference(structures, bring, left_out):
    with pytest.raises(
        ImportingError, match=r"^rt.dcm: its frame of reference is not that of the series .* --any-frame"
    ):
        bring()
    made = bring(any_frame=True)
    assert (made.found.layout, made.datalist.class_names) == ("dicom", ["background", "ROI-1"])
    ((_, label),) = masks(made).values()
    assert label.array.any()
    assert left_out(made) == {"LICENSE": "not part of dicom"}


def test_contours(structures, bring):
    """A square of 20 mm with a hole of 8 mm in the second slice: 0.48828 mm a pixel, its first centre at -125 mm."""

    def change(head):
        head.ROIContourSequence[0].ContourSequence = Sequence([square(-10, 10, 65), square(-4, 4, 65)])

    structures(change)
    ((image, label),) = masks(bring(any_frame=True)).values()
    at = [-(image.affine[axis, 3] + image.affine[axis, axis] * np.arange(512)) for axis in (0, 1)]  # LPS, mm
    x, y = np.meshgrid(*at, indexing="ij")
    expected = (np.maximum(abs(x), abs(y)) < 10) & ~(np.maximum(abs(x), abs(y)) < 4)
    second = int(np.argmax([label.array[..., z].any() for z in range(2)]))
    assert image.affine[2, 3] + second * image.affine[2, 2] == pytest.approx(65)
    np.testing.assert_array_equal(label.array[..., second] == 1, expected)
    assert not label.array[..., 1 - second].any()


def test_a_contour_that_is_there_twice_is_no_hole_of_itself(structures, bring):
    """As an odd number of contours counts, the region vanished from its slice."""

    def change(head):
        head.ROIContourSequence[0].ContourSequence = Sequence([square(-10, 10, 65), square(-10, 10, 65)])

    structures(change)
    ((_, label),) = masks(bring(any_frame=True)).values()
    assert np.count_nonzero(label.array) == pytest.approx((20 / 0.48828) ** 2, rel=0.05)


def test_a_region_of_every_second_slice_is_told(make, bring):
    """A program would interpolate it; here the slices between are background."""
    pytest.importorskip("highdicom", reason="DICOM SEG needs highdicom; pip install 'medseg[dicom]'")
    folder = write_series(
        make.root / "case" / "image", [2.0 * n for n in range(7)], tags(SpacingBetweenSlices=["2"] * 7), turn=AXIAL
    )
    write_seg(folder, np.arange(7) % 2 == 1, folder.parent / "seg.dcm")
    made = bring()
    assert any("seg.dcm: c1: drawn in no two slices that follow each other" in note for note in made.found.notes)
    write_seg(folder, np.arange(7) > 2, folder.parent / "seg.dcm")
    assert not any("no two slices" in note for note in bring(output="whole").found.notes)


def test_a_marker_is_no_class(structures, bring):
    """An isocentre became a class that no voxel has."""

    def change(head):
        marker, roi = Dataset(), Dataset()
        marker.ReferencedROINumber = roi.ROINumber = 99
        roi.ROIName = "ISO"
        marker.ContourSequence = Sequence([contour([(0, 0, 65)], "POINT")])
        head.ROIContourSequence.append(marker)
        head.StructureSetROISequence.append(roi)

    structures(change)
    made = bring(any_frame=True)
    assert made.datalist.class_names == ["background", "ROI-1"]
    assert "rt.dcm: ISO: points without an area, not drawn" in made.found.notes


@pytest.mark.parametrize(
    ("contours", "message"),
    [
        ([square(-10, 10, 62)], r"region ROI-1: a contour at z = 62 mm lies in no slice"),
        ([square(-10, 10, 90)], r"a contour at z = 90 mm lies in no slice"),
        ([contour([(0, 0, 60), (9, 9, 60)], "OPEN_PLANAR")], "a contour is OPEN_PLANAR, which encloses nothing"),
        ([], "no region has a contour"),
    ],
)
def test_bad_contours(structures, bring, contours, message):
    def change(head):
        head.ROIContourSequence[0].ContourSequence = Sequence(contours)

    structures(change)
    with pytest.raises(ImportingError, match=message):
        bring(any_frame=True)


def test_a_series_that_is_not_there(structures, make, bring):
    for path in make.root.glob("ct_*.dcm"):
        path.unlink()
    with pytest.raises(ImportingError, match=r"holds no case; rt.dcm: refers to a series that is not here"):
        bring(layout="dicom")


def test_without_highdicom(dcmqi, bring, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(
        ImportingError, match=r"reading DICOM SEG needs highdicom; install it: pip install 'medseg\[dicom\]'"
    ):
        bring(source=dcmqi, labels="liver.dcm")
