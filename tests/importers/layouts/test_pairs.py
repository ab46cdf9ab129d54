import pytest

from medseg.importers.layout import ImportingError, Question


def test_two_folders(make, bring, left_out):
    make.picture("images/a.jpg", "images/b.jpg", "images/c.jpg")
    make.label("masks/a_mask.png", "masks/b_mask.png", "masks/z_mask.png")
    made = bring()
    assert [case.name for case in made.found.cases] == ["a", "b"]
    assert "pairs images/* with masks/*_mask (2 pairs)" in made.found.notes
    assert left_out(made) == {
        "images/c.jpg": "an image without a label",
        "masks/z_mask.png": "a label without an image",
    }


def test_lists_are_named_by_folders(make, bring):
    for part in ("train", "val", "test"):
        make.picture(f"{part}/images/1.png")
        make.label(f"{part}/labels/1.png")
    made = bring()
    assert [(case.name, case.split) for case in made.found.cases] == [
        ("test/images/1", "test"), ("train/images/1", "training"), ("val/images/1", "validation"),
    ]  # fmt: skip
    assert made.datalist.fold_keys == [], "the validation list picks the weights"


def test_images_without_labels_in_a_test_folder(make, bring):
    make.picture("images/1.png", "images/2.png", "test/3.png")
    make.label("masks/1.png", "masks/2.png")
    assert bring().datalist.test == [{"image": "../source/test/3.png", "group": "test/3"}]


def test_ambiguous_ones_are_refused(make, bring):
    make.picture("scans/a.png", "scans/b.png")
    make.label("gt/a.png", "gt/b.png", "manual/a.png")
    with pytest.raises(
        Question, match=r"scans/a.png has several labels \(scans/\* with gt/\* \(2 pairs\); .* --labels manual"
    ):
        bring()
    assert len(bring(labels="gt").found.cases) == 2
    make.picture("scans/a_seg.png", "scans/a_gt.png")
    with pytest.raises(Question, match=r"has several labels .* such as --label-suffix _seg"):
        bring(output="two", labels="scans")


def test_ambiguous_images(make, bring):
    make.picture("left/a.png", "right/a.png")
    make.label("masks/a.png")
    with pytest.raises(Question, match=r"pairs are ambiguous \(left/\* .*; right/\* .*name one with --images") as error:
        bring()
    assert error.value.option == "images"
    assert bring(images="left").datalist.training[0]["image"] == "../source/left/a.png"


def test_said_suffixes(make, bring):
    make.picture("a_x.png", "b_x.png")
    make.label("a_y.png", "b_y.png")
    with pytest.raises(
        ImportingError, match=r"4 pictures found, no labels; .* or say how names end with --image-suffix and"
    ):
        bring()
    made = bring(layout="pairs", image_suffix="_x", label_suffix="_y")
    assert [case.name for case in made.found.cases] == ["a", "b"]


@pytest.mark.parametrize(
    ("place", "said", "cases", "classes"),
    [
        ("covid_semiseg/TrainingSet/MultiClassInfection-Train", {}, 50, 3),
        ("isic2018_task1_256", {"values": {255: "lesion"}}, 20, 2),
        ("drosophila_vnc", {"ascending": True}, 20, 9),
        ("nrrd_mr_pyradiomics", {}, 3, 2),
        ("nifti_mr_spinalcord_sct", {"label_suffix": "_seg-manual"}, 2, 2),
    ],
)
def test_real(bring, real_data, place, said, cases, classes):
    made = bring(source=real_data / place, **said)
    assert (len(made.found.cases), made.datalist.num_classes) == (cases, classes)
