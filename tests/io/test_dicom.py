"""A DICOM series as a volume: against ITK's own reader of series, and what is refused."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from medseg.io.images import ImageError, read_image

DATA = Path(__file__).parents[3] / "shared" / "data"
SERIES = ("dicom_mr_hippocrop/study1", "dicom_mr_hippocrop/study2", "dicom_mr_hippocrop/study3_t1post",
          "dicom_ct_dcmqi/ct-3slice", "dicom_ct_dcmqi/24x38x3/image")  # fmt: skip


def _series(folder, positions, change=None):
    """Write slices at distances along the normal of an oblique plane, named against their order."""
    folder.mkdir(exist_ok=True)
    row, column = np.array([0.8, 0.6, 0.0]), np.array([-0.36, 0.48, 0.8])
    normal = np.cross(row, column)
    for number, distance in enumerate(positions):
        data = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"1.2.3.{number + 1}"
        data.ImagePositionPatient = [f"{value:.6f}" for value in np.array([10.0, 20, 30]) + distance * normal]
        data.ImageOrientationPatient = [*row, *column]
        data.PixelSpacing, data.SliceThickness = [0.5, 0.75], 2
        data.Rows, data.Columns = 16, 24
        data.PixelData = np.full((16, 24), 100 * number, np.int16).tobytes()
        if change is not None:
            change(number, data)
        data.save_as(folder / f"{len(positions) - number:02d}.dcm")
    return folder


def test_slices_are_ordered_by_place_and_scaled(tmp_path):
    folder = _series(tmp_path / "s", [4, 0, 2])
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


def _set(**tags):
    def change(number, data):
        for name, values in tags.items():
            setattr(data, name, values[number])

    return change


@pytest.mark.parametrize(
    ("positions", "change", "match"),
    [
        ([0, 2, 6, 8], None, r"1 slices are missing between 03\.dcm and 02\.dcm \(gap 4 mm, usually 2 mm\)"),
        ([0, 2, 2, 4], None, "lie at the same place"),
        ([0, 2, 4, 6.5, 9], None, "slices lie 2 to 2.5 mm apart"),
        ([0, 2], _set(PixelSpacing=[[0.5, 0.75], [0.5, 0.7]]), "differ in pixel spacing"),
        ([0, 2], _set(ImageOrientationPatient=[[1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1]]), "in different directions"),
        ([0, 2], _set(SeriesInstanceUID=["1.2", "1.3"]), "holds 2 series"),
        ([0, 2], _set(ImagePositionPatient=[None, [0, 0, 0]]), "states no ImagePositionPatient"),
        ([0, 2], _set(PixelData=[b"\0" * 768, b"\0" * 700]), "its header claims 1x16x24x1 values"),
    ],
)
def test_what_is_not_one_volume_is_refused(tmp_path, positions, change, match):
    folder = _series(tmp_path / "s", positions, change)
    with pytest.raises(ImageError, match=match) as error:
        read_image(folder)
    assert str(error.value).startswith(str(folder))
    assert "\n" not in str(error.value)


def test_a_file_chooses_its_series(tmp_path):
    folder = _series(tmp_path / "s", [0, 2, 4], _set(SeriesInstanceUID=["1.2", "1.2", "1.3"]))
    assert read_image(folder / "03.dcm").shape == (24, 16, 2)
    assert read_image(folder / "01.dcm").shape == (24, 16, 1)
    (folder / "note.txt").write_text("no DICOM")
    assert read_image(folder / "01.dcm").shape == (24, 16, 1)


def test_slopes_that_differ_between_slices_are_each_applied(tmp_path):
    folder = _series(tmp_path / "s", [0, 2], _set(RescaleSlope=["0.5", "0.25"], RescaleIntercept=["1", "-2"]))
    array = read_image(folder).array
    assert array.dtype == np.float32
    assert array[0, 0].tolist() == [1, 23]


def test_a_picture_without_a_place(tmp_path):
    path = get_testdata_file("examples_rgb_color.dcm", download=False)
    image = read_image(str(path))
    assert (image.kind, image.channels, image.affine) == ("picture", 3, None)
