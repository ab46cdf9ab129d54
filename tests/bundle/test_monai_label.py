"""A bundle in MONAI Label's `monaibundle` app: on a real volume, its masks are the prediction's, by Python and by REST.

Run where MONAI Label is installed, see docs/how-to/viewers.md; the server listens on loopback alone.
"""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from bundle.test_by_parts import bundle_of, parts, volume
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image
from torch import nn

from medseg.bundle import library
from medseg.bundle.record import header_of
from medseg.prediction.model import load
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.header import write_header

pytest.importorskip("monailabel", reason="MONAI Label is not installed; docs/how-to/viewers.md says how")
import requests
from monailabel.tasks.infer.bundle import BundleInferTask

APP = Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle"
STARTS = 200.0  # seconds


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A real volume as it is, with turned axes, with larger voxels too, and oblique."""
    data: Path = request.getfixturevalue("real_data")
    folder = tmp_path_factory.mktemp("studies")
    image = nibabel.load(data / "msd_hippocampus" / "imagesTr" / "hippocampus_004.nii.gz")
    nibabel.save(image, folder / "plain.nii.gz")
    turned = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt("PIL")))
    nibabel.save(turned, folder / "turned.nii.gz")
    affine = turned.affine @ np.diag([1.25, 1.25, 2.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(turned.dataobj), affine), folder / "spaced.nii.gz")
    cos, sin = np.cos(0.15), np.sin(0.15)
    turn = np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(turned.dataobj), turn @ affine), folder / "oblique.nii.gz")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    fed = {"intensity": {"scheme": "zscore"}, "orientation": "RAS", "spacing": [1.0, 1.0, 1.0]}
    steps = {"b": {"largest": True}}
    return bundle_of(tmp_path_factory.mktemp("model"), "mr", input=fed, postprocess=steps)


def compare(weights: Path, image: Path, found: Path) -> None:
    expected = load(weights, device="cpu").predict(image).mask
    got = nibabel.load(found)
    assert len(np.unique(expected)) == 3
    np.testing.assert_array_equal(np.asanyarray(got.dataobj), expected)
    np.testing.assert_allclose(got.affine, nibabel.load(image).affine, atol=1e-4)


def test_the_task_writes_the_prediction(model: tuple[Path, Path], studies: Path) -> None:
    weights, bundle = model
    task = BundleInferTask(str(bundle), {})
    assert task.is_valid()
    assert (task.type, task.dimension, task.labels) == ("segmentation", 3, {"b": 1, "c": 2})
    for image in sorted(studies.glob("*.nii.gz")):
        file, said = task({"image": str(image), "device": "cpu"})
        compare(weights, image, Path(file))
        assert said["label_names"] == {"b": 1, "c": 2}
        Path(file).unlink()


def balance(network: nn.Module, parser: Any, image: Path) -> None:
    """Let an untrained network give more than one class of an image."""
    fed = parser.get_parsed_content("preprocessing")({"image": str(image)})["image"]
    with torch.no_grad():
        logits = parser.get_parsed_content("inferer")(fed.as_tensor()[None], network)
        convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
        last = [module for module in convolutions if module.out_channels == logits.shape[1]][-1]
        if last.bias is not None:
            last.bias.sub_(logits.flatten(2).median(2).values[0])


@pytest.mark.parametrize("name", library.names())
def test_every_bundle_with_weights_in_it(name: str, tmp_path: Path) -> None:
    bundle = library.copy(name, tmp_path / name)
    parser = parts(bundle)
    network, described = (parser.get_parsed_content(key) for key in ("network_def", "description"))
    if described.spatial_dims == 3:
        image = volume(tmp_path / "x.nii.gz", "PIL", (1.0, 1.2, 2.0), 5)
    else:
        image = tmp_path / "x.png"
        noise = np.random.default_rng(0).integers(0, 256, (120, 150, 3), dtype=np.uint8)
        Image.fromarray(noise if described.input.colour == "rgb" else noise[..., 0]).save(image)
    balance(network.eval(), parser, image)
    save_checkpoint(write_header(network.state_dict(), header_of(described)), bundle / "models" / "model.pt")
    expected = load(bundle / "models" / "model.pt", device="cpu").predict(image).mask
    assert len(np.unique(expected)) > 1
    file, _ = BundleInferTask(str(bundle), {})({"image": str(image), "device": "cpu", "result_extension": ".nii.gz"})
    found = np.asanyarray(nibabel.load(file).dataobj)
    differ = (found if described.spatial_dims == 3 else found[0]) != expected
    assert differ.mean() < 0.005  # ties: a prediction convolves in another memory layout, which rounds otherwise
    Path(file).unlink()


@pytest.mark.parametrize("kind", ["grey", "rgb"])
def test_a_picture_comes_as_nifti(kind: str, tmp_path: Path) -> None:
    """The app writes ``(1, H, W)`` as a volume, of which a PNG holds one column: whosever the bundle is."""
    weights, bundle = bundle_of(tmp_path, kind)
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (22, 31, 3)).astype(np.uint8)).save(path)
    task = BundleInferTask(str(bundle), {})
    assert task.dimension == 2
    expected = load(weights, device="cpu").predict(path).mask
    file, _ = task({"image": str(path), "device": "cpu", "result_extension": ".nii.gz"})
    np.testing.assert_array_equal(np.asanyarray(nibabel.load(file).dataobj)[0], expected)
    Path(file).unlink()


@pytest.fixture(scope="module")
def server(
    model: tuple[Path, Path], studies: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Any]]:
    if not APP.is_dir():
        pytest.skip(f"MONAI Label's sample apps are not in {APP}")
    folder = tmp_path_factory.mktemp("apps")
    app = shutil.copytree(APP, folder / "monaibundle")
    shutil.copytree(model[1], app / "model" / "tiny")
    shutil.copytree(studies, folder / "studies")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app)]
    command += ["--studies", str(folder / "studies"), "--host", "127.0.0.1", "--port", str(port)]
    for key, value in {"models": "tiny", "zoo_source": "ngc", "skip_trainers": "true", "sam2": "false"}.items():
        command += ["--conf", key, value]  # zoo_source: else it asks the network for the zoo's list
    address = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            yield address, wait(process, address, folder / "log")
        finally:
            process.terminate()
            process.wait(60)


def wait(process: subprocess.Popen[bytes], address: str, log: Path) -> Any:
    """Return what a server says of itself once it is there."""
    end = time.monotonic() + STARTS
    while process.poll() is None and time.monotonic() < end:
        try:
            return requests.get(f"{address}/info/", timeout=60).json()
        except requests.ConnectionError:
            time.sleep(1)
    raise AssertionError(log.read_text(errors="replace")[-2000:])


def test_the_server_gives_the_prediction(
    server: tuple[str, Any], model: tuple[Path, Path], studies: Path, tmp_path: Path
) -> None:
    address, said = server
    assert said["models"]["tiny"]["labels"] == {"b": 1, "c": 2}
    for name in ("turned", "oblique"):
        answer = requests.post(f"{address}/infer/tiny", params={"image": name, "output": "image"}, timeout=300)
        assert answer.status_code == 200
        found = tmp_path / f"{name}.nii.gz"
        found.write_bytes(answer.content)
        compare(model[0], studies / f"{name}.nii.gz", found)
