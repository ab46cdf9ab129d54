import shutil

import numpy as np
import pytest
from PIL import Image

from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist

SIZE = (12, 16)


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("ade20k")


def annotation(seed):
    values = np.random.default_rng(seed).integers(1, 151, SIZE, dtype=np.uint8)
    values[0] = 0
    return values


def make_release(folder, training=3, validation=2):
    root = folder / "ADEChallengeData2016"
    for split, prefix, count in (("training", "train", training), ("validation", "val", validation)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            stem, seed = f"ADE_{prefix}_{number:08d}", number + 50 * (prefix == "val")
            image = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / "images" / split / f"{stem}.jpg")
            Image.fromarray(annotation(seed)).save(root / "annotations" / split / f"{stem}.png")
    rows = [f"{n}\t0.1\t9\t9\tname {n}, other name" for n in range(1, 151)]
    (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
    return root


@pytest.fixture
def release(tmp_path):
    return make_release(tmp_path / "data")


def run(script, source, output, *more):
    return script.main(["--source", str(source), "--output", str(output), "--allow-partial", *more])


def pixels(path):
    return np.asarray(Image.open(path))


def test_classes_and_lists(script, release, tmp_path, capsys):
    assert run(script, release.parent, tmp_path / "out") == 0
    assert "3 of 20210 training and 2 of 2000 validation images" in capsys.readouterr().out
    datalist = Datalist.load(tmp_path / "out/datalist.json")
    assert datalist.class_names == [f"name {n}" for n in range(1, 151)]
    assert datalist.ignore_index == 255
    assert [len(datalist.training), len(datalist.validation)] == [3, 2]
    for split, entry in datalist.entries():
        source = pixels(release / "annotations" / split / f"{entry['group']}.png").astype(int)
        written = pixels(tmp_path / "out" / entry["label"])
        assert written.dtype == np.uint8
        np.testing.assert_array_equal(written[source == 0], 255)
        np.testing.assert_array_equal(written[source > 0], source[source > 0] - 1)
        assert (source == 0).sum() == (written == 255).sum() == 16
        image, original = tmp_path / "out" / entry["image"], release / "images" / split / f"{entry['group']}.jpg"
        assert image.samefile(original)
    assert check_datalist(datalist, in_channels=3, num_classes=150, roi_size=SIZE).errors == []


def test_training_and_validation_together(script, release, tmp_path, capsys):
    assert run(script, release, tmp_path / "out", "--training", "trainval") == 0
    datalist = Datalist.load(tmp_path / "out/datalist.json")
    assert [len(datalist.training), datalist.validation, datalist.name] == [5, [], "ade20k_trainval"]
    assert run(script, release, tmp_path / "out") == 1
    assert "choose another output folder or overwrite" in capsys.readouterr().err


def test_grey_images_get_three_channels(script, release, tmp_path):
    path = release / "images/training/ADE_train_00000001.jpg"
    Image.open(path).convert("L").save(path)
    assert run(script, release, tmp_path / "out") == 0
    written = pixels(tmp_path / "out/images/ADE_train_00000001.png")
    np.testing.assert_array_equal(written, np.dstack([pixels(path)] * 3))
    assert check_datalist(tmp_path / "out/datalist.json", in_channels=3).errors == []


def test_official_counts(script, release, tmp_path, capsys, monkeypatch):
    assert script.OFFICIAL == {"training": 20210, "validation": 2000}
    arguments = ["--source", str(release), "--output", str(tmp_path / "out")]
    assert script.main(arguments) == 1
    assert f"{release}: has 3 of 20210 training and 2 of 2000 validation images; complete" in capsys.readouterr().err
    monkeypatch.setattr(script, "OFFICIAL", {"training": 3, "validation": 2})
    assert script.main(arguments) == 0
    prepared = {"script": "ade20k", "training": "train", "partial": False}
    assert Datalist.load(tmp_path / "out/datalist.json").preparation == prepared
    assert script.main(["--source", "/nowhere", "--output", str(tmp_path / "out")]) == 0
    assert "complete already" in capsys.readouterr().out
    shutil.rmtree(release / "images/training")
    assert script.main([*arguments, "--overwrite"]) == 1
    assert f"{release}/images/training: no such folder; --source is the folder ADE" in capsys.readouterr().err


LABEL = "annotations/training/ADE_train_00000001.png"


def save(make):
    return lambda path: Image.fromarray(make(pixels(path))).save(path)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (LABEL, save(lambda values: np.dstack([values, values, 0 * values])), "is a colour picture, but the release"),
        (LABEL, save(lambda values: values.astype(np.uint16) * 300), "is of type uint16, as instance numbers are"),
        (LABEL, save(lambda values: values - np.uint8(1)), "holds 255, so its values are classes 0 to 149 already"),
        (LABEL, save(lambda values: np.maximum(values, 151)), "holds the value 151, but the release has 0 to 150"),
        (LABEL, save(lambda values: values[2:]), "is 10x16, but its image ADE_train_00000001.jpg is 12x16"),
        (LABEL, lambda path: path.unlink(), "no such file, but"),
        ("images/validation/ADE_val_00000000.jpg", lambda path: path.unlink(), "no such file, but"),
        ("annotations/training", shutil.rmtree, "no such folder; --source is"),
        ("objectInfo150.txt", lambda path: path.unlink(), "no such file; unpack the release again"),
        ("objectInfo150.txt", lambda path: path.write_text(path.read_text()[:900]), "does not number 150 classes"),
    ],
)
def test_damaged_release(script, release, tmp_path, assert_named, name, damage, message):
    damage(release / name)
    assert_named(run(script, release, tmp_path / "out"), release / name, message)


