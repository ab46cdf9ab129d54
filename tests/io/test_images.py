import struct
import zlib

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from medseg.io import pictures
from medseg.io.images import ImageError, read_image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 255, (6, 9), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "A.PNG"])
def test_grey(tmp_path, name):
    Image.fromarray(GREY).save(tmp_path / name)
    image = read_image(tmp_path / name)
    np.testing.assert_array_equal(image.array, GREY)
    assert (image.shape, image.channels, image.spacing) == ((6, 9), 1, None)


def test_jpeg(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").shape == (6, 9)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("RGBA", 4), ("LA", 2)])
def test_colour(tmp_path, mode, channels):
    picture = Image.fromarray(GREY).convert(mode)
    if mode.endswith("A"):
        picture.putalpha(100)
    picture.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image.shape, image.channels, image.array.shape) == ((6, 9), channels, (6, 9, channels))


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1)])
def test_opaque_alpha_is_left_out(tmp_path, mode, channels):
    Image.fromarray(GREY).convert(mode).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image.shape, image.channels) == ((6, 9), channels)
    np.testing.assert_array_equal(image.array.reshape(6, 9, -1)[..., 0], GREY)


def test_one_bit_and_sixteen_bit(tmp_path):
    Image.fromarray(GREY > 99).save(tmp_path / "bit.png")
    assert set(np.unique(read_image(tmp_path / "bit.png", label=True).array)) == {0, 1}
    Image.fromarray(GREY.astype(np.uint16) * 200).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png").array, GREY.astype(np.uint16) * 200)


def test_palette(tmp_path):
    indices = GREY % 3
    image = Image.fromarray(indices)
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_image(tmp_path / "p.png", label=True).array, indices)
    colours = read_image(tmp_path / "p.png")
    assert colours.channels == 3
    assert colours.palette
    assert colours.array[..., 0].max() == 128


@pytest.mark.parametrize(
    ("array", "options", "shape", "channels"),
    [
        (np.ones((6, 9), np.float32), {}, (6, 9), 1),
        (np.ones((6, 9, 3), np.uint16), {"photometric": "rgb"}, (6, 9), 3),
        (np.ones((5, 6, 9), np.uint8), {"photometric": "minisblack"}, (5, 6, 9), 1),
        (np.ones((2, 6, 9), np.uint8), {"photometric": "minisblack", "planarconfig": "separate"}, (6, 9), 2),
    ],
)
def test_tiff(tmp_path, array, options, shape, channels):
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    image = read_image(tmp_path / "a.tif")
    assert (image.shape, image.channels) == (shape, channels)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti(tmp_path, name):
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6), np.int16), np.diag([0.5, 0.75, 3, 1])), tmp_path / name)
    image = read_image(tmp_path / name)
    assert (image.shape, image.channels, image.spacing) == ((4, 5, 6), 1, (0.5, 0.75, 3.0))
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6, 2), np.int16), np.eye(4)), tmp_path / name)
    assert (read_image(tmp_path / name).shape, read_image(tmp_path / name).channels) == ((4, 5, 6), 2)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.nii", "a.nii.gz"])
@pytest.mark.parametrize("keep", [0, 0.1, 0.6])
def test_truncated(tmp_path, name, keep):
    path = tmp_path / name
    noise = RNG.integers(0, 255, (64, 64), dtype=np.uint8)
    if ".nii" in name:
        nibabel.save(nibabel.Nifti1Image(noise.reshape(16, 16, 16), np.eye(4)), path)
    else:
        Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(ImageError) as error:
        read_image(path)
    assert str(error.value).startswith(f"{path}: ")


def test_garbage_under_every_name(tmp_path):
    for name in ("a.png", "a.jpg", "a.tif", "a.nii", "a.nii.gz"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 20)
        with pytest.raises(ImageError, match=r"damaged|ends too early|is not compressed"):
            read_image(tmp_path / name)


def test_bombs(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(png)
    with pytest.raises(ImageError, match=r"bomb\.png"):
        read_image(tmp_path / "bomb.png")
    nifti = nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4))
    nibabel.save(nifti, tmp_path / "bomb.nii")
    data = bytearray((tmp_path / "bomb.nii").read_bytes())
    data[42:48] = struct.pack("<hhh", 32767, 32767, 32767)
    (tmp_path / "bomb.nii").write_bytes(bytes(data))
    with pytest.raises(ImageError, match=r"bomb\.nii: claims 32767x32767x32767 values"):
        read_image(tmp_path / "bomb.nii")


def test_other_errors(tmp_path):
    with pytest.raises(ImageError, match=r"none\.png: no such file"):
        read_image(tmp_path / "none.png")
    (tmp_path / "a.xyz").write_bytes(b"1")
    with pytest.raises(ImageError, match=r"format \.xyz is unknown; known are \.png"):
        read_image(tmp_path / "a.xyz")
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 4), np.complex64))
    with pytest.raises(ImageError, match="type complex64"):
        read_image(tmp_path / "a.tif")


def test_colours_for_print_are_read_as_rgb(tmp_path):
    red = Image.new("CMYK", (9, 6), (0, 255, 255, 0))  # no cyan, all magenta and yellow, no black
    red.save(tmp_path / "print.jpg", quality=100)
    image = read_image(tmp_path / "print.jpg")
    assert (image.shape, image.channels, image.lossy) == ((6, 9), 3, True)
    assert np.abs(image.array.astype(int) - (255, 0, 0)).max() <= 2
    assert image.notes == ("its CMYK colours are read as RGB, without their profile",)
    with pytest.raises(ImageError, match="holds colours as CMYK; convert it to grey or RGB"):
        read_image(tmp_path / "print.jpg", label=True)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16", "I", "F"])
def test_a_picture_is_the_same_whole_and_in_bands(mode, monkeypatch):
    drawn = np.random.default_rng(0).integers(0, 256, (11, 5, 4)).astype(np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(drawn[..., 0].astype(np.uint16) * 200)
    else:
        picture = Image.fromarray(drawn).convert(mode)
    whole = pictures._as_array(picture)
    whole[0] = whole[0]  # it may be written to
    monkeypatch.setattr(pictures, "_BAND", 15)  # three rows: the last band is shorter
    banded = pictures._as_array(picture)
    assert (banded.dtype, banded.shape[:2]) == (whole.dtype, (11, 5))
    assert np.array_equal(banded, whole)
