"""A DICOM series as a volume: against ITK's own reader of series, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from dicom_series import AXIAL, enhance, tags, write_series
from pydicom.data import get_testdata_file

from medseg.io.dicom_series import list_series
from medseg.io.images import ImageError, read_image

DATA = Path(__file__).parents[3] / "shared" / "data"
SERIES = ("dicom_mr_hippocrop/study1", "dicom_mr_hippocrop/study2", "dicom_mr_hippocrop/study3_t1post",
          "dicom_ct_dcmqi/ct-3slice", "dicom_ct_dcmqi/24x38x3/image")  # fmt: skip


def test_slices_are_ordered_by_place_and_scaled(tmp_path):
    folder = write_series(tmp_path / "s", [4, 0, 2])
    image = read_image(folder)
    assert (image.shape, image.spacing) == ((24, 16, 3), pytest.approx((0.75, 0.5, 2)))
    assert image.array[0, 0].tolist() == [100 - 1024, 200 - 1024, -1024]
    lps = np.diag([-1, -1, 1, 1]) @ image.affine
    np.testing.assert_allclose(lps[:3, 0], np.array([0.8, 0.6, 0]) * 0.75)
    np.testing.assert_allclose(lps[:3, 1], np.array([-0.36, 0.48, 0.8]) * 0.5)
    np.testing.assert_allclose(lps[:3, 3], [10, 20, 30])
    same = read_image(folder / "02.dcm")
    np.testing.assert_array_equal(same.array, image.array)
    np.testing.assert_array_equal(same.affine, image.affine)


@pytest.mark.parametrize("name", SERIES)
def test_real_series_against_itk(name):
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip("needs the shared data")
    import itk

    image = read_image(folder)
    files = itk.GDCMSeriesFileNames.New(Directory=str(folder))
    truth = itk.imread(list(files.GetFileNames(files.GetSeriesUIDs()[0])), pixel_type=itk.F)
    np.testing.assert_array_equal(image.array.transpose(2, 1, 0), itk.array_from_image(truth))
    matrix = np.eye(4)
    matrix[:3, :3] = itk.array_from_matrix(truth.GetDirection()) * np.asarray(truth.GetSpacing())
    matrix[:3, 3] = truth.GetOrigin()
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ image.affine, matrix, atol=1e-4)


@pytest.mark.parametrize("name", ["brain1", "brain2", "breast1"])
def test_real_nrrd_against_its_text(name):
    path = DATA / "nrrd_mr_pyradiomics" / f"{name}_image.nrrd"
    if not path.is_file():
        pytest.skip("needs the shared data")
    import re

    text = path.read_bytes().split(b"\n\n")[0].decode()
    image = read_image(path)
    sizes = re.search(r"sizes: (.*)", text)
    assert image.shape == tuple(map(int, sizes[1].split()))
    vectors = re.findall(r"\(([^)]*)\)", re.search(r"space directions: (.*)", text)[1])
    origin = re.search(r"space origin: \((.*)\)", text)[1].split(",")
    lps = np.diag([-1, -1, 1, 1]) @ image.affine
    np.testing.assert_allclose(lps[:3, :3].T, [[float(v) for v in line.split(",")] for line in vectors], atol=1e-6)
    np.testing.assert_allclose(lps[:3, 3], [float(v) for v in origin], atol=1e-6)


def _colour(number, data):
    if number:
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0


def _wide(number, data):
    data.Columns = 12 if number else 24


@pytest.mark.parametrize(
    ("positions", "change", "match"),
    [
        ([0, 2, 6, 8], None, r"1 slice is missing between 03\.dcm and 02\.dcm \(gap 4 mm, usually 2 mm\)"),
        ([0, 2, 2, 4], None, "lie at the same place"),
        ([0, 2, 4, 6.5, 9], None, "slices lie 2 to 2.5 mm apart"),
        ([0, 2], tags(PixelSpacing=[[0.5, 0.75], [0.5, 0.7]]), "differ in pixel spacing"),
        ([0, 2], tags(ImageOrientationPatient=[[1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1]]), "in different directions"),
        ([0, 2], tags(SeriesInstanceUID=["1.2", "1.3"]), "holds 2 series"),
        ([0, 2], tags(ImagePositionPatient=[None, [0, 0, 0]]), "states no ImagePositionPatient"),
        ([0, 2], _colour, r"slice 01.dcm is in colour and 02.dcm is not; take the coloured ones out"),
        ([0, 2], _wide, r"slices differ in size \(16 x 12 in 01.dcm, 16 x 24 in 02.dcm\)"),
        ([0, 2], tags(PixelData=[b"\0" * 768, b"\0" * 700]), "its header claims 1x16x24x1 values"),
    ],
)
def test_what_is_not_one_volume_is_refused(tmp_path, positions, change, match):
    folder = write_series(tmp_path / "s", positions, change)
    with pytest.raises(ImageError, match=match) as error:
        read_image(folder)
    assert str(error.value).startswith(str(folder))
    assert "\n" not in str(error.value)


def test_a_file_chooses_itswrite_series(tmp_path):
    folder = write_series(tmp_path / "s", [0, 2, 4], tags(SeriesInstanceUID=["1.2", "1.2", "1.3"]))
    assert read_image(folder / "03.dcm").shape == (24, 16, 2)
    assert read_image(folder / "01.dcm").shape == (24, 16, 1)
    (folder / "note.txt").write_text("no DICOM")
    assert read_image(folder / "01.dcm").shape == (24, 16, 1)


def test_slopes_that_differ_between_slices_are_each_applied(tmp_path):
    folder = write_series(tmp_path / "s", [0, 2], tags(RescaleSlope=["0.5", "0.25"], RescaleIntercept=["1", "-2"]))
    image = read_image(folder)
    assert image.array.dtype == np.float32
    assert image.array[0, 0].tolist() == [1, 23]
    assert image.notes == ("slices have 2 different rescale slopes (0.25 to 0.5); each is applied to its own slice",)


def test_frames_of_one_file_are_ordered_and_scaled_as_slices_are(tmp_path):
    folder = write_series(tmp_path / "s", [0, 2, 4, 6])
    apart = read_image(folder)
    joined = read_image(enhance(folder, tmp_path / "e" / "mf.dcm", ["03.dcm", "01.dcm", "04.dcm", "02.dcm"]))
    np.testing.assert_array_equal(joined.array, apart.array)
    np.testing.assert_allclose(joined.affine, apart.affine, atol=1e-9)
    each = [(1, 0), (2, 1), (1, -5), (0.5, 0)]
    path = enhance(folder, tmp_path / "f" / "mf.dcm", ["04.dcm", "03.dcm", "02.dcm", "01.dcm"], transforms=each)
    image = read_image(path)
    assert image.array[0, 0].tolist() == [0, 201, 195, 150]
    assert "3 different rescale slopes (0.5 to 2)" in image.notes[0]


def test_localisers_and_secondary_captures_beside_a_series_are_left_out(tmp_path):
    folder = write_series(tmp_path / "s", [0, 2, 4])
    other = write_series(tmp_path / "o", [0, 9, 1], _beside)
    for path in other.iterdir():
        path.rename(folder / f"beside_{path.name}")
    image = read_image(folder)
    assert image.shape == (24, 16, 3)
    assert image.notes == (
        "2 files beside the slices are left out (localiser, such as beside_02.dcm)",
        "1 files beside the slices are left out (secondary capture without a place in the patient, such as "
        "beside_01.dcm)",
    )
    assert read_image(folder / "beside_03.dcm").shape == (24, 16, 2)  # named, so it is what is meant


def _beside(number, data):
    if number < 2:
        data.ImageType, data.SeriesInstanceUID = ["ORIGINAL", "PRIMARY", "LOCALIZER"], "1.9"
    else:
        data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        del data.ImagePositionPatient


def test_a_tilted_gantry_is_said(tmp_path):
    image = read_image(write_series(tmp_path / "s", [0, 2, 4], turn=AXIAL, shift=(0, -0.2679, 0)))
    assert image.notes == ("slices are stacked 15.0 degrees off their normal (a tilted gantry); the affine is sheared",)


@pytest.mark.parametrize(
    ("syntax", "match"),
    [
        ("1.2.840.10008.1.2.4.102", "is compressed as MPEG-4 AVC/H.264 .* cannot be decoded .no decoder"),
        ("1.2.840.10008.1.2.4.90", "is compressed as JPEG 2000 .*.its code is damaged, or of a kind that GDCM lacks"),
    ],
)
def test_what_cannot_be_decoded(tmp_path, syntax, match):
    from pydicom.encaps import encapsulate

    def compress(number, data):
        data.file_meta.TransferSyntaxUID = syntax
        data.PixelData = encapsulate([b"no code " * 200])
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True

    folder = write_series(tmp_path / "s", [0, 2], compress)
    with pytest.raises(ImageError, match=match + r".*; export the series uncompressed"):
        read_image(folder)


@pytest.mark.parametrize("kept", [0, 100, 132, 169, 189, 340, 900, -500])
def test_a_cut_slice_does_not_vanish(tmp_path, kept):
    """The last of a series: without it there is no gap that would tell."""
    folder = write_series(tmp_path / "series", [0, 1, 2])
    cut = folder / "01.dcm"
    cut.write_bytes(cut.read_bytes()[:kept])
    with pytest.raises(ImageError, match=r"01\.dcm: "):
        read_image(folder)
    listing = list_series(tmp_path)
    assert list(listing.damaged) == [cut] * (kept >= 0)  # whose tags are whole is a slice until its pixels are read


def test_a_picture_without_a_place(tmp_path):
    path = get_testdata_file("examples_rgb_color.dcm", download=False)
    image = read_image(str(path))
    assert (image.kind, image.channels, image.affine) == ("picture", 3, None)
