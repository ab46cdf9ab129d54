import itertools
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist

TRAIN, TEST = "MultiClassInfection-Train", "MultiClassInfection-Test"
SHAPE = (12, 10, 100)
AFFINE = np.array([[-0.7, 0.1, 0, 9], [0.1, -0.8, 0.2, 8], [0, 0.1, 5, -300], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("covid_ct")


def save_volume(folder, name, array):
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), folder / name)


def make_volumes(folder, shape=SHAPE):
    """Write the NIfTI release with made-up values, as float where the real one may be."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    save_volume(folder, "tr_im.nii.gz", rng.normal(-400, 300, shape).astype(np.float32))
    save_volume(folder, "tr_mask.nii.gz", rng.integers(0, 4, shape).astype(np.float32))
    save_volume(folder, "tr_lungmasks_updated.nii.gz", rng.integers(0, 3, shape).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def whole_volumes(tmp_path_factory):
    return make_volumes(tmp_path_factory.mktemp("nifti") / "release")


@pytest.fixture
def volumes(tmp_path):
    return make_volumes(tmp_path / "nifti", (6, 5, 8))


def make_pictures(folder, training=range(0, 20, 2), test=range(1, 10, 2)):
    """Write COVID-SemiSeg's layout with made-up pixels; every picture has its own size."""
    rng = np.random.default_rng(0)
    for place, numbers in ((folder / "TrainingSet" / TRAIN, training), (folder / "TestingSet" / TEST, test)):
        for part in ("Imgs", "GT", "Prior"):
            (place / part).mkdir(parents=True)
        for number in numbers:
            size = (20 + number, 30)
            Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(place / f"Imgs/{number}.jpg")
            label = Image.fromarray(rng.integers(0, 3, size, dtype=np.uint8))
            label.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
            label.save(place / f"GT/{number}.png")
            label.save(place / f"Prior/{number}.png")
    return folder


@pytest.fixture
def pictures(tmp_path):
    return make_pictures(tmp_path / "COVID-SemiSeg")


def run(script, source, output, *more):
    return script.main(["--source", str(source), "--output", str(output), *more])


def volume(path):
    return np.asanyarray(nibabel.load(path).dataobj)


def pixels(path):
    return np.asarray(Image.open(path))


def test_nifti_slices(script, whole_volumes, tmp_path, capsys):
    assert run(script, whole_volumes, tmp_path) == 0
    assert "datalist.json: 100 slices in 4 folds, classes background, lungs other, ground" in capsys.readouterr().out
    datalist = Datalist.load(tmp_path / "datalist.json")
    assert datalist.class_names == ["background", "lungs other", "ground glass", "consolidation"]
    image = volume(whole_volumes / "tr_im.nii.gz")
    mask = volume(whole_volumes / "tr_mask.nii.gz")
    lung = volume(whole_volumes / "tr_lungmasks_updated.nii.gz")
    for index in (0, 1, 57, 99):
        entry = datalist.training[index]
        assert entry["group"] == f"slice_{index:03d}"
        written = nibabel.load(tmp_path / entry["image"])
        assert written.shape == SHAPE[:2]
        assert written.get_data_dtype() == np.int16
        np.testing.assert_array_equal(volume(tmp_path / entry["image"]), np.rint(image[..., index]))
        expected = np.zeros(SHAPE[:2], int)
        for place in np.ndindex(SHAPE[:2]):
            kind = mask[(*place, index)]
            if kind == 1:
                expected[place] = 2
            elif kind == 2:
                expected[place] = 3
            elif lung[(*place, index)] > 0:
                expected[place] = 1
        np.testing.assert_array_equal(volume(tmp_path / entry["label"]), expected)
        for key in ("image", "label"):
            header = nibabel.load(tmp_path / entry[key])
            np.testing.assert_allclose(header.header.get_zooms(), np.linalg.norm(AFFINE[:3, :2], axis=0), rtol=1e-6)
            assert header.header.get_xyzt_units()[0] == "mm"
            for corner in ((0, 0), (11, 0), (0, 9)):
                np.testing.assert_allclose(header.affine @ [*corner, 0, 1], AFFINE @ [*corner, index, 1], rtol=1e-6)


