"""Files that lie: wrong checksums, claims without bytes, things that are no files."""

import gzip
import os
import socket
import struct
import tracemalloc
import warnings
import zlib

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from medseg.io.images import ImageError, read_image

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 255, (40, 50), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 255, (24, 20, 3), dtype=np.uint8)


def _refused(path, match, **options):
    with pytest.raises(ImageError, match=match) as error:
        read_image(path, **options)
    assert str(error.value).startswith(f"{path}")
    assert "\n" not in str(error.value)


def test_gzip_checksum_is_read_to_its_end(tmp_path):
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(NOISE[..., None].astype(np.int16), np.eye(4)), path)
    good = path.read_bytes()
    for place in (-8, -5, -1, len(good) // 2):  # checksum, checksum, length, values
        bad = bytearray(good)
        bad[place] ^= 0x10
        path.write_bytes(bad)
        with pytest.raises(Exception, match=r"."):
            gzip.decompress(bytes(bad))
        _refused(path, r"a\.nii\.gz: (damaged|ends too early)")
    path.write_bytes(good[:-3])
    _refused(path, "ends too early")


@pytest.mark.parametrize("kind", [b"IHDR", b"tEXt", b"IDAT", b"IEND"])
def test_every_checksum_of_a_png_is_verified(tmp_path, kind):
    from PIL.PngImagePlugin import PngInfo

    path, info = tmp_path / "a.png", PngInfo()
    info.add_text("note", "a word")
    Image.fromarray(NOISE).save(path, pnginfo=info)
    data = bytearray(path.read_bytes())
    start = data.index(kind)
    length = int.from_bytes(data[start - 4 : start], "big")
    data[start + 4 + length] ^= 1
    path.write_bytes(data)
    _refused(path, f"checksum of its {kind.decode()} chunk does not fit")


def test_png_without_its_end_is_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(NOISE).save(path)
    path.write_bytes(path.read_bytes()[:-12])
    _refused(path, "ends too early, before its end mark")


def _png(path, values, size, bits=8, interlaced=False):
    """Write a PNG with right checksums, whatever its header says of its pixels."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    parts = [values[y::down, x::across] for x, y, across, down in (passes if interlaced else [(0, 0, 1, 1)])]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    packed = zlib.compress(rows)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *size, bits, 0, 0, 0, interlaced))]
    chunks += [(b"IDAT", packed[:9]), (b"IDAT", packed[9:]), (b"IEND", b"")]
    body = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_whose_header_does_not_fit_its_pixels(tmp_path, interlaced):
    """Of fewer columns Pillow returns a sheared picture, of fewer rows a part of one."""
    path = tmp_path / "a.png"
    for size in ((49, 40), (50, 39), (25, 40), (51, 40), (50, 41)):
        _png(path, NOISE, size, interlaced=interlaced)
        there = "more" if size < (50, 40) else r"\d+"
        _refused(path, rf"claims {size[1]}x{size[0]}x1 values of 8 bits, whose .* but {there} are there")
    _png(path, NOISE, (50, 40), bits=16, interlaced=interlaced)
    _refused(path, r"values of 16 bits, whose rows are \d+ bytes, but \d+ are there")
    for height, width in ((1, 1), (1, 5), (5, 1), (3, 2), (9, 7), (40, 50)):
        _png(path, NOISE[:height, :width], (width, height), interlaced=interlaced)
        np.testing.assert_array_equal(read_image(path).array, NOISE[:height, :width])


def _claims(path):
    """Write a small file whose header claims much."""
    if ".nii" in path.name:
        header = nibabel.Nifti1Header()
        header.set_data_shape((2000, 1000, 1000))
        header.set_data_dtype(np.float64)
        header["vox_offset"], header["magic"] = 352, b"n+1"
        content = header.binaryblock + b"\0" * 4
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    elif path.suffix == ".png":
        _png(path, np.zeros((1, 98), np.uint8), (13_000, 13_000))
    elif path.suffix == ".bmp":
        Image.fromarray(NOISE).save(path)
        data = bytearray(path.read_bytes())
        data[18:26] = struct.pack("<ii", 9000, 9000)
        path.write_bytes(data)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, NOISE, compression="zlib", metadata=None)
        with tifffile.TiffFile(path, mode="r+b") as file:
            for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
                file.pages[0].tags[name].overwrite(40_000, dtype=4)
    elif path.suffix == ".nrrd":
        text = "NRRD0004\ntype: double\ndimension: 3\nsizes: 2000 1000 1000\nencoding: {}\nendian: little\n\n"
        packed = path.name.startswith("gz")
        path.write_bytes(text.format("gzip" if packed else "raw").encode() + gzip.compress(b"\0" * 99))
    else:
        lines = "NDims = 3\nDimSize = 2000 1000 1000\nElementType = MET_DOUBLE\nElementDataFile = LOCAL\n"
        path.write_bytes(("ObjectType = Image\n" + lines).encode() + b"\0" * 99)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.png", "a.bmp", "a.tif", "a.nrrd", "gz.nrrd", "a.mha"])
def test_a_claim_is_compared_before_memory_is_asked_for(tmp_path, name):
    _claims(tmp_path / name)
    tracemalloc.start()
    try:
        _refused(tmp_path / name, r"its header claims \d+x\d+\S* values \(\d+ bytes\), but only \d+ bytes are there")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 30 << 20


def test_what_follows_a_volume_is_noted_or_refused(tmp_path):
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(NOISE[..., None], np.eye(4)), path)
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content + b"\0" * 5))
    assert read_image(path).notes == ("holds 5 bytes more than its header claims",)
    path.write_bytes(gzip.compress(content + b"\0" * (5 << 20)))
    _refused(path, "holds far more than the 2000 bytes its header claims")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".nii", ".nii.gz", ".nrrd", ".mha", ".dcm"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, suffix):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    _refused(tmp_path / f"pipe{suffix}", "is a named pipe, not a file")
    (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
    _refused(tmp_path / f"device{suffix}", "is a device, not a file")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / f"socket{suffix}"))
        _refused(tmp_path / f"socket{suffix}", "is a socket, not a file")
    (tmp_path / f"empty{suffix}").touch()
    _refused(tmp_path / f"empty{suffix}", "is empty")
    (tmp_path / f"folder{suffix}").mkdir()
    _refused(tmp_path / f"folder{suffix}", "is a folder")


def _changed(path, tag, part, written):
    """Write bytes into the entry of a tag of a little-endian TIFF."""
    content = bytearray(path.read_bytes())
    begin, number = struct.unpack("<I", content[4:8])[0] + 2, struct.pack("<H", tag)
    at = next(at for at in range(begin, len(content), 12) if content[at : at + 2] == number) + part
    content[at : at + len(written)] = written
    path.write_bytes(content)


@pytest.mark.parametrize(("tag", "part", "wrong", "match"), [
    (284, 8, 0, "its tag 284, which says how pixels lie, cannot be read; restore the file"),
    (284, 8, 65535, "its tag 284, which says"),
    (278, 2, 99, "its tag 278, which says"),
    (258, 2, 99, "says RGB, but has 3 samples a pixel of 1 bits"),
    (258, 0, 1282, "says RGB, but has 3 samples a pixel of 1 bits"),
    (277, 0, 65000, "says RGB, but has 1 samples a pixel of 8 bits"),
])  # fmt: skip
def test_tiff_whose_layout_would_be_guessed(tmp_path, tag, part, wrong, match):
    """tifffile leaves such tags out, says so in its log, and returns other pixels."""
    tifffile.imwrite(tmp_path / "a.tif", COLOURS, photometric="rgb", metadata=None, rowsperstrip=8)
    _changed(tmp_path / "a.tif", tag, part, struct.pack("<H", wrong))
    _refused(tmp_path / "a.tif", match)


def test_tiff_that_does_not_say_its_bits(tmp_path):
    grey = COLOURS[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", grey, metadata=None)
    _changed(tmp_path / "a.tif", 258, 0, struct.pack("<H", 1282))
    _refused(tmp_path / "a.tif", r"does not say how many bits a pixel has \(tag 258\)")
    tifffile.imwrite(tmp_path / "b.tif", grey > 99, metadata=None)  # of one bit, which need not be said
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert 258 not in file.pages.first.tags
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif").array > 0, grey > 99)


def test_tiff_with_other_tags_that_cannot_be_read(tmp_path, capfd):
    tifffile.imwrite(tmp_path / "a.tif", COLOURS, photometric="rgb", metadata=None, resolution=(3, 3), software="x" * 9)
    _changed(tmp_path / "a.tif", 296, 8, struct.pack("<I", 34464))
    _changed(tmp_path / "a.tif", 305, 8, struct.pack("<I", 2**31))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, COLOURS)
    assert capfd.readouterr().err == ""


def test_tags_of_a_picture_that_are_odd_are_not_told_by_pillow(tmp_path):
    """Its warnings are errors here; a camera's fraction 1/0 is no reason to talk."""
    odd = Image.Exif()
    odd[282] = (1, 0)
    with warnings.catch_warnings(action="ignore"):
        Image.fromarray(COLOURS).save(tmp_path / "a.jpg", exif=odd)
    assert read_image(tmp_path / "a.jpg").array.shape == COLOURS.shape


@pytest.mark.parametrize(("line", "match"), [
    ("data file: ../../other.raw", "keeps its values in another file"),
    ("byte skip: 7", "leaves out bytes"),
    ("sizes: 4 -4 4", "claims the sizes"),
])  # fmt: skip
def test_nrrd_that_reaches_elsewhere(tmp_path, line, match):
    text = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n{line}\n\n"
    (tmp_path / "a.nrrd").write_bytes(text.encode() + b"\0" * 64)
    _refused(tmp_path / "a.nrrd", match)


@pytest.mark.parametrize("source", ["/etc/hostname", "../a.raw", "LIST", "slice%d.raw 1 4 1"])
def test_mhd_that_reaches_elsewhere(tmp_path, source):
    text = f"NDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = {source}\n"
    (tmp_path / "a.mhd").write_text(text)
    _refused(tmp_path / "a.mhd", "takes its values from")


@pytest.mark.parametrize(("name", "off", "refused"), [
    ("a.mha", None, True),
    ("a.mha", -8, True),
    ("a.mha", 0, False),
    ("a.mhd", None, False),
    ("a.mhd", -8, True),
])  # fmt: skip
def test_meta_image_of_fewer_compressed_bytes_than_it_holds(tmp_path, name, off, refused):
    """ITK 5.4 then says "Uncompress failed" on stderr, and hands over memory that nobody filled."""
    values = RNG.integers(0, 9000, (6, 5, 4)).astype(np.int16)
    packed = zlib.compress(values.tobytes(order="F"))
    lines = ["NDims = 3", "DimSize = 6 5 4", "ElementType = MET_SHORT", "CompressedData = True"]
    lines += [f"CompressedDataSize = {len(packed) + off}"] if off is not None else []
    lines += [f"ElementDataFile = {'LOCAL' if name == 'a.mha' else 'a.zraw'}", ""]
    path = tmp_path / name
    path.write_bytes("\n".join(lines).encode() + packed * (name == "a.mha"))
    (tmp_path / "a.zraw").write_bytes(packed)
    if refused:
        _refused(path, rf"states \w+ CompressedDataSize, but its values take {len(packed)} bytes")
    else:
        np.testing.assert_array_equal(read_image(path).array, values)


def test_a_header_without_the_file_of_its_values_names_that_file(tmp_path):
    (tmp_path / "a.mhd").write_text("NDims = 1\nDimSize = 4\nElementType = MET_UCHAR\nElementDataFile = b.raw\n")
    _refused(tmp_path / "a.mhd", r"takes its values from b\.raw, and there is no such file")
    nibabel.save(nibabel.Nifti1Pair(NOISE[..., None], np.eye(4)), tmp_path / "c.hdr")
    (tmp_path / "c.img").unlink()
    _refused(tmp_path / "c.hdr", r"takes its values from c\.img, and there is no such file")


def test_what_itk_does_not_read_is_told_without_its_source(tmp_path):
    text = "NRRD0004\ntype: uint8\ndimension: 2\nsizes: 4 4\nspace: left-posterior-superior\n"
    text += "space directions: (1,0,0) (0,1,0)\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(text.encode() + b"\0" * 16)
    _refused(tmp_path / "a.nrrd", r"a\.nrrd: ITK cannot read it \((?!.*0x).*; store it again")


def test_labels_near_integers_are_integers(tmp_path):
    path = tmp_path / "l.nii"
    values = np.array([[[0, 1 + 6e-8, 2 - 9e-5]]], np.float64)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    array = read_image(path, label=True).array
    assert (array.dtype, array.ravel().tolist()) == (np.int32, [0, 1, 2])
    assert read_image(path).array.dtype == np.float64
    nibabel.save(nibabel.Nifti1Image(values + 2e-4, np.eye(4)), path)
    assert read_image(path, label=True).array.dtype == np.float64
    nibabel.save(nibabel.Nifti1Image(np.array([[[0, np.nan]]]), np.eye(4)), path)
    assert read_image(path, label=True).array.dtype == np.float64
