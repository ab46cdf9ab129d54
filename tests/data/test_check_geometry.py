"""Label, instances and image must lie in the same place, and a set in one orientation."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from datalists import content, write
from PIL import Image

from medseg.data.check import Report, check_datalist
from medseg.data.datalist import Datalist

AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])
SHAPE = (20, 24, 6)


def volume(path, seed=0, affine=AFFINE, *, label=False, shape=SHAPE, **forms):
    array = np.random.default_rng(seed).integers(0, 255, shape).astype(np.int16)
    image = nibabel.Nifti1Image((array > 128).astype(np.uint8) if label else array, affine)
    for set_form, matrix in forms.items():
        getattr(image, set_form)(matrix, code=1)
    nibabel.save(image, path)


def picture(path, seed=0, *, label=False, shape=(32, 32), tag=None):
    array = np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)
    exif = Image.Exif()
    if tag:
        exif[0x112] = tag
    Image.fromarray(array > 128 if label else array).save(path, exif=exif)


def check(folder, *pairs, **more) -> Report:
    entries = [{"image": i, "label": t, **more} for i, t in pairs]
    described = content(modality=["MR"], labels={"0": "back", "1": "cell"}, training=entries)
    return check_datalist(write(folder, described))


def codes(report):
    return [(finding.severity, finding.code) for finding in report.findings]


@pytest.fixture
def moved(tmp_path):
    """Check one volume whose label has another affine."""

    def build(affine, **more):
        volume(tmp_path / "i.nii.gz")
        volume(tmp_path / "l.nii.gz", affine=np.asarray(affine, float), label=True)
        return check(tmp_path, ("i.nii.gz", "l.nii.gz"), **more)

    return build


def test_label_in_another_orientation(moved):
    report = moved([[-1, 0, 0, 19], [0, -1, 0, 23], [0, 0, 3, 0], [0, 0, 0, 1]])
    assert codes(report) == [("error", "geometry-mismatch")]
    (message,) = [finding.message for finding in report.findings]
    assert "l.nii.gz: label lies elsewhere than its image i.nii.gz: label LPS, origin (19, 23, 0) mm" in message
    assert "image RAS, origin (0, 0, 0) mm, spacing 1 x 1 x 3;" in message
    assert "corners by up to 31.24 mm (24 voxels, allowed 0.1)" in message  # hypot(20, 24) is 31.24


def test_label_with_another_origin(moved):
    report = moved([[1, 0, 0, 50], [0, 1, 0, -30], [0, 0, 3, 10], [0, 0, 0, 1]])
    assert codes(report) == [("error", "geometry-mismatch")]
    assert "origins differ by (50, -30, 10) mm" in report.findings[0].message


def test_a_tenth_of_a_voxel_is_rounding_along_each_axis(moved):
    def shifted(x, z):
        affine = AFFINE.copy()
        affine[0, 3], affine[2, 3] = x, z
        return affine

    assert codes(moved(shifted(0.09, 0.29))) == []  # voxels of 3 mm along z
    assert codes(moved(shifted(0.11, 0))) == [("error", "geometry-mismatch")]
    assert codes(moved(shifted(0, 0.31))) == [("error", "geometry-mismatch")]


def test_a_small_turn_counts_where_it_is_largest(moved):
    angle = np.radians(0.5)  # 24 voxels away it moves by 0.21 of a voxel, at the origin by nothing
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert codes(moved(turn @ AFFINE)) == [("error", "geometry-mismatch")]
    turn[:2, :2] = [[1, -0.002], [0.002, 1]]
    assert codes(moved(turn @ AFFINE)) == []


def test_instances_are_compared_too(tmp_path):
    volume(tmp_path / "i.nii")
    volume(tmp_path / "l.nii", label=True)
    volume(tmp_path / "o.nii", affine=AFFINE + np.diag([0, 0, 1, 0]), label=True)
    report = check(tmp_path, ("i.nii", "l.nii"), instances="o.nii")
    assert codes(report) == [("error", "geometry-mismatch")]
    assert "o.nii: instances lies elsewhere" in report.findings[0].message
    (tmp_path / "o.nii").unlink()
    assert codes(check(tmp_path, ("i.nii", "l.nii"), instances="o.nii")) == [("error", "missing-file")]
    picture(tmp_path / "o.png", shape=(20, 24))
    assert codes(check(tmp_path, ("i.nii", "l.nii"), instances="o.png")) == [("error", "axis-order")]
    tifffile.imwrite(tmp_path / "i.tif", np.zeros((8, 9), np.uint8))
    tifffile.imwrite(tmp_path / "l.tif", np.eye(8, 9, dtype=np.uint8))
    tifffile.imwrite(tmp_path / "o.tif", np.eye(8, 9, dtype=np.int16) * -1)
    report = check(tmp_path, ("i.tif", "l.tif"), instances="o.tif")
    assert codes(report) == [("error", "instances-not-integer")]


@pytest.mark.parametrize("shape", [(6, 24, 20), (20, 24, 6)])
def test_picture_stack_against_volume(tmp_path, shape):
    volume(tmp_path / "i.nii.gz")
    stack = np.random.default_rng(1).integers(0, 2, shape).astype(np.uint8)
    tifffile.imwrite(tmp_path / "l.tif", stack, photometric="minisblack")
    report = check(tmp_path, ("i.nii.gz", "l.tif"))
    assert codes(report) == [("error", "axis-order")]
    assert "of a stack of pictures (Z,H,W), but its image i.nii.gz is 20x24x6 of a volume (X,Y,Z)" in (
        report.findings[0].message
    )


def test_stacks_and_volumes_in_one_set(tmp_path):
    volume(tmp_path / "i.nii.gz")
    volume(tmp_path / "l.nii.gz", label=True)
    stack = np.random.default_rng(1).integers(0, 2, (6, 24, 20)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "i.tif", stack * 100, photometric="minisblack")
    tifffile.imwrite(tmp_path / "l.tif", stack, photometric="minisblack")
    report = check(tmp_path, ("i.nii.gz", "l.nii.gz"), ("i.tif", "l.tif"))
    assert codes(report) == [("error", "mixed-axis-order")]


def test_qform_against_sform(tmp_path):
    other = AFFINE.copy()
    other[0, 3] = 5
    volume(tmp_path / "i.nii.gz", set_sform=AFFINE, set_qform=other)
    volume(tmp_path / "l.nii.gz", label=True, set_sform=AFFINE, set_qform=AFFINE)
    report = check(tmp_path, ("i.nii.gz", "l.nii.gz"))
    assert codes(report) == [("warning", "doubtful-header")]
    assert "i.nii.gz: " in report.findings[0].message
    assert "qform" in report.findings[0].message
    assert report.findings[0].files == (str(tmp_path / "i.nii.gz"),)


def test_mixed_orientation_and_handedness(tmp_path):
    mirrored = np.diag([-1.0, 1, 3, 1])
    turned = np.diag([-1.0, -1, 3, 1])
    for name, affine in (("a", AFFINE), ("b", AFFINE), ("c", mirrored), ("d", turned)):
        volume(tmp_path / f"i{name}.nii.gz", ord(name), affine)
        volume(tmp_path / f"l{name}.nii.gz", ord(name), affine, label=True)
    report = check(tmp_path, *((f"i{n}.nii.gz", f"l{n}.nii.gz") for n in "abc"))
    assert codes(report) == [("warning", "mixed-orientation")]
    assert "RAS in 2 images; LAS in 1 image" in report.findings[0].message
    assert "mirror images" in report.findings[0].message
    report = check(tmp_path, *((f"i{n}.nii.gz", f"l{n}.nii.gz") for n in "abd"))
    assert codes(report) == [("warning", "mixed-orientation")]
    assert "mirror images" not in report.findings[0].message


def test_lossy_label(tmp_path):
    picture(tmp_path / "i.png")
    label = np.zeros((32, 32), np.uint8)
    label[4:12] = 1
    Image.fromarray(label).save(tmp_path / "l.jpg")
    report = check(tmp_path, ("i.png", "l.jpg"))
    assert {severity for severity, _ in codes(report)[:1]} == {"error"}
    assert any("lossy" in finding.message for finding in report.errors)


def test_pictures_stored_turned(tmp_path):
    for number, tag in enumerate((3, 6, 8)):
        picture(tmp_path / f"i{number}.jpg", number, tag=tag)
        picture(tmp_path / f"l{number}.png", number, label=True)
    report = check(tmp_path, *((f"i{n}.jpg", f"l{n}.png") for n in range(3)))
    assert codes(report) == [("warning", "exif-orientation")]
    assert "3 images (" in report.findings[0].message
    assert "EXIF orientation 3, 6, 8" in report.findings[0].message


def test_stored_turned_where_the_size_decides(tmp_path):
    picture(tmp_path / "i.jpg", shape=(20, 32), tag=6)  # upright: 32 x 20
    picture(tmp_path / "upright.png", shape=(32, 20), label=True)
    picture(tmp_path / "stored.png", shape=(20, 32), label=True)
    assert codes(check(tmp_path, ("i.jpg", "upright.png"))) == []
    report = check(tmp_path, ("i.jpg", "stored.png"))
    assert codes(report) == [("error", "shape-mismatch")]
    assert "stored rotated (EXIF orientation 6), and the label was drawn on the stored pixels" in (
        report.findings[0].message
    )
    picture(tmp_path / "i.png", shape=(20, 32), tag=3)
    picture(tmp_path / "same.png", shape=(20, 32), label=True, tag=3)
    assert codes(check(tmp_path, ("i.png", "same.png"))) == []


def test_real_volumes_raise_no_false_alarm(real_data: Path, tmp_path):
    (tmp_path / "cord").symlink_to(real_data / "nifti_mr_spinalcord_sct")
    (tmp_path / "ct").symlink_to(real_data / "nifti_ct_totalsegmentator")
    pairs = [("mt/mt0", "mt/mt0_seg"), ("mt/mt1", "mt/mt1_seg"), ("t2/t2", "t2/t2_seg-manual")]
    pairs += [("t1/t1w", "t1/t1w_seg-manual"), ("t2s/t2s", "t2s/t2s_seg")]
    report = check(tmp_path, *((f"cord/{i}.nii.gz", f"cord/{t}.nii.gz") for i, t in pairs))
    assert report.errors == []
    assert {finding.code for finding in report.findings} <= {"mixed-orientation", "mixed-spacing"}
    report = check(tmp_path, ("ct/example_ct_sm.nii.gz", "ct/example_seg.nii.gz"))
    assert {finding.code for finding in report.findings} == {"label-value"}  # many classes, two named here
    crossed = check(tmp_path, ("cord/t2/t2.nii.gz", "cord/t1/t1w_seg-manual.nii.gz"))
    assert "(axes RAS against PSR)" in crossed.errors[0].message


def channels(folder, second=(16, 24)):
    """A datalist of one case of two files a channel each."""
    rng = np.random.default_rng(0)
    for name, shape in (("a_t1", (16, 24)), ("a_t2", second)):
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(folder / f"{name}.png")
    Image.fromarray(rng.integers(0, 2, (16, 24), dtype=np.uint8)).save(folder / "label.png")
    return Datalist(
        name="two",
        version=1,
        modality=("t1", "t2"),
        licence="",
        source="",
        labels={0: "a", 1: "b"},
        training=[{"image": ["a_t1.png", "a_t2.png"], "label": "label.png"}],
        path=folder / "datalist.json",
    ).save()


def test_channels_in_files_of_their_own_are_one_image(tmp_path):
    assert check_datalist(channels(tmp_path), in_channels=2).findings == ()
    (finding,) = check_datalist(channels(tmp_path), in_channels=1).findings
    assert "a_t1.png: has 2 channels" in finding.message


def test_channels_on_several_grids(tmp_path):
    (finding,) = check_datalist(channels(tmp_path, (24, 16))).findings
    assert "a_t2.png: is 24x16, but the channel a_t1.png is 16x24; bring all channels" in finding.message
    (tmp_path / "a_t2.png").unlink()
    assert [finding.code for finding in check_datalist(tmp_path / "datalist.json").findings] == ["missing-file"]