def test_folds_of_a_hundred(script, whole_volumes, tmp_path):
    assert run(script, whole_volumes, tmp_path) == 0
    datalist = Datalist.load(tmp_path / "datalist.json")
    assert datalist.fold_keys == ["fold", "fold_random"]
    for key in datalist.fold_keys:
        seen = []
        for fold in range(4):
            parts = datalist.split(fold, fold_key=key)
            assert [len(part) for part in parts] == [50, 25, 25]
            seen += [entry["group"] for entry in parts[2]]
        assert sorted(seen) == [f"slice_{index:03d}" for index in range(100)]
    folds = [entry["fold"] for entry in datalist.training]
    assert folds == sorted(folds), "blocks of neighbours"
    drawn = [entry["fold_random"] for entry in datalist.training]
    assert sum(a != b for a, b in itertools.pairwise(drawn)) > 50
    assert check_datalist(datalist, fold_keys=["fold", "fold_random"], in_channels=1, num_classes=4).findings == ()
    assert run(script, whole_volumes, tmp_path / "other", "--seed", "1") == 0
    assert [entry["fold_random"] for entry in Datalist.load(tmp_path / "other/datalist.json").training] != drawn


@pytest.mark.parametrize(("classes", "values", "names"), [("effusion", [0, 2, 3, 1], 4), ("lesions", [0, 1, 2, 0], 3)])
def test_classes_without_lung_masks(script, volumes, tmp_path, capsys, classes, values, names):
    (volumes / "tr_lungmasks_updated.nii.gz").unlink()
    assert run(script, volumes, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert f"{volumes / 'tr_lungmasks_updated.nii.gz'}: no such file, but the classes 'lungs' need it" in said
    assert "https://medicalsegmentation.com/covid19, or choose --classes lesions or effusion" in said
    assert run(script, volumes, tmp_path / "out", "--classes", classes) == 0
    assert "8 slices of the release's 100" in capsys.readouterr().out
    datalist = Datalist.load(tmp_path / "out/datalist.json")
    assert datalist.num_classes == names
    mask = volume(volumes / "tr_mask.nii.gz").astype(int)
    for index, entry in enumerate(datalist.training):
        np.testing.assert_array_equal(volume(tmp_path / "out" / entry["label"]), np.array(values)[mask[..., index]])


def changed(value, place=(0, 0, 0)):
    def damage(path):
        array = volume(path).astype(np.float32)
        array[place] = value
        save_volume(path.parent, path.name, array)

    return damage


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("tr_mask.nii.gz", changed(4), "holds the value 4, but the release has integers from 0 to 3"),
        ("tr_mask.nii.gz", changed(0.5), "holds the value 0.5, but the release has integers"),
        ("tr_mask.nii.gz", changed(np.nan), "holds the value nan, but the release has integers"),
        ("tr_lungmasks_updated.nii.gz", changed(-1), "holds the value -1, but the release has integers from 0;"),
        ("tr_im.nii.gz", changed(np.nan), "which are no HU"),
        ("tr_im.nii.gz", changed(40_000), "to 40000, which are no HU"),
        (
            "tr_mask.nii.gz",
            lambda path: save_volume(path.parent, path.name, np.zeros((6, 5, 7), np.uint8)),
            "has the shape (6, 5, 7), but the image (6, 5, 8)",
        ),
        (
            "tr_im.nii.gz",
            lambda path: save_volume(path.parent, path.name, np.zeros((6, 5), np.int16)),
            "has the shape (6, 5), but the release has a stack of slices",
        ),
        ("tr_mask.nii.gz", lambda path: path.write_bytes(path.read_bytes()[:200]), "damaged"),
        ("tr_mask.nii.gz", lambda path: path.unlink(), "no such file, but"),
    ],
)
def test_damaged_volumes(script, volumes, tmp_path, assert_named, name, damage, message):
    damage(volumes / name)
    assert_named(run(script, volumes, tmp_path / "out"), volumes / name, message)
    assert not (tmp_path / "out").exists()


