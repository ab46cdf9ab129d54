import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("dsb2018")


def make_case(folder, name, masks, *, colour=(20, 20, 20)):
    """Write one case: a plain RGBA image, and the masks as 0/255."""
    for part in ("images", "masks"):
        (folder / name / part).mkdir(parents=True)
    image = np.full((*masks[0].shape, 4), 255, np.uint8)
    image[..., :3] = colour
    image[..., :3] += np.uint8(int(name[-2:], 16) % 50)
    Image.fromarray(image).save(folder / name / "images" / f"{name}.png")
    for index, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / name / "masks" / f"{index:02d}.png")


def box(shape, *window):
    mask = np.zeros(shape, bool)
    mask[window] = True
    return mask


def make_release(folder, count=10, shape=(24, 32)):
    for number in range(count):
        masks = [box(shape, np.s_[2:9], np.s_[3:11]), box(shape, np.s_[10:21], np.s_[12 : 20 + number % 5])]
        make_case(folder, f"id{number:02x}", masks)
    return folder


@pytest.fixture
def release(tmp_path):
    return make_release(tmp_path / "stage1_train")


@pytest.fixture(scope="module")
def real_cases(real_data, tmp_path_factory):
    """Eight cases of the real archive: the four smallest, and one of each further kind."""
    archive = real_data / "dsb2018/stage1_train.zip"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    folder = tmp_path_factory.mktemp("real")
    with zipfile.ZipFile(archive) as file:
        sizes: dict[str, int] = {}
        for member in file.infolist():
            sizes[member.filename.split("/")[1]] = sizes.get(member.filename.split("/")[1], 0) + member.file_size
        kinds: dict[tuple[tuple[int, int], bool], list[str]] = {}
        for name in sorted(sizes, key=sizes.__getitem__)[:150]:
            with file.open(f"stage1_train/{name}/images/{name}.png") as picture:
                image = np.asarray(Image.open(picture))
            grey = bool((image[..., 0] == image[..., 1]).all())
            kinds.setdefault((image.shape[:2], grey), []).append(name)
        chosen = {name for names in kinds.values() for name in names[:4]}
        chosen = set(sorted(chosen, key=sizes.__getitem__)[:12])
        file.extractall(folder, [m for m in file.namelist() if m.split("/")[1] in chosen])
    return folder / "stage1_train"


def run(script, source, output, *more):
    return script.main(["--source", str(source), "--output", str(output), *more])


def pixels(path):
    return np.asarray(Image.open(path))


def all_entries(folder):
    return [entry for _, entry in Datalist.load(folder / "datalist.json").entries()]


def entry_of(folder, group):
    return next(entry for entry in all_entries(folder) if entry["group"] == group)


def test_masks_are_joined(script, release, tmp_path):
    assert run(script, release, tmp_path / "out", "--size", "0") == 0
    entries = all_entries(tmp_path / "out")
    assert len(entries) == 10
    for entry in entries:
        case = release / entry["group"]
        instances = pixels(tmp_path / "out" / entry["instances"])
        assert instances.dtype == np.uint16
        for number in (1, 2):
            np.testing.assert_array_equal(instances == number, pixels(case / "masks" / f"{number - 1:02d}.png") > 0)
        label, image = (pixels(tmp_path / "out" / entry[key]) for key in ("label", "image"))
        np.testing.assert_array_equal(label, instances > 0)
        np.testing.assert_array_equal(image, pixels(case / "images" / f"{entry['group']}.png")[..., :3])
        assert entry["nuclei"] == 2
        assert entry["original_size"] == [24, 32]


def test_overlaps(script, tmp_path, capsys):
    shape = (20, 30)
    large, small = box(shape, np.s_[0:16], np.s_[0:20]), box(shape, np.s_[2:8], np.s_[3:9])
    first, second = box(shape, np.s_[17:19], np.s_[0:10]), box(shape, np.s_[17:19], np.s_[5:15])
    covered = box(shape, np.s_[3:7], np.s_[4:8])
    parts = [box(shape, np.s_[3:5], np.s_[4:8]), box(shape, np.s_[5:7], np.s_[4:8])]
    make_case(tmp_path / "cases", "id10", [small, large, first, second])
    make_case(tmp_path / "cases", "id11", [np.zeros(shape, bool), covered, *parts])
    make_release(tmp_path / "cases", count=3)
    assert run(script, tmp_path / "cases", tmp_path / "out", "--size", "0", "--folds", "2") == 0
    found = pixels(tmp_path / "out" / entry_of(tmp_path / "out", "id10")["instances"])
    np.testing.assert_array_equal(found == 1, small)
    np.testing.assert_array_equal(found == 2, large & ~small)
    np.testing.assert_array_equal(found == 3, first)
    np.testing.assert_array_equal(found == 4, second & ~first)
    entry = entry_of(tmp_path / "out", "id11")
    found = pixels(tmp_path / "out" / entry["instances"])
    np.testing.assert_array_equal(found, parts[0] + 2 * parts[1])
    assert entry["nuclei"] == 2
    assert "2 masks without a pixel left" in capsys.readouterr().out


