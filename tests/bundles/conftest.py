"""Data and trained weights for the tests of all bundles."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bundles.helpers import BUNDLES, ROOT, configs, monai_bundle, small


@pytest.fixture(scope="session")
def sections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty crops of 32 x 32 of five synthetic sections, with a datalist."""
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    script = ROOT / "data_scripts" / "synthetic.py"
    options = ["--output", str(folder), "--sections", "5", "--size", "64", "--crop-size", "32"]
    subprocess.run([sys.executable, str(script), *options], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session", params=BUNDLES, ids=lambda path: path.name)
def trained(request: pytest.FixtureRequest, sections: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle elsewhere, with a small network trained by its own train.yaml for two epochs."""
    bundle = tmp_path_factory.mktemp("elsewhere") / request.param.name
    shutil.copytree(request.param, bundle, ignore=shutil.ignore_patterns("models", "runs"))
    options = {**small(bundle), "mlflow": "True"}
    options.pop("publish")
    monai_bundle(
        "run",
        cwd=tmp_path_factory.mktemp("cwd"),
        config_file=configs(bundle, "train.yaml"),
        dataset_dir=str(sections),
        output_dir=str(bundle / "runs" / "first"),
        max_epochs=2,
        **options,
    )
    return bundle
