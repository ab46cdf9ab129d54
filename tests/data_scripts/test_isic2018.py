import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist
from medseg.releases.pictures import resize_image, resize_mask

INPUT, TRUTH = "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("isic2018")


def make_release(folder, count=10, size=(40, 60)):
    """Write the two official folders with made-up lesions."""
    rng = np.random.default_rng(0)
    for name in (INPUT, TRUTH):
        (folder / name).mkdir(parents=True)
    (folder / INPUT / "LICENSE.txt").write_text("terms")
    for number in range(count):
        stem = f"ISIC_{number:07d}"
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / INPUT / f"{stem}.jpg")
        mask = np.zeros(size, np.uint8)
        mask[5 : 20 + number, 10:40] = 255
        Image.fromarray(mask).save(folder / TRUTH / f"{stem}_segmentation.png")
    return folder


@pytest.fixture
def release(tmp_path):
    return make_release(tmp_path / "isic")


def run(script, source, output, *more):
    sources = source if isinstance(source, list) else [source]
    return script.main(["--source", *map(str, sources), "--output", str(output), *more])


def pixels(path):
    return np.asarray(Image.open(path))


def all_entries(folder):
    return [entry for _, entry in Datalist.load(folder / "datalist.json").entries()]


def test_the_papers_division(script):
    lists = script.share_out(2594, seed=0)
    assert [lists.count(name) for name in ("training", "validation", "test")] == [1815, 259, 520]
    assert lists == script.share_out(2594, seed=0)
    assert lists != script.share_out(2594, seed=1)
    assert set(lists[:50]) == {"training", "validation", "test"}
    for count in range(3, 60):
        lists = script.share_out(count, seed=0)
        assert len(lists) == count
        assert set(lists) == {"training", "validation", "test"}


def test_the_lists_in_order(script, release, tmp_path):
    lists = script.share_out(2594, seed=None)
    assert lists == ["training"] * 1815 + ["validation"] * 259 + ["test"] * 520
    assert run(script, release, tmp_path / "out", "--size", "16", "--division", "listed") == 0
    datalist = Datalist.load(tmp_path / "out/datalist.json")
    names = [[entry["group"] for entry in part] for part in datalist.split(None)]
    assert names == [[f"ISIC_{number:07d}" for number in part] for part in (range(7), (7,), (8, 9))]
    assert datalist.preparation == {"script": "isic2018", "size": 16, "division": "listed"}
    assert run(script, release, tmp_path / "out", "--size", "16") == 1  # drawn lists are others: refused


def test_fewer_images_are_divided_in_proportion(script, release, tmp_path, capsys):
    assert run(script, release, tmp_path / "out", "--size", "16") == 0
    assert "7 / 1 / 2 images for training / validation / test (the release has 2594" in capsys.readouterr().out
    datalist = Datalist.load(tmp_path / "out/datalist.json")
    assert [len(part) for part in datalist.split(None)] == [7, 1, 2]
    assert datalist.class_names == ["skin", "lesion"]
    assert check_datalist(datalist, in_channels=3, num_classes=2, roi_size=(16, 16)).findings == ()
    assert run(script, release, tmp_path / "other", "--size", "16", "--seed", "1") == 0
    other = Datalist.load(tmp_path / "other/datalist.json")
    assert {entry["group"] for entry in other.test} != {entry["group"] for entry in datalist.test}


def test_original_size_keeps_the_bytes(script, release, tmp_path):
    assert run(script, release, tmp_path / "out", "--size", "0") == 0
    for entry in all_entries(tmp_path / "out"):
        assert entry["original"] == f"{INPUT}/{entry['group']}.jpg"
        assert entry["original_size"] == [40, 60]
        assert (tmp_path / "out" / entry["image"]).read_bytes() == (release / entry["original"]).read_bytes()
        truth = pixels(release / TRUTH / f"{entry['group']}_segmentation.png")
        np.testing.assert_array_equal(pixels(tmp_path / "out" / entry["label"]), truth // 255)


def test_masks_are_resized_by_area():
    rng = np.random.default_rng(0)
    mask = rng.random((48, 64)) < 0.5
    shares = mask.reshape(16, 3, 16, 4).mean((1, 3))
    np.testing.assert_array_equal(resize_mask(mask, 16), shares > 0.5)
    assert resize_mask(mask, 0) is mask


def test_images_are_resized_with_anti_aliasing():
    checks = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    resized = resize_image(np.dstack([checks] * 3).astype(np.uint8), 16)
    assert resized.shape == (16, 16, 3)
    assert np.abs(resized[2:-2, 2:-2].astype(int) - 127).max() < 10, "the finest pattern must turn grey"


def test_two_archives(script, release, tmp_path):
    archives = [shutil.make_archive(str(tmp_path / name), "zip", release, name) for name in (INPUT, TRUTH)]
    hashes = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in archives]
    assert run(script, archives, tmp_path / "out", "--size", "16", "--sha256", *hashes) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["datalist.json", "images", "labels"]
    folders = [release / INPUT, release / TRUTH]
    assert run(script, folders, tmp_path / "again", "--size", "16") == 0
    assert all_entries(tmp_path / "again") == all_entries(tmp_path / "out")


