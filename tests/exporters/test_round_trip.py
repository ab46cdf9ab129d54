"""Out to another layout and back in again: every voxel, class, group, fold and list is as it was."""

import dataclasses
import json
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from PIL import Image

from medseg.data.check import check_datalist
from medseg.data.datalist import SPLITS, Datalist
from medseg.exporters.decathlon import export_decathlon
from medseg.exporters.nnunet import export_nnunet
from medseg.exporters.writing import ExportError
from medseg.importers.writing import import_folder
from medseg.io.images import read_image
from medseg.io.labels import read_label
from medseg.io.placement import compare

EXPORTS = {"nnunet": export_nnunet, "decathlon": export_decathlon}
AFFINE = np.array([[0, -0.8, 0, 10], [0.8, 0, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])


def datalist_of(folder, entries, **more):
    content = {"name": "toy", "version": 3, "modality": ("CT",), "licence": "CC0", "source": "here"}
    content |= {"labels": {0: "back", 1: "liver"}, "colours": {1: "#ff0000"}, "preparation": {"script": "mine"}}
    content["codes"] = {1: {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}}
    path = folder / "datalist.json"
    return Datalist.load(Datalist(**{**content, **more, **entries}, path=path).save())


def put(folder, name, array):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith(".nii.gz"):
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)
    else:
        Image.fromarray(array).save(path)


