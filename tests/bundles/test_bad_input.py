"""Bad input ends in one line that names file, value and remedy, before work starts."""

import importlib.metadata
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles.helpers import ROOT, configs, monai_bundle, small, small_network
from monai.bundle import ConfigParser
from PIL import Image

from medseg.bundle.record import header_of
from medseg.bundle.start import ConfigError, check_requirements
from medseg.networks.lfa_unet import LFAUNet
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.header import write_header

BUNDLE = ROOT / "bundles" / "lfa_unet_drosophila"


@pytest.fixture
def data(sections: Path, tmp_path: Path) -> Path:
    """A copy of the data to spoil."""
    return Path(shutil.copytree(sections, tmp_path / "data"))


def refused(tmp_path: Path, folder: Path, *names: str, **options: Any) -> str:
    """Run what must be refused; returns its last words, which must not be a trace."""
    run = tmp_path / "run"
    done = monai_bundle(
        "run",
        cwd=tmp_path,
        ok=False,
        config_file=configs(BUNDLE, *(names or ("train.yaml",))),
        dataset_dir=str(folder),
        output_dir=str(run),
        max_epochs=1,
        **{**small(BUNDLE), **options},
    )
    assert done.returncode not in (0, 134)
    assert "Traceback" not in done.stderr, done.stderr
    assert "error: " in done.stderr
    assert not (run / "checkpoints").exists(), "nothing may have been trained"
    return done.stderr[done.stderr.index("error: ") :]


def first_pair(data: Path) -> tuple[Path, Path]:
    entry = json.loads((data / "datalist.json").read_text())["training"][0]
    return data / entry["image"], data / entry["label"]


def test_no_datalist(tmp_path: Path) -> None:
    message = refused(tmp_path, tmp_path / "nowhere")
    assert "datalist.json" in message
    assert "no such datalist" in message


def test_wrong_path_in_the_datalist(data: Path, tmp_path: Path) -> None:
    image, _ = first_pair(data)
    image.unlink()
    message = refused(tmp_path, data)
    assert image.name in message
    assert "no such file" in message


def test_corrupt_image(data: Path, tmp_path: Path) -> None:
    image, _ = first_pair(data)
    image.write_bytes(image.read_bytes()[:100])
    assert image.name in refused(tmp_path, data)


def test_label_value_outside_the_classes(data: Path, tmp_path: Path) -> None:
    _, label = first_pair(data)
    values = np.array(Image.open(label))
    values[0, 0] = 7
    Image.fromarray(values).save(label)
    message = refused(tmp_path, data)
    assert label.name in message
    assert "7" in message


def test_nan_in_an_image(data: Path, tmp_path: Path) -> None:
    import tifffile

    image, _ = first_pair(data)
    values = np.array(Image.open(image)).astype(np.float32)
    values[3, 4] = np.nan
    target = image.with_suffix(".tif")
    tifffile.imwrite(target, values)
    text = (data / "datalist.json").read_text()
    (data / "datalist.json").write_text(text.replace(f"images/{image.name}", f"images/{target.name}"))
    message = refused(tmp_path, data)
    assert target.name in message
    assert "NaN" in message


def test_wrong_number_of_channels(data: Path, tmp_path: Path) -> None:
    """The network takes what the data have; told otherwise, it is refused."""
    for image in (data / "images").iterdir():
        Image.open(image).convert("RGB").save(image)
    message = refused(tmp_path, data, network_def__in_channels=1)
    assert "3 channels" in message
    assert "1" in message


def test_checkpoint_of_another_network(sections: Path, tmp_path: Path) -> None:
    torch.save(LFAUNet(2, 1, 5, channels=[4, 8]).state_dict(), tmp_path / "model.pt")
    options = {"ckpt": str(tmp_path / "model.pt"), "network_def__channels": [4, 8, 16]}
    message = refused(tmp_path, sections, "train.yaml", "evaluate.yaml", **options)
    assert "does not fit LFAUNet" in message
    assert "missing from the file" in message
    assert "encoder" in message


