import json
import logging
import shutil

import pytest

from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist, DatalistError


def decathlon(**changes):
    return {
        "name": "Hippo", "description": "words", "reference": "somewhere", "licence": "CC-BY-SA 4.0", "release": "1.0",
        "tensorImageSize": "3D", "modality": {"0": "T1", "1": "T2"}, "labels": {"0": "back", "1": "front"},
        "numTraining": 12, "numTest": 2,
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in range(12)],
        "test": ["./imagesTs/a.nii.gz", "./imagesTs/b.nii.gz"], **changes,
    }  # fmt: skip


def load(folder, **changes):
    path = folder / "dataset.json"
    path.write_text(json.dumps(decathlon(**changes)))
    return Datalist.load(path)


def test_read_as_it_is(tmp_path, caplog):
    datalist = load(tmp_path)
    assert (datalist.name, datalist.version, datalist.licence, datalist.source) == (
        "Hippo",
        1,
        "CC-BY-SA 4.0",
        "somewhere",
    )
    assert (datalist.modality, datalist.labels) == (("T1", "T2"), {0: "back", 1: "front"})
    assert datalist.test == [{"image": "./imagesTs/a.nii.gz"}, {"image": "./imagesTs/b.nii.gz"}]
    assert datalist.preparation == {"folds": 5, "seed": 0}
    assert sorted(entry["fold"] for entry in datalist.training) == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
    assert caplog.text == ""
    saved = datalist.save(tmp_path / "datalist.json")
    assert Datalist.load(saved).training == datalist.training
    training, validation, test = datalist.split(1)
    assert ({e["fold"] for e in training}, {e["fold"] for e in validation}) == ({0, 3, 4}, {2})
    assert {e["fold"] for e in test} == {1}


def test_that_folds_are_proposed_is_told_once(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "medseg.data.decathlon"):
        for _ in range(3):
            load(tmp_path)
    (record,) = caplog.records
    assert record.getMessage() == f"{tmp_path}/dataset.json: has no folds; 5 are proposed, by group or image"


@pytest.mark.parametrize(("cases", "folds"), [(1, None), (2, 2), (3, 3), (9, 5)])
def test_few_cases(tmp_path, cases, folds):
    datalist = load(tmp_path, training=decathlon()["training"][:cases], numTraining=cases)
    assert (datalist.fold_keys, datalist.preparation.get("folds")) == (["fold"] if folds else [], folds)
    assert folds is None or len(datalist.folds()) == folds


def test_own_division_is_kept(tmp_path):
    entries = [{**entry, "fold": n % 3} for n, entry in enumerate(decathlon()["training"])]
    assert load(tmp_path, training=entries).training == entries
    lists = load(tmp_path, validation=decathlon()["training"][:2])
    assert (lists.fold_keys, len(lists.validation), lists.preparation) == ([], 2, {})


def test_other_spellings(tmp_path):
    datalist = load(tmp_path, labels={"back": 0, "front": 1}, modality="CT", values={"0": 0, "255": 1})
    assert (datalist.labels, datalist.modality, datalist.values) == ({0: "back", 1: "front"}, ("CT",), {0: 0, 255: 1})
    content = decathlon()
    del content["name"], content["licence"], content["reference"], content["description"], content["test"]
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "testing": [{"image": "c.png"}], "numTest": 1}))
    datalist = Datalist.load(tmp_path / "dataset.json")
    assert (datalist.name, datalist.licence, datalist.source) == (tmp_path.name, "not stated", "not stated")
    assert datalist.test == [{"image": "c.png"}]


def test_counts_that_contradict_the_lists_are_told(tmp_path, caplog):
    assert len(load(tmp_path, numTraining=13).training) == 12
    assert "numTraining says 13, but 12 are listed" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"back": 0, "front": 0}}, "labels gives two names the same index"),
        ({"labels": {"back": 0, "front": 2}}, "labels has the indices 0, 2"),
        ({"labels": {"back": 0, "front": [1, 2]}}, "labels has the key 'back'"),
        ({"labels": ["back"]}, "has no labels; name the classes as in"),
        ({"modality": {"0": "T1", "2": "T2"}}, "modality has the channels 0, 2"),
        ({"modality": {"0": 1}}, r"modality\[0\] is an integer"),
        ({"training": "imagesTr"}, "training must be a list of images"),
        ({"training": ["a.nii.gz"]}, r"training\[0\]: the entry is a string"),
        ({"training": [{"image": ["a", "a"], "label": "c"}]}, "image names a file twice"),
        ({"testing": []}, "both test and testing"),
        ({"name": None}, "name is null"),
    ],
)
def test_one_line_errors(tmp_path, changes, message):
    with pytest.raises(DatalistError, match=message) as caught:
        load(tmp_path, **changes)
    assert str(caught.value).startswith(f"{tmp_path / 'dataset.json'}: ")
    assert "\n" not in str(caught.value)


def test_nnunet_without_a_list(tmp_path):
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "numTraining": 3, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatalistError, match='has no list "training" of images and labels'):
        Datalist.load(tmp_path / "dataset.json")


def test_real_release(real_data, tmp_path):
    """The decathlon's hippocampi: every volume in one fold, every file found, and the first ones pass the check."""
    source = real_data / "msd_hippocampus"
    datalist = Datalist.load(source / "dataset.json")
    assert (datalist.num_classes, len(datalist.training), datalist.test) == (3, 200, [])
    assert [sum(e["fold"] == fold for e in datalist.training) for fold in range(5)] == [40] * 5
    assert len(datalist.fingerprint()) == 64
    few = json.loads((source / "dataset.json").read_text())
    few["training"] = few["training"][:4]
    few["numTraining"] = 4
    for entry in few["training"]:
        for key in ("image", "label"):
            (tmp_path / entry[key]).parent.mkdir(exist_ok=True)
            shutil.copy(source / entry[key], tmp_path / entry[key])
    (tmp_path / "dataset.json").write_text(json.dumps(few))
    assert check_datalist(tmp_path / "dataset.json").errors == []
