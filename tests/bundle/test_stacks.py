"""Stacks of pages (TIFF): their pages are what a 2D network sees, in training, evaluation and prediction."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from bundle.test_native_scores import CLASSES
from prediction.test_model import grey, save

from medseg.bundle import feeding, workflow
from medseg.engines.patches import PatchDataset
from medseg.errors import one_line
from medseg.prediction.model import ModelError, load
from medseg.prediction.predict import predict

SIZES = [(3, 20, 14), (16, 16, 16)]  # of a cube, a mask in another order of axes has the right shape


def write(path: Path, pages: np.ndarray[Any, Any]) -> Path:
    colours = {"photometric": "rgb"} if pages.ndim == 4 else {"photometric": "minisblack"}
    tifffile.imwrite(path, pages, **colours)
    return path


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("colour", [False, True])
def test_a_stack_is_predicted_page_by_page(tmp_path: Path, size: tuple[int, ...], colour: bool) -> None:
    """Its mask is that of its pages, each as a picture of its own."""
    described = {"input": {"colour": "rgb", "intensity": {"scheme": "range"}}} if colour else {}
    _, weights = save(tmp_path / "model.pt", channels=3 if colour else 1, **described)
    model = load(weights, device="cpu")
    pages = grey(*size, 3) if colour else grey(*size)
    stack = write(tmp_path / "stack.tif", pages)
    expected = np.stack([model.predict(page).mask for page in pages])
    assert len(np.unique(expected)) == 3
    found = model.predict(stack)
    assert found.affine is None
    np.testing.assert_array_equal(found.mask, expected)
    found.save(tmp_path / "mask.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "mask.tif"), expected)
    outcome = predict(weights, stack, tmp_path / "masks", overrides={"device": "cpu", "inference#window": [8, 8]})
    assert (outcome.written, outcome.failures) == (1, [])
    assert tifffile.imread(tmp_path / "masks" / "stack.tif").shape == pages.shape[:3]


def test_a_3d_network_sees_a_stack_as_it_is_stored(tmp_path: Path) -> None:
    _, weights = save(tmp_path / "model.pt", dims=3)
    pages = grey(8, 20, 14)
    model = load(weights, device="cpu")
    np.testing.assert_array_equal(model.predict(write(tmp_path / "s.tif", pages)).mask, model.predict(pages).mask)


def test_a_voxel_size_that_a_stack_does_not_state(tmp_path: Path) -> None:
    _, weights = save(tmp_path / "model.pt", dims=3, input={"intensity": {"scheme": "range"}, "spacing": [2, 2, 2]})
    with pytest.raises(ModelError, match=r"s\.tif: the image states no spacing, which the model needs; store it as NI"):
        load(weights, device="cpu").predict(write(tmp_path / "s.tif", grey(8, 20, 14)))


def datalist(folder: Path, suffix: str = ".tif") -> Path:
    entries = []
    for number, size in enumerate([*SIZES, SIZES[0]]):
        pages = grey(*size)
        label = (pages > 85).astype(np.uint8) + (pages > 170)
        write(folder / f"image{number}.tif", pages)
        if suffix == ".tif":
            write(folder / f"label{number}.tif", label)
        else:
            nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), folder / f"label{number}{suffix}")
        entries.append({"image": f"image{number}.tif", "label": f"label{number}{suffix}", "group": str(number)})
    content: dict[str, Any] = {"name": "toy", "version": 1, "modality": ["EM"], "licence": "", "source": ""}
    content |= {"labels": dict(enumerate(CLASSES)), "ignore_index": None, "training": entries[2:], "validation": []}
    (folder / "datalist.json").write_text(json.dumps({**content, "test": entries[:2]}))
    return folder


def test_scores_of_stacks_are_those_of_the_written_masks(tmp_path: Path) -> None:
    data = datalist(tmp_path)
    _, weights = save(tmp_path / "model.pt", classes=CLASSES)
    (run := tmp_path / "run").mkdir()
    weights.rename(run / "model.pt")
    evaluated = workflow.evaluate(run, data=data, overrides={"device": "cpu", "mlflow": False})
    hits, sums = np.zeros(3), np.zeros(3)
    for number in range(2):
        predict(run, data / f"image{number}.tif", tmp_path / "masks", overrides={"device": "cpu"})
        mask, label = (
            tifffile.imread(f / f"{n}{number}.tif") for f, n in ((tmp_path / "masks", "image"), (data, "label"))
        )
        hits += [((mask == index) & (label == index)).sum() for index in range(3)]
        sums += [(mask == index).sum() + (label == index).sum() for index in range(3)]
    np.testing.assert_allclose([row["dice"] for row in evaluated.scores["classes"]], 2 * hits / sums, rtol=1e-12)
    assert (evaluated.folder / "overlays.png").stat().st_size > 0


def test_a_label_that_is_no_stack(tmp_path: Path) -> None:
    data = datalist(tmp_path, ".nii.gz")
    _, weights = save(tmp_path / "model.pt", classes=CLASSES)
    (run := tmp_path / "run").mkdir()
    weights.rename(run / "model.pt")
    with pytest.raises(RuntimeError) as caught:  # MONAI's, around ours
        workflow.evaluate(run, data=data, overrides={"device": "cpu", "mlflow": False})
    assert "the image is a stack of pages, its label is none; store both in one" in str(one_line(caught.value))


def test_patches_are_cut_from_pages(tmp_path: Path) -> None:
    """A patch as large as a page is that page, and no other plane of the stack."""
    pages = grey(5, 12, 9)
    entry = {
        key: str(write(tmp_path / f"{key}.tif", values)) for key, values in (("image", pages), ("label", pages // 100))
    }
    described = load(save(tmp_path / "model.pt")[1], device="cpu").description
    dataset = PatchDataset([entry] * 8, feeding.training(described), (12, 9), slices=True, cache=False)
    wanted = [torch.from_numpy(page / np.float32(255)) for page in pages]
    for number in range(8):
        sample = dataset[number]
        (page,) = [index for index, each in enumerate(wanted) if torch.allclose(sample["image"][0], each)]
        np.testing.assert_array_equal(sample["label"][0], pages[page] // 100)
