"""DICOM whose tags are wrong: the file is named, with what it holds, and only the reader's own error is raised."""

import random
import shutil
import struct
import zlib

import pydicom
import pytest
from dicom_series import enhance, tags, write_series
from fuzz_dicom import BOMB, damage_dicom
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate

from medseg.io import dicom_heads, dicom_pixels
from medseg.io.dicom_series import list_series
from medseg.io.images import ImageError, read_image


def raw(name, value):
    """Return a change that puts bytes into the second slice's tag as they are."""

    def change(number, data):
        if number == 1:
            tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(name))
            kind = pydicom.datadict.dictionary_VR(tag)
            data[tag] = pydicom.dataelem.RawDataElement(tag, kind, len(value), value, 0, False, True)

    return change


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RescaleSlope", b"1\\2 ", r"its RescaleSlope is '1\\\\2 ', not a number; correct it or restore the file"),
        ("RescaleSlope", b"nan ", "its RescaleSlope is 'nan ', not a number"),
        ("RescaleSlope", b"0 ", "its RescaleSlope is 0, which leaves no values; correct it"),
        ("RescaleIntercept", b"1e999 ", "its RescaleIntercept is '1e999 ', not a number"),
        ("RescaleIntercept", b"Doe^Jane", "its RescaleIntercept is text, not a number"),  # of another tag, perhaps
        ("PixelSpacing", b"0.5 ", r"its PixelSpacing is '0\.5 ', not 2 numbers"),
        ("ImagePositionPatient", b"1\\2\\x ", "its ImagePositionPatient is text, not 3 numbers"),
        ("NumberOfFrames", b"abc ", "its NumberOfFrames is text, not a number"),
        ("Rows", b"\x10\0\x10\0", r"its Rows is .*, not a number"),
    ],
)
def test_tags_that_are_no_numbers_name_the_slice(tmp_path, name, value, said):
    folder = write_series(tmp_path / "s", [0, 2, 4], raw(name, value))
    with pytest.raises(ImageError, match=rf"02\.dcm: {said}") as error:
        read_image(folder)
    assert "\n" not in str(error.value)
    listing = list_series(folder)  # and listing it raises nothing
    assert list(listing.damaged) == [folder / "02.dcm"]


@pytest.mark.parametrize(
    ("group", "values", "said"),
    [
        ("PixelValueTransformationSequence", {"RescaleSlope": 0}, "its RescaleSlope is 0, which leaves no values"),
        ("PixelValueTransformationSequence", {"RescaleSlope": None}, "are to be rescaled and state no RescaleSlope"),
        ("PixelValueTransformationSequence", {"RescaleIntercept": None}, "and state no RescaleIntercept; correct it"),
        ("PixelValueTransformationSequence", {"RescaleSlope": b"nan "}, "its RescaleSlope is 'nan ', not a number"),
        ("PixelMeasuresSequence", {"SpacingBetweenSlices": b"abc "}, "its SpacingBetweenSlices is text, not a number"),
        ("PixelMeasuresSequence", {"PixelSpacing": b"1\\inf "}, r"its PixelSpacing is '1\\\\inf ', not 2 numbers"),
    ],
)
def test_numbers_of_frames_are_numbers_too(tmp_path, group, values, said):
    """A slope of 0 had made an image of nothing, text an error without a file."""
    names = [path.name for path in sorted(write_series(tmp_path / "s", [0, 2, 4]).iterdir())]
    file = enhance(tmp_path / "s", tmp_path / "e" / "x.dcm", names, transforms=[(1, 0), (2, 5), (1, 0)])
    assert read_image(file).shape == (24, 16, 3)
    data = pydicom.dcmread(file)
    frames = (*data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence[1])
    item = next(frame[group][0] for frame in frames if group in frame)
    for name, value in values.items():
        if isinstance(value, bytes):
            raw(name, value)(1, item)
        else:
            setattr(item, name, value)
    data.save_as(file)
    with pytest.raises(ImageError, match=rf"x\.dcm: .*{said}"):
        read_image(file)
    assert list(list_series(tmp_path / "e").damaged) == [file]


def test_a_slice_whose_tags_are_read_as_one_unknown_one_is_damaged(tmp_path):
    """As where the length of the first group is wrong: at an end it was passed over, the series one slice shorter."""
    folder = write_series(tmp_path / "s", [0, 2, 4, 6])
    data = pydicom.dcmread(folder / "01.dcm")
    shell = pydicom.Dataset()
    shell.file_meta, shell.preamble = data.file_meta, data.preamble
    shell.file_meta.MediaStorageSOPClassUID = "1.2.3"
    shell.add_new((0x7242, 0x776F), "UN", b"8" * 90)
    pydicom.dcmwrite(folder / "01.dcm", shell)
    assert list(list_series(folder).damaged) == [folder / "01.dcm"]
    with pytest.raises(ImageError, match=r"01\.dcm: damaged DICOM file \(its tags do not say what it is\)"):
        read_image(folder)


def test_an_empty_tag_is_a_missing_one(tmp_path):
    folder = write_series(tmp_path / "s", [0, 2, 4], raw("RescaleSlope", b""))
    assert read_image(folder).shape == (24, 16, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (tags(BitsStored=[16, 99, 16]), r"02\.dcm: its values cannot be decoded \(.*Bits Stored.*\); restore the file"),
        (tags(PhotometricInterpretation=["MONOCHROME2", "MONOCHROME1", "MONOCHROME2"]), r"small values are white"),
        (tags(PhotometricInterpretation=["", "", ""]), "does not say whether it is grey or in colour"),
        (raw("PhotometricInterpretation", b"X" * 98), rf"holds colours as {'X' * 40} \(Photo"),
    ],
)
def test_tags_that_do_not_go_together(tmp_path, change, said):
    folder = write_series(tmp_path / "s", [0, 2, 4], change)
    with pytest.raises(ImageError, match=said):
        read_image(folder)


