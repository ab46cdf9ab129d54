import os
import stat

import numpy as np
import pytest

from medseg.data.datalist import Datalist
from medseg.errors import MedsegError
from medseg.importers.layout import ImportingError, Options, Question
from medseg.importers.writing import Wishes, import_folder
from medseg.io.images import read_image


@pytest.fixture
def pairs(make):
    """Six pairs of three patients, and a text."""
    names = [f"patient{n // 2}_slice{n % 2}" for n in range(6)]
    make.picture(*(f"images/{name}.png" for name in names))
    make.label(*(f"masks/{name}_mask.png" for name in names))
    make.text("README.txt", "read me")
    return make


def test_files_stay_and_are_named_from_elsewhere(pairs, bring, tmp_path, left_out):
    made = bring(output="deep/er/out")
    (first, *_) = made.datalist.training
    assert first == {
        "image": "../../../source/images/patient0_slice0.png",
        "label": "../../../source/masks/patient0_slice0_mask.png",
        "group": "patient0",
        "fold": first["fold"],
    }
    assert os.listdir(tmp_path / "deep/er/out") == ["datalist.json"]
    assert left_out(made) == {"README.txt": "not part of pairs"}
    folds = {entry["group"]: entry["fold"] for entry in made.datalist.training}
    assert sorted(folds.values()) == [0, 1, 2]
    assert made.datalist.preparation == {"importer": "pairs", "folds": 3, "seed": 0}


def test_beside_the_files(pairs, bring):
    made = bring(output="source")
    assert made.datalist.training[0]["image"] == "images/patient0_slice0.png"
    assert made.datalist.name == "source"