@pytest.fixture
def pictures(tmp_path):
    """RGB JPEGs, palette labels with an ignored border, object numbers, groups, folds, a test image without a label."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    training = []
    for n in range(4):
        put(folder, f"i/{n}.jpg", rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
        label = Image.fromarray(rng.choice(np.array([0, 1, 255], np.uint8), (9, 12)))
        label.putpalette([0, 0, 0, 255, 0, 0, *range(6, 256), *range(256), *range(256)])
        (folder / "l").mkdir(exist_ok=True)
        label.save(folder / f"l/{n}.png")
        put(folder, f"o/{n}.png", rng.integers(0, 9, (9, 12), dtype=np.uint8))
        training.append({"image": f"i/{n}.jpg", "label": f"l/{n}.png", "instances": f"o/{n}.png"})
        training[-1] |= {"group": f"g{n // 2}", "fold": n // 2, "fold_b": n % 2, "note": n}
    put(folder, "i/t.jpg", rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    return datalist_of(folder, {"training": training, "test": [{"image": "i/t.jpg"}]}, ignore_index=255)


@pytest.fixture
def volumes(tmp_path):
    """Two files a channel, masks of 0 and 255, a validation list, a labelled test list."""
    folder = tmp_path / "volumes"
    folder.mkdir()
    rng = np.random.default_rng(1)
    lists = {}
    for number, split in enumerate(SPLITS):
        for channel in ("t1", "t2"):
            put(folder, f"{number}/{channel}.nii.gz", rng.integers(-9, 999, (5, 6, 4)).astype(np.int16))
        put(folder, f"{number}/seg.nii.gz", rng.choice(np.array([0, 255], np.uint8), (5, 6, 4)))
        image = [f"{number}/t1.nii.gz", f"{number}/t2.nii.gz"]
        lists[split] = [{"image": image, "label": f"{number}/seg.nii.gz", "group": f"p{number}"}]
    return datalist_of(folder, lists, values={0: 0, 255: 1}, modality=("T1", "T2"))


def pixels(datalist, entry):
    placed = datalist.absolute(entry)
    files = placed["image"] if isinstance(placed["image"], list) else [placed["image"]]
    images = [read_image(path) for path in files]
    parts = [image.array if image.channels > 1 else image.array[..., None] for image in images]
    label = read_label(placed).array if "label" in placed else None
    numbers = read_image(placed["instances"], label=True).array if "instances" in placed else None
    return np.concatenate(parts, axis=-1), label, numbers, images[0].affine


def assert_same(first, second):
    for key in ("name", "version", "modality", "licence", "source", "labels", "ignore_index", "codes", "colours"):
        assert getattr(first, key) == getattr(second, key), key
    assert first.preparation.items() <= second.preparation.items()
    for split in SPLITS:
        before, after = getattr(first, split), getattr(second, split)
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            own = ("image", "label", "instances")
            assert {k: v for k, v in one.items() if k not in own}.items() <= {
                k: v for k, v in other.items() if k not in own
            }.items()
            arrays, others = pixels(first, one), pixels(second, other)
            for mine, theirs in zip(arrays[:3], others[:3], strict=True):
                assert (mine is None) == (theirs is None)
                if mine is not None:
                    np.testing.assert_array_equal(mine, theirs)
            assert (arrays[3] is None) == (others[3] is None)
            if arrays[3] is not None:
                assert compare(arrays[3], others[3], arrays[1].shape).voxels < 1e-3


@pytest.mark.parametrize("to", EXPORTS)
@pytest.mark.parametrize("kind", ["pictures", "volumes"])
def test_nothing_is_lost(request, tmp_path, to, kind):
    datalist = request.getfixturevalue(kind)
    EXPORTS[to](datalist, tmp_path / "Dataset001_toy")
    made = import_folder(tmp_path / "Dataset001_toy", tmp_path / "back")
    assert (made.found.layout, made.left_out) == (to, ())
    assert_same(datalist, made.datalist)
    assert check_datalist(made.datalist, cache=False).errors == check_datalist(datalist, cache=False).errors


@pytest.mark.parametrize("to", EXPORTS)
def test_the_order_of_cases_stays(pictures, tmp_path, to):
    """Which case is drawn next goes by its number, so that another order is another training."""
    turned = dataclasses.replace(pictures, training=pictures.training[::-1])
    assert len(turned.training) > 1
    EXPORTS[to](turned, tmp_path / "Dataset001_toy")
    assert_same(turned, import_folder(tmp_path / "Dataset001_toy", tmp_path / "back").datalist)


def test_the_decathlon_s_is_read_by_monai_and_as_it_is(volumes, tmp_path):
    from monai.data import load_decathlon_datalist

    export_decathlon(volumes, tmp_path / "out")
    (item,) = load_decathlon_datalist(tmp_path / "out/dataset.json", data_list_key="training")
    assert read_image(item["image"]).channels == 2
    assert Datalist.load(tmp_path / "out/dataset.json").values == {0: 0, 255: 1}


def test_what_nnunet_reads(pictures, volumes, tmp_path):
    notes = export_nnunet(pictures, tmp_path / "a")
    content = json.loads((tmp_path / "a/dataset.json").read_text())
    assert content["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert content["labels"] == {"background": 0, "liver": 1, "ignore": 2}
    assert (content["numTraining"], content["file_ending"]) == (4, ".png")
    with Image.open(tmp_path / "a/labelsTr/0.png") as label:
        assert (label.mode, set(np.unique(label))) == ("L", {0, 1, 2})
    splits = json.loads((tmp_path / "a/splits_final.json").read_text())
    assert splits[1] == {"train": ["0", "1"], "val": ["2", "3"]}
    assert [note.split(":")[0] for note in notes] == [
        "class 0, back, is called background, as nnU-Net asks, which does not score it",
        "splits_final.json",
        "a",
    ]
    export_nnunet(volumes, tmp_path / "Dataset002_b")
    content = json.loads((tmp_path / "Dataset002_b/dataset.json").read_text())
    assert content["channel_names"] == {"0": "T1", "1": "T2"}
    assert sorted(path.name for path in (tmp_path / "Dataset002_b/imagesTr").iterdir()) == [
        *("0-t1_0000.nii.gz", "0-t1_0001.nii.gz", "1-t1_0000.nii.gz", "1-t1_0001.nii.gz")
    ]


@pytest.mark.parametrize("kind", ["pictures", "volumes"])
def test_nnunet_s_own_check_passes(request, tmp_path, kind):
    pytest.importorskip("nnunetv2", reason="nnU-Net is not installed: its own check of a data set cannot be asked")
    target = tmp_path / "Dataset001_toy"
    export_nnunet(request.getfixturevalue(kind), target)
    code = (
        "import sys\n"
        "from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity\n"
        "if __name__ == '__main__':\n verify_dataset_integrity(sys.argv[1], 1)\n"
    )
    script = tmp_path / "verify.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, "-W", "ignore", str(script), str(target)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    assert "Done" in done.stdout
    assert "warning" not in done.stdout.lower().split("verify")[-1]


def test_a_series_of_slices_becomes_one_file(real_data, tmp_path):
    source = real_data / "dicom_mr_hippocrop/study1"
    image = read_image(source)
    made = tmp_path / "d"
    made.mkdir()
    (made / "s").symlink_to(source)
    put(made, "l/a.nii.gz", np.zeros(image.shape, np.uint8))
    nibabel.save(nibabel.Nifti1Image((image.array > 300).astype(np.uint8), image.affine), made / "l/a.nii.gz")
    first = sorted(path.name for path in source.iterdir())[0]
    datalist = datalist_of(made, {"training": [{"image": f"s/{first}", "label": "l/a.nii.gz"}]})
    for to, export in EXPORTS.items():
        export(datalist, tmp_path / to)
        (volume,) = (tmp_path / to / "imagesTr").iterdir()
        assert volume.name.endswith(".nii.gz")
        np.testing.assert_array_equal(read_image(volume).array, image.array)
        assert compare(read_image(volume).affine, image.affine, image.shape).voxels < 1e-3


@pytest.mark.parametrize(
    ("image", "message", "to"),
    [
        (np.zeros((3, 9, 12), np.float32), r"float32 of 3 x 9 x 12 cannot be a PNG", "nnunet"),
        (np.zeros((9, 13), np.uint8), "label and image are 9x12 and 9x13", "nnunet"),
    ],
)
def test_images_that_cannot_be(pictures, tmp_path, image, message, to):
    import tifffile

    tifffile.imwrite(pictures.root / "i/x.tif", image, photometric="minisblack")
    entry = {"image": "i/x.tif", "label": "l/0.png"}
    with pytest.raises(ExportError, match=message):
        EXPORTS[to](datalist_of(pictures.root, {"training": [entry]}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".export.*"))


def test_bad_ways(pictures, volumes, tmp_path):
    (pictures.root / "o/2.png").unlink()
    with pytest.raises(ExportError, match=r"o/2.png: no such file, but .*datalist.json names it"):
        export_nnunet(pictures, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("x")
    with pytest.raises(ExportError, match=r"full: is there already and not empty"):
        export_decathlon(volumes, tmp_path / "full")
    several = [{"image": ["i/0.jpg", "i/1.jpg"], "label": "l/0.png"}]
    with pytest.raises(ExportError, match=r"2 files of pictures, or of several sizes, cannot be one NIfTI image"):
        export_decathlon(datalist_of(pictures.root, {"training": several}), tmp_path / "out")
    with pytest.raises(ExportError, match=r"is one of several channels, but has 3 of its own"):
        export_nnunet(datalist_of(pictures.root, {"training": several}, labels={0: "a", 1: "b"}), tmp_path / "out")
    named = datalist_of(
        pictures.root, {"training": [{"image": "i/0.jpg", "label": "l/0.png"}]}, labels={0: "a", 1: "ignore"}
    )
    moved = datalist_of(pictures.root, {"training": named.training}, labels={0: "a", 1: "background"})
    with pytest.raises(ExportError, match=r"class 0 must be nnU-Net's background"):
        export_nnunet(moved, tmp_path / "out")
    with pytest.raises(ExportError, match=r"a class is called ignore"):
        export_nnunet(named, tmp_path / "out")


@pytest.mark.parametrize("moved", ["seg", "t2"])
def test_what_lies_elsewhere_is_not_put_where_its_image_is(volumes, tmp_path, moved):
    """Stored the other way round along an axis, a mask covers the same place, and would be turned without a word."""
    path = volumes.root / f"0/{moved}.nii.gz"
    turned = AFFINE @ np.array([[-1, 0, 0, 4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(np.asarray(nibabel.load(path).dataobj)[::-1], turned), path)
    with pytest.raises(ExportError, match=rf"0/{moved}.nii.gz: is not where its image t1.nii.gz is \(.*origin.*medseg"):
        export_nnunet(volumes, tmp_path / "out")
    if moved == "t2":
        return
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(volumes.root / "0/seg.png")
    put(volumes.root, "0/slice.nii.gz", np.zeros((5, 5), np.int16))
    entry = {"image": "0/slice.nii.gz", "label": "0/seg.png"}
    with pytest.raises(ExportError, match=r"seg.png: is not where .* is \(a picture; the image: a volume\)"):
        export_nnunet(datalist_of(volumes.root, {"training": [entry]}), tmp_path / "out")


def test_channels_in_two_places_are_not_joined(volumes, tmp_path):
    path = volumes.root / "0/t2.nii.gz"
    moved = AFFINE + np.array([[0, 0, 0, 30.0], *np.zeros((3, 4))])
    nibabel.save(nibabel.Nifti1Image(np.asarray(nibabel.load(path).dataobj), moved), path)
    with pytest.raises(ExportError, match=r"0/t2.nii.gz: is not where its image t1.nii.gz is"):
        export_decathlon(volumes, tmp_path / "out")


@pytest.mark.parametrize("to", EXPORTS)
def test_numbers_of_cases_are_no_channels(tmp_path, to):
    """Cases scan_0000 and scan_0002 were called scan and scan-2, the second of which is another one's number."""
    folder = tmp_path / "data"
    folder.mkdir()
    entries = []
    for number in (0, 2):
        for kind in "il":
            put(folder, f"{kind}/scan_{number:04d}.nii.gz", np.eye(5, dtype=np.uint8)[..., None])
        entries.append({"image": f"i/scan_{number:04d}.nii.gz", "label": f"l/scan_{number:04d}.nii.gz"})
    EXPORTS[to](datalist_of(folder, {"training": entries}), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "labelsTr").iterdir()) == [
        "scan_0000.nii.gz",
        "scan_0002.nii.gz",
    ]
