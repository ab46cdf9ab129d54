"""Data and trained weights for the tests of all bundles."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from bundles.helpers import (
    BUNDLES,
    DEPTH,
    ROOT,
    configs,
    monai_bundle,
    network_channels,
    small,
    takes_photographs,
    takes_volumes,
)
from PIL import Image


@pytest.fixture(scope="session")
def sections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty crops of 32 x 32 of five synthetic sections, with a datalist."""
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    script = ROOT / "data_scripts" / "synthetic.py"
    options = ["--output", str(folder), "--sections", "5", "--size", "64", "--crop-size", "32"]
    subprocess.run([sys.executable, str(script), *options], check=True, capture_output=True)
    return folder


def data_for(bundle: Path, sections: Path, folder: Path) -> Path:
    """Return the synthetic sections with as many channels and classes as a bundle's network has."""
    channels, classes = network_channels(bundle)
    content = json.loads((sections / "datalist.json").read_text())
    if takes_volumes(bundle):
        return volumes(content, sections, folder / f"volumes_{classes}", classes)
    if (channels, classes) == (1, len(content["labels"])):
        return sections
    ignored = 255 if takes_photographs(bundle) else None
    target = folder / f"sections_{channels}_{classes}_{ignored}"
    if target.exists():
        return target
    content["labels"] = {str(n): content["labels"].get(str(n), f"class {n}") for n in range(classes)}
    content["ignore_index"] = ignored
    for entry in content["training"]:
        for key in ("image", "label"):
            with Image.open(sections / entry[key]) as picture:
                pixels = np.array(picture)
            pixels = np.minimum(pixels, classes - 1) if key == "label" else np.stack([pixels] * channels, -1)
            (target / entry[key]).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.squeeze()).save(target / entry[key])
        if classes == 2:  # as a data set of cells has them
            entry["instances"] = entry["label"]
    (target / "datalist.json").write_text(json.dumps(content))
    return target


def volumes(content: dict[str, Any], sections: Path, target: Path, classes: int) -> Path:
    """Return the synthetic sections as volumes whose slices move along, stored with flipped axes and 1 mm voxels."""
    content["labels"] = {"0": "background", **{str(n): f"class {n}" for n in range(1, classes)}}
    for entry in content["training"]:
        for key in ("image", "label"):
            with Image.open(sections / entry[key]) as picture:
                pixels = np.array(picture)
            pixels = np.minimum(pixels, classes - 1) if key == "label" else pixels
            volume = np.stack([np.roll(pixels, shift, 0) for shift in range(DEPTH)], -1)
            entry[key] = str(Path(entry[key]).with_suffix(".nii.gz"))
            (target / entry[key]).parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1.0, 1, 1, 1])), target / entry[key])
    (target / "datalist.json").write_text(json.dumps(content))
    return target


@pytest.fixture(scope="session")
def bundle_data(trained: Path, sections: Path) -> Path:
    """The data that `trained` was trained on."""
    return data_for(trained, sections, sections.parent)


@pytest.fixture(scope="session", params=BUNDLES, ids=lambda path: path.name)
def trained(
    request: pytest.FixtureRequest, sections: Path, laid_out_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy of the bundle elsewhere, with a small network trained by its own train.yaml for two epochs."""
    bundle = tmp_path_factory.mktemp("elsewhere") / request.param.name
    shutil.copytree(request.param, bundle, ignore=shutil.ignore_patterns("models", "runs"))
    (bundle / "runs").mkdir()
    shutil.copy(laid_out_store, bundle / "runs")
    options = {**small(bundle), "mlflow": "True", "publish": "True", "bundle_root": str(bundle)}
    monai_bundle(
        "run",
        cwd=tmp_path_factory.mktemp("cwd"),
        config_file=configs(bundle, "train.yaml"),
        dataset_dir=str(data_for(bundle, sections, sections.parent)),
        output_dir=str(bundle / "runs" / "first"),
        max_epochs=2,
        **options,
    )
    return bundle