def test_resizing(script, tmp_path):
    rng = np.random.default_rng(0)
    shape = (32, 48)
    for number in range(4):
        owner = rng.integers(0, 4, shape)
        make_case(tmp_path / "cases", f"id{number:02x}", [owner == index for index in (1, 2, 3)])
    assert run(script, tmp_path / "cases", tmp_path / "out", "--size", "16", "--folds", "3") == 0
    assert run(script, tmp_path / "cases", tmp_path / "full", "--size", "0", "--folds", "3") == 0
    for entry in all_entries(tmp_path / "out"):
        full = pixels(tmp_path / "full" / entry["instances"])
        shares = (full > 0).reshape(16, 2, 16, 3).mean((1, 3))
        np.testing.assert_array_equal(pixels(tmp_path / "out" / entry["label"]), shares > 0.5)
        np.testing.assert_array_equal(pixels(tmp_path / "out" / entry["instances"]), full[1::2, 1::3])
        image = pixels(tmp_path / "out" / entry["image"])
        assert image.shape == (16, 16, 3)
        assert np.unique(image).size == 1
        assert entry["original_size"] == [32, 48]


def entries_like(counts):
    return [
        {"image": f"images/{name}{number:03d}.png", "stratum": name}
        for name, count in counts.items()
        for number in range(count)
    ]


@pytest.mark.parametrize(("count", "expected"), [(670, (540, 130)), (664, (535, 129))])
def test_the_papers_division(script, count, expected):
    counts = {"256x256 dark": 334, "256x320 colour": 112, "520x696 dark": 92, "1024x1024 dark": 1}
    counts["360x360 dark"] = count - sum(counts.values())
    entries = entries_like(counts)
    training, validation = script.divide(entries, folds=5, seed=0)
    assert (len(training), len(validation)) == expected
    assert sorted(entry["image"] for entry in training + validation) == sorted(entry["image"] for entry in entries)
    assert all("fold" not in entry for entry in validation)
    sizes = [sum(entry["fold"] == fold for entry in training) for fold in range(5)]
    assert max(sizes) - min(sizes) <= 1
    for name, size in counts.items():
        held_out = sum(entry["stratum"] == name for entry in validation)
        assert abs(held_out - size * 130 / 670) <= 1
        folds = [sum(entry["stratum"] == name and entry["fold"] == fold for entry in training) for fold in range(5)]
        assert max(folds) - min(folds) <= 1
    again, other = script.divide(entries, folds=5, seed=0), script.divide(entries, folds=5, seed=1)
    assert again == (training, validation)
    assert other[1] != validation


def test_split(script, release, tmp_path):
    assert run(script, release, tmp_path / "out", "--size", "16") == 0
    datalist = Datalist.load(tmp_path / "out/datalist.json")
    assert datalist.class_names == ["background", "nucleus"]
    assert [len(part) for part in datalist.split(None)] == [8, 2, 0]
    held_out = {entry["group"] for entry in datalist.validation}
    for fold in range(5):
        parts = datalist.split(fold)
        assert sum(map(len, parts)) == 8
        groups = [{entry["group"] for entry in part} for part in parts]
        assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
        assert not held_out & set.union(*groups)
    assert datalist.split(0)[0][0]["instances"].startswith(str(tmp_path / "out/instances"))
    report = check_datalist(datalist, in_channels=3, num_classes=2, roi_size=(16, 16))
    assert report.ok
    assert report.files == 30


@pytest.mark.parametrize("inside", ["", "stage1_train", "data/stage1_train"])
def test_layouts_of_folder_and_archive(script, tmp_path, inside):
    make_release(tmp_path / "release" / inside, count=6)
    shutil.make_archive(str(tmp_path / "release"), "zip", tmp_path / "release")
    for source in (tmp_path / "release", tmp_path / "release.zip"):
        output = tmp_path / f"from-{source.suffix}"
        assert run(script, source, output, "--size", "16", "--folds", "4") == 0
        assert len(all_entries(output)) == 6
        assert sorted(path.name for path in output.iterdir()) == ["datalist.json", "images", "instances", "labels"]


def redraw(change):
    def damage(path):
        Image.fromarray(change(pixels(path).copy())).save(path)

    return damage


def transparent(array):
    array[3, 4, 3] = 7
    return array


def grey_value(array):
    array[0, 0] = 128
    return array


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("images/id03.png", redraw(transparent), "alpha is 7 in places, but 255 throughout"),
        ("images/id03.png", redraw(lambda array: array[..., 0]), "the release has 8-bit RGBA pictures"),
        ("images/id03.png", lambda path: path.unlink(), "no such file; take the case from the release again"),
        ("images/id03.png", lambda path: path.write_bytes(path.read_bytes()[:60]), "damaged"),
        ("masks/01.png", redraw(grey_value), "holds the value 128, but masks are 0 and 255"),
        ("masks/01.png", redraw(lambda array: np.dstack([array, 0 * array, array])), "is a colour picture"),
        ("masks/01.png", redraw(lambda array: array[:, 1:]), "is 24x31, but its image is 24x32"),
    ],
)
def test_damaged_release(script, release, tmp_path, assert_named, name, damage, message):
    path = release / "id03" / name
    damage(path)
    assert_named(run(script, release, tmp_path / "out"), path, message)


