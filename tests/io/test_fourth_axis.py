"""Headers that say what a fourth axis is, written by nibabel and by hand."""

import nibabel
import numpy as np
import pytest

from medseg.io.images import FourthAxis, fourth_axis, read_image

NRRD = """NRRD0004
type: uint8
dimension: 4
space: left-posterior-superior
sizes: {sizes}
space directions: {directions}
kinds: {kinds}
encoding: raw
space origin: (0,0,0)
{more}"""
LAST = {"sizes": "3 4 5 2", "directions": "(1,0,0) (0,1,0) (0,0,2) none"}
FIRST = {"sizes": "2 3 4 5", "directions": "none (1,0,0) (0,1,0) (0,0,2)"}


def _nifti(path, shape, *, unit="unknown", step=0.0):
    image = nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4))
    image.header.set_xyzt_units("mm", unit)
    if len(shape) > 3:
        image.header["pixdim"][4] = step
    nibabel.save(image, path)


@pytest.mark.parametrize(("shape", "unit", "step", "expected"), [
    ((3, 4, 5), "sec", 0, None),
    ((3, 4, 5, 1), "sec", 2, None),
    ((3, 4, 5, 1, 2), "sec", 2, None),  # a vector of ITK's
    ((3, 4, 5, 2), "unknown", 2.5, FourthAxis(2)),
    ((3, 4, 5, 2), "sec", 1, FourthAxis(2)),  # as ITK writes channels
    ((3, 4, 5, 2), "sec", 0, FourthAxis(2)),
    ((3, 4, 5, 2), "sec", np.nan, FourthAxis(2)),
    ((3, 4, 5, 2), "sec", 2.5, FourthAxis(2, "2.5 s apart")),
    ((3, 4, 5, 2), "msec", 40, FourthAxis(2, "40 ms apart")),
    ((3, 4, 5, 2), "hz", 2, FourthAxis(2)),
])  # fmt: skip
def test_nifti(tmp_path, shape, unit, step, expected):
    _nifti(tmp_path / "a.nii.gz", shape, unit=unit, step=step)
    assert fourth_axis(tmp_path / "a.nii.gz") == expected
    said = "its fourth axis is time"
    assert any(said in note for note in read_image(tmp_path / "a.nii.gz").notes) == bool(expected and expected.time)


@pytest.mark.parametrize(("place", "kinds", "more", "expected"), [
    (LAST, "domain domain domain list", "", FourthAxis(2)),
    (LAST, "domain domain domain ???", "", FourthAxis(2)),
    (FIRST, "list domain domain domain", "", FourthAxis(2)),
    (FIRST, "vector domain domain domain", "", None),
    (FIRST, "list domain domain domain", "axis 0 index unit:=s\n", FourthAxis(2, "in s")),
    (FIRST, "list domain domain domain", "axis 0 index unit:=mm\n", FourthAxis(2)),
    (
        LAST,
        "domain domain domain list",
        "MultiVolume.FrameIdentifyingDICOMTagName:=TriggerTime\n",
        FourthAxis(2, "frames by TriggerTime"),
    ),
    (LAST, "domain domain domain time", "", FourthAxis(2, "of the kind time")),
])  # fmt: skip
def test_nrrd(tmp_path, place, kinds, more, expected):
    path = tmp_path / "a.nrrd"
    path.write_bytes(NRRD.format(**place, kinds=kinds, more=more).encode() + b"\n" + bytes(range(120)))
    assert fourth_axis(path) == expected
    if not kinds.endswith(("time", "???")):  # ITK counts those among the axes of space, and refuses four
        image = read_image(path)
        assert (image.shape, image.channels) == ((3, 4, 5), 2)
        values = np.arange(120, dtype=np.uint8).reshape([int(edge) for edge in place["sizes"].split()][::-1]).T
        np.testing.assert_array_equal(image.array, values if place is LAST else np.moveaxis(values, 0, -1))
        assert any("is time" in note for note in image.notes) == bool(expected and expected.time)


def test_metaimage(tmp_path):
    head = "ObjectType = Image\nNDims = {}\nDimSize = {}\n{}ElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(head.format(4, "3 4 5 2", "").encode() + bytes(120))
    (tmp_path / "b.mha").write_bytes(head.format(3, "3 4 5", "ElementNumberOfChannels = 2\n").encode() + bytes(120))
    assert fourth_axis(tmp_path / "a.mha") == FourthAxis(2)
    assert fourth_axis(tmp_path / "b.mha") is None
    assert read_image(tmp_path / "a.mha").channels == read_image(tmp_path / "b.mha").channels == 2


def test_pictures_have_none(tmp_path):
    assert fourth_axis(tmp_path / "a.png") is None
