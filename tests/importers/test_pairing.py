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
    ],
)
def test_two_folders(images, labels, pairs, rule):
    found = rules_between(paths("i", *images), paths("m", *labels))
    assert sorted(found.pairs) == pairs
    if rule is not None:
        assert (found.image, found.label) == rule


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