def test_default_is_a_download(script, release, tmp_path, monkeypatch, capsys):
    assert all(
        url.startswith("https://isic-challenge-data.s3.amazonaws.com/2018/ISIC2018_Task1") for url in script.URLS
    )
    for name in (INPUT, TRUTH):
        shutil.make_archive(str(tmp_path / name), "zip", release, name)
    monkeypatch.setattr(script, "URLS", tuple((tmp_path / f"{name}.zip").as_uri() for name in (INPUT, TRUTH)))
    assert script.main(["--output", str(tmp_path / "out"), "--size", "16"]) == 0
    assert sorted(path.name for path in (tmp_path / "out/download").iterdir()) == [f"{INPUT}.zip", f"{TRUTH}.zip"]
    assert script.main(["--output", str(tmp_path / "new"), "--sha256", "0" * 64, "1" * 64]) == 1
    assert "sha256 is" in capsys.readouterr().err


def test_hashes_fit_the_sources(script, release, tmp_path, capsys):
    assert run(script, release, tmp_path / "out", "--sha256", "0" * 64, "1" * 64) == 1
    assert "2 hashes for 1 source;" in capsys.readouterr().err
    assert run(script, release, tmp_path / "out", "--sha256", "0" * 64) == 1
    assert "is a folder, but --sha256 is the hash of an archive" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def rgb_mask(path):
    Image.fromarray(np.dstack([pixels(path), np.zeros_like(pixels(path)), pixels(path)])).save(path)


def three_values(path):
    changed = pixels(path).copy()
    changed[0, 0] = 77
    Image.fromarray(changed).save(path)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            f"{TRUTH}/ISIC_0000003_segmentation.png",
            rgb_mask,
            "is a colour picture, but the release has a palette or grey",
        ),
        (f"{TRUTH}/ISIC_0000003_segmentation.png", three_values, "holds the value 77, but masks are 0 and 255"),
        (
            f"{TRUTH}/ISIC_0000003_segmentation.png",
            lambda path: Image.new("L", (60, 41)).save(path),
            "is 41x60, but its image ISIC_0000003.jpg is 40x60",
        ),
        (f"{TRUTH}/ISIC_0000003_segmentation.png", lambda path: path.unlink(), "no such file, but"),
        (f"{INPUT}/ISIC_0000003.jpg", lambda path: path.unlink(), "no such file, but"),
        (f"{INPUT}/ISIC_0000003.jpg", lambda path: Image.new("L", (60, 40)).save(path), "the release has 8-bit RGB"),
        (f"{INPUT}/ISIC_0000003.jpg", lambda path: path.write_bytes(path.read_bytes()[:400]), "damaged"),
    ],
)
def test_damaged_release(script, release, tmp_path, assert_named, name, damage, message):
    damage(release / name)
    assert_named(run(script, release, tmp_path / "out", "--size", "16"), release / name, message)


def test_incomplete_release(script, tmp_path, capsys):
    make_release(tmp_path / "two", count=2)
    assert run(script, tmp_path / "two", tmp_path / "out") == 1
    assert "holds 2 images; three lists need at least 3" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "two" / TRUTH)
    assert run(script, tmp_path / "two", tmp_path / "out") == 1
    assert f"no folder {TRUTH}; give it as --source" in capsys.readouterr().err
    shutil.copytree(tmp_path / "two" / INPUT, tmp_path / "two/copy" / INPUT)
    assert run(script, tmp_path / "two", tmp_path / "out") == 1
    assert f"{INPUT} is there 2 times" in capsys.readouterr().err
    assert run(script, tmp_path / "two", tmp_path / "out", "--size", "-1") == 1
    assert "--size is -1; give an edge in pixels" in capsys.readouterr().err
    assert run(script, tmp_path / "none.zip", tmp_path / "out") == 1
    assert "none.zip: no such file" in capsys.readouterr().err


