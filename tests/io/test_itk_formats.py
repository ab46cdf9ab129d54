"""What ITK passes over of a header, or the header leaves open, is told."""

import numpy as np
import pytest

from medseg.io.images import ImageError, read_image

pytest.importorskip("itk", reason="NRRD needs itk; pip install itk")
DIRECTIONS = "space directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (10,20,30)\n"


@pytest.mark.parametrize(
    ("fields", "notes"),
    [
        ("space: left-posterior-superior\n", ()),
        ('space: RAS\nspace units: "mm" "mm" "mm"\n', ()),
        ("space: LAS\n", ()),
        ("space: scanner-xyz\n", ("lies in no patient's space (scanner-xyz): left and right are a guess",)),
        ("space: 3D-right-handed\n", ("lies in no patient's space (3D-right-handed): left and right are a guess",)),
        ("space dimension: 3\n", ("does not say where it lies (no space): left and right are a guess",)),
        ('space: LPS\nspace units: "um" "um" "um"\n', ("states lengths in um; they are taken as mm",)),
    ],
)
def test_what_an_nrrd_leaves_open_is_told(tmp_path, fields, notes):
    head = f"NRRD0004\ntype: short\ndimension: 3\nsizes: 2 3 4\nencoding: raw\nendian: little\n{fields}{DIRECTIONS}\n"
    (tmp_path / "a.nrrd").write_bytes(head.encode() + np.arange(24, dtype="<i2").tobytes())
    assert read_image(tmp_path / "a.nrrd").notes == notes


def _meta(path, fields="", kind="MET_SHORT", content=None, source="LOCAL"):
    values = np.arange(24, dtype="<i2").tobytes() if content is None else content
    head = "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 2 3 4\nElementSpacing = 2 3 4\n"
    head += f"Offset = 1 2 3\n{fields}ElementType = {kind}\nElementDataFile = {source}\n"
    path.write_bytes(head.encode() + (values if source == "LOCAL" else b""))
    if source != "LOCAL":
        (path.parent / source).write_bytes(values)
    return path


@pytest.mark.parametrize("source", ["LOCAL", "a.raw"])
@pytest.mark.parametrize(
    ("fields", "more", "notes"),
    [
        ("DistanceUnits = mm\n", 0, ()),
        ("DistanceUnits = um\n", 0, ("states lengths in um; they are taken as mm",)),
        ("ElementToIntensityFunctionSlope = 1.0\nElementToIntensityFunctionOffset = 0.00\n", 0, ()),
        (
            "ElementToIntensityFunctionSlope = 2\n",
            0,
            ("states how values are to be scaled (ElementToIntensityFunction); they are taken as they are stored",),
        ),
        ("", 48, ("holds 48 bytes more than its header claims",)),
    ],
)
def test_what_itk_passes_over_of_a_metaimage_is_told(tmp_path, source, fields, more, notes):
    content = np.arange(24, dtype="<i2").tobytes() + bytes(more)
    image = read_image(
        _meta(tmp_path / ("a.mha" if source == "LOCAL" else "a.mhd"), fields, content=content, source=source)
    )
    assert image.notes == notes
    np.testing.assert_array_equal(image.array.ravel(order="F"), np.arange(24))


@pytest.mark.parametrize("kind", ["MET_LONG", "MET_ULONG"])
def test_a_long_has_4_bytes(tmp_path, kind):
    """One of 8 had been read as its halves, and one of 4 was refused."""
    values = np.arange(24)
    image = read_image(_meta(tmp_path / "a.mha", kind=kind, content=values.astype("<i4").tobytes()))
    np.testing.assert_array_equal(image.array.ravel(order="F"), values)
    with pytest.raises(
        ImageError, match=rf"holds 8 bytes a value, and {kind} has 4; correct ElementType to {kind}_LONG"
    ):
        read_image(_meta(tmp_path / "b.mha", kind=kind, content=values.astype("<i8").tobytes()))
    image = read_image(_meta(tmp_path / "b.mha", kind=f"{kind}_LONG", content=values.astype("<i8").tobytes()))
    np.testing.assert_array_equal(image.array.ravel(order="F"), values)