def test_weights_that_were_fed_otherwise(tmp_path: Path) -> None:
    """Weights as `demo.yaml` trains them: refused by `inference.yaml` alone, taken with the overlay."""
    bundle = ROOT / "bundles" / "focusnet_pp_dsb2018"
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / f"{name}.yaml") for name in ("inference", "demo")])
    for key, value in small_network(bundle).items():
        parser[key.replace("__", "#")] = value
    described, network = parser.get_parsed_content("description"), parser.get_parsed_content("network_def")
    save_checkpoint(write_header(network.state_dict(), header_of(described)), tmp_path / "model.pt")
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(tmp_path / "images" / "a.png")
    options = {"dataset_dir": str(tmp_path / "images"), "output_dir": str(tmp_path / "masks"), "device": "cpu"}
    options |= {"ckpt": str(tmp_path / "model.pt"), **small_network(bundle)}
    plain = monai_bundle("run", cwd=tmp_path, ok=False, config_file=configs(bundle, "inference.yaml"), **options)
    (line,) = [line for line in plain.stderr.splitlines() if "error: " in line]
    assert "were trained otherwise" in line
    assert "input polarity bright (here unset)" in line
    assert "input size unset (here [256, 256])" in line
    assert "Traceback" not in plain.stderr
    assert plain.returncode != 0
    assert not (tmp_path / "masks" / "a.png").exists()
    monai_bundle("run", cwd=tmp_path, config_file=configs(bundle, "inference.yaml", "demo.yaml"), **options)
    assert (tmp_path / "masks" / "a.png").is_file()


class _Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


def test_malicious_checkpoint(sections: Path, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    torch.save({"network": _Bomb(str(proof))}, tmp_path / "bomb.pt")
    message = refused(tmp_path, sections, "train.yaml", "evaluate.yaml", ckpt=str(tmp_path / "bomb.pt"))
    assert "bomb.pt holds Python objects" in message
    assert not proof.exists()


def test_unknown_key(sections: Path, tmp_path: Path) -> None:
    message = refused(tmp_path, sections, netwrok_def={})
    assert "--netwrok_def: the configuration has no 'netwrok_def'" in message
    assert "did you mean --network_def?" in message


def test_old_medseg(sections: Path, tmp_path: Path) -> None:
    message = refused(
        tmp_path, sections, **{"_meta_#required_packages_version": {"medseg": "99.0", "nothing-here": "1.0"}}
    )
    assert (
        "needs nothing-here (not installed): pip" in message
    )  # the least version of medseg's own needs is medseg's to say
    assert "pip install" in message


def test_medseg_from_a_checkout_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a checkout that is not installed there is no record, and it runs all the same."""
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name == "medseg":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    check_requirements({"required_packages_version": {"medseg": "0.1.0", "torch": "2.8"}})
    with pytest.raises(ConfigError, match="needs nothing-here"):
        check_requirements({"required_packages_version": {"medseg": "0.1.0", "nothing-here": "1"}})


def test_bundle_without_medseg(sections: Path, tmp_path: Path) -> None:
    """In an interpreter that cannot find medseg the bundle says what to install, in one line."""
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'medseg':\n"
        "            raise ModuleNotFoundError(name)\n"
        "import importlib.util as util\n"
        "real = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name.split('.')[0] == 'medseg' else real(name, package)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    done = monai_bundle(
        "run",
        cwd=tmp_path,
        ok=False,
        env={"PYTHONPATH": str(tmp_path / "hide")},
        config_file=configs(BUNDLE, "train.yaml"),
        dataset_dir=str(sections),
        **small(BUNDLE),
    )
    assert done.returncode != 0
    assert "this bundle needs medseg; pip install medseg" in done.stderr
    assert "Traceback" not in done.stderr
