import json

import pytest

from medseg.importers.layout import ImportingError


@pytest.fixture
def task(make):
    make.volume("imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "imagesTs/c.nii.gz")
    make.volume("labelsTr/a.nii.gz", "labelsTr/b.nii.gz", label=True)
    content = {"name": "Spleen", "licence": "CC-BY-SA 4.0", "tensorImageSize": "3D", "modality": {"0": "CT"}}
    content |= {"labels": {"0": "background", "1": "spleen"}, "numTraining": 2, "numTest": 1}
    content["training"] = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in "ab"]
    content["test"] = ["./imagesTs/c.nii.gz"]

    def write(**more):
        make.text("dataset.json", json.dumps({**content, **more}))

    write()
    return write


def test_it_is_taken_as_it_is(task, bring, left_out):
    made = bring()
    assert made.found.layout == "decathlon"
    assert (made.datalist.name, made.datalist.modality, made.datalist.licence) == ("Spleen", ("CT",), "CC-BY-SA 4.0")
    assert [entry["image"] for entry in made.datalist.training] == [f"../source/imagesTr/{n}.nii.gz" for n in "ab"]
    assert made.datalist.test == [{"image": "../source/imagesTs/c.nii.gz", "group": "c"}]
    assert made.datalist.class_names == ["background", "spleen"]
    assert left_out(made) == {}


def test_its_own_groups_and_folds_stay(task, bring):
    entries = [
        {"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz", "group": f"p{n}", "fold": 3 - f}
        for f, n in enumerate("ab")
    ]
    task(training=entries)
    assert [(e["group"], e["fold"]) for e in bring().datalist.training] == [("pa", 3), ("pb", 2)]


def test_what_is_not_there_is_left_out(task, make, bring, left_out):
    (make.root / "labelsTr/b.nii.gz").unlink()
    made = bring()
    assert len(made.datalist.training) == 1
    assert left_out(made)["labelsTr/b.nii.gz"] == "named by dataset.json, but no such file"
    assert "imagesTr/b.nii.gz" in left_out(made)
    (make.root / "labelsTr/a.nii.gz").unlink()
    task(test=[])
    with pytest.raises(ImportingError, match=r"none of the images that it names is there"):
        bring(output="two", layout="decathlon")


def test_real(bring, real_data):
    made = bring(source=real_data / "msd_hippocampus", check=False, dry_run=True)
    assert len(made.datalist.training) == 200
    assert [len([e for e in made.datalist.training if e["fold"] == f]) for f in range(5)] == [40] * 5
