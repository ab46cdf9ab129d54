import os
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist
from medseg.releases.pictures import link_image
from medseg.releases.prepare import SourceError, check_counts

SIZE = (12, 16)
PALETTE = np.random.default_rng(1).integers(0, 256, 768).tolist()
LISTS = "ImageSets/Segmentation"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("voc2012")


def write_jpeg(path, seed, size=SIZE, grey=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if grey else (*size, 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def write_palette(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    picture.putpalette(PALETTE)
    assert picture.mode == "P"
    picture.save(path)


def mask(seed):
    values = np.random.default_rng(seed).integers(0, 21, SIZE, dtype=np.uint8)
    values[0] = 255
    return values


def struct(pixels):
    return {"Boundaries": 0, "Segmentation": pixels, "CategoriesPresent": np.unique(pixels)}


def make_voc(folder):
    """Write a VOC2012 with 4 training, 3 validation images and 6 that have no VOC label."""
    voc = folder / "VOCdevkit/VOC2012"
    training, validation = [f"2007_00000{n}" for n in range(4)], [f"2008_00000{n}" for n in range(3)]
    for seed, name in enumerate([*training, *validation, *(f"2009_00000{n}" for n in range(6))]):
        write_jpeg(voc / f"JPEGImages/{name}.jpg", seed)
    for seed, name in enumerate([*training, *validation]):
        write_palette(voc / f"SegmentationClass/{name}.png", mask(seed))
    (voc / LISTS).mkdir(parents=True)
    (voc / LISTS / "train.txt").write_text("\n".join(training) + "\n")
    (voc / LISTS / "val.txt").write_text("\n".join(validation))
    return voc


def make_sbd(folder):
    """Write SBD's labels of two VOC training images, two VOC validation images and five of its own."""
    dataset = folder / "benchmark_RELEASE/dataset"
    (dataset / "cls").mkdir(parents=True)
    names = ["2007_000000", "2008_000001", *(f"2009_00000{n}" for n in range(3))]
    more = ["2007_000002", "2008_000002", *(f"2009_00000{n}" for n in range(3, 5))]
    for seed, name in enumerate([*names, *more]):
        pixels = np.random.default_rng(100 + seed).integers(0, 21, SIZE, dtype=np.uint8)
        savemat(dataset / f"cls/{name}.mat", {"GTcls": struct(pixels)}, do_compression=True)
    (dataset / "train.txt").write_text("\n".join(names))
    (dataset / "val.txt").write_text("\n".join(more))
    return dataset


@pytest.fixture
def voc(tmp_path):
    return make_voc(tmp_path / "data")


def run(script, source, output, *more):
    sources = source if isinstance(source, list) else [source]
    return script.main(["--source", *map(str, sources), "--output", str(output), "--allow-partial", *more])


def pixels(path):
    return np.asarray(Image.open(path))


def test_voc_alone(script, voc, tmp_path, capsys):
    assert run(script, voc.parent, tmp_path / "out") == 0
    assert "4 of 1464 train and 3 of 1449 val images" in capsys.readouterr().out
    datalist = Datalist.load(tmp_path / "out/datalist.json")
    assert datalist.num_classes == 21
    assert datalist.ignore_index == 255
    assert datalist.labels[15] == "person"
    assert datalist.preparation == {"script": "voc2012", "training": "train", "partial": True}
    assert [entry["group"] for entry in datalist.training] == [f"2007_00000{n}" for n in range(4)]
    assert [entry["group"] for entry in datalist.validation] == [f"2008_00000{n}" for n in range(3)]
    for seed, (_, entry) in enumerate(datalist.entries()):
        written = Image.open(tmp_path / "out" / entry["label"])
        assert written.mode == "L"
        np.testing.assert_array_equal(np.asarray(written), mask(seed))
        image, original = tmp_path / "out" / entry["image"], voc / f"JPEGImages/{entry['group']}.jpg"
        assert image.read_bytes() == original.read_bytes()
        assert image.samefile(original), "a hard link takes no space"
    report = check_datalist(datalist, in_channels=3, num_classes=21, roi_size=SIZE)
    assert report.errors == []
    assert report.files == 14


def test_union_with_sbd(script, voc, tmp_path, capsys):
    dataset = make_sbd(tmp_path / "sbd")
    assert run(script, [voc.parent, tmp_path / "sbd"], tmp_path / "out") == 0
    assert "9 of 10582 train_aug and 3 of 1449 val images" in capsys.readouterr().out
    datalist = Datalist.load(tmp_path / "out/datalist.json")
    names = [f"2007_00000{n}" for n in range(4)], [f"2009_00000{n}" for n in range(5)]
    assert [entry["group"] for entry in datalist.training] == [*names[0], *names[1]]
    assert [entry["group"] for entry in datalist.validation] == [f"2008_00000{n}" for n in range(3)]
    assert [entry["label_source"] for entry in datalist.training] == ["voc"] * 4 + ["sbd"] * 5
    assert {entry["label_source"] for entry in datalist.validation} == {"voc"}
    order = [line for part in ("train", "val") for line in (dataset / f"{part}.txt").read_text().split()]
    for seed, entry in enumerate(datalist.training[:4]):
        np.testing.assert_array_equal(pixels(tmp_path / "out" / entry["label"]), mask(seed))
    for entry in datalist.training[4:]:
        expected = np.random.default_rng(100 + order.index(entry["group"])).integers(0, 21, SIZE, dtype=np.uint8)
        np.testing.assert_array_equal(pixels(tmp_path / "out" / entry["label"]), expected)
    assert check_datalist(datalist, num_classes=21).errors == []
    assert run(script, [voc.parent, tmp_path / "sbd"], tmp_path / "own", "--training", "train") == 0
    assert len(Datalist.load(tmp_path / "own/datalist.json").training) == 4


def test_training_and_validation_together(script, voc, tmp_path, capsys):
    """What the test server's masks are trained on: nothing is left to validate on, and no image is lost."""
    make_sbd(tmp_path / "sbd")
    assert run(script, [voc.parent, tmp_path / "sbd"], tmp_path / "out", "--training", "trainval") == 0
    assert "7 of 2913 trainval images" in capsys.readouterr().out
    datalist = Datalist.load(tmp_path / "out/datalist.json")
    names = [*(f"2007_00000{n}" for n in range(4)), *(f"2008_00000{n}" for n in range(3))]
    assert [entry["group"] for entry in datalist.training] == names
    assert [datalist.validation, datalist.name] == [[], "voc2012_trainval"]
    assert {entry["label_source"] for entry in datalist.training} == {"voc"}


def test_official_counts(script, voc, tmp_path, capsys, monkeypatch):
    assert script.OFFICIAL == {"train": 1464, "train_aug": 10582, "trainval": 1464 + 1449, "val": 1449}
    arguments = ["--source", str(voc), "--output", str(tmp_path / "out")]
    assert script.main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {voc}: has 4 of 1464 train and 3 of 1449 val images; complete it, or take")
    assert not (tmp_path / "out").exists()
    assert run(script, voc, tmp_path / "out") == 0
    capsys.readouterr()
    assert script.main(arguments) == 1, "a partial preparation is not what a whole one is"
    assert "choose another output folder or overwrite" in capsys.readouterr().err
    monkeypatch.setattr(script, "OFFICIAL", {"train": 4, "val": 3})
    assert script.main([*arguments, "--overwrite"]) == 0
    assert "datalist.json: 4 train and 3 val images" in capsys.readouterr().out
    assert script.main(arguments) == 0
    assert "complete already" in capsys.readouterr().out
    assert run(script, voc, tmp_path / "out") == 0
    assert "complete already" in capsys.readouterr().out


def test_counts_are_never_nothing(tmp_path):
    with pytest.raises(SourceError, match=r"has 0 of 3 train images; unpack the release again"):
        check_counts({"train": 0}, {"train": 3}, where=tmp_path, allow_partial=True)


def colours(path):
    Image.open(path).convert("RGB").save(path)


def sixteen_bit(path):
    Image.fromarray(pixels(path).astype(np.uint16) * 1000).save(path)


def with_value(value):
    def damage(path):
        changed = pixels(path).copy()
        changed[3, 3] = value
        write_palette(path, changed)

    return damage


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("SegmentationClass/2007_000001.png", colours, "a colour picture, but the release has a palette or grey PNG"),
        ("SegmentationClass/2007_000001.png", sixteen_bit, "is of type uint16, as instance numbers are"),
        ("SegmentationClass/2007_000001.png", with_value(30), "holds the value 30, but VOC has 0 to 20 and 255"),
        ("SegmentationClass/2007_000001.png", lambda path: path.unlink(), "no such file, but a list of the release"),
        (
            "SegmentationClass/2007_000001.png",
            lambda path: write_palette(path, mask(1)[:, 1:]),
            "is 12x15, but its image 2007_000001.jpg is 12x16",
        ),
        ("JPEGImages/2008_000001.jpg", lambda path: path.unlink(), "no such file, but a list of the release"),
        ("JPEGImages/2008_000001.jpg", lambda path: path.write_bytes(path.read_bytes()[:300]), "damaged"),
        (f"{LISTS}/train.txt", lambda path: path.unlink(), "no such file; --source is the folder VOCdevkit"),
        (f"{LISTS}/train.txt", lambda path: path.write_text("../../evil"), "holds the line '../../evil'"),
        (f"{LISTS}/train.txt", lambda path: path.write_text("2007_000001\n" * 2), "names 2007_000001 twice"),
        (LISTS, lambda path: shutil.copy(path / "val.txt", path / "train.txt"), "both name 2008_000000"),
    ],
)
def test_damaged_release(script, voc, tmp_path, assert_named, name, damage, message):
    damage(voc / name)
    assert_named(run(script, voc, tmp_path / "out"), voc / name, message)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: savemat(path, {"GTinst": struct(mask(0))}), "holds GTinst, but GTcls with the class indices"),
        (lambda path: savemat(path, {"GTcls": {"Boundaries": 0}}), "its GTcls lacks Segmentation"),
        (lambda path: savemat(path, {"GTcls": struct(np.zeros((4, 4, 3), np.uint8))}), "indices are uint8 HxW"),
        (lambda path: savemat(path, {"GTcls": struct(mask(0)[1:])}), "is 11x16, but its image 2009_000003.jpg is"),
        (lambda path: savemat(path, {"GTcls": struct(mask(0) // 255 * 99)}), "holds the value 99"),
        (lambda path: path.write_bytes(path.read_bytes()[:150]), "damaged or no MAT file"),
        (lambda path: path.unlink(), "no such file, but a list of the release names it"),
    ],
)
def test_damaged_sbd(script, voc, tmp_path, capsys, damage, message):
    path = make_sbd(tmp_path / "sbd") / "cls/2009_000003.mat"
    damage(path)
    assert run(script, [voc, tmp_path / "sbd"], tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: ")
    assert message in said


def test_other_layouts(script, voc, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run(script, tmp_path / "empty", tmp_path / "out") == 1
    assert f"{tmp_path}/empty: no folder VOC2012 (with JPEGImages" in capsys.readouterr().err
    assert run(script, voc, tmp_path / "out", "--training", "train_aug") == 1
    assert "no folder benchmark_RELEASE, but --training train_aug needs SBD" in capsys.readouterr().err
    assert script.main(["--output", str(tmp_path / "out")]) == 1
    assert "no --source is given: the folder VOCdevkit or" in capsys.readouterr().err


def test_archive_is_unpacked_into_a_folder_of_its_own(script, voc, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "trainval"), "tar", voc.parent.parent)
    assert run(script, archive, tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["datalist.json", "images", "labels"]
    shutil.rmtree(voc.parent)
    assert check_datalist(tmp_path / "out/datalist.json").errors == []


def test_overwriting_spares_the_release(script, voc, tmp_path):
    before = {path: path.read_bytes() for path in voc.rglob("*.*")}
    assert run(script, voc, tmp_path / "out") == 0
    (tmp_path / "out/labels/2007_000001.png").unlink()
    assert run(script, voc, tmp_path / "out") == 0
    assert (tmp_path / "out/labels/2007_000001.png").is_file()
    assert run(script, voc, tmp_path / "out", "--overwrite") == 0
    assert {path: path.read_bytes() for path in voc.rglob("*.*")} == before


def test_links(tmp_path, monkeypatch):
    source = tmp_path / "a.png"
    write_jpeg(source, 0)
    before = source.read_bytes()
    assert link_image(source, tmp_path / "out", "x") == ("images/x.png", SIZE)
    write_jpeg(tmp_path / "grey.png", 1, grey=True)
    assert link_image(tmp_path / "grey.png", tmp_path / "out", "x") == ("images/x.png", SIZE)
    assert source.read_bytes() == before, "the earlier link is cut, not written through"
    np.testing.assert_array_equal(pixels(tmp_path / "out/images/x.png"), np.dstack([pixels(tmp_path / "grey.png")] * 3))
    with pytest.raises(ValueError, match="would be overwritten by what is made of it"):
        link_image(tmp_path / "out/images/x.png", tmp_path / "out", "x")

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    link_image(source, tmp_path / "copies", "x")
    assert not (tmp_path / "copies/images/x.png").samefile(source)
    assert (tmp_path / "copies/images/x.png").read_bytes() == before
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep.png: is uint16 with 1 channels, but the release has 8-bit"):
        link_image(tmp_path / "deep.png", tmp_path / "out", "y")


def test_hostile_archives(script, assert_refused):
    assert_refused(script)


def test_real_scenes(script, real_data, tmp_path):
    voc = real_data / "pascal_voc2012/VOCdevkit/VOC2012"
    if not voc.is_dir():
        pytest.skip(f"no {voc}")
    assert run(script, voc.parent, tmp_path / "out") == 0
    datalist = Datalist.load(tmp_path / "out/datalist.json")
    assert [len(datalist.training), len(datalist.validation)] == [9, 5]
    rows = (real_data / "pascal_voc2012/class_colors.csv").read_text().split()[1:]
    table = np.zeros((256, 3), np.uint8)
    for row in rows:
        index, name, *colour = row.split(",")
        table[int(index)] = list(map(int, colour))
        assert index == "255" or datalist.labels[int(index)] == name
    for _, entry in datalist.entries():
        label = pixels(tmp_path / "out" / entry["label"])
        (coloured,) = (real_data / "pascal_voc2012/SegmentationClassRGB").glob(f"{entry['group']}*")
        np.testing.assert_array_equal(table[label], pixels(coloured)[..., :3])
        assert (label == 255).any()
    assert check_datalist(datalist, in_channels=3, num_classes=21, roi_size=(513, 513)).errors == []
