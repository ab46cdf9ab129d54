"""Every format x type x byte order x layout of channels, written and read by libraries that are not ours."""

import imagecodecs
import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from medseg.io.images import ImageError, read_image

INTEGERS = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")
RNG = np.random.default_rng(0)


def _values(shape, dtype):
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return RNG.normal(0, 100, shape).astype(kind)
    most = min(np.iinfo(kind).max, 2**53)
    return RNG.integers(max(np.iinfo(kind).min, -(2**53)), most, shape).astype(kind)


def _same(image, truth, channels=1):
    assert image.array.dtype.isnative
    assert image.array.dtype == truth.dtype.newbyteorder("=")
    assert image.channels == channels
    np.testing.assert_array_equal(image.array, truth)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", [*INTEGERS, "f2", "f4", "f8"])
@pytest.mark.parametrize(("layout", "options"), [
    ("grey", {}),
    ("rgb", {"photometric": "rgb"}),
    ("planar", {"photometric": "rgb", "planarconfig": "separate"}),
    ("pages", {"photometric": "minisblack"}),
    ("tiled", {"tile": (16, 16)}),
    ("big", {"bigtiff": True}),
    ("deflate", {"compression": "zlib", "predictor": True}),
    ("lzw", {"compression": "lzw"}),
])  # fmt: skip
def test_tiff(tmp_path, order, dtype, layout, options):
    shape = {"rgb": (20, 33, 3), "planar": (3, 20, 33), "pages": (5, 20, 33)}.get(layout, (20, 33))
    values = _values(shape, dtype)
    if dtype in ("f2", "u8", "i8") and "predictor" in options:  # tifffile writes none of these
        options = {"compression": "zlib"}
    tifffile.imwrite(tmp_path / "a.tif", values, byteorder=order, **options)
    truth = tifffile.imread(tmp_path / "a.tif")
    np.testing.assert_array_equal(truth, values)
    image = read_image(tmp_path / "a.tif")
    _same(image, np.moveaxis(truth, 0, -1) if layout == "planar" else truth, 3 if layout in ("rgb", "planar") else 1)


