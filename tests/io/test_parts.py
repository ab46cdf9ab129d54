"""Which files an image is read from: its hash and its stamp are theirs."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist
from medseg.io.parts import content_hash, parts_of, stored_bytes


@pytest.fixture
def series(real_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(real_data / "dicom_ct_dcmqi" / "ct-3slice", tmp_path / "ct"))


def test_a_folder_and_each_of_its_slices_are_the_series(series: Path) -> None:
    slices = tuple(sorted(series.glob("*.dcm")))
    (series / "notes.txt").write_text("no slice")
    assert len(slices) == 3
    assert parts_of(series) == parts_of(slices[0]) == parts_of(slices[2]) == slices
    assert stored_bytes(series) == sum(path.stat().st_size for path in slices)
    assert stored_bytes([slices[0], series / "gone.dcm"]) == stored_bytes(series)


def test_a_header_is_read_with_its_values(tmp_path: Path) -> None:
    values, affine = np.zeros((3, 4, 5), np.int16), np.eye(4)
    nibabel.Nifti1Pair(values, affine).to_filename(tmp_path / "a.hdr")
    assert parts_of(tmp_path / "a.hdr") == (tmp_path / "a.hdr", tmp_path / "a.img")
    header = "NDims = 3\nDimSize = 3 4 5\nElementType = MET_SHORT\nElementDataFile = "
    (tmp_path / "b.mhd").write_text(f"{header}b.raw\n")
    (tmp_path / "b.raw").write_bytes(bytes(120))
    (tmp_path / "c.mhd").write_text(f"{header}../b.raw\n")  # the reader refuses it
    assert parts_of(tmp_path / "b.mhd") == (tmp_path / "b.mhd", tmp_path / "b.raw")
    first = content_hash(tmp_path / "b.mhd")
    (tmp_path / "b.raw").write_bytes(bytes(119) + b"1")
    assert content_hash(tmp_path / "b.mhd") != first
    for name in ("c.mhd", "d.nii.gz", "e.dcm"):
        (tmp_path / name).touch()
        assert parts_of(tmp_path / name) == (tmp_path / name,)
    with pytest.raises(FileNotFoundError):
        parts_of(tmp_path / "gone.nii")


@pytest.mark.parametrize("named", ["ct", "ct/01.dcm"])
def test_any_slice_that_changes_is_another_volume(series: Path, named: str) -> None:
    """The fingerprint and the check of data see the whole series, whichever way a datalist names it."""
    label = np.ones((512, 512, 3), np.uint8)
    nibabel.Nifti1Image(label, np.eye(4)).to_filename(series.parent / "label.nii")
    content = {
        "name": "d", "version": 1, "modality": ["CT"], "licence": "", "source": "", "labels": {"0": "a", "1": "b"},
        "ignore_index": None, "training": [{"image": named, "label": "label.nii"}], "validation": [], "test": [],
    }  # fmt: skip
    data = Datalist(**{**content, "labels": {0: "a", 1: "b"}}, path=series.parent / "datalist.json")
    first = data.fingerprint()
    assert [check_datalist(data).files_read for _ in range(2)] == [2, 0]
    last = series / "03.dcm"
    last.write_bytes(last.read_bytes()[:-2] + b"\x01\x02")
    changed = data.fingerprint()
    assert changed != first
    assert check_datalist(data).files_read == 1
    last.rename(series / "renamed.dcm")  # what a slice is called says nothing
    assert data.fingerprint() == changed