def test_pictures(script, pictures, tmp_path, capsys):
    assert run(script, pictures, tmp_path / "out") == 0
    assert "15 slices of the release's 98 in 4 folds, classes background, ground glass" in capsys.readouterr().out
    datalist = Datalist.load(tmp_path / "out/datalist.json")
    assert datalist.class_names == ["background", "ground glass", "consolidation"]
    assert [entry["group"] for entry in datalist.training] == sorted(entry["group"] for entry in datalist.training)
    for entry in datalist.training:
        number = int(entry["group"].removeprefix("slice_"))
        place = pictures / ("TrainingSet" if number % 2 == 0 else "TestingSet") / (TRAIN if number % 2 == 0 else TEST)
        assert entry["original"] == f"{place.name}/Imgs/{number}.jpg"
        np.testing.assert_array_equal(pixels(tmp_path / "out" / entry["image"]), pixels(place / f"Imgs/{number}.jpg"))
        label = Image.open(tmp_path / "out" / entry["label"])
        assert label.mode == "L"
        np.testing.assert_array_equal(np.asarray(label), pixels(place / f"GT/{number}.png"))
    parts = datalist.split(0, fold_key="fold_official")
    assert [len(part) for part in parts] == [8, 2, 5]
    assert [entry["group"] for entry in parts[1]] == ["slice_016", "slice_018"]
    assert all(TEST in entry["original"] for entry in parts[2])
    assert not any(TEST in entry["original"] for entry in parts[0] + parts[1])
    assert check_datalist(datalist, in_channels=1, num_classes=3).ok


def redraw(change, **options):
    def damage(path):
        Image.fromarray(change(pixels(path).copy())).save(path, **options)

    return damage


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("GT/6.png", redraw(lambda array: array * 38), "holds the value 38, but the release has 0, 1 and 2"),
        ("GT/6.png", redraw(lambda array: np.dstack([array * 128, 0 * array, array])), "is a colour picture"),
        ("GT/6.png", redraw(lambda array: array[1:]), "is 25x30, but its image is 26x30"),
        ("GT/6.png", lambda path: path.unlink(), "Imgs/6.jpg is there; take both"),
        ("Imgs/6.jpg", lambda path: path.unlink(), "GT/6.png is there; take both"),
        ("Imgs/6.jpg", redraw(lambda array: np.dstack([array, 0 * array, array])), "is a colour picture"),
        ("Imgs/6.jpg", lambda path: path.write_bytes(path.read_bytes()[:300]), "damaged"),
    ],
)
def test_damaged_pictures(script, pictures, tmp_path, assert_named, name, damage, message):
    path = pictures / "TrainingSet" / TRAIN / name
    damage(path)
    assert_named(run(script, pictures, tmp_path / "out"), path, message)


def test_other_sources(script, pictures, volumes, tmp_path, capsys):
    def fails(*arguments):
        assert script.main([*map(str, arguments), "--output", str(tmp_path / "out")]) == 1
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "no --source is given: a folder with tr_im.nii.gz, tr_mask.nii.gz" in fails()
    (tmp_path / "empty").mkdir()
    assert "holds neither tr_im.nii.gz nor MultiClassInfection-Train" in fails("--source", tmp_path / "empty")
    assert "name the folder of one as --source" in fails("--source", pictures, volumes)
    assert "--folds is 9; with 8 slices give 2 to 8" in fails("--source", volumes, "--folds", 9)
    assert "--folds is 1; with 15 slices" in fails("--source", pictures, "--folds", 1)
    assert "leave --classes lungs out" in fails("--source", pictures, "--classes", "lungs")
    place = pictures / "TestingSet" / TEST
    for part, suffix in (("Imgs", "jpg"), ("GT", "png")):
        (place / part / f"3.{suffix}").rename(place / part / f"4.{suffix}")
    assert "has the number of" in fails("--source", pictures)
    for part, suffix in (("Imgs", "jpg"), ("GT", "png")):
        (place / part / f"4.{suffix}").rename(place / part / f"x.{suffix}")
    assert "x.jpg: is not named by a number" in fails("--source", pictures)
    for part in ("Imgs", "GT"):
        shutil.rmtree(place / part)
    assert f"{TEST}: holds no Imgs/*.jpg" in fails("--source", pictures)
    shutil.rmtree(place)
    assert f"holds {TRAIN}, but not {TEST}" in fails("--source", pictures)


