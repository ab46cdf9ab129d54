"""Every network of the package on images smaller than its levels: planned, trained, used, scored."""

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from costs import Device
from PIL import Image

from medseg.bundle import discovery, networks
from medseg.cli import main
from medseg.studies import complexity
from medseg.studies.plan_network import candidates
from medseg.studies.plan_rules import full_patch

NAMES = [found.target.removeprefix(f"{discovery.PACKAGE}.") for found in discovery.networks()]
PICTURES_ONLY = (
    "deeplab_largefov", "deeplabv3_plus", "df_dam", "dilated_resnet", "emanet", "mfnet", "multi_scale", "psp_net",
)  # fmt: skip
EVERY = [(name, axes) for name in NAMES for axes in ((2,) if name.partition(".")[0] in PICTURES_ONLY else (2, 3))]
FEW = [("dynunet.DynUNet", 3), ("unet_pp.UNetPP", 3), ("df_dam.DFDAM", 2), ("mfnet.MFNet", 2)]
TRAINED = EVERY if "MEDSEG_EVERY_NETWORK" in os.environ else FEW
"""Those that are trained: a few, as all take many minutes."""


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()
    made.a_weight = 5e-9  # of AdamW on a CPU: of FCN-8s in 3D it takes longer than all else
    monkeypatch.setattr(complexity, "measure", made.measure)
    return made


def tiny(folder: Path, axes: int) -> Path:
    """Write five images of 6 x 7 pixels, or 6 x 7 x 5 voxels, with a bright block."""
    folder.mkdir()
    draw, shape = np.random.default_rng(0), (6, 7, 5)[:axes]
    entries = []
    for number in range(5):
        label = np.zeros(shape, np.uint8)
        label[1:4, 2 : 4 + number % 3] = 1
        image = draw.normal(100, 10, shape) + 80 * label
        suffix = ".png" if axes == 2 else ".nii.gz"
        for kind, array in (("image", image), ("label", label)):
            path = folder / f"{kind}_{number}{suffix}"
            if axes == 2:
                Image.fromarray(array.clip(0, 255).astype(np.uint8)).save(path)
            else:
                nibabel.Nifti1Image(array.astype(np.float32), np.eye(4)).to_filename(path)
        entries.append({"image": f"image_{number}{suffix}", "label": f"label_{number}{suffix}"})
    content = {"name": "blocks", "modality": {"0": "MR"}, "labels": {"0": "background", "1": "block"}}
    (folder / "dataset.json").write_text(json.dumps({**content, "training": entries, "test": []}))
    return folder


@pytest.mark.parametrize(("name", "axes"), EVERY)
@pytest.mark.parametrize("edges", [(6, 7, 5), (3, 40, 40)])
def test_trains_on_what_is_planned_for_small_images(name: str, axes: int, edges: tuple[int, ...]) -> None:
    """A step of the widest, which every network has; nothing is computed."""
    size = edges[:axes]
    planned = candidates(name, full_patch(size, axes), size, None if axes == 2 else (1.0, 1.0, 1.0))[0]
    given = dict(planned.network)
    with torch.device("meta"):
        network = networks.create(given.pop("name"), given.pop("spatial_dims"), 1, 2, **given).train()
        outputs = network(torch.empty(planned.batch, 1, *planned.patch))
    pred = outputs if isinstance(outputs, torch.Tensor) else outputs["pred"]
    assert pred.shape == (planned.batch, 2, *planned.patch)
    assert all(edge >= own for edge, own in zip(planned.patch, size, strict=True))


@pytest.mark.parametrize(("name", "axes"), TRAINED)
def test_from_small_images_to_scored_masks(
    device: Device, tmp_path: Path, name: str, axes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tiny(tmp_path / "data", axes), tmp_path / "out"
    words = ["max_epochs=1", "iterations=2", "mlflow=false", "device=cpu", "--network", name]
    assert main(["train", str(data), "--minutes", "5", "-o", str(out), *words]) == 0
    assert "Dice block" in capsys.readouterr().out
    suffix = ".png" if axes == 2 else ".nii.gz"
    image, masks, truths = data / f"image_0{suffix}", tmp_path / "masks", tmp_path / "truths"
    assert main(["predict", str(out), str(image), str(masks), "device=cpu"]) == 0
    truths.mkdir()
    (data / f"label_0{suffix}").rename(truths / image.name)
    assert main(["score", str(masks), str(truths), "--labels", str(data / "dataset.json")]) == 0
    assert "block" in capsys.readouterr().out