def test_a_syntax_that_is_none(tmp_path):
    def change(number, data):
        data.file_meta.TransferSyntaxUID = "1.2.3.4"

    with pytest.raises(ImageError, match=r"says in no known way \('1.2.3.4'\) how its values are stored"):
        read_image(write_series(tmp_path / "s", [0, 2], change))


def jpeg_2000(path, **changed):
    data = pydicom.dcmread(str(get_testdata_file("JPEG2000.dcm", download=False)))
    for name, value in changed.items():
        setattr(data, name, value)
    data.save_as(path)
    return path


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "is in the colours of a palette that it does not hold"),
        ({"BitsStored": 17}, r"tags do not go together \(16 bits allocated, 17 stored, 1 samples a pixel, sign 1\)"),
        ({"HighBit": 3}, "its HighBit is 3 with 16 bits stored"),
        ({"SamplesPerPixel": 3}, "holds 3 samples a pixel as MONOCHROME2"),
    ],
)
def test_what_gdcm_would_end_the_process_of(tmp_path, changed, said):
    assert read_image(jpeg_2000(tmp_path / "x.dcm")).shape
    with pytest.raises(ImageError, match=said):
        read_image(jpeg_2000(tmp_path / "x.dcm", **changed))


def test_kinds_that_pydicom_does_not_know(tmp_path):
    for number, name in enumerate(("nested_priv_SQ.dcm", "meta_missing_tsyntax.dcm")):
        (tmp_path / f"{number}").mkdir()
        shutil.copy(str(get_testdata_file(name, download=False)), tmp_path / f"{number}")
        listing = list_series(tmp_path / f"{number}")
        assert len(listing.left_out) == 1


@pytest.mark.parametrize("name", ["SOPClassUID", "Modality", "ImageType", "SeriesDescription"])
def test_what_pydicom_says_of_a_tag_reaches_no_log(tmp_path, caplog, name):
    """Its warnings repeat values; here they would be errors."""
    folder = write_series(tmp_path / "s", [0, 2, 4], raw(name, b"Doe^Jane\xff of a very long name."))
    listing = list_series(folder)
    assert sum(series.slices for series in listing.series) + len(listing.left_out) == 3
    assert "Doe" not in caplog.text


def test_a_deflated_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr("fuzz_dicom.BOMB", 30 << 20)
    monkeypatch.setattr(dicom_heads, "_INFLATED", 1 << 20)
    content = (write_series(tmp_path / "s", [0]) / "01.dcm").read_bytes()
    drawn = (damage_dicom(content, random.Random(seed)) for seed in range(999))
    bomb = next(content for kind, content in drawn if kind == "bomb")
    assert len(bomb) < 100_000
    assert BOMB > 30 << 20
    (tmp_path / "b.dcm").write_bytes(bomb)
    with pytest.raises(
        ImageError, match=r"b\.dcm: is deflated, and unpacks to more than \d+ MiB; if it is not damaged"
    ):
        read_image(tmp_path / "b.dcm")
    start = 144 + int.from_bytes(bomb[140:144], "little")
    monkeypatch.setattr(dicom_heads, "_INFLATED", 1 << 28)
    assert len(zlib.decompressobj(-15).decompress(bomb[start:])) > 30 << 20  # what was refused unread


def test_a_run_length_bomb(tmp_path):
    code = struct.pack("<16I", 2, 64, 66, *[0] * 13) + bytes((129, 7, 129, 7))

    def change(number, data):
        data.Rows = data.Columns = 20000
        data.PixelData = encapsulate([code])
        data["PixelData"].VR = "OB"
        data.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless

    folder = write_series(tmp_path / "s", [0], change)
    with pytest.raises(ImageError, match=r"01\.dcm: its header claims 1x20000x20000x1 values \(800000000 bytes\)"):
        read_image(folder)


def test_pictures_without_a_place_are_told_from_slices_that_lost_theirs(tmp_path):
    def bare(number, data):
        del data.ImagePositionPatient
        data.Modality = "CR"

    assert [series.pictures for series in list_series(write_series(tmp_path / "x", [0, 1, 2], bare)).series] == [True]

    def lost(number, data):
        del data.ImagePositionPatient

    (series,) = list_series(write_series(tmp_path / "s", [0, 1, 2], lost)).series
    assert not series.pictures
    assert "states no ImagePositionPatient" in series.problem


def test_what_a_tag_holds_is_shown_only_where_it_is_a_number():
    assert dicom_heads._told(b"0.5\\0.5") == repr("0.5\\0.5")
    assert dicom_heads._told(b"Doe^J") == "text"


def test_want_of_memory_is_no_damage(tmp_path, monkeypatch):
    def decode(path, data, plain):
        raise MemoryError

    folder = write_series(tmp_path / "s", [0, 2, 4])
    monkeypatch.setattr(dicom_pixels, "_stored", decode)
    with pytest.raises(ImageError, match="memory") as caught:
        read_image(folder)
    assert "restore" not in str(caught.value)


def test_a_dose_of_damaged_numbers_beside_a_series_is_left_out(tmp_path):
    folder = write_series(tmp_path / "s", [0, 2, 4])
    shutil.copy(str(get_testdata_file("badVR.dcm", download=False)), folder / "dose.dcm")
    assert read_image(folder).shape == (24, 16, 3)
    assert not list_series(folder).damaged
