"""Every image that nibabel, pydicom, tifffile and scikit-image ship for their tests: read as they do, or refused."""

import importlib
import os
import warnings
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.io.images import SUFFIXES, ImageError, read_image

_NO_IMAGES = (".py", ".pyc", ".so", ".typed", ".json", ".rst", ".ini", ".md", ".m", ".h", ".txt", ".icc", ".dump")


def _files(package):
    root = Path(importlib.import_module(package).__file__).parent
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix.lower() not in _NO_IMAGES and "__pycache__" not in path.parts:
            yield path


def _pictures(path):
    """Pillow's values of PNG and JPEG, tifffile's of TIFF; both are what scikit-image's ``imread`` gives."""
    import tifffile
    from PIL import Image

    if path.suffix == ".tif":
        return tifffile.imread(path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB") if image.mode == "P" else image)


def _compare_picture(path, image):
    truth = np.asarray(_pictures(path))
    if truth.ndim == 3 and truth.shape[-1] in (2, 4) and image.channels == truth.shape[-1] - 1:
        assert (truth[..., -1] == np.iinfo(truth.dtype).max).all()
        truth = truth[..., :-1]
    if truth.dtype == np.bool_:
        truth = truth * np.uint8(255)
    array = image.array
    if array.dtype == np.uint16 and truth.dtype == np.uint8:  # Pillow cuts 16-bit colours to their upper half
        array = array >> 8
    if image.channels > 1 and truth.shape[1] == image.channels:  # planes of colours
        truth = np.moveaxis(truth, 1, -1)
    np.testing.assert_array_equal(array.squeeze(), truth.squeeze())


def _compare_nifti(path, image):
    truth = nibabel.load(path)
    np.testing.assert_allclose(image.array.squeeze(), np.asanyarray(truth.dataobj).squeeze(), rtol=1e-6)
    np.testing.assert_allclose(image.affine, truth.affine, atol=1e-9)


def _compare_dicom(path, image):
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_rescale, pixel_array

    data = pydicom.dcmread(path)
    try:
        pixels = pixel_array(data)
    except Exception:  # pydicom has no decoder for it here; then Insight's own (SimpleITK's kin) has the word
        return "read where pydicom alone cannot"
    if data.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, data)
    truth = apply_rescale(pixels, data)
    array = image.array
    if image.kind == "volume":
        array = np.moveaxis(array, 2, 0).swapaxes(1, 2)
        truth = truth if data.get("NumberOfFrames", 1) > 1 else truth[None]
    if not image.lossy:
        np.testing.assert_allclose(array, truth, rtol=1e-6)
        return "read"
    assert array.shape == truth.shape  # two JPEG decoders round differently
    assert np.abs(array.astype(float) - truth).max() <= 0.03 * max(float(np.ptp(truth)), 100)
    return "read, lossy"


def _compare(path, image):
    if path.name.lower().endswith((".nii", ".nii.gz", ".hdr")):
        return _compare_nifti(path, image)
    return _compare_dicom(path, image) if path.suffix in (".dcm", "") else _compare_picture(path, image)


def _tally(paths, tmp_path):
    """Read files; return how many were read or refused, which is to be in one line that begins with the path."""
    counts = Counter()
    for number, path in enumerate(paths):
        own = path
        if path.suffix in (".dcm", ""):  # a DICOM file is read with its series: give each a folder of its own
            own = tmp_path / str(number) / path.name
            own.parent.mkdir()
            own.symlink_to(path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = read_image(own)
                said = _compare(path, image) or "read"
        except ImageError as error:
            if "\n" in str(error) or not str(error).startswith(str(own.parent)):
                raise AssertionError(f"not one line that begins with the path: {error}") from error
            said = "refused" if path.name.lower().endswith(SUFFIXES) else "refused: no format of ours"
        counts[said] += 1
    return counts


@pytest.mark.parametrize(("package", "least"), [("nibabel", 8), ("pydicom", 40), ("tifffile", 0), ("skimage", 26)])
def test_read_right_or_refused(package, least, tmp_path, capsys):
    counts = _tally(_files(package), tmp_path)
    with capsys.disabled():
        print(f"\n{package}: {dict(counts)}")
    assert sum(count for said, count in counts.items() if said.startswith("read")) >= least


def test_highdicoms_own_files(real_data, tmp_path):
    """Of its repository, as its wheel has none: samples beside the data, or the folder MEDSEG_TEST_HIGHDICOM."""
    folder = Path(os.environ.get("MEDSEG_TEST_HIGHDICOM", real_data / "dicom_ct_highdicom"))
    files = sorted(path.resolve() for path in folder.glob("*.dcm"))
    counts = _tally(files, tmp_path)
    assert set(counts) <= {"read", "refused"}
    assert counts["read"] == sum(path.name in ("ct_image.dcm", "dx_image.dcm") for path in files) > 0
