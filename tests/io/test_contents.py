"""Files that hold something else than their names say: one line says what, and what to do."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from medseg.io.images import ImageError, read_image

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)


def refused(path: Path) -> str:
    with pytest.raises(ImageError) as error:
        read_image(path)
    said = str(error.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said.removeprefix(f"{path}: ")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".nii", ".nii.gz", ".nrrd", ".mha", ".hdr"])
def test_pointers_and_pages_in_place_of_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    assert refused(path) == "holds a pointer of Git LFS, not the file itself; fetch it: git lfs pull"
    path.write_text("/annex/objects/MD5E-s1--0.nii.gz\n")
    assert refused(path).endswith("fetch it: git annex get")
    path.write_text("\n<!DOCTYPE html><title>404</title>")
    assert refused(path).startswith("holds a web page")


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("TIFF", "a.png", "holds a TIFF, whatever its name says; call it .tif"),
        ("PNG", "a.tif", "holds a PNG picture, whatever its name says; call it .png"),
        ("JPEG", "a.nii.gz", "holds a JPEG picture, whatever its name says; call it .png"),
        ("WEBP", "a.jpg", "holds a WebP picture, whatever its name says; convert it"),
        ("GIF", "a.png", "holds a GIF, whatever its name says; convert it"),
    ],
)
def test_pictures_under_another_format_s_name(tmp_path: Path, kind: str, name: str, said: str) -> None:
    Image.fromarray(GREY).save(tmp_path / name, format=kind)
    assert refused(tmp_path / name).startswith(said)


def test_what_is_wrong_inside_a_file_of_the_right_kind_is_still_said(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 4), np.complex64))
    assert "complex64" in refused(tmp_path / "a.tif")
    Image.fromarray(GREY).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-20])
    assert "restore the file" in refused(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert refused(tmp_path / "pipe.png").startswith("is a named pipe")
    dicom = tmp_path / "IM000001"  # a scanner's name
    dicom.write_bytes(bytes(128) + b"DICM" + bytes(40))
    assert "whatever its name says" not in refused(dicom)


def test_bytes_after_a_compressed_volume_and_two_times_compressed(tmp_path: Path) -> None:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(GREY[..., None], np.eye(4)), tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    packed = tmp_path / "a.nii.gz"
    packed.write_bytes(gzip.compress(content) + b"junk")
    assert refused(packed).startswith("goes on after its compressed bytes")
    packed.write_bytes(gzip.compress(gzip.compress(content)))
    assert refused(packed) == "is compressed twice; decompress it once"
    packed.write_bytes(gzip.compress(content[:99]) + gzip.compress(content[99:]))  # as bgzip and pigz write
    np.testing.assert_array_equal(read_image(packed).array[..., 0], GREY)