def test_through_a_link(pairs, bring, tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    (tmp_path / "alias").symlink_to(pairs.root)
    made = bring(source=tmp_path / "alias", output="link")
    assert made.datalist.training[0]["image"] == "../../source/images/patient0_slice0.png"
    again = Datalist.load(tmp_path / "link" / "datalist.json")
    assert read_image(again.absolute(again.training[0])["image"]).shape == (12, 16)


def test_copies(pairs, bring, tmp_path):
    made = bring(copy=True)
    assert made.datalist.training[0]["image"] == "images/patient0_slice0.png"
    assert made.datalist.training[0]["label"] == "labels/patient0_slice0.png"
    copied = (tmp_path / "out/images/patient0_slice0.png").read_bytes()
    assert copied == (pairs.root / "images/patient0_slice0.png").read_bytes()
    assert stat.S_IMODE((tmp_path / "out/images").stat().st_mode) == stat.S_IMODE((tmp_path / "out").stat().st_mode)


def test_nothing_is_replaced_without_a_word(pairs, bring, tmp_path):
    bring(copy=True)
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(ImportingError, match=r"out/datalist.json: is there already; .* replace it with --overwrite"):
        bring()
    made = bring(copy=True, overwrite=True, name="again")
    assert made.datalist.name == "again"
    assert sorted(os.listdir(tmp_path / "out")) == ["datalist.json", "images", "labels", "notes.txt"]
    (tmp_path / "other/labels").mkdir(parents=True)
    with pytest.raises(ImportingError, match=r"other/labels: is there already; name another folder"):
        bring(output="other", copy=True)
    assert os.listdir(tmp_path / "other") == ["labels"]


def test_a_failure_leaves_nothing(pairs, bring, tmp_path, monkeypatch):
    monkeypatch.setattr(Datalist, "save", lambda self: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match=r"no space"):
        bring(copy=True)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(OSError, match=r"no space"):
        bring(copy=True)
    assert os.listdir(tmp_path / "out") == ["notes.txt"]


def test_a_dry_run_writes_nothing(pairs, bring, tmp_path):
    made = bring(dry_run=True, modality=("EM",), folds=0)
    assert not (tmp_path / "out").exists()
    assert made.datalist.modality == ("EM",)
    assert made.datalist.fold_keys == []


def test_the_output_inside_the_source_is_no_input(pairs, bring):
    bring(output="source/imported", copy=True)
    made = bring(output="source/imported", copy=True, overwrite=True)
    assert len(made.found.cases) == 6


def test_colour_coded_labels_are_written(make, bring, tmp_path):
    make.picture("images/a.png", "images/b.png")
    pixels = np.zeros((12, 16, 3), np.uint8)
    pixels[3:6, 2:9] = (255, 0, 0)
    from PIL import Image

    for name in "ab":
        Image.fromarray(pixels).save(make.place(f"labels/{name}.png"))
    with pytest.raises(Question, match=r"colour-coded"):
        bring()
    assert not (tmp_path / "out").exists()
    made = bring(colours={"#000000": "skin", "#ff0000": "lesion"})
    assert (made.drawn, made.datalist.training[0]["label"]) == (2, "labels/a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "out/labels/a.png", label=True).array, pixels[..., 0] // 255)
    assert made.datalist.colours == {0: "#000000", 1: "#ff0000"}
    assert made.left_out == ()


def test_coloured_labels_of_black_and_white(make, bring, tmp_path):
    """One without an object has no colour to be known by, and grey is a colour where colours are said."""
    from PIL import Image

    make.picture("images/a.png", "images/b.png")
    pixels = np.zeros((12, 16, 3), np.uint8)
    for name in "ab":
        pixels[3:6, 2:9] = (255, 0, 0) if name == "a" else (128, 128, 128)
        Image.fromarray(pixels if name == "a" else pixels * 0).save(make.place(f"labels/{name}.png"))
    said = {"#000000": "skin", "#ff0000": "lesion", "#808080": "scar"}
    made = bring(colours=said)
    assert "drawn labels without an object, skin throughout: 1 of 2" in made.found.notes
    assert not read_image(tmp_path / "out/labels/b.png", label=True).array.any()
    for name in "ab":
        Image.fromarray(pixels).save(make.place(f"labels/{name}.png"))
    made = bring(output="grey", colours=said)
    assert set(np.unique(read_image(tmp_path / "grey/labels/b.png", label=True).array)) == {0, 2}
    with pytest.raises(Question, match=r"labels hold 2 values, 0, 128, which do not count"):
        bring(output="values")


def test_bad_folders(make, tmp_path):
    with pytest.raises(MedsegError, match=r"none: no such file or folder"):
        import_folder(tmp_path / "none", tmp_path / "out")
    make.text("a.txt", "x")
    with pytest.raises(ImportingError, match=r"source: nothing found, no images; name the folder"):
        import_folder(make.root, tmp_path / "out", Options(), Wishes())
    assert not (tmp_path / "out").exists()


def test_a_suffix_is_of_pairs(make, bring):
    """A folder that is laid out otherwise too is taken as pairs where somebody says how names end."""
    make.text("dataset_description.json", '{"BIDSVersion": "1.8.0"}')
    make.picture(*(f"derivatives/a_{n}_scan.png" for n in range(3)))
    make.label(*(f"derivatives/a_{n}_mask.png" for n in range(3)))
    assert bring(label_suffix="_mask", image_suffix="_scan").found.layout == "pairs"
    with pytest.raises(ImportingError, match=r"--image-suffix says how names .* make pairs, which bids does not ask"):
        bring(output="other", layout="bids", image_suffix="_scan")


def test_a_class_that_one_fold_keeps_is_told(pairs, bring):
    pairs.label("masks/patient1_slice0_mask.png", "masks/patient1_slice1_mask.png", values=(0, 1, 2))
    made = bring(check=False, classes=("skin", "lesion", "scar"))
    (fold,) = {entry["fold"] for entry in made.datalist.training if entry["group"] == "patient1"}
    said = f"every label that holds class 2 (scar) is in fold {fold}: with it as test nothing is trained on that"
    assert made.found.notes[-1] == said
    pairs.label("masks/patient0_slice0_mask.png", "masks/patient2_slice0_mask.png", values=(0, 1, 2))
    assert "nothing is trained" not in bring(output="again", check=False, classes=("a", "b", "c")).found.notes[-1]
