import shutil

import numpy as np
import pytest
from PIL import Image

from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist

SIZE = (12, 24)
CITIES = {"train": {"aachen": 2, "ulm": 1}, "val": {"lindau": 2}}
# the benchmark's own table, label id to train id, copied by hand from its documentation
TRAIN_IDS = {
    **{7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14},
    **{28: 15, 31: 16, 32: 17, 33: 18},
}


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("cityscapes")


def make_release(folder):
    """Write the two folders with every file that the official archives hold."""
    rng = np.random.default_rng(0)
    for split, cities in CITIES.items():
        for city, count in cities.items():
            images, labels = folder / "leftImg8bit" / split / city, folder / "gtFine" / split / city
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for number in range(count):
                name = f"{city}_{number:06d}_000019"
                image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
                ids = rng.integers(0, 34, SIZE, dtype=np.uint8)
                Image.fromarray(image).save(images / f"{name}_leftImg8bit.png")
                Image.fromarray(ids).save(labels / f"{name}_gtFine_labelIds.png")
                Image.fromarray(ids.astype(np.uint16) * 1000).save(labels / f"{name}_gtFine_instanceIds.png")
                Image.fromarray(image).convert("RGBA").save(labels / f"{name}_gtFine_color.png")
                (labels / f"{name}_gtFine_polygons.json").write_text("{}")
    return folder


@pytest.fixture
def release(tmp_path):
    return make_release(tmp_path / "data")


def run(script, source, output, *more):
    sources = source if isinstance(source, list) else [source]
    return script.main(["--source", *map(str, sources), "--output", str(output), "--allow-partial", *more])


def pixels(path):
    return np.asarray(Image.open(path))


def test_classes_and_cities(script, release, tmp_path, capsys):
    assert run(script, release, tmp_path / "out") == 0
    assert "3 of 2975 training and 2 of 500 validation images" in capsys.readouterr().out
    datalist = Datalist.load(tmp_path / "out/datalist.json")
    assert datalist.num_classes == 19
    assert [datalist.labels[index] for index in (0, 11, 13, 18)] == ["road", "person", "car", "bicycle"]
    assert [entry["group"] for entry in datalist.training] == ["aachen", "aachen", "ulm"]
    assert [entry["group"] for entry in datalist.validation] == ["lindau", "lindau"]
    for split, entry in datalist.entries():
        stem = entry["image"].removeprefix("images/").removesuffix(".png")
        place = f"{'train' if split == 'training' else 'val'}/{entry['group']}/{stem}"
        ids = pixels(release / f"gtFine/{place}_gtFine_labelIds.png")
        written = pixels(tmp_path / "out" / entry["label"])
        assert written.dtype == np.uint8
        for value in range(34):
            np.testing.assert_array_equal(written[ids == value], TRAIN_IDS.get(value, 255))
        image = tmp_path / "out" / entry["image"]
        assert image.samefile(release / f"leftImg8bit/{place}_leftImg8bit.png")
    assert check_datalist(datalist, in_channels=3, num_classes=19, roi_size=SIZE).errors == []


def test_official_counts(script, release, tmp_path, capsys, monkeypatch):
    assert script.OFFICIAL == {"training": 2975, "validation": 500}
    arguments = ["--source", str(release), "--output", str(tmp_path / "out")]
    assert script.main(arguments) == 1
    assert "leftImg8bit: has 3 of 2975 training and 2 of 500 validation images" in capsys.readouterr().err
    monkeypatch.setattr(script, "OFFICIAL", {"training": 3, "validation": 2})
    assert script.main(arguments) == 0
    assert script.main(["--source", "/nowhere", "--output", str(tmp_path / "out")]) == 0
    assert "complete already" in capsys.readouterr().out
    shutil.rmtree(release / "gtFine/val")
    shutil.rmtree(release / "leftImg8bit/val")
    assert script.main([*arguments, "--overwrite"]) == 1
    assert f"{release}/leftImg8bit/val: no such folder; --source is" in capsys.readouterr().err
    assert run(script, release, tmp_path / "out", "--overwrite") == 0
    assert "3 of 3 training and 0 of 2 validation images" in capsys.readouterr().out


def test_two_archives(script, release, tmp_path):
    archives = [shutil.make_archive(str(tmp_path / name), "zip", release, name) for name in ("leftImg8bit", "gtFine")]
    assert run(script, archives, tmp_path / "out") == 0
    shutil.rmtree(release)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["datalist.json", "images", "labels"]
    assert check_datalist(tmp_path / "out/datalist.json").errors == []


NAME = "aachen/aachen_000001_000019"
LABEL = f"gtFine/train/{NAME}_gtFine_labelIds.png"


def replace_by(kind):
    return lambda path: shutil.copy(path.with_name(path.name.replace("labelIds", kind)), path)


def rename_to(kind):
    def damage(path):
        for other in ("instanceIds", "color"):
            path.with_name(path.name.replace("labelIds", other)).unlink()
        path.rename(path.with_name(path.name.replace("labelIds", kind)))

    return damage


def train_ids(path):
    Image.fromarray(np.where(pixels(path) > 18, 255, pixels(path)).astype(np.uint8)).save(path)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (LABEL, replace_by("instanceIds"), "is of type uint16, as instance numbers are, but the release has"),
        (LABEL, replace_by("color"), "is a colour picture, but the release has a palette or grey PNG of class"),
        (LABEL, train_ids, "holds the value 255, but labelIds are 0 to 33; 255 is in labelTrainIds"),
        (LABEL, lambda path: path.unlink(), "instanceIds.png holds 16-bit numbers of instances: unpack gtFine"),
        (LABEL, rename_to("color"), "color.png holds colours for looking at: unpack gtFine"),
        (LABEL, rename_to("labelTrainIds"), "labelTrainIds.png holds classes 0 to 18, made from the release by"),
        (LABEL, rename_to("none"), "leftImg8bit.png is there; take both from the release again"),
        (LABEL, lambda path: Image.fromarray(pixels(path)[1:]).save(path), "is 11x24, but its image aachen_000001"),
        (f"leftImg8bit/train/{NAME}_leftImg8bit.png", lambda path: path.unlink(), "no such file, but"),
        (f"leftImg8bit/train/{NAME}_leftImg8bit.png", lambda path: path.write_bytes(b"no"), "damaged"),
        ("gtFine/train", shutil.rmtree, "no such folder; --source is"),
        (
            "leftImg8bit",
            lambda path: [
                shutil.copytree(path.parent / f"{kind}/train/ulm", path.parent / f"{kind}/val/ulm")
                for kind in ("leftImg8bit", "gtFine")
            ],
            "train and val both hold ulm",
        ),
    ],
)
def test_damaged_release(script, release, tmp_path, assert_named, name, damage, message):
    damage(release / name)
    assert_named(run(script, release, tmp_path / "out"), release / name, message)


def test_other_layouts(script, release, tmp_path, capsys):
    assert run(script, release / "gtFine", tmp_path / "out") == 1
    assert "no folder leftImg8bit; --source is the folders leftImg8bit and gtFine" in capsys.readouterr().err
    assert run(script, release / "leftImg8bit", tmp_path / "out") == 1
    assert "no folder gtFine; --source is" in capsys.readouterr().err
    shutil.rmtree(release / "gtFine")
    (release / "gtFine").mkdir()
    (release / "gtFine/aachen").mkdir()
    assert run(script, release, tmp_path / "out") == 1
    assert f"{release}/gtFine/train: no such folder" in capsys.readouterr().err


def test_hostile_archives(script, assert_refused):
    assert_refused(script)
