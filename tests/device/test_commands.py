"""From volumes to masks by the commands, planned, trained and predicted on a GPU; its memory keeps to the plan."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from medseg.cli import main
from medseg.prediction.audit import RUN_RECORD
from medseg.studies import complexity
from medseg.studies.paper_figures import Row

pytestmark = pytest.mark.filterwarnings("default")  # what other packages warn of on a GPU is no matter of these tests

GIB = 2**30
PLANNED = 0.5  # GiB


def volumes(folder: Path, size: tuple[int, int, int]) -> Path:
    """Write six volumes with a bright ball, that lie askew, in a decathlon's layout."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    place = np.array([[0, 0, 2.0, 5], [-1.0, 0, 0, 7], [0, 1.0, 0, -9], [0, 0, 0, 1]])
    axes = np.meshgrid(*[np.arange(edge) for edge in size], indexing="ij")
    entries = []
    for number in range(6):
        far = sum((axis - edge / 2) ** 2 for axis, edge in zip(axes, size, strict=True))
        label = (far < (min(size) / 3) ** 2).astype(np.uint8)
        image = draw.normal(100, 10, size) + 80 * label
        for kind, array in (("image", image.astype(np.float32)), ("label", label)):
            nibabel.Nifti1Image(array, place).to_filename(folder / f"{kind}_{number}.nii.gz")
        entries.append({"image": f"image_{number}.nii.gz", "label": f"label_{number}.nii.gz"})
    names = {"0": "background", "1": "ball"}
    content = {"name": "balls", "modality": {"0": "MR"}, "labels": names, "training": entries, "test": []}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def trained(device: torch.device, on_gpu: bool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    """Data, what `medseg train DATA` made of it, and the GPU's memory that this took at most."""
    folder = tmp_path_factory.mktemp("commands")
    data = volumes(folder / "data", (56, 52, 44) if on_gpu else (14, 12, 8))
    words = [f"device={device}", "mlflow=False", "max_epochs=2", f"iterations={20 if on_gpu else 2}", "max_minutes=3"]
    minutes = "5" if on_gpu else "0.01"  # on a CPU the smallest network is enough
    with pytest.MonkeyPatch.context() as patch:
        # a process for each measurement is what another test is for
        patch.setattr(complexity, "isolated", lambda function, *args: function(*args))
        plan = ["plan", str(data), "-o", str(folder / "planned"), "--minutes", minutes, "--device", str(device)]
        assert main([*plan, "--memory", str(PLANNED)]) == 0
    before = torch.cuda.memory_allocated(device) if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    run = folder / "run"
    assert main(["train", str(folder / "planned"), "--data", str(data), "--output", str(run), *words]) == 0
    peak = torch.cuda.max_memory_allocated(device) - before if on_gpu else 0
    return data, run, peak


def test_a_training_keeps_to_its_plan(trained: tuple[Path, Path, int], device: torch.device, on_gpu: bool) -> None:
    _, run, peak = trained
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    assert peak <= PLANNED * GIB
    gpus = json.loads((run / "environment.json").read_text())["gpus"]
    if on_gpu:
        assert peak > 0.02 * GIB
        assert torch.cuda.get_device_name(device) in json.dumps(gpus)
        assert (run / "augmentation.json").is_file()


def masks(run: Path, data: Path, folder: Path, *words: str) -> list[Any]:
    images = folder.parent / "images"
    if not images.exists():
        images.mkdir()
        for number in range(3):
            (images / f"{number}.nii.gz").symlink_to(data / f"image_{number}.nii.gz")
    assert main(["predict", str(run), str(images), str(folder), *words]) == 0
    return [nibabel.load(folder / f"{number}.nii.gz") for number in range(3)]


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    "words", [(), ("--tta",), ("inference#overlap=0.6", "inference#batch=2"), ("inference#window=[16,16,16]",)],
    ids=["plain", "tta", "overlap", "window"],
)  # fmt: skip
def test_masks_are_a_cpus(
    trained: tuple[Path, Path, int], device: torch.device, tmp_path: Path, words: tuple[str, ...]
) -> None:
    data, run, _ = trained
    found = masks(run, data, tmp_path / "gpu", *words, f"device={device}", "precision=fp32")
    expected = masks(run, data, tmp_path / "cpu", *words, "device=cpu", "precision=fp32")
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        image = nibabel.load(data / f"image_{number}.nii.gz")
        np.testing.assert_allclose(one.affine, image.affine)
        assert (np.asarray(one.dataobj) == np.asarray(other.dataobj)).mean() >= 0.999
    (record,) = (tmp_path / "gpu").rglob(RUN_RECORD)
    measured = json.loads(record.read_text())["measured"]
    assert measured["device"] == device.type
    assert device.type == "cpu" or measured["gpu_peak_bytes"] > 0


def test_an_evaluation_runs_there(trained: tuple[Path, Path, int], device: torch.device) -> None:
    data, run, _ = trained
    assert main(["evaluate", str(run), f"device={device}"]) == 0
    (scores,) = run.rglob("scores.json")
    assert 0 <= json.loads(scores.read_text())["per_case"]["classes"][1]["dice"] <= 1
    assert data.is_dir()


def test_what_is_measured_is_what_it_takes(device: torch.device, on_gpu: bool) -> None:
    """In a process of its own, and here under that limit and a little for what libraries allocate."""
    channels, edge, batch = ([16, 32], 48, 2) if on_gpu else ([2, 4], 8, 2)
    row = Row("unet", "medseg.networks.unet.UNet", 1, 3, (edge,) * 3, {"channels": channels})
    (held,) = complexity.measure([row], ("memory",), batch_size=batch, device=str(device))["rows"]
    assert held["errors"] == {}
    assert held["memory_bytes"] > 4 * batch * edge**3 * channels[0]
    if not on_gpu:
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step = complexity.training_step(row, batch, device)
    for _ in range(3):
        step()
    assert torch.cuda.max_memory_allocated(device) - before == pytest.approx(held["memory_bytes"], rel=0.1)


def test_what_does_not_fit_is_said(device: torch.device, on_gpu: bool) -> None:
    """Measured in a process of its own, whose GPU is full."""
    if not on_gpu:
        pytest.skip("a CPU's memory is not filled by a test")
    row = Row("unet", "medseg.networks.unet.UNet", 1, 3, (512,) * 3, {"channels": [64, 128]})
    (held,) = complexity.measure([row], ("memory",), batch_size=8, device=str(device))["rows"]
    assert held["memory_bytes"] is None
    assert f"does not fit in the memory of {device}; try a smaller one" in held["errors"]["memory"]
