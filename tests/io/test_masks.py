"""Masks of pictures, and what is refused; those of volumes are in test_mask_volumes."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from medseg.io.images import ImageFile, read_image
from medseg.io.masks import mask_path, write_mask
from medseg.io.placement import Grid, to_upright
from medseg.reports.overlays import overlay_sheet
from medseg.reports.palette import class_colours

MASK = np.arange(30, dtype=np.int64).reshape(5, 6) % 4
NAMES = ["background", "cell", "rim", "gap"]


def picture(path: Path, shape=(5, 6), **options) -> Path:
    Image.fromarray(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)).save(path, **options)
    return path


def exif(tag: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x112] = tag
    tags[0x10F] = "maker of the camera"
    return tags


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("above", [0, 300])
def test_pixel_formats(tmp_path: Path, suffix: str, above: int) -> None:
    image, target = picture(tmp_path / f"i{suffix}"), tmp_path / "out" / f"i{suffix}"
    write_mask(MASK + above, image, target)
    with Image.open(target) as written:
        np.testing.assert_array_equal(np.array(written), MASK + above)
    again = read_image(target, label=True)
    np.testing.assert_array_equal(again.array, MASK + above)
    assert again.array.dtype == (np.uint16 if above else np.uint8)
    assert [p.name for p in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a/b.jpg", "a/b.png"), ("a/B.JPEG", "a/B.png"), ("b.bmp", "b.png"), ("b.png", "b.png"),
        ("b.TIF", "b.TIF"), ("v.nii.gz", "v.nii.gz"), ("v.nii", "v.nii"), ("v.nrrd", "v.nrrd"),
        ("v.mhd", "v.mha"), ("v.mha", "v.mha"),
        ("v.hdr", "v.nii"), ("slice7", "slice7.nii.gz"), ("one.dcm", "one.nii.gz"), ("b.1.jpg", "b.1.png"),
    ],
)  # fmt: skip
def test_where_a_mask_goes(tmp_path: Path, image: str, mask: str) -> None:
    assert mask_path(tmp_path / image, tmp_path, tmp_path / "o") == tmp_path / "o" / mask


def test_a_dicom_series_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "p" / "t1.axial").mkdir(parents=True)
    series, out = tmp_path / "p" / "t1.axial", tmp_path / "o"
    assert mask_path(series, tmp_path, out) == out / "p" / "t1.axial.nii.gz"
    assert mask_path(series, series, out) == out / "t1.axial.nii.gz"


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("source", ["i.jpg", "i.png"])
def test_exif_orientation_is_undone(tmp_path: Path, tag: int, source: str) -> None:
    """Image and mask agree in a viewer that turns pictures upright, and in one that does not."""
    stored = np.zeros((16, 24), np.uint8)
    stored[:8, :16] = 200
    Image.fromarray(stored).save(tmp_path / source, exif=exif(tag))
    image = read_image(tmp_path / source)
    assert image.shape == ((24, 16) if tag > 4 else (16, 24))
    target = mask_path(tmp_path / source, tmp_path, tmp_path / "o")
    write_mask((image.array > 100).astype(int), tmp_path / source, target)
    with Image.open(tmp_path / source) as one, Image.open(target) as other:
        np.testing.assert_array_equal(np.asarray(other) > 0, np.asarray(one) > 100)
        np.testing.assert_array_equal(np.asarray(other) > 0, stored > 100)
        upright, mask = ImageOps.exif_transpose(one), ImageOps.exif_transpose(other)
        np.testing.assert_array_equal(np.asarray(mask) > 0, np.asarray(upright) > 100)
        assert 0x10F not in other.getexif()  # nothing else of the camera's tags
    np.testing.assert_array_equal(read_image(target, label=True).array > 0, image.array > 100)


@pytest.mark.parametrize("tag", range(1, 9))
def test_tiff_orientation_is_undone(tmp_path: Path, tag: int) -> None:
    stored = np.arange(30, dtype=np.uint8).reshape(5, 6)
    upright = to_upright(stored, tag)
    write_mask(upright, Grid(upright.shape, orientation=tag), tmp_path / "o.tif")
    with tifffile.TiffFile(tmp_path / "o.tif") as file:
        np.testing.assert_array_equal(file.asarray(), stored)
        assert file.pages.first.tags.valueof(274) == (tag if tag > 1 else None)
    with Image.open(tmp_path / "o.tif") as viewed:  # Pillow turns a TIFF upright as it loads it
        np.testing.assert_array_equal(np.asarray(viewed), upright)


def test_geometry_without_the_file(tmp_path: Path) -> None:
    upright = ImageFile(np.zeros((5, 6)), 1, orientation=6)
    write_mask(MASK, upright, tmp_path / "a.png")
    write_mask(MASK, Grid((5, 6), orientation=6), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as written:
        assert written.size == (5, 6)
        assert written.getexif()[0x112] == 6
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(written)), MASK)


def test_png_keeps_resolution(tmp_path: Path) -> None:
    write_mask(MASK, picture(tmp_path / "i.jpg", dpi=(300, 150)), tmp_path / "o.png")
    with Image.open(tmp_path / "o.png") as written:
        assert written.info["dpi"] == pytest.approx((300, 150), abs=0.1)
        assert set(written.info) <= {"dpi"}


@pytest.mark.parametrize("unit", [1, 2, 3])
def test_tiff_keeps_resolution_tags(tmp_path: Path, unit: int) -> None:
    image = np.zeros((5, 6), np.uint16)
    described = {"description": "of patient 7", "software": "scanner", "metadata": None}
    tifffile.imwrite(tmp_path / "i.tif", image, resolution=((1, 3), (25000, 7)), resolutionunit=unit, **described)
    write_mask(MASK, tmp_path / "i.tif", tmp_path / "o" / "i.tif")
    with tifffile.TiffFile(tmp_path / "o" / "i.tif") as file:
        tags = file.pages.first.tags
        assert [tags[name].value for name in ("XResolution", "YResolution", "ResolutionUnit")] == [
            (1, 3), (25000, 7), unit,
        ]  # fmt: skip
        assert not {"ImageDescription", "Software"} & {tag.name for tag in tags}
    tifffile.imwrite(tmp_path / "plain.tif", image, resolution=None, metadata=None)
    write_mask(MASK, tmp_path / "plain.tif", tmp_path / "o.tif")
    with tifffile.TiffFile(tmp_path / "o.tif") as file, tifffile.TiffFile(tmp_path / "plain.tif") as plain:
        assert file.pages.first.resolution == plain.pages.first.resolution


@pytest.mark.parametrize("lost", ["XResolution", "YResolution"])
def test_tiff_with_half_a_resolution_has_none(tmp_path: Path, lost: str) -> None:
    tifffile.imwrite(tmp_path / "i.tif", MASK.astype(np.uint8), resolution=(7, 8), metadata=None)
    with tifffile.TiffFile(tmp_path / "i.tif", mode="r+b") as file:
        file.filehandle.seek(file.pages.first.tags[lost].offset)
        file.filehandle.write((65000).to_bytes(2, "little"))  # another tag's number
    write_mask(MASK, tmp_path / "i.tif", tmp_path / "o.tif")
    with tifffile.TiffFile(tmp_path / "o.tif") as file:
        np.testing.assert_array_equal(file.asarray(), MASK)
        assert file.pages.first.resolution == (1, 1)


@pytest.mark.parametrize(("tag", "part", "wrong"), [
    ("ResolutionUnit", 8, (34464).to_bytes(4, "little")),
    ("XResolution", 2, (2).to_bytes(2, "little")),  # text
    ("XResolution", 2, (3).to_bytes(2, "little")),  # whole numbers
    ("YResolution", None, bytes(8)),
    ("YResolution", None, b"\x01" + bytes(7)),
])  # fmt: skip
def test_tiff_whose_resolution_is_none_has_a_mask(tmp_path: Path, tag: str, part: int | None, wrong: bytes) -> None:
    tifffile.imwrite(tmp_path / "i.tif", MASK.astype(np.uint8), resolution=(7, 8), metadata=None)
    with tifffile.TiffFile(tmp_path / "i.tif", mode="r+b") as file:
        held = file.pages.first.tags[tag]
        file.filehandle.seek(held.valueoffset if part is None else held.offset + part)
        file.filehandle.write(wrong)
    write_mask(MASK, tmp_path / "i.tif", tmp_path / "o.tif")
    with tifffile.TiffFile(tmp_path / "o.tif") as file:
        np.testing.assert_array_equal(file.asarray(), MASK)
        assert file.pages.first.resolution == (1, 1)


def test_tiff_that_says_ome_and_holds_none(tmp_path: Path) -> None:
    for number, text in enumerate(("<OME></OME>", "<OME", "<OME><Image/></OME>", "<a></OME>")):
        path = tmp_path / f"{number}.tif"
        described = f'<?xml version="1.0"?>{text}'
        tifffile.imwrite(path, MASK.astype(np.uint8), description=described, metadata=None)
        write_mask(MASK, path, tmp_path / "o" / path.name)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "o" / path.name), MASK)


def test_stacks_keep_imagej_and_ome_spacing(tmp_path: Path) -> None:
    stack, mask = np.zeros((3, 5, 6), np.uint8), np.stack([MASK] * 3)
    size = {"resolution": (5.0, 4.0), "metadata": {"spacing": 2.5, "unit": "um", "axes": "ZYX", "Info": "patient 7"}}
    tifffile.imwrite(tmp_path / "j.tif", stack, imagej=True, **size)
    write_mask(mask, tmp_path / "j.tif", tmp_path / "o" / "j.tif")
    with tifffile.TiffFile(tmp_path / "o" / "j.tif") as file:
        np.testing.assert_array_equal(file.asarray(), mask)
        assert (file.imagej_metadata["spacing"], file.imagej_metadata["unit"]) == (2.5, "um")
        assert file.pages.first.resolution == (5, 4)
        assert b"patient" not in Path(file.filehandle.path).read_bytes()
    size = {"PhysicalSizeX": 0.2, "PhysicalSizeZ": 2.5, "PhysicalSizeZUnit": "µm", "axes": "ZYX", "Name": "patient 7"}
    tifffile.imwrite(tmp_path / "m.ome.tif", stack, metadata=size)
    write_mask(mask, tmp_path / "m.ome.tif", tmp_path / "o" / "m.ome.tif")
    with tifffile.TiffFile(tmp_path / "o" / "m.ome.tif") as file:
        np.testing.assert_array_equal(file.asarray(), mask)
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        assert {key: pixels[key] for key in ("PhysicalSizeX", "PhysicalSizeZ", "PhysicalSizeZUnit")} == {
            "PhysicalSizeX": 0.2, "PhysicalSizeZ": 2.5, "PhysicalSizeZUnit": "µm",
        }  # fmt: skip
        assert "patient" not in file.ome_metadata


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    mask = MASK.astype(float)
    mask[2, 2] = value
    with pytest.raises(ValueError, match=r"the mask of .*i\.png holds NaN or infinite values"):
        write_mask(mask, picture(tmp_path / "i.png"), tmp_path / "o.png")
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [(-1, "holds the value -1; indices are 0 to 65535"), (65536, "holds the value 65536"), (0.5, "fractional values")],
)
def test_what_is_no_class_index_is_refused(tmp_path: Path, value: float, message: str) -> None:
    mask = MASK + (np.arange(30).reshape(5, 6) == 7) * (value - MASK.flat[7])
    with pytest.raises(ValueError, match=message):
        write_mask(mask, picture(tmp_path / "i.png"), tmp_path / "o.png")
    with pytest.raises(ValueError, match="values of type complex128"):
        write_mask(MASK * 1j, tmp_path / "i.png", tmp_path / "o.png")


def test_wrong_size_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "i.png", (6, 5))
    with pytest.raises(ValueError, match=r"the mask of .*i\.png is 5 x 6, the image 6 x 5; bring it back to the"):
        write_mask(MASK, tmp_path / "i.png", tmp_path / "o.png")
    assert not (tmp_path / "o.png").exists()


def test_a_format_that_cannot_hold_the_place_is_refused(tmp_path: Path) -> None:
    volume = Grid((5, 6, 3), np.eye(4))
    stack, stack_mask = Grid((3, 5, 6)), np.stack([MASK] * 3)
    with pytest.raises(ValueError, match=r"\.png cannot hold where a volume lies; write \.nii, "):
        write_mask(stack_mask.T.swapaxes(0, 1), volume, tmp_path / "o.png")
    with pytest.raises(ValueError, match=r"\.nii says where a mask lies in the patient, and its image does not; write"):
        write_mask(MASK, picture(tmp_path / "i.png"), tmp_path / "o.nii")
    with pytest.raises(ValueError, match="PNG cannot hold the 3 pages"):
        write_mask(stack_mask, stack, tmp_path / "o.png")
    with pytest.raises(ValueError, match=r"\.jpg is no format of a mask"):
        write_mask(MASK, tmp_path / "i.png", tmp_path / "o.jpg")
    with pytest.raises(ValueError, match=r"o: no suffix is no format of a mask; known are \.png, \.tif, "):
        write_mask(MASK, tmp_path / "i.png", tmp_path / "o")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "i.png")
    write_mask(MASK, tmp_path / "i.png", tmp_path / "o.png")
    before = (tmp_path / "o.png").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_mask(MASK * 0, tmp_path / "i.png", tmp_path / "o.png")
    assert (tmp_path / "o.png").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i.png", "o.png"]


@pytest.mark.parametrize("named", [None, {"2": "#FF0000"}])
def test_masks_and_overlays_have_the_same_colours(tmp_path: Path, named: dict[str, str] | None) -> None:
    write_mask(MASK, picture(tmp_path / "i.png"), tmp_path / "o.png", class_names=NAMES, colours=named)
    with Image.open(tmp_path / "o.png") as written:
        shown = np.asarray(written.convert("RGB"))
    case = {"name": "a", "image": np.zeros((5, 6)), "label": MASK, "prediction": MASK}
    legend = np.asarray(overlay_sheet([case], NAMES, colours=named))[-80:]
    for index in (1, 2, 3):
        (colour,) = {tuple(pixel) for pixel in shown[index == MASK].tolist()}
        assert colour == class_colours(4, named)[index]
        assert (legend == colour).all(axis=2).sum() > 300
    assert shown[MASK == 0].max() == 0  # the background: black here, nothing there
    if named:
        assert class_colours(4, named)[2] == (255, 0, 0)


def test_without_a_background_every_class_has_its_colour(tmp_path: Path) -> None:
    picture(tmp_path / "i.png")
    write_mask(MASK, tmp_path / "i.png", tmp_path / "o.png", class_names=["membrane", "cell", "rim", "gap"])
    write_mask(MASK, tmp_path / "i.png", tmp_path / "unnamed.png")
    for name, given in (("red.png", {"0": "#ff0000"}), ("other.png", {"2": "#ff0000"})):
        write_mask(MASK, tmp_path / "i.png", tmp_path / name, colours=given)
    shown = {path.name: np.asarray(Image.open(path).convert("RGB")) for path in tmp_path.iterdir()}
    colours, plain = shown["o.png"], shown["unnamed.png"]
    assert shown["red.png"][MASK == 0].tolist() == [[255, 0, 0]] * int((MASK == 0).sum())
    assert shown["other.png"][MASK == 0].max() == 0
    assert tuple(colours[MASK == 0][0]) == class_colours(1)[0]
    assert plain[MASK == 0].max() == 0
    np.testing.assert_array_equal(colours[MASK > 0], plain[MASK > 0])


def test_a_colour_beyond_what_a_palette_holds(tmp_path: Path) -> None:
    """No mask of a model was written whose class 280 names its colour."""
    image = tmp_path / "i.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(image)
    names = ["background", *(f"class {index}" for index in range(1, 300))]
    for highest in (3, 299):
        mask = np.full((4, 4), highest, np.uint16)
        write_mask(mask, image, tmp_path / "o.png", class_names=names, colours={"3": "#102030", "280": "#405060"})
        assert (read_image(tmp_path / "o.png", label=True).array == mask).all()
    write_mask(
        np.full((4, 4), 3), image, tmp_path / "o.png", class_names=names, colours={"3": "#102030", "280": "#405060"}
    )
    assert Image.open(tmp_path / "o.png").convert("RGB").getpixel((0, 0)) == (16, 32, 48)