def test_second_run_and_overwrite(script, release, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(script, release, out, "--size", "16") == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    assert run(script, "/nowhere", out, "--size", "16") == 0
    assert "complete already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*")} == before
    assert run(script, release, out, "--size", "8") == 1
    assert "choose another output folder or overwrite" in capsys.readouterr().err
    assert run(script, "/nowhere", out, "--size", "8", "--overwrite") == 1
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*")} == before, "a wrong source costs nothing"
    (out / "images/note.txt").write_text("mine")
    (release / INPUT / "ISIC_0000009.jpg").unlink()
    (release / TRUTH / "ISIC_0000009_segmentation.png").unlink()
    assert run(script, release, out, "--size", "8", "--overwrite") == 0
    assert {pixels(path).shape for path in (out / "labels").iterdir()} == {(8, 8)}
    assert len(list((out / "labels").iterdir())) == 9
    assert (out / "images/note.txt").read_text() == "mine"


def test_interrupted_run_is_done_again(script, release, tmp_path, monkeypatch):
    out, write = tmp_path / "out", script.write_png

    def full(path, array):
        if path.name == "ISIC_0000006.png":
            raise OSError(28, "No space left on device")
        write(path, array)

    monkeypatch.setattr(script, "write_png", full)
    assert run(script, release, out, "--size", "16") == 1
    assert not (out / "datalist.json").exists()
    monkeypatch.undo()
    assert run(script, release, out, "--size", "16") == 0
    (out / "labels/ISIC_0000002.png").unlink()
    assert run(script, release, out, "--size", "16") == 0
    assert check_datalist(out / "datalist.json").ok


def test_files_of_others_are_not_deleted(script, release, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(script, release, out, "--size", "16") == 0
    text = (out / "datalist.json").read_text()
    (out / "datalist.json").write_text(text.replace('"script": "isic2018"', '"script": "mine"'))
    assert run(script, release, out, "--size", "16", "--overwrite") == 1
    assert "was not written by isic2018; choose another output folder" in capsys.readouterr().err
    assert len(list((out / "images").iterdir())) == 10


def test_hostile_archives(script, assert_refused):
    assert_refused(script)


def test_monai_reads_it(script, release, tmp_path):
    monai_data = pytest.importorskip("monai.data")
    assert run(script, release, tmp_path / "out", "--size", "16") == 0
    for name, count in (("training", 7), ("validation", 1), ("test", 2)):
        entries = monai_data.load_decathlon_datalist(str(tmp_path / "out/datalist.json"), True, name)
        assert len(entries) == count
        for entry in entries:
            assert pixels(entry["image"]).shape == (16, 16, 3)
            assert pixels(entry["label"]).shape == (16, 16)


def test_real_lesions(script, real_data, tmp_path):
    source = real_data / "isic2018_task1_256"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    assert run(script, source, tmp_path / "same") == 0
    assert check_datalist(tmp_path / "same/datalist.json", in_channels=3, num_classes=2, roi_size=(256, 256)).ok
    entries = all_entries(tmp_path / "same")
    assert len(entries) == 20
    for entry in entries:
        np.testing.assert_array_equal(pixels(tmp_path / "same" / entry["image"]), pixels(source / entry["original"]))
        truth = pixels(source / TRUTH / f"{entry['group']}_segmentation.png")
        np.testing.assert_array_equal(pixels(tmp_path / "same" / entry["label"]), truth // 255)


def test_real_lesion_at_full_size(script, real_data, tmp_path):
    transform = pytest.importorskip("skimage.transform")
    pair = real_data / "isic2018_task1_256/original_size_pair"
    if not pair.is_dir():
        pytest.skip(f"no {pair}")
    make_release(tmp_path / "isic", count=3)
    shutil.copy(pair / "image.jpg", tmp_path / "isic" / INPUT / "ISIC_0000001.jpg")
    shutil.copy(pair / "mask.png", tmp_path / "isic" / TRUTH / "ISIC_0000001_segmentation.png")
    assert run(script, tmp_path / "isic", tmp_path / "out") == 0
    (entry,) = (entry for entry in all_entries(tmp_path / "out") if entry["group"] == "ISIC_0000001")
    assert entry["original_size"] == [767, 1022]
    image, label = (pixels(tmp_path / "out" / entry[key]) for key in ("image", "label"))
    reference = transform.resize(pixels(pair / "image.jpg"), (256, 256), anti_aliasing=True, preserve_range=True)
    assert np.abs(image - reference).mean() < 2
    shares = transform.resize(pixels(pair / "mask.png") / 255, (256, 256), anti_aliasing=True)
    assert np.mean(label != (shares > 0.5)) < 2e-3
    assert abs(label.mean() - np.mean(pixels(pair / "mask.png") / 255)) < 1e-3
