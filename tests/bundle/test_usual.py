"""Cases far from all that a model was trained on are told, those of the training are not; on real data, too."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medseg.bundle import intensities
from medseg.bundle.description import Description
from medseg.bundle.usual import facts_of_training, shown_ranges, trained_on, unlike_image, unlike_mask, widest
from medseg.io.images import read_image
from medseg.prediction.collected import counts_of

RNG = np.random.default_rng(0)


def described(classes: list[str], usual: Any = None, **fed: Any) -> Description:
    network = {"name": "unet", "spatial_dims": 2, "in_channels": 1, "out_channels": len(classes)}
    return Description.of({"name": "t", "network": network, "classes": classes, "input": fed, "usual": usual or {}})


def trained(pairs: list[tuple[Path, Path]], values: dict[int, int] | None = None, **fed: Any) -> Description:
    data: Any = SimpleNamespace(path=pairs[0][0].parent / "datalist.json", values=values)
    entries: Any = [{"image": str(image), "label": str(label)} for image, label in pairs]
    classes = ["background", "front", "back"]
    return described(classes, trained_on(facts_of_training(data, entries), entries, described(classes, **fed)), **fed)


def test_what_the_check_keeps_is_read_once_for_all_that_weights_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a training of hundreds of thousands of images it is what the end waits for."""
    from medseg.bundle import assembly
    from medseg.data import file_facts

    pairs, read = [], list[object]()
    for number in range(10):
        pairs.append((tmp_path / f"{number}.png", tmp_path / f"{number}_mask.png"))
        for path in pairs[-1]:
            Image.fromarray(RNG.integers(0, 2, (12, 15)).astype(np.uint8)).save(path)
    load = file_facts._load_cache
    monkeypatch.setattr(file_facts, "_load_cache", lambda path: read.append(path) or load(path))
    data: Any = SimpleNamespace(path=tmp_path / "datalist.json", values=None)
    entries: Any = [{"image": str(image), "label": str(label)} for image, label in pairs]
    known = assembly._as_trained(described(["background", "front"]), data, entries)
    assert (known.usual["cases"], known.intensities["images"]) == (10, 10)
    assert len(read) == 1


def doubts(image: Path, label: Path | None, model: Description) -> list[str]:
    """Return what is said of an image, and of a label as if it were what the model found."""
    read = read_image(image)
    values = np.moveaxis(read.array, -1, 0) if read.channels > 1 else read.array[None]
    said = unlike_image(torch.from_numpy(values.astype(np.float32)), read.affine, model)
    if label is not None:
        mask = read_image(label, label=True).array.astype(np.uint8)
        said += unlike_mask(counts_of(mask), mask.shape, read.affine, model)
    return said