def test_rgb_and_one_bit_files_are_read(script, release, tmp_path):
    redraw(lambda array: array[..., :3])(release / "id03/images/id03.png")
    redraw(lambda array: np.dstack([array, array, array]))(release / "id03/masks/00.png")
    redraw(lambda array: array > 0)(release / "id03/masks/01.png")
    assert run(script, release, tmp_path / "out", "--size", "0") == 0
    entry = entry_of(tmp_path / "out", "id03")
    assert np.unique(pixels(tmp_path / "out" / entry["instances"])).tolist() == [0, 1, 2]


def test_other_sources(script, release, tmp_path, capsys):
    def fails(*arguments):
        assert script.main([*map(str, arguments), "--output", str(tmp_path / "out")]) == 1
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "no --source is given: stage1_train.zip of https://bbbc.broadinstitute.org" in fails()
    shutil.rmtree(release / "id03/masks")
    assert "id03/masks: holds no mask" in fails("--source", release)
    (tmp_path / "empty").mkdir()
    assert "holds no case (<id>/images, <id>/masks); --source is" in fails("--source", tmp_path / "empty")
    shutil.copytree(release, tmp_path / "twice/a")
    shutil.copytree(release, tmp_path / "twice/b")
    assert "several folders of cases" in fails("--source", tmp_path / "twice")
    assert "none.zip: no such file" in fails("--source", tmp_path / "none.zip")
    shutil.rmtree(release / "id03")
    assert "--folds is 9; with 7 training images give 2 to 7" in fails("--source", release, "--folds", 9)
    assert "--size is -2; give an edge" in fails("--source", release, "--size", -2)


def test_second_run_and_overwrite(script, release, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(script, release, out, "--size", "16") == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    assert run(script, "/nowhere", out, "--size", "16") == 0
    assert "complete already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*")} == before
    assert run(script, release, out, "--size", "16", "--folds", "4") == 1
    assert "choose another output folder or overwrite" in capsys.readouterr().err
    shutil.rmtree(release / "id09")
    assert run(script, release, out, "--size", "8", "--folds", "4", "--overwrite") == 0
    assert {pixels(path).shape for path in (out / "instances").iterdir()} == {(8, 8)}
    assert len(list((out / "instances").iterdir())) == 9


def test_interrupted_run_is_done_again(script, release, tmp_path, monkeypatch):
    out, write = tmp_path / "out", script.write_png

    def full(path, array):
        if path.parent.name == "instances" and path.name == "id06.png":
            raise OSError(28, "No space left on device")
        write(path, array)

    monkeypatch.setattr(script, "write_png", full)
    assert run(script, release, out, "--size", "16") == 1
    assert not (out / "datalist.json").exists()
    monkeypatch.undo()
    assert run(script, release, out, "--size", "16") == 0
    (out / "instances/id02.png").unlink()
    assert run(script, release, out, "--size", "16") == 0
    assert (out / "instances/id02.png").is_file()


def test_hostile_archives(script, assert_refused):
    assert_refused(script)


def test_monai_reads_it(script, release, tmp_path):
    monai_data = pytest.importorskip("monai.data")
    assert run(script, release, tmp_path / "out", "--size", "16") == 0
    for name, count in (("training", 8), ("validation", 2)):
        entries = monai_data.load_decathlon_datalist(str(tmp_path / "out/datalist.json"), True, name)
        assert len(entries) == count
        assert all(pixels(entry["image"]).shape == (16, 16, 3) for entry in entries)
        assert all(pixels(entry["label"]).shape == (16, 16) for entry in entries)


def test_real_nuclei(script, real_cases, tmp_path):
    assert run(script, real_cases, tmp_path / "full", "--size", "0") == 0
    assert run(script, real_cases, tmp_path / "out") == 0
    entries = all_entries(tmp_path / "full")
    assert len({entry["stratum"] for entry in entries}) > 1
    for entry in entries:
        case = real_cases / entry["group"]
        masks = [pixels(path) > 0 for path in sorted((case / "masks").iterdir())]
        instances = pixels(tmp_path / "full" / entry["instances"])
        assert entry["nuclei"] == len(masks) == instances.max()
        for number, mask in enumerate(masks, start=1):
            np.testing.assert_array_equal(instances == number, mask)
        np.testing.assert_array_equal(pixels(tmp_path / "full" / entry["label"]), np.any(masks, 0))
        image = pixels(case / "images" / f"{entry['group']}.png")
        np.testing.assert_array_equal(pixels(tmp_path / "full" / entry["image"]), image[..., :3])
        assert entry["stratum"].startswith(f"{image.shape[0]}x{image.shape[1]} ")
        small = entry_of(tmp_path / "out", entry["group"])
        covered = pixels(tmp_path / "out" / small["label"]).mean()
        assert abs(covered - np.any(masks, 0).mean()) < 0.02
    report = check_datalist(tmp_path / "out/datalist.json", in_channels=3, num_classes=2, roi_size=(256, 256))
    assert report.findings == ()
