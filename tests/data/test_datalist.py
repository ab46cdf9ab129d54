import json
import logging
import os
from pathlib import Path

import pytest
from datalists import ENTRY, write
from datalists import content as toy

from medseg.data.datalist import Datalist, DatalistError


def content(**changes):
    entries = [
        {"image": f"i{n}.png", "label": f"l{n}.png", "group": f"g{n // 2}", "fold": n // 2 % 3, "fold_random": n % 2}
        for n in range(12)
    ]
    return toy(**{"ignore_index": 255, "training": entries, **changes})


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


def test_two_folds_are_never_validated_on_the_test_fold(tmp_path, caplog):
    datalist = Datalist.load(write(tmp_path, content()))
    training, validation, test = datalist.split(0, fold_key="fold_random")
    assert ({e["fold_random"] for e in training}, validation, {e["fold_random"] for e in test}) == ({1}, [], {0})
    assert "scheme 'fold_random' has two folds: one is trained on, fold 0 is the test, and none is left" in caplog.text
    caplog.clear()
    assert datalist.split(0, fold_key="fold_random", validation_fold=None) == (training, [], test)
    assert caplog.text == ""


def test_one_fold_leaves_nothing_to_train_on(tmp_path):
    datalist = Datalist.load(write(tmp_path, content(training=[{"image": "a.png", "label": "b.png", "fold": 4}])))
    with pytest.raises(
        DatalistError, match=r"has only fold 4, so that nothing .* with fold 4 as test; make more folds"
    ):
        datalist.split(4)


@pytest.mark.parametrize("fold", [None, 0])
def test_without_folds_and_validation_everything_is_trained_on(tmp_path, caplog, fold):
    test = [{"image": "c.png"}]
    datalist = Datalist.load(write(tmp_path, content(training=[{"image": "a.png", "label": "b.png"}], test=test)))
    assert [images(part) for part in datalist.split(fold)] == [{"a.png"}, set(), {"c.png"}]
    (record,) = caplog.records
    assert (record.levelno, "all labelled images (1) are trained on" in record.getMessage()) == (logging.WARNING, True)


def test_train_on_everything(tmp_path):
    extra = {"validation": [{"image": "v.png", "label": "w.png"}], "test": [{"image": "c.png"}]}
    training, validation, test = Datalist.load(write(tmp_path, content(**extra))).split("all")
    assert images(training) == {f"i{n}.png" for n in range(12)} | {"v.png"}
    assert (validation, images(test)) == ([], {"c.png"})
    with pytest.raises(DatalistError, match="the training list is empty, so that there is nothing to train on"):
        Datalist.load(write(tmp_path, content(training=[], **{**extra, "test": []}))).split()


@pytest.mark.parametrize("fold", [None, 0])
def test_a_test_list_alone_is_there_to_score_a_model_on(tmp_path, fold):
    datalist = Datalist.load(write(tmp_path, content(training=[], test=[{"image": "c.png", "label": "d.png"}])))
    assert [images(part) for part in datalist.split(fold)] == [set(), set(), {"c.png"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fold": 3}, r"fold 3 is not in scheme 'fold'; choose one of 0, 1, 2"),
        ({"fold": 0, "validation_fold": 7}, r"validation_fold 7 is not in scheme"),
        ({"fold": 0, "validation_fold": 0}, r"validation_fold and fold are both 0"),
        ({"fold": 0, "fold_key": "fold_site"}, r"no fold scheme 'fold_site'; it has fold, fold_random"),
        ({"fold": 0, "fold_key": "fold_random", "validation_fold": 1}, r"has only folds 0, 1, so that nothing is left"),
        ({"fold": "all", "validation_fold": 1}, r"fold all trains on everything, so that validation_fold 1 cannot"),
        ({"fold": "every"}, r"fold every is not in scheme 'fold'; choose one of 0, 1, 2, or all"),
        (
            {},
            r"the validation list is empty; give fold=N \(schemes: fold, fold_random\), or fold=all to train",
        ),
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


CODE = {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}


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
        (content(labels={"9" * 5000: "a"}), "labels has the key '9999999999"),
        ('{"version": ' + "1" * 5000 + "}", r"holds an integer of 5000 digits \(111111111111\.\.\.\); write a smaller"),
        ('{"version": NaN}', "holds the number NaN; only finite"),
        ('{"version": -Infinity}', "holds the number -Infinity; only finite"),
        ('{"version": 1e999}', "holds the number 1e999; only finite"),
        ('{"a": ' + "[" * 40 + "]" * 40 + "}", "lacks 'name'"),
        (content(preparation={"a": [[[1]]] * 3, "b": json.loads("[" * 40 + "]" * 40)}), "preparation is nested more"),
        (content(name="\ud800"), r"name holds '\\ud800', which is no Unicode text \(a lone surrogate\)"),
        (content(training=[{"image": "a\udc80.png", "label": "b.png"}]), "training holds .*no Unicode text"),
        (content(preparation={"\udfff": 1}), "preparation holds .*no Unicode text"),
        (content(ignore_index=2**40), "ignore_index 1099511627776 does not fit 32 bits"),
        (content(ignore_index=0), "ignore_index 0 is also the class 'back'"),
        (content(codes={"2": {}}), "codes names the class '2', but labels has 0, 1"),
        (content(codes={"1": "SCT"}), r"codes\['1'\] is a string"),
        (
            content(codes={"1": {"value": "1", "scheme": "SCT"}}),
            r"codes\['1'\] has the keys scheme, value; give an obj",
        ),
        (content(codes={"1": {**CODE, "value": "1" * 17}}), "value is '1+'; DICOM takes 1 to 16 printable"),
        (content(codes={"1": {**CODE, "meaning": ""}}), "meaning is ''; DICOM takes 1 to 64"),
        (content(codes={"1": {**CODE, "meaning": "a\n"}}), "DICOM takes 1 to 64 printable"),
        (content(codes={"1": {**CODE, "scheme": 1}}), "scheme is an integer"),
        (content(colours={"2": "#000000"}), "colours names the class '2'"),
        (content(colours={"1": "red"}), r"colours\['1'\] is 'red'; write red, green and blue as in \"#ff8000\""),
        (content(colours={"1": "#ff80000"}), "write red, green"),
        (content(colours={"1": 255}), "write red, green"),
        (content(values={"0": 0, "255": 2}), "values maps 255 to 2, which is no class; name one of 0-1 or the ignore"),
        (content(values={"0": 0, "255": -1}), "values maps 255 to -1, which is no class"),
        (content(values={"0.5": 0}), "values has the key '0.5'"),
        (content(values={"255": "1"}), r"values\['255'\] is a string"),
        (content(values=[0, 1]), "values is a list"),
        (content(labels={"0": "a", "1": "a"}), "labels names 'a' twice"),
        (content(ignore_index=1), "ignore_index 1 is also the class 'front'"),
        (content(training=[]), "all empty"),
        (content(training=["a.png"]), r"training\[0\]: the entry is a string"),
        (content(training=[{"image": "a.png"}]), r"training\[0\] lacks 'label'"),
        (content(validation=[{"label": "a.png"}]), r"validation\[0\] lacks 'image'"),
        (content(training=[{**ENTRY, "image": 3}]), "image is an integer"),
        (content(training=[{**ENTRY, "image": ""}]), "give a path relative"),
        (content(training=[{**ENTRY, "image": "/etc/a.png"}]), "'/etc/a.png' is absolute"),
        (content(training=[{**ENTRY, "image": []}]), "image is an empty list"),
        (content(training=[{**ENTRY, "image": ["a.png", "a.png"]}]), "image names a file twice"),
        (content(training=[{**ENTRY, "image": ["a.png", "/b.png"]}]), r"image\[1\] '/b.png' is absolute"),
        (content(training=[{**ENTRY, "image": ["a.png", 3]}]), r"image\[1\] is an integer"),
        (content(training=[{**ENTRY, "label": ["a.png"]}]), "label is a list"),
        (content(training=[{**ENTRY, "instances": 3}]), "instances is an integer"),
        (content(training=[{**ENTRY, "label": ".."}]), r"label is '\.\.'; give a path relative"),
        (content(training=[{**ENTRY, "fold": "0"}]), "fold is a string"),
        (content(training=[{**ENTRY, "fold": -1}]), "folds are numbered from 0"),
        (content(training=[{**ENTRY, "fold": 0}, ENTRY]), r"training\[1\] lacks 'fold'"),
        (content(training=[{**ENTRY, "group": 1}]), "group is an integer"),
        (content(training=[{**ENTRY, "image": "."}]), "image is '.'; give a path relative"),
        (content(training=[{**ENTRY, "image": "/"}]), "image '/' is absolute"),
        (content(training=[{**ENTRY, "image": "a\0b"}]), "give a path relative"),
        (content(training=[{**ENTRY, "label_values": {"0": 1}}]), "label_values is no key of an entry"),
        (content(training=[{**ENTRY, "label": "/a\x1b[2J.png"}]), r"'/a\\x1b\[2J.png' is absolute"),
    ],
)
def test_bad_content(tmp_path, data, message):
    path = write(tmp_path, data)
    with pytest.raises(DatalistError, match=message) as error:
        Datalist.load(path)
    assert str(error.value).startswith(str(path))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_bad_files(tmp_path):
    with pytest.raises(DatalistError, match=r"nowhere\.json: no such datalist; correct"):
        Datalist.load(tmp_path / "nowhere.json")
    for name in ("images", "listed"):
        (tmp_path / name).mkdir()
    (tmp_path / "listed" / "dataset.json").write_text("{}")
    with pytest.raises(DatalistError, match="imagess: no such datalist; correct"):  # there is none in `images`
        Datalist.load(tmp_path / "imagess")
    with pytest.raises(DatalistError, match=r"listd: no such datalist; did you mean .*listed\?"):
        Datalist.load(tmp_path / "listd")
    with pytest.raises(DatalistError, match="cannot be read"):
        Datalist.load(tmp_path)
    with pytest.raises(DatalistError, match=r"a\\x00b: cannot be a path"):
        Datalist.load("a\0b")
    with pytest.raises(DatalistError, match=r"a\\nb\.json: no such datalist"):
        Datalist.load(tmp_path / "a\nb.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DatalistError, match="it is no file"):
        Datalist.load(tmp_path / "pipe.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatalistError, match="not UTF-8"):
        Datalist.load(tmp_path / "binary.json")


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
    content_of_monai = content(test=[{"image": "c.png"}], colours={"1": "#ff0000"}, values={"0": 0, "255": 1})
    path = write(tmp_path, content_of_monai)
    (entry,) = monai_data.load_decathlon_datalist(str(path), is_segmentation=True, data_list_key="test")
    assert str(entry["image"]) == str(tmp_path / "c.png")


NAMES = (
    "é ü/日本 語.png",
    "100%25 %s.png",
    "0",
    "-",
    "a b.png",
    " .png",
    "\u202e.png",
    "a\nb.png",
    "#?&.png",
    "😀.png",
)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_of_names(tmp_path, name):
    """What is saved is loaded: same content, same files, same fingerprint, also under another path."""
    optional = {
        "codes": {"1": CODE},
        "colours": {"0": "#000000", "1": "#ff8000"},
        "values": {"0": 0, "255": 1, "-1": 255},
        "preparation": {name: [1.5, None, True, name]},
    }
    entry = {"image": f"i/{name}", "label": f"l/{name}", "group": name, f"fold_{name}": 3}
    data = content(name=name, labels={"0": name, "1": f"not {name}"}, training=[entry], **optional)
    datalist = Datalist.load(write(tmp_path, data))
    for relative in datalist.files():
        place = tmp_path / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"12")
    fingerprint = datalist.fingerprint()
    other = datalist.save(tmp_path / "other.json")
    assert json.loads(other.read_text(encoding="utf-8")) == data
    again = Datalist.load(other)
    assert again.fingerprint() == fingerprint
    assert again.absolute(again.training[0]) == datalist.absolute(datalist.training[0])
    assert (again.codes, again.colours, again.values) == (
        {1: CODE},
        {0: "#000000", 1: "#ff8000"},
        {0: 0, 255: 1, -1: 255},
    )
    assert again.fold_keys == [f"fold_{name}"]


def test_absolute_hands_on_the_mapping(tmp_path):
    datalist = Datalist.load(write(tmp_path, content(training=[ENTRY], values={"0": 0, "255": 1})))
    assert datalist.absolute(ENTRY)["label_values"] == {0: 0, 255: 1}
    assert "label_values" not in Datalist.load(write(tmp_path, content())).absolute(ENTRY)


def test_byte_order_mark(tmp_path):
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps(content()), encoding="utf-8-sig")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert Datalist.load(path).name == "toy"


@pytest.mark.parametrize("case", ["labels", "twins", "keys", "entries", "folds"])
def test_time_grows_with_the_content(tmp_path, case):
    """70,000 of anything take seconds; anything quadratic takes hours, which the time limit of a test ends."""
    many = 70_000
    labels = {str(n): f"class {n}" for n in range(many)}
    data = {
        "labels": content(labels=labels, ignore_index=None),
        "twins": content(labels={**labels, str(many): "class 5", str(many + 1): "class 5"}, ignore_index=None),
        "keys": "{" + ", ".join(f'"{n}": 0' for n in range(many)) + ', "5": 0}',
        "entries": content(training=[{"image": f"{n}.png", "label": "l.png", "fold": n} for n in range(many)]),
        "folds": content(training=[{"image": f"{n}.png", "label": "l.png", f"fold{n}": n} for n in range(many)]),
    }[case]
    path = write(tmp_path, data)
    if case in ("labels", "entries"):
        datalist = Datalist.load(path)
        assert max(datalist.num_classes, len(datalist.training)) == many
    else:
        with pytest.raises(DatalistError, match=r"twice|lacks 'fold0'"):
            Datalist.load(path)


def test_files_beside_the_folder_and_images_of_several_files(tmp_path):
    entry = {"image": ["../scans/a_t1.nii", "../scans/a_t2.nii"], "label": "labels/a.nii"}
    datalist = Datalist.load(write(tmp_path, content(training=[entry])))
    assert datalist.files() == ["../scans/a_t1.nii", "../scans/a_t2.nii", "labels/a.nii"]
    placed = datalist.absolute(datalist.training[0])
    assert placed["image"] == [str(tmp_path.parent / name.removeprefix("../")) for name in entry["image"]]
    assert Datalist.load(datalist.save(tmp_path / "b.json")).training == [entry]