def volume(path: Path, shape: tuple[int, ...], affine: Any, label: Any = None) -> Path:
    array = RNG.normal(size=shape).astype(np.float32) if label is None else label
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def test_volumes(tmp_path: Path) -> None:
    """Axes are those of the patient, whatever their order in the file; volumes are counted by hand."""
    pairs = []
    turned = np.array([[0, 0, 2.0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # the file's axes are A, S, R
    for number in range(8):
        shape = (20 + number, 30, 10)
        mask = np.zeros(shape, np.int16)
        mask[0, 0, : number + 1] = 1
        image = volume(tmp_path / f"i{number}.nii", shape, turned)
        pairs.append((image, volume(tmp_path / f"l{number}.nii", shape, turned, mask)))
    model = trained(pairs)
    assert model.usual == {
        "cases": 8,
        "unit": "mm",
        "extent": [[20, 20, 30], [20, 27, 30]],
        "spacing": [[2, 1, 1], [2, 1, 1]],
        "found": {"1": [0.002, 0.016], "2": [0, 0]},
    }
    assert Description.of(model.to_dict()) == model
    assert [doubts(*pair, model) for pair in pairs] == [[]] * 8
    near, far = np.diag([1.1, 1, 1, 1]), np.diag([2, 1, 2.1, 1])
    assert doubts(volume(tmp_path / "a.nii", (20, 30, 50), near), None, model) == []
    those = "those of the 8 images that the model was trained on from"
    assert doubts(volume(tmp_path / "b.nii", (21, 30, 20), far), None, model) == [
        f"its size is 42 x 30 x 42 mm, {those} 20 x 20 x 30 to 20 x 27 x 30",
        f"its voxels are 2 x 1 x 2.1 mm, {those} 2 x 1 x 1 to 2 x 1 x 1",
    ]
    labels = "in the labels of the 8 images that the model was trained on at most"
    assert unlike_mask({0: 9, 1: 24, 2: 0}, (9, 9, 9), turned, model) == []
    assert unlike_mask({0: 9, 1: 25, 2: 1}, (9, 9, 9), turned, model) == [
        f"0.05 ml of its mask are front, {labels} 0.016 ml",
        f"0.002 ml of its mask are back, {labels} 0 ml",
    ]
    picture = torch.zeros(1, 500, 500)
    assert unlike_image(picture, None, model) == [
        "it is one of pictures or pages without a voxel size, those of the 8 images that the model was trained on are "
        "volumes in mm"
    ]
    assert unlike_mask({1: 9}, (500, 500), None, model) == []  # no millimetres
    assert shown_ranges(model) == [
        ("Cases that were measured", "8"),
        ("Sizes along R, A and S, mm", "20 x 20 x 30 to 20 x 27 x 30"),
        ("Voxels, mm", "2 x 1 x 1 to 2 x 1 x 1"),
        ("front in a label", "0.002 ml to 0.016 ml"),
        ("back in a label", "0 ml to 0 ml"),
    ]
    assert trained(pairs[:7]).usual == {}


def test_pictures_in_colour(tmp_path: Path) -> None:
    pairs = []
    for number in range(8):
        label = np.zeros((20, 30), np.uint8)
        label[: number + 1, :10] = 255
        for name, array in (("i", RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8)), ("l", label)):
            Image.fromarray(array).save(tmp_path / f"{name}{number}.png")
        pairs.append((tmp_path / f"i{number}.png", tmp_path / f"l{number}.png"))
    model = trained(pairs, {0: 0, 255: 1}, colour="rgb")
    found = {"1": [10 / 600, 80 / 600], "2": [0, 0]}
    extent = [[20, 30], [20, 30]]
    assert model.usual == {"cases": 8, "unit": "px", "extent": extent, "found": found, "colour": True}
    assert [doubts(image, None, model) for image, _ in pairs] == [[]] * 8
    grey = torch.rand(1, 20, 30)
    (said,) = unlike_image(grey, None, model)
    assert said == "it shows no colours, those of the 8 images that the model was trained on do"
    assert unlike_image(grey.repeat(3, 1, 1), None, model) == [said]
    (said,) = unlike_image(torch.rand(1, 20, 30, 9), np.eye(4), model)[:1]
    assert said.startswith("it shows no colours")
    large = torch.rand(3, 20, 61)
    assert unlike_image(large, None, model)[0].startswith("its size is 20 x 61 px, those")
    assert unlike_image(large, None, described(["a", "b", "c"], model.usual, colour="rgb", size=[8, 8])) == []
    for shape, affine in (((100, 10), None), ((10, 10, 10), np.eye(4))):
        assert unlike_mask({1: 400}, shape, affine, model) == []
        (said,) = unlike_mask({1: 401}, shape, affine, model)
        assert said.startswith("40.1 % of its mask are front, in the labels of the 8 images")
    Image.open(pairs[0][0]).convert("L").convert("RGB").save(pairs[0][0])
    assert trained(pairs, {0: 0, 255: 1}, colour="rgb").usual["colour"] is False
    assert "colour" not in trained(pairs, {0: 0, 255: 1}).usual


def test_pictures_without_colours(tmp_path: Path) -> None:
    """A model that makes colours grey takes a stained picture: told, if all of its training were grey."""
    pairs = []
    for number in range(8):
        for name in ("i", "l"):
            Image.fromarray(RNG.integers(0, 2, (20, 30)).astype(np.uint8)).save(tmp_path / f"{name}{number}.png")
        pairs.append((tmp_path / f"i{number}.png", tmp_path / f"l{number}.png"))
    model = trained(pairs, colour="grey")
    assert (model.usual["colour"], model.usual["grey"]) == (False, True)
    those = "those of the 8 images that the model was trained on"
    assert unlike_image(torch.rand(3, 20, 30), None, model) == [f"it shows colours, {those} show none"]
    assert unlike_image(torch.rand(1, 20, 30).repeat(3, 1, 1), None, model) == []
    said = unlike_image(torch.rand(1, 20, 30, 9), np.eye(4), model)
    assert said == [f"it is one of volumes in mm, {those} are pictures or pages without a voxel size"]
    assert Description.of(model.to_dict()) == model
    assert ("Pictures that show colours", "none") in shown_ranges(model)
    colours = RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(colours).save(pairs[0][0])
    assert "grey" not in trained(pairs, colour="grey").usual


def test_an_ensemble_knows_what_any_member_knows() -> None:
    def seen(cases: int, extent: Any, most: float, **more: Any) -> dict[str, Any]:
        return {"cases": cases, "unit": "px", "extent": extent, "found": {"1": [0.1, most]}, **more}

    first, second = seen(8, [[20, 30], [25, 40]], 0.2, grey=True, colour=False), seen(9, [[22, 10], [50, 35]], 0.5)
    assert widest([first, {**second, "colour": True}]) == seen(9, [[20, 10], [50, 40]], 0.5, colour=False)
    assert widest([first, first]) == first
    assert widest([first, {}]) == {}
    volumes = {**first, "unit": "mm", "spacing": [[1, 1, 1], [2, 2, 2]], "extent": [[9, 9, 9], [10, 10, 10]]}
    assert widest([volumes, first]) == {}
    assert widest([volumes, {**volumes, "spacing": [[0.5, 1, 1], [1, 3, 1]]}])["spacing"] == [[0.5, 1, 1], [2, 3, 2]]
    one = {"low": [[0.0, 1.0]], "high": [[1.0, 2.0]], "values": [-5.0, 9.0], "images": 8}
    other = {"low": [[0.5, 0.5]], "high": [[0.7, 3.0]], "values": [0.0, 90.0], "images": 12}
    both = {"low": [[0.0, 0.5]], "high": [[1.0, 3.0]], "values": [-5.0, 90.0], "images": 12}
    assert intensities.widest([one, other]) == both
    assert intensities.widest([one, {}]) == {}


def test_who_knows_nothing_says_nothing() -> None:
    model = described(["a", "b"])
    assert "usual" not in model.to_dict()
    assert unlike_image(torch.zeros(1, 9, 9, 9), np.diag([99, 99, 99, 1.0]), model) == []
    assert unlike_mask({1: 10**9}, (9, 9, 9), np.eye(4), model) == []


def test_real_volumes(real_data: Path) -> None:
    """Trained on every other crop of the hippocampus: those between and their labels are usual, a whole head is not."""
    images = sorted((real_data / "msd_hippocampus" / "imagesTr").glob("hippo*.nii.gz"))
    if len(images) < 16:
        pytest.skip("no hippocampus in the real data")
    pairs = [(image, image.parent.parent / "labelsTr" / image.name) for image in images]
    model = trained(pairs[::2])
    assert [said for pair in pairs for said in doubts(*pair, model)] == []
    crops = real_data / "dicom_mr_hippocrop"
    for name in ("study1", "study2"):
        assert doubts(crops / name, None, model) == []
    sizes = doubts(crops / "study3_t1post", None, model)
    assert [said.split(" are ")[0].split(" is ")[0] for said in sizes] == ["its size", "its voxels"]