def test_other_layouts(script, release, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run(script, tmp_path / "empty", tmp_path / "out") == 1
    assert f"{tmp_path}/empty: no folder ADEChallengeData2016 (with images/training" in capsys.readouterr().err
    coded = tmp_path / "ADE20K_2021_17_01/images/ADE/training/ADE_train_00016869_seg.png"
    coded.parent.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(coded)
    assert run(script, tmp_path / "ADE20K_2021_17_01", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert f"{coded}: belongs to the full release of ADE20K" in said
    assert "needed is the folder ADEChallengeData2016 or http://" in said
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        folder = release / kind
        shutil.copy(folder / f"training/ADE_train_00000000.{suffix}", folder / "validation")
    assert run(script, release, tmp_path / "out") == 1
    assert "training and validation both hold ADE_train_00000000.jpg" in capsys.readouterr().err


def test_hostile_archives(script, assert_refused):
    assert_refused(script)


def test_archive(script, release, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "ade"), "zip", release.parent)
    assert run(script, archive, tmp_path / "out") == 0
    shutil.rmtree(release)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["datalist.json", "images", "labels"]
    assert check_datalist(tmp_path / "out/datalist.json").errors == []


def test_real_scenes(script, real_data, tmp_path, capsys):
    root = real_data / "ade20k/ADEChallengeData2016"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    assert run(script, root.parent, tmp_path / "out") == 0
    assert "0 of 20210 training and 3 of 2000 validation images" in capsys.readouterr().out
    datalist = Datalist.load(tmp_path / "out/datalist.json")
    assert datalist.num_classes == 150
    assert [datalist.labels[index] for index in (0, 1, 2, 149)] == ["wall", "building", "sky", "flag"]
    for entry in datalist.validation:
        source = pixels(root / f"annotations/validation/{entry['group']}.png").astype(int)
        expected = np.array([255, *range(150)])[source]
        np.testing.assert_array_equal(pixels(tmp_path / "out" / entry["label"]), expected)
    assert check_datalist(datalist, in_channels=3, num_classes=150).errors == []
    assert run(script, root.parent / "ADE20K_2021_17_01", tmp_path / "full") == 1
    assert "_seg.png: belongs to the full release of ADE20K" in capsys.readouterr().err