def test_tiff_of_ome_and_imagej(tmp_path):
    values = _values((2, 20, 33), "u2")
    tifffile.imwrite(tmp_path / "a.ome.tif", values, metadata={"axes": "CYX"}, photometric="minisblack")
    _same(read_image(tmp_path / "a.ome.tif"), np.moveaxis(values, 0, -1), 2)
    stack = _values((4, 2, 20, 33), "u2")
    tifffile.imwrite(tmp_path / "ij.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
    _same(read_image(tmp_path / "ij.tif"), np.moveaxis(stack, 1, -1), 2)
    tifffile.imwrite(tmp_path / "tz.tif", _values((3, 4, 20, 33), "u2"), imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(ImageError, match=r"tz\.tif: has the axes T 3, Z 4, Y 20, X 33; store one"):
        read_image(tmp_path / "tz.tif")


def test_tiff_of_different_pictures_is_refused_and_a_pyramid_is_not(tmp_path):
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(_values((20, 33), "u1"))
        file.write(_values((9, 9), "u2"))
    with pytest.raises(ImageError, match="holds 2 different pictures"):
        read_image(tmp_path / "two.tif")
    values = _values((64, 64), "u1")
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as file:
        file.write(values, subifds=1, tile=(16, 16))
        file.write(values[::2, ::2], subfiletype=1, tile=(16, 16))
    _same(read_image(tmp_path / "pyramid.tif"), values)


@pytest.mark.parametrize("label", [False, True])
def test_tiff_where_small_is_white_keeps_its_values(tmp_path, label):
    values = _values((20, 33), "u1")
    tifffile.imwrite(tmp_path / "w.tif", values, photometric="miniswhite")
    image = read_image(tmp_path / "w.tif", label=label)
    _same(image, tifffile.imread(tmp_path / "w.tif"))
    assert "min-is-white" in image.notes[0]
    tifffile.imwrite(tmp_path / "b.tif", values > 99, photometric="miniswhite")
    _same(read_image(tmp_path / "b.tif", label=label), (values > 99) * np.uint8(1 if label else 255))


def test_tiff_palette_and_pillows_own(tmp_path):
    picture = Image.fromarray(_values((20, 33), "u1") % 4)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 9, 0, 0, 255])
    for name, options in (
        ("p.tif", {}),
        ("l.tif", {"compression": "tiff_lzw"}),
        ("d.tif", {"compression": "packbits"}),
    ):
        picture.save(tmp_path / name, **options)
        _same(read_image(tmp_path / name, label=True), np.asarray(picture))
        _same(read_image(tmp_path / name), np.asarray(picture.convert("RGB")), 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_pictures_against_pillow(tmp_path, mode, suffix):
    grey = Image.fromarray(_values((20, 33), "u1"))
    picture = Image.fromarray(_values((20, 33), "u2")) if mode == "I;16" else grey.convert(mode)
    if mode.endswith("A"):
        picture.putalpha(100)
    if suffix == ".bmp" and mode in ("LA", "RGBA", "I;16"):
        pytest.skip("BMP has no alpha that Pillow writes, and 8 bits")
    picture.save(tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"a{suffix}") as stored:  # a BMP's palette of greys comes back as grey
        truth = np.asarray(stored.convert("RGB") if stored.mode == "P" else stored)
    truth = truth * np.uint8(255) if mode == "1" else truth
    _same(read_image(tmp_path / f"a{suffix}"), truth, 1 if truth.ndim == 2 else truth.shape[2])


def _bmp(values, bits, palette):
    """Write by hand, as programs do that store only the colours they use; rows from the bottom, padded to 4 bytes."""
    import struct

    height, width = values.shape
    packed = [(row.reshape(-1, 8 // bits) << np.arange(8 - bits, -1, -bits)).sum(1) for row in values[::-1]]
    rows = b"".join(row.astype(np.uint8).tobytes().ljust(-(-width * bits // 32) * 4, b"\0") for row in packed)
    table = b"".join(bytes([grey] * 3 + [0]) for grey in palette)
    start = 54 + len(table)
    head = struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start)
    return (
        head
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(rows), 0, 0, len(palette), 0)
        + table
        + rows
    )


def test_bmp_of_a_byte_a_pixel_in_black_and_white(tmp_path):
    """Pillow 13 reads its bytes as bits, and gives pixels that lie elsewhere."""
    values = RNG.integers(0, 2, (20, 40), dtype=np.uint8)
    for bits in (1, 8):
        (tmp_path / "a.bmp").write_bytes(_bmp(values, bits, (0, 255)))
        _same(read_image(tmp_path / "a.bmp", label=True), values)
        _same(read_image(tmp_path / "a.bmp"), values * np.uint8(255))
    values = RNG.integers(0, 16, (20, 40), dtype=np.uint8)
    (tmp_path / "b.bmp").write_bytes(_bmp(values, 4, range(0, 256, 17)))
    _same(read_image(tmp_path / "b.bmp", label=True), values)
    for palette in ((0, 255), range(16)):
        (tmp_path / "c.bmp").write_bytes(_bmp(values % len(palette), 4, palette))
        with pytest.raises(ImageError, match=r"c\.bmp: holds greys of 4 bits by a palette; store it with 8 bits"):
            read_image(tmp_path / "c.bmp", label=True)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png_is_exact(tmp_path, channels):
    values = _values((20, 33, channels), "u2")
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(values))
    _same(read_image(tmp_path / "a.png"), values.squeeze(-1) if channels == 1 else values, channels)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits_is_indices_in_a_label(tmp_path, bits):
    import struct
    import zlib

    values = RNG.integers(0, 2**bits, (6, 16), dtype=np.uint8)
    rows = (values.reshape(6, -1, 8 // bits) << np.arange(8 - bits, -1, -bits, dtype=np.uint8)).sum(-1).astype(np.uint8)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 16, 6, bits, 0, 0, 0, 0)), (b"IEND", b"")]
    parts.insert(1, (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))))
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    _same(read_image(tmp_path / "a.png", label=True), values)
    _same(read_image(tmp_path / "a.png"), values * np.uint8(255 // (2**bits - 1)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_orientation_is_applied(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x112] = orientation
    picture = Image.fromarray(_values((20, 33), "u1"))
    picture.save(tmp_path / name, exif=exif)
    picture.save(tmp_path / "same.png", exif=exif)  # Pillow 13 scrambles a TIFF that lies on its side
    with Image.open(tmp_path / (name if name == "a.jpg" else "same.png")) as stored:
        truth = np.asarray(ImageOps.exif_transpose(stored))
    image = read_image(tmp_path / name)
    _same(image, truth)
    assert image.orientation == orientation
    assert image.lossy is (name == "a.jpg")


def test_jpeg_of_several_pictures_gives_the_first(tmp_path):
    first, second = (Image.fromarray(_values((20, 33), "u1")) for _ in range(2))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    with Image.open(tmp_path / "a.jpg") as stored:
        truth = np.asarray(stored)
    image = read_image(tmp_path / "a.jpg")
    _same(image, truth)
    assert image.notes == ("holds 2 pictures; the first is read",)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", [*INTEGERS, "f4", "f8"])
@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3), (5, 4, 3, 1), (5, 4, 3, 2), (5, 4, 3, 1, 2)])
@pytest.mark.parametrize(("kind", "name"), [("Nifti1", "a.nii"), ("Nifti2", "a.nii.gz"), ("Nifti1Pair", "a.hdr")])
def test_nifti(tmp_path, order, dtype, shape, kind, name):
    values = _values(shape, dtype)
    affine = np.array([[0, -1.5, 0, 4], [0, 0, -2, 3], [3, 0, 0, 2], [0, 0, 0, 1.0]])
    header = getattr(nibabel, f"{kind.removesuffix('Pair')}Header")(endianness=order)
    header.set_data_dtype(values.dtype.newbyteorder(order))
    kind = kind if kind.endswith("Pair") else f"{kind}Image"
    nibabel.save(getattr(nibabel, kind)(values, affine, header), tmp_path / name)
    truth = nibabel.load(tmp_path / name)
    image = read_image(tmp_path / name)
    wanted = np.asanyarray(truth.dataobj)
    _same(image, wanted.reshape(*shape[:3], *(n for n in shape[3:] if n > 1)), 2 if 2 in shape[3:] else 1)
    np.testing.assert_allclose(image.affine, affine)
    assert image.spacing == pytest.approx((3, 1.5, 2)[: len(image.shape)])


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8"])
def test_nifti_slope(tmp_path, dtype):
    values = _values((5, 4, 3), dtype)
    nifti = nibabel.Nifti1Image(values, np.eye(4))
    nibabel.save(nifti, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = np.array([0.25, -7], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(raw)
    image = read_image(tmp_path / "a.nii")
    assert image.array.dtype == (np.float64 if dtype in ("i4", "f8") else np.float32)
    np.testing.assert_allclose(image.array, nibabel.load(tmp_path / "a.nii").get_fdata(), rtol=1e-6, atol=1e-5)


def test_nifti_colours_complex_and_two_lists(tmp_path):
    colours = np.zeros((5, 4, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name in "RGB":
        colours[name] = _values((5, 4, 3), "u1")
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "c.nii")
    _same(read_image(tmp_path / "c.nii"), np.stack([colours[name] for name in "RGB"], -1), 3)
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 3, 3), "c8"), np.eye(4)), tmp_path / "z.nii")
    with pytest.raises(ImageError, match=r"z\.nii: holds complex values"):
        read_image(tmp_path / "z.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 3, 3, 2, 2), "u1"), np.eye(4)), tmp_path / "t.nii")
    with pytest.raises(ImageError, match=r"t\.nii: has the shape 3x3x3x2x2"):
        read_image(tmp_path / "t.nii")


def test_nifti_that_says_two_places_is_noted(tmp_path):
    nifti = nibabel.Nifti1Image(np.ones((5, 4, 3), "u1"), np.eye(4))
    nifti.set_sform(np.diag([1, 1, 1, 1.0]), code=1)
    nifti.set_qform(np.diag([-1, 1, 1, 1.0]), code=1)
    nibabel.save(nifti, tmp_path / "a.nii")
    assert read_image(tmp_path / "a.nii").notes == ("qform and sform disagree by up to 8 mm; the sform counts",)
    nifti.set_sform(np.eye(4), code=0)
    nifti.set_qform(np.eye(4), code=0)
    nibabel.save(nifti, tmp_path / "b.nii")
    assert "does not say where it lies" in read_image(tmp_path / "b.nii").notes[0]


def _changed(path, values, affine, **fields):
    """Write a NIfTI with fields of the header that nibabel does not write so."""
    nifti = nibabel.Nifti1Image(values, affine)
    nifti.set_sform(affine, code=1)
    nifti.set_qform(affine, code=1)
    nibabel.save(nifti, path)
    with path.open("r+b") as file:
        header = nibabel.Nifti1Header(file.read(348), check=False)
        for name, value in fields.items():
            header[name] = value
        file.seek(0)
        file.write(header.binaryblock)


def test_nifti_whose_quaternion_is_rounded_or_no_turn(tmp_path):
    """Other programs round it beyond what nibabel accepts; where a sform is there, nobody needs it."""
    values, affine = _values((5, 4, 3), "u1"), np.diag([-2.0, -2, 3, 1])  # a half turn: (0, 0, 1)
    path = tmp_path / "a.nii"
    _changed(path, values, affine, sform_code=0, quatern_d=1.0001)
    with pytest.raises(ValueError, match="w2 should be positive"):
        nibabel.load(path)
    image = read_image(path)
    _same(image, values)
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    assert image.notes == ()
    _changed(path, values, affine, quatern_b=0.9, quatern_d=0.9)
    image = read_image(path)
    _same(image, values)
    np.testing.assert_allclose(image.affine, nibabel.load(path).affine)
    assert image.notes[0].startswith("its qform places nothing")
    _changed(path, values, affine, sform_code=0, quatern_b=0.9, quatern_d=0.9)
    with pytest.raises(ImageError, match=r"a\.nii: its qform is no turn .*, and it has no sform; correct the header"):
        read_image(path)


@pytest.mark.parametrize(("field", "code"), [("sform_code", 17), ("qform_code", -1), ("sform_code", 6)])
def test_nifti_with_a_code_of_no_meaning_is_refused(tmp_path, field, code):
    """nibabel takes it for 0 and another place for the file's, ITK for one that counts."""
    _changed(tmp_path / "a.nii", _values((5, 4, 3), "u1"), np.diag([2.0, 2, 3, 1]), **{field: code})
    with pytest.raises(ImageError, match=r"a\.nii: its qform and sform have the codes .*; correct the header"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize("handed", [-1, 0, 1, -2, 3, np.nan])
def test_nifti_is_as_handed_as_its_own_library_says(tmp_path, handed, caplog):
    """nifti_io.c: ``if (pixdim[0] < 0.0) qfac = -1 else 1``; ITK agrees, and nibabel takes -2 for 1."""
    values, affine = _values((5, 4, 3), "u1"), np.diag([2.0, 2, 3, 1])
    _changed(tmp_path / "a.nii", values, affine, sform_code=0, pixdim=[handed, 2, 2, 3, 1, 1, 1, 1])
    read = read_image(tmp_path / "a.nii").affine
    np.testing.assert_allclose(read, np.diag([2.0, 2, -3 if handed < 0 else 3, 1]))
    if np.isfinite(handed):
        itk = pytest.importorskip("itk")
        theirs = itk.imread(str(tmp_path / "a.nii"))
        turn = itk.array_from_matrix(theirs.GetDirection())
        np.testing.assert_allclose(turn @ np.diag(theirs.GetSpacing()), np.diag([-1.0, -1, 1]) @ read[:3, :3])
    assert caplog.text == ""


@pytest.mark.parametrize("pixdim", [[1, 5, 5, 5], [1, 0, 0, 0], [1, *[np.nan] * 3]])
def test_nifti_whose_voxel_sizes_are_not_the_sforms_is_noted(tmp_path, pixdim):
    values, affine = _values((5, 4, 3), "u1"), np.diag([2.0, 2, 3, 1])
    _changed(tmp_path / "a.nii", values, affine, qform_code=0, pixdim=[*pixdim, 1, 1, 1, 1])
    image = read_image(tmp_path / "a.nii")
    assert image.spacing == (2, 2, 3)
    assert "mm in pixdim, of 2 x 2 x 3 mm in the sform; the sform counts" in image.notes[0]
    _changed(tmp_path / "a.nii", values, affine, qform_code=0, pixdim=[1, 2, 2, 3.01, 1, 1, 1, 1])
    assert read_image(tmp_path / "a.nii").notes == ()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
def test_itk_formats(tmp_path, name, dtype, channels, packed):
    values = _values((5, 4, 3, channels), dtype)
    affine = np.array([[0, -1.5, 0, 4], [0, 0, -2, 3], [3, 0, 0, 2], [0, 0, 0, 1.0]])
    _write_itk(tmp_path / name, values, affine, packed)
    image = read_image(tmp_path / name)
    _same(image, values if channels > 1 else values[..., 0], channels)
    np.testing.assert_allclose(image.affine, affine)


def _write_itk(path, values, affine, packed):
    """Write by hand, from the formats' own descriptions; ITK's Python package writes no 8-bit signed values."""
    import zlib
    from gzip import compress

    lps = np.diag([-1, -1, 1, 1]) @ affine
    channels = values.shape[-1]
    content = np.moveaxis(values, -1, 0).tobytes(order="F") if channels > 1 else values.tobytes(order="F")
    bits, kind = values.dtype.itemsize * 8, values.dtype.kind
    if path.suffix == ".nrrd":
        vectors = " ".join(f"({','.join(map(str, lps[:3, i]))})" for i in range(3))
        named = {"f": {32: "float", 64: "double"}.get(bits), "u": f"uint{bits}", "i": f"int{bits}"}[kind]
        lead = channels > 1
        lines = ["NRRD0004", f"type: {named}", f"dimension: {3 + lead}", "space: left-posterior-superior"]
        lines += [f"sizes: {f'{channels} ' * lead}{' '.join(map(str, values.shape[:3]))}"]
        lines += [f"space directions: {'none ' * lead}{vectors}", f"kinds: {'vector ' * lead}domain domain domain"]
        lines += ["endian: little", f"encoding: {'gzip' if packed else 'raw'}"]
        lines += [f"space origin: ({','.join(map(str, lps[:3, 3]))})"]
        path.write_bytes("\n".join([*lines, "", ""]).encode() + (compress(content) if packed else content))
        return
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    named = {"f": {32: "FLOAT", 64: "DOUBLE"}.get(bits), "u": "U", "i": ""}[kind]
    named = named if kind == "f" else named + {8: "CHAR", 16: "SHORT", 32: "INT", 64: "LONG_LONG"}[bits]
    data = zlib.compress(content) if packed else content
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += [f"CompressedData = {packed}"] + ([f"CompressedDataSize = {len(data)}"] if packed else [])
    lines += [f"TransformMatrix = {' '.join(map(str, (lps[:3, :3] / lengths).T.ravel()))}"]
    lines += [f"Offset = {' '.join(map(str, lps[:3, 3]))}", f"ElementSpacing = {' '.join(map(str, lengths))}"]
    lines += [f"DimSize = {' '.join(map(str, values.shape[:3]))}", f"ElementNumberOfChannels = {channels}"]
    lines += [f"ElementType = MET_{named}", f"ElementDataFile = {'LOCAL' if path.suffix == '.mha' else 'a.raw'}", ""]
    path.write_bytes("\n".join(lines).encode() + (data if path.suffix == ".mha" else b""))
    if path.suffix == ".mhd":
        path.with_name("a.raw").write_bytes(data)


def test_itk_formats_that_do_not_say_where_they_lie(tmp_path):
    """As pynrrd writes an array alone; ITK fills in voxels of 1 mm at the origin without a word."""
    values = _values((5, 4, 3), "u1")
    nrrd = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 5 4 3\nencoding: raw\n{}\n"
    meta = "NDims = 3\nDimSize = 5 4 3\nElementType = MET_UCHAR\n{}ElementDataFile = LOCAL\n"
    placed = "space directions: (1,0,0) (0,1,0) (0,0,1)\n"
    for name, text, more, said in (
        ("a.nrrd", nrrd, "", "states neither spacing nor place"),
        ("a.nrrd", nrrd, "spacings: 1 1 2\n", "does not say where it lies"),
        ("a.nrrd", nrrd, f"space dimension: 3\n{placed}", "does not say where it lies"),
        ("a.nrrd", nrrd, f"space: left-posterior-superior\n{placed}", ""),
        ("a.mha", meta, "", "states neither spacing nor place"),
        ("a.mha", meta, "ElementSpacing = 1 1 2\n", "does not say where it lies"),
        ("a.mha", meta, "ElementSpacing = 1 1 2\nOffset = 0 0 0\n", ""),
    ):
        (tmp_path / name).write_bytes(text.format(more).encode() + values.tobytes(order="F"))
        image = read_image(tmp_path / name)
        np.testing.assert_array_equal(image.array, values)
        assert [note.startswith(said) for note in image.notes] == [True] * bool(said)
