"""Files that are no single slice, and series that hold more than one volume: refused by what they differ in."""

import gzip
import io
import re
import shutil

import pydicom
import pytest
from dicom_series import AXIAL, enhance, tags, write_series
from pydicom.dataset import Dataset

from medseg.io.dicom_series import list_series
from medseg.io.image_file import ImageError
from medseg.io.images import read_image

APART, TWICE = [0, 2, 4, 6], [0, 0, 2, 2]


def refused(folder):
    """Return why a folder is no volume, which its list of series says too."""
    with pytest.raises(ImageError) as error:
        read_image(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("told", ["type", "number"])
def test_a_mosaic_is_no_slice(tmp_path, count, told):
    """Of one time it would be a volume of one slice, of several times a volume of mosaics."""

    def mosaic(number, data):
        data.Modality = "MR"
        if told == "type":
            data.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
        else:
            data.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
            data.add_new(0x0019100A, "US", 36)

    folder = write_series(tmp_path / "s", APART[:count], mosaic, turn=AXIAL)
    assert "is a mosaic, all slices of a volume side by side in one picture; convert it" in refused(folder)
    (series,) = list_series(folder).series
    assert "is a mosaic" in series.problem
    for path in folder.iterdir():  # one without a place is no picture either
        data = pydicom.dcmread(path)
        del data.ImagePositionPatient
        data.save_as(path)
    assert "is a mosaic" in refused(folder)
    assert not list_series(folder).series[0].pictures


MAGNITUDE, PHASE = ["ORIGINAL", "PRIMARY", "M", "ND"], ["ORIGINAL", "PRIMARY", "P", "ND"]


@pytest.mark.parametrize(
    ("differing", "said"),
    [
        ({"EchoTime": [10, 80] * 2}, r"differ in echo time \(80.0 and 10.0\)"),
        ({"DiffusionBValue": [0.0, 1000.0] * 2}, r"differ in b-value \(1000.0 and 0.0\)"),
        ({"ImageType": [MAGNITUDE, PHASE] * 2}, r"differ in part of a complex image \(PHASE and MAGNITUDE\)"),
        ({"ComplexImageComponent": ["REAL", "IMAGINARY"] * 2}, r"complex image \(IMAGINARY and REAL\)"),
        ({"RescaleType": ["HU", "US"] * 2}, "differ in unit;"),
        ({"Units": ["BQML", "CNTS"] * 2}, "differ in unit;"),
        ({"FrameOfReferenceUID": ["1.2.1", "1.2.1", "1.2.2", "1.2.2"]}, "different frames of reference"),
        ({"StudyInstanceUID": ["1.2.1", "1.2.2"] * 2}, r"different studies \(StudyInstanceUID\)"),
        ({"PatientID": ["1", "2"] * 2}, r"different patients \(PatientID\)"),
        ({"PatientID": [""] * 4, "PatientName": ["Jane^Doe", "Joan^Roe"] * 2}, r"different patients \(PatientName\)"),
        ({"Modality": ["MR", "CT"] * 2}, r"different modalities \(Modality\)"),
    ],
)
def test_slices_of_two_kinds_are_no_volume_though_they_lie_apart(tmp_path, differing, said):
    folder = write_series(tmp_path / "s", APART, tags(**{"Modality": ["MR"] * 4, "RescaleType": [""] * 4, **differing}))
    why = refused(folder)
    assert re.search(said, why), why
    assert why.startswith(str(folder))
    assert "Jane" not in why
    if "StudyInstanceUID" not in differing:
        assert list_series(folder).series[0].problem == why


def test_what_may_differ_in_one_volume(tmp_path):
    """Rounded echo times, acquisitions slice by slice, tags that some slices lack."""
    differing = tags(
        Modality=["MR"] * 4,
        EchoTime=[2.46, 2.47, 2.46, 2.5],
        AcquisitionNumber=[1, 2, 3, 4],
        FrameOfReferenceUID=["1.2.3", "", "1.2.3", ""],
        ImageType=[MAGNITUDE, MAGNITUDE, ["DERIVED", "SECONDARY"], MAGNITUDE],
    )
    assert read_image(write_series(tmp_path / "s", APART, differing)).shape == (24, 16, 4)


@pytest.mark.parametrize(
    ("differing", "said"),
    [
        ({"TemporalPositionIdentifier": [1, 2] * 2}, r"and differ in temporal position \(2 and 1\): the series holds"),
        ({"AcquisitionNumber": [1, 2] * 2}, r"and differ in acquisition \(2 and 1\): the series holds several volumes"),
        ({"KVP": ["80", "140"] * 2}, r"and differ in tube voltage \(140 and 80\): the series holds"),
        ({"SOPInstanceUID": ["1.2.7"] * 4}, r"and are one image \(SOPInstanceUID\) twice; remove one"),
        ({}, "at the same place; remove one, or split the series"),
    ],
)
def test_slices_at_one_place_say_what_they_differ_in(tmp_path, differing, said):
    folder = write_series(tmp_path / "s", TWICE, tags(**differing))
    with pytest.raises(
        ImageError, match=r"slices 03\.dcm and 04\.dcm lie at the same place.*" + said.split("place")[-1]
    ):
        read_image(folder)


@pytest.mark.parametrize(
    ("sequence", "tag", "values", "said"),
    [
        ("MREchoSequence", "EffectiveEchoTime", [10.0, 80.0], "differ in echo time (10.0 and 80.0)"),
        ("MRDiffusionSequence", "DiffusionBValue", [0.0, 500.0], "differ in b-value (0.0 and 500.0)"),
        ("FrameContentSequence", "TemporalPositionIndex", [1, 2], "differ in temporal position (1 and 2)"),
        ("FrameContentSequence", "StackID", ["1", "2"], "differ in stack (1 and 2)"),
        ("MRImageFrameTypeSequence", "ComplexImageComponent", ["PHASE", "REAL"], "complex image (PHASE and REAL)"),
    ],
)
def test_frames_of_two_volumes_in_one_file(tmp_path, sequence, tag, values, said):
    folder = write_series(tmp_path / "s", [0, 2], turn=AXIAL)
    path = enhance(folder, tmp_path / "m" / "x.dcm", ["02.dcm", "01.dcm", "02.dcm", "01.dcm"])
    data = pydicom.dcmread(path)
    for frame, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        item = Dataset()
        setattr(item, tag, values[frame // 2])
        setattr(group, sequence, [item])
    data.save_as(path)
    assert said in refused(path)


def _bare(path, kept):
    """Take the preamble off a file, and its first group where it is not kept."""
    content = path.read_bytes()[132:]
    if not kept:
        stream = io.BytesIO()
        data = Dataset(pydicom.dcmread(path))
        pydicom.dcmwrite(stream, data, implicit_vr=True, little_endian=True, force_encoding=True)
        content = stream.getvalue()
    return content


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("IM01", lambda path: _bare(path, True), "DICOM file without a preamble; write it anew"),
        ("IM01", lambda path: _bare(path, False), "DICOM file without a preamble; write it anew"),
        ("IM01.dcm", lambda path: _bare(path, True), "DICOM file without a preamble; write it anew"),
        ("01.dcm.gz", lambda path: gzip.compress(path.read_bytes()), r"is a packed DICOM file (.gz); unpack it"),
    ],
)
def test_a_last_slice_of_another_form_does_not_vanish(tmp_path, name, change, said):
    """Without it the series is whole, and one slice too short."""
    folder = write_series(tmp_path / "s", APART)
    content = change(folder / "01.dcm")
    (folder / "01.dcm").unlink()
    (folder / name).write_bytes(content)
    assert refused(folder) == f"{folder / name}: {said}" + (
        " in DICOM's file format (dcmconv, or pydicom)" if "anew" in said else ""
    )
    assert list_series(folder).damaged == (folder / name,)


def test_other_files_beside_slices_are_none(tmp_path):
    folder = write_series(tmp_path / "s", APART)
    for number, content in enumerate(
        (b"\x08\x00\x05\x00", b"\x08\x00\x05\x00ABCDEFGH", b"\x02\x00\x99\x00UL\x04\x00", b"")
    ):
        (folder / f"other{number}").write_bytes(content)
    (folder / "table.csv.gz").write_bytes(gzip.compress(b"a,b"))
    assert list_series(folder).others == 5
    assert read_image(folder).shape == (24, 16, 4)


@pytest.mark.parametrize(("ratio", "said"), [([2, 1], ["2 high to 1 wide (PixelAspectRatio)"]), ([1, 1], [])])
def test_pixels_that_are_no_squares_are_told(tmp_path, ratio, said):
    def bare(number, data):
        del data.ImagePositionPatient, data.PixelSpacing
        data.PixelAspectRatio = ratio

    notes = read_image(write_series(tmp_path / "s", [0], bare)).notes
    assert [note for part in said for note in notes if part in note] == list(notes)
    assert len(notes) == len(said)


def test_a_directory_and_a_private_object_lie_beside(tmp_path):
    folder = write_series(tmp_path / "s", APART)
    data = pydicom.dcmread(folder / "01.dcm")
    for name in ("Rows", "Columns", "PixelData"):
        delattr(data, name)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.3.12.2.1107.5.9.1"
    data.save_as(folder / "csa")
    shutil.copy(pydicom.data.get_testdata_file("DICOMDIR", download=False), folder / "DICOMDIR")
    assert read_image(folder).shape == (24, 16, 4)
    assert {path.name for path in list_series(folder).left_out} == {"csa", "DICOMDIR"}
