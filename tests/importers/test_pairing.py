from pathlib import Path

import pytest

from medseg.importers.pairing import Affix, is_label, labels_among, rules_between, rules_within, words


def paths(folder, *names):
    return [Path(folder) / name for name in names]


def test_words():
    assert words("ISIC2018_GroundTruth-gmseg") == ["isic", "2018", "ground", "truth", "gmseg"]
    assert [is_label(name) for name in ("SegmentationClass", "GT", "t2_gmseg", "images", "Prior")] == [
        *(True, True, True, False, False)
    ]


@pytest.mark.parametrize(
    ("images", "labels", "pairs", "rule"),
    [
        (("a.png", "b.png"), ("a.png", "b.png"), ["a", "b"], (Affix(), Affix())),
        (("a.jpg", "b.jpg"), ("a_mask.png", "c_mask.png"), ["a"], (Affix(), Affix(after="_mask"))),
        (("ISIC_01.jpg", "ISIC_02.jpg"), ("ISIC_01_seg.png", "ISIC_02_seg.png"), ["ISIC_01", "ISIC_02"], None),
        (("00.tif", "01.tif"), ("labels00000000.png", "labels00000001.png"), ["0", "1"], None),
        (("img_1.nii.gz", "img_2.nii.gz"), ("seg_1.nii.gz", "seg_2.nii.gz"), ["_1", "_2"], None),
        (("a.png",), ("a_label.png",), ["a"], None),
        (("p\u00e91.png", "b.png"), ("pe\u03011_seg.png", "b_seg.png"), ["b", "p\u00e91"], None),
    ],
)
def test_two_folders(images, labels, pairs, rule):
    found = rules_between(paths("i", *images), paths("m", *labels))
    assert sorted(found.pairs) == pairs
    if rule is not None:
        assert (found.image, found.label) == rule


def test_numbers_are_not_cut():
    """Of images 100 to 199 with labels 0 to 149, "1" and the rest would make more pairs, all of them wrong."""
    images = paths("i", *(f"slice_{number}.png" for number in range(100, 200)))
    found = rules_between(images, paths("m", *(f"slice_{number}.png" for number in range(150))))
    assert len(found.pairs) == 50
    assert all(image.name == label.name for image, label in found.pairs.values())
    images, labels = (paths("i", *(f"{number}{end}.png" for number in range(10, 100, 10))) for end in ("", "_gt"))
    shorter = paths("m", *(f"{number}.png" for number in range(1, 10)))
    assert len(rules_between(images, labels).pairs) == 9
    assert rules_between(images, shorter) is None


def test_no_rule():
    assert rules_between(paths("i", "a.png", "b.png"), paths("m", "x.png", "y.png")) is None
    assert rules_within(paths("i", "a.png", "b.png")) == []


def test_one_folder():
    files = paths("f", "a_image.nrrd", "a_label.nrrd", "b_image.nrrd", "b_label.nrrd", "readme_label.nrrd")
    (rule,) = rules_within(files)
    assert sorted(rule.pairs) == ["a", "b"]
    assert rule.describe(Path("f")) == "*_image with *_label (2 pairs)"
    assert [rule.label.after for rule in rules_within(paths("f", "t2.nii", "t2_seg.nii", "t2_seg-manual.nii"))] == [
        *("_seg", "_seg-manual")
    ]
    (rule,) = rules_within(paths("f", "a.png", "a_x.png"), label_suffix="_x")
    assert rule.pairs == {"a": (Path("f/a.png"), Path("f/a_x.png"))}


def test_two_files_of_one_name_make_no_pair():
    rule = rules_between(paths("i", "1.png", "1.jpg", "2.png"), paths("m", "1.png", "2.png"))
    assert sorted(rule.pairs) == ["2"]
    assert set(rule.twins) == set(paths("i", "1.png", "1.jpg"))


def test_labels_among_images():
    beside = paths("in", "a.png", "b.png", "a_mask.png", "c_mask.png", "alone_seg.png")
    assert labels_among(beside) == {Path("in/a_mask.png"): Path("in/a.png")}
    two = [*paths("in/images", "a.nii.gz", "b.nii.gz"), *paths("in/labels", "a.nii.gz", "d.nii.gz")]
    assert labels_among(two) == {Path("in/labels/a.nii.gz"): Path("in/images/a.nii.gz")}
    assert labels_among(paths("in/labels", "a.png", "b.png")) == {}  # images of a folder of that name
    assert labels_among([*paths("one/images", "a.png"), *paths("other/labels", "a.png")]) == {}


def test_labels_among_files_of_patients():
    one = paths("in/patient1", "t1.nii.gz", "seg.nii.gz", "manual_seg.nii.gz")
    assert labels_among(one) == dict.fromkeys(one[1:], one[0])
    brats = paths("in/BraTS_1", "BraTS_1_flair.nii.gz", "BraTS_1_seg.nii.gz")
    assert labels_among(brats) == {brats[1]: brats[0]}
    named = [*paths("in/p1", "a.nii.gz", "liver_seg.nii.gz"), *paths("in/p2", "b.nii.gz", "liver_seg.nii.gz")]
    assert labels_among(named) == {named[1]: named[0], named[3]: named[2]}
    assert labels_among(paths("in", "01_lesion_photo.png", "02.png")) == {}  # a picture of something
    assert labels_among(paths("in/p1", "seg.nii.gz", "manual_seg.nii.gz")) == {}  # nothing that they are of
    assert labels_among(paths("in/seg", "seg.nii.gz", "1.nii.gz")) == {}  # the folder's own name


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (("in/images/train", "a.png", "b.png"), ("in/labels/train", "a.png", "b.png")),
        (("in/train/images", "a.png", "b.png"), ("in/train/masks", "a_mask.png", "b_mask.png")),
        (("in/imagesTr", "x_0000.nii.gz", "y_0000.nii.gz"), ("in/labelsTr", "x.nii.gz", "y.nii.gz")),
        (("in/left/val/x", "x_1_left.png", "x_2_left.png"), ("in/gtFine/val/x", "x_1_gt.png", "x_2_gt.png")),
    ],
)
def test_labels_among_two_folders(images, labels):
    left, right = paths(*images), paths(*labels)
    assert labels_among([*left, *right]) == dict(zip(right, left, strict=True))
    assert labels_among(right) == labels_among(left) == {}
    others = [Path(f"in/other/{number}.png") for number in range(9)]
    assert labels_among([*left, *others]) == {}
