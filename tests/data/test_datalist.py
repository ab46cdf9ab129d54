import json
from pathlib import Path

import pytest

from medseg.data.datalist import Datalist, DatalistError


def content(**changes):
    entries = [
        {"image": f"i{n}.png", "label": f"l{n}.png", "group": f"g{n // 2}", "fold": n // 2 % 3, "fold_random": n % 2}
        for n in range(12)
    ]
    base = {
        "name": "toy",
        "version": 1,
        "modality": ["EM"],
        "licence": "CC0-1.0",
        "source": "here",
        "labels": {"0": "back", "1": "front"},
        "ignore_index": 255,
        "training": entries,
        "validation": [],
        "test": [],
    }
    return {**base, **changes}


def write(folder, data):
    path = folder / "datalist.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def images(entries):
    return {Path(entry["image"]).name for entry in entries}


def test_round_trip(tmp_path):
    datalist = Datalist.load(write(tmp_path, content(preparation={"crop_size": 8})))
    assert datalist.num_classes == 2
    assert datalist.class_names == ["back", "front"]
    assert datalist.fold_keys == ["fold", "fold_random"]
    saved = datalist.save(tmp_path / "deep" / "other.json")
    assert json.loads(saved.read_text()) == content(preparation={"crop_size": 8})
    assert [path.name for path in saved.parent.iterdir()] == ["other.json"]


def test_split_by_fold(tmp_path):
    datalist = Datalist.load(write(tmp_path, content()))
    training, validation, test = datalist.split(2)
    assert {e["fold"] for e in training} == {1}
    assert {e["fold"] for e in validation} == {0}
    assert {e["fold"] for e in test} == {2}
    assert len(training) + len(validation) + len(test) == 12
    assert training[0]["image"] == str(tmp_path / "i2.png")
    assert training[0]["group"] == "g1"
    assert datalist.split(2, validation_fold=1)[1] != validation
    training, validation, test = datalist.split(0, validation_fold=None)
    assert {e["fold"] for e in training} == {1, 2}
    assert validation == []
    assert {e["fold"] for e in test} == {0}


def test_split_lists(tmp_path):
    lists = {
        "training": [{"image": "a.png", "label": "a_l.png"}],
        "validation": [{"image": "b.png", "label": "b_l.png"}],
        "test": [{"image": "c.png"}],
    }
    datalist = Datalist.load(write(tmp_path, content(**lists)))
    for fold in (None, 0):
        assert [images(part) for part in datalist.split(fold)] == [{"a.png"}, {"b.png"}, {"c.png"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fold": 3}, r"fold 3 is not in scheme 'fold'; choose one of 0, 1, 2"),
        ({"fold": 0, "validation_fold": 7}, r"validation_fold 7 is not in scheme"),
        ({"fold": 0, "validation_fold": 0}, r"validation_fold and fold are both 0"),
        ({"fold": 0, "fold_key": "fold_site"}, r"no fold scheme 'fold_site'; it has fold, fold_random"),
        ({"fold": 0, "fold_key": "fold_random"}, r"nothing is left to train on"),
        ({}, r"the validation list is empty; pass fold= \(schemes: fold, fold_random\)"),
        ({"validation_fold": 1}, r"validation_fold 1 needs a fold"),
    ],
)
def test_split_errors(tmp_path, arguments, message):
    path = write(tmp_path, content())
    with pytest.raises(DatalistError, match=message) as error:
        Datalist.load(path).split(**arguments)
    assert str(path) in str(error.value)


def test_split_without_folds_names_the_remedy(tmp_path):
    datalist = Datalist.load(write(tmp_path, content(training=[{"image": "a.png", "label": "b.png"}])))
    with pytest.raises(DatalistError, match="its entries carry no folds"):
        datalist.split(1)


ENTRY = {"image": "a.png", "label": "b.png"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a list at the top"),
        ('{"name": "a", "name": "b"}', "key 'name' stands twice"),
        ("[" * 100_000, "not valid JSON"),
        ({"name": "toy"}, "lacks 'version', 'modality', 'licence'"),
        (content(version="1"), r"version is a string \('1'\), but must be an integer"),
        (content(version=True), "version is a boolean"),
        (content(modality="EM"), "modality is a string"),
        (content(labels={"0": "a", "2": "b"}), "labels has the indices 0, 2; number the classes"),
        (content(labels={}), "labels has the indices none"),
        (content(labels={"01": "a"}), "labels has the key '01'"),
        (content(labels={"x": "a"}), "labels has the key 'x'"),
        (content(labels={"0": "a", "1": "a"}), "labels names 'a' twice"),
        (content(ignore_index=1), "ignore_index 1 is also the class 'front'"),
        (content(training=[]), "all empty"),
        (content(training=["a.png"]), r"training\[0\]: the entry is a string"),
        (content(training=[{"image": "a.png"}]), r"training\[0\] lacks 'label'"),
        (content(validation=[{"label": "a.png"}]), r"validation\[0\] lacks 'image'"),
        (content(training=[{**ENTRY, "image": 3}]), "image is an integer"),
        (content(training=[{**ENTRY, "image": ""}]), "give a path relative"),
        (content(training=[{**ENTRY, "image": "/etc/a.png"}]), "'/etc/a.png' is absolute"),
        (content(training=[{**ENTRY, "label": "x/../../a.png"}]), r"'x/../../a.png' leaves the datalist's folder"),
        (content(training=[{**ENTRY, "instances": 3}]), "instances is an integer"),
        (content(training=[{**ENTRY, "instances": "../a.png"}]), r"'../a.png' leaves the datalist's folder"),
        (content(training=[{**ENTRY, "fold": "0"}]), "fold is a string"),
        (content(training=[{**ENTRY, "fold": -1}]), "folds are numbered from 0"),
        (content(training=[{**ENTRY, "fold": 0}, ENTRY]), r"training\[1\] lacks 'fold'"),
        (content(training=[{**ENTRY, "group": 1}]), "group is an integer"),
    ],
)
def test_bad_content(tmp_path, data, message):
    path = write(tmp_path, data)
    with pytest.raises(DatalistError, match=message) as error:
        Datalist.load(path)
    assert str(path) in str(error.value)