@pytest.mark.parametrize("kind", ["volumes", "pictures"])
def test_archive_second_run_and_overwrite(script, request, tmp_path, capsys, kind):
    source, out = request.getfixturevalue(kind), tmp_path / "out"
    archive = shutil.make_archive(str(tmp_path / "release"), "zip", source)
    assert run(script, archive, out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["datalist.json", "images", "labels"]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    assert run(script, "/nowhere", out) == 0
    assert run(script, "/nowhere", out, "--classes", "lungs" if kind == "volumes" else "lesions") == 0
    assert "complete already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*")} == before
    assert run(script, source, out, "--folds", "3") == 1
    assert "choose another output folder or overwrite" in capsys.readouterr().err
    assert run(script, source, out, "--folds", "3", "--overwrite") == 0
    assert Datalist.load(out / "datalist.json").folds() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["volumes", "pictures"])
def test_interrupted_run_is_done_again(script, request, tmp_path, monkeypatch, kind):
    source, out = request.getfixturevalue(kind), tmp_path / "out"
    name = "write_slice" if kind == "volumes" else "write_pictures"
    write, done = getattr(script, name), []

    def full(*arguments):
        done.append(arguments)
        if len(done) == 4:
            raise OSError(28, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr(script, name, full)
    assert run(script, source, out) == 1
    assert not (out / "datalist.json").exists()
    monkeypatch.undo()
    assert run(script, source, out) == 0
    lost = next((out / "labels").iterdir())
    lost.unlink()
    assert run(script, source, out) == 0
    assert lost.is_file()
    assert check_datalist(out / "datalist.json").ok


def test_hostile_archives(script, assert_refused):
    assert_refused(script)


def test_monai_reads_it(script, volumes, pictures, tmp_path):
    monai_data = pytest.importorskip("monai.data")
    load = pytest.importorskip("medseg.io.load")
    for source, count in ((volumes, 8), (pictures, 15)):
        out = tmp_path / f"out-{source.name}"
        assert run(script, source, out) == 0
        entries = monai_data.load_decathlon_datalist(str(out / "datalist.json"), True, "training")
        assert len(entries) == count
        loaded = load.LoadImagesd(["image", "label"])(entries[2])
        assert loaded["image"].shape == loaded["label"].shape
        assert loaded["image"].ndim == 3
        if source == volumes:
            np.testing.assert_allclose(loaded["image"].affine[:2, :2], AFFINE[:2, :2], rtol=1e-6)


def test_real_pictures(script, real_data, tmp_path):
    source = real_data / "covid_semiseg"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    assert run(script, source, tmp_path) == 0
    datalist = Datalist.load(tmp_path / "datalist.json")
    assert len(datalist.training) == 60
    assert [len(part) for part in datalist.split(0)] == [30, 15, 15]
    assert [len(part) for part in datalist.split(0, fold_key="fold_official")] == [40, 10, 10]
    for entry in datalist.training[::7]:
        place = next(source.glob(f"*/{entry['original']}"))
        np.testing.assert_array_equal(pixels(tmp_path / entry["image"]), pixels(place))
        truth = pixels(place.parent.parent / "GT" / f"{place.stem}.png")
        np.testing.assert_array_equal(pixels(tmp_path / entry["label"]), truth)
    report = check_datalist(datalist, fold_keys=["fold", "fold_random", "fold_official"], in_channels=1, num_classes=3)
    assert report.ok
    assert {finding.code for finding in report.warnings} <= {"single-class-label"}
