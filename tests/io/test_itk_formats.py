"""What an NRRD's header leaves open of where its voxels lie is told: ITK says nothing of it."""

import numpy as np
import pytest

from medseg.io.images import read_image

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