def test_bad_files(tmp_path):
    with pytest.raises(DatalistError, match=r"nowhere\.json: no such datalist; prepare"):
        Datalist.load(tmp_path / "nowhere.json")
    with pytest.raises(DatalistError, match="cannot be read"):
        Datalist.load(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatalistError, match="not UTF-8"):
        Datalist.load(tmp_path / "binary.json")


def test_fingerprint(tmp_path):
    data = content(training=[{"image": "a.png", "label": "b.png"}])
    datalist = Datalist.load(write(tmp_path, data))
    with pytest.raises(DatalistError, match=r"names a\.png, but .* cannot be read"):
        datalist.fingerprint()
    (tmp_path / "a.png").write_bytes(b"12")
    (tmp_path / "b.png").write_bytes(b"34")
    first = datalist.fingerprint()
    assert len(first) == 64
    assert first == Datalist.load(tmp_path / "datalist.json").fingerprint()
    (tmp_path / "b.png").write_bytes(b"345")
    assert datalist.fingerprint() != first
    (tmp_path / "b.png").write_bytes(b"34")
    assert Datalist.load(write(tmp_path, {**data, "labels": {"0": "x"}})).fingerprint() != first


def test_instances_are_files_too(tmp_path):
    entry = {"image": "a.png", "label": "b.png", "instances": "c.png", "original": "far/away.jpg"}
    datalist = Datalist.load(write(tmp_path, content(training=[entry])))
    absolute = datalist.absolute(entry)
    assert absolute["instances"] == str(tmp_path / "c.png")
    assert absolute["original"] == "far/away.jpg"
    assert datalist.files() == ["a.png", "b.png", "c.png"]
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"12")
    with pytest.raises(DatalistError, match=r"names c\.png, but .* cannot be read"):
        datalist.fingerprint()
    (tmp_path / "c.png").write_bytes(b"12")
    first = datalist.fingerprint()
    (tmp_path / "c.png").write_bytes(b"123")
    assert datalist.fingerprint() != first


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    datalist = Datalist.load(write(tmp_path, content()))
    before = datalist.path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        datalist.save()
    assert datalist.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["datalist.json"]


def test_monai_reads_it(tmp_path):
    monai_data = pytest.importorskip("monai.data")
    path = write(tmp_path, content())
    entries = monai_data.load_decathlon_datalist(str(path), is_segmentation=True, data_list_key="training")
    assert len(entries) == 12
    assert str(entries[3]["image"]) == str(tmp_path / "i3.png")
    assert entries[3]["fold"] == 1
