"""Scores of an evaluation are those of the masks that a prediction writes, whatever grid the model works on."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from medseg.bundle import workflow
from medseg.bundle.description import Description
from medseg.bundle.networks import create
from medseg.bundle.record import header_of
from medseg.prediction.predict import predict
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.header import write_header

CLASSES = ["nothing", "low", "high"]
TURNED = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])


def write_cases(folder: Path, codes: str, *, tilted: bool = False) -> None:
    """Write two volumes of 1 mm and their labels, in a datalist."""
    generator = np.random.default_rng(1)
    entries = []
    turn = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(tuple(codes)), (1, 1, 1))
    for number in range(4):
        values = gaussian_filter(generator.normal(size=(17, 20, 14 + number)), 1.5)
        values = ((values - values.min()) / np.ptp(values) * 255).astype(np.uint8)
        affine = np.eye(4)
        affine[:3, :3] = (TURNED if tilted else np.eye(3)) @ turn[:3, :3]
        affine[:3, 3] = [4, -9, 2]
        label = np.digitize(gaussian_filter(values.astype(float), 1), [110, 140]).astype(np.uint8)
        entry = {"image": f"image{number}.nii.gz", "label": f"label{number}.nii.gz", "group": str(number)}
        for name, array in zip(("image", "label"), (values, label), strict=True):
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / entry[name])
        entries.append(entry)
    content: dict[str, Any] = {"name": "toy", "version": 1, "modality": ["CT"], "licence": "CC0-1.0", "source": "here"}
    content |= {"labels": dict(enumerate(CLASSES)), "ignore_index": None}
    content |= {"test": entries[:2], "training": entries[2:3], "validation": entries[3:]}
    (folder / "datalist.json").write_text(json.dumps(content))


def write_run(folder: Path, *, dims: int = 3, seed: int = 0, **described: Any) -> Path:
    """Write weights of a network of all classes, as a run leaves them."""
    network = create("unet", dims, 1, 3, channels=[4, 8], seed=seed).eval()
    *_, last = (module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    with torch.no_grad():
        logits = network(torch.rand(1, 1, *[16] * dims, generator=torch.Generator().manual_seed(0)))
        last.bias -= logits.flatten(2).median(2).values[0]
    content = {"name": "lfa_unet_drosophila", "classes": CLASSES, "network": network.recipe, **described}
    folder.mkdir()
    save_checkpoint(write_header(network.state_dict(), header_of(Description.of(content))), folder / "model.pt")
    return folder


@pytest.mark.parametrize(
    ("codes", "tilted", "described"),
    [
        ("RAS", False, {"spacing": [2, 2, 2]}),
        ("SAL", True, {"spacing": [1.7, 2, 0.8], "orientation": "LPS"}),
        ("PSR", False, {"orientation": "RAS"}),
    ],
)
def test_dice_is_that_of_the_written_mask(tmp_path: Path, codes: str, tilted: bool, described: dict[str, Any]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_cases(data, codes, tilted=tilted)
    fed = {"intensity": {"scheme": "range"}, **described}
    run = write_run(tmp_path / "run", input=fed, inference={"window": [8, 8, 8], "overlap": 0.5})
    options = {"device": "cpu", "mlflow": False}
    scores = workflow.evaluate(run, data=data, overrides=options).scores
    assert scores["grid"] == "file"
    for number in range(2):
        predict(run, data / f"image{number}.nii.gz", tmp_path / "masks", overrides={"device": "cpu"})
    both, sums, cases = np.zeros(3), np.zeros(3), []
    for number in range(2):
        mask, label = (
            np.asarray(nibabel.load(path).dataobj)
            for path in (tmp_path / "masks" / f"image{number}.nii.gz", data / f"label{number}.nii.gz")
        )
        assert mask.shape == label.shape
        hit = np.array([((mask == index) & (label == index)).sum() for index in range(3)])
        size = np.array([(mask == index).sum() + (label == index).sum() for index in range(3)])
        both, sums = both + hit, sums + size
        cases.append(2 * hit / size)
    assert (both > 0).all()
    found = [row["dice"] for row in scores["classes"]]
    np.testing.assert_allclose(found, 2 * both / sums, rtol=1e-12)
    per_case = [row["dice"] for row in scores["per_case"]["classes"]]
    np.testing.assert_allclose(per_case, np.mean(cases, axis=0), rtol=1e-12)
    output = run / "test_toy"
    assert json.loads((output / "evaluation.json").read_text())["grid"] == "file"
    assert (output / "overlays.png").stat().st_size > 0


def test_a_label_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_cases(data, "RAS")
    label = nibabel.load(data / "label1.nii.gz")
    moved = label.affine.copy()
    moved[0, 3] += 12
    nibabel.save(nibabel.Nifti1Image(np.asarray(label.dataobj), moved), data / "label1.nii.gz")
    run = write_run(tmp_path / "run", input={"intensity": {"scheme": "range"}, "spacing": [2, 2, 2]})
    with pytest.raises(ValueError, match=r"image1\.nii\.gz: the file's grid .* reaches 6 voxels beyond"):
        workflow.evaluate(run, data=data, overrides={"device": "cpu", "mlflow": False})
