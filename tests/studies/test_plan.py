"""From a folder of volumes or pictures to a plan, a bundle, a trained model and its table."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from costs import Device
from PIL import Image

from medseg.bundle import library, workflow
from medseg.bundle.data import load_data
from medseg.bundle.source import read_source
from medseg.cli import main
from medseg.data.datalist import Datalist
from medseg.studies import complexity, plan_bundle
from medseg.studies.plan import make_plan
from medseg.studies.plan_and_train import KEYS, plan_and_train
from medseg.studies.plan_rules import PlanError

QUICK = {"max_epochs": 1, "iterations": 2, "mlflow": False, "device": "cpu", "network_def#channels": [2, 4, 4]}


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()
    monkeypatch.setattr(complexity, "measure", made.measure)
    return made


def volumes(folder: Path, *, modality: str = "MR", classes: int = 2, empty: bool = False) -> Path:
    """Write five volumes of a bright ball that lie askew, in a decathlon's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    place = np.array([[0, 0, 2.0, 5], [-1.0, 0, 0, 7], [0, 1.0, 0, -9], [0, 0, 0, 1]])
    axes = np.meshgrid(*[np.arange(edge) for edge in (14, 12, 8)], indexing="ij")
    entries = []
    for number in range(5):
        far = sum((axis - middle) ** 2 for axis, middle in zip(axes, (7, 6, 4), strict=True))
        label = (far < 9).astype(np.uint8) * (1 if number % 2 or classes == 2 else 2)
        image = draw.normal(100, 10, label.shape) + 80 * (label > 0)
        if empty:
            label[:] = 0
        for kind, array in (("image", image.astype(np.float32)), ("label", label)):
            nibabel.Nifti1Image(array, place).to_filename(folder / f"{kind}_{number}.nii.gz")
        entries.append({"image": f"image_{number}.nii.gz", "label": f"label_{number}.nii.gz"})
    names = {str(index): name for index, name in enumerate(("background", "ball", "other ball")[:classes])}
    content = {"name": "balls", "modality": {"0": modality}, "labels": names, "training": entries, "test": []}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def pictures(folder: Path) -> Path:
    """Write six pictures of 40 x 52 pixels with a bright square, no two alike in contrast."""
    folder.mkdir(parents=True)
    entries = []
    for number in range(6):
        label = np.zeros((40, 52), np.uint8)
        label[10:25, 12 + number : 30] = 1
        Image.fromarray(20 + label * (30 + 40 * number)).save(folder / f"{number}.png")
        Image.fromarray(label).save(folder / f"{number}_mask.png")
        entries.append(
            {"image": f"{number}.png", "label": f"{number}_mask.png", "group": str(number), "fold": number % 3}
        )
    content = {
        "name": "squares", "version": 1, "modality": ["microscopy"], "licence": "", "source": "", "ignore_index": None,
        "labels": {"0": "background", "1": "cell"}, "training": entries, "validation": [], "test": [],
    }  # fmt: skip
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


def test_a_plan_of_volumes(tmp_path: Path) -> None:
    data = load_data(volumes(tmp_path / "data"))
    plan = make_plan(data, minutes=1e6, device="cpu")
    assert plan.network.value["spatial_dims"] == 3
    assert plan.network.value["strides"] == [[1, 2, 2], [2, 1, 1]]  # of 8 x 14 x 12 voxels of 2 x 1 x 1 mm
    assert plan.inference["window"].value == plan.train["patch"].value == [8, 14, 12]
    assert plan.input["spacing"].value == [2.0, 1.0, 1.0]
    assert plan.input["intensity"].value == {"scheme": "zscore"}
    assert plan.train["foreground"].value == 0.33
    assert plan.train["augmentation"].value[0]["mirror_axes"] == [0]


def test_the_bundle_says_why(tmp_path: Path) -> None:
    data = load_data(volumes(tmp_path / "data"))
    plan = make_plan(data, minutes=10, device="cpu")
    folder = plan_bundle.write(plan, data, tmp_path / "my_plan")
    source = read_source(folder)
    assert source.description.input.spacing == plan.input["spacing"].value
    assert source.description.network["strides"] == plan.network.value["strides"]
    assert source.options()["patch"] == plan.train["patch"].value
    assert library.build(folder, check=True) == []
    assert library.is_ours(folder)
    assert set(KEYS) <= yaml.safe_load((folder / "configs" / "train.yaml").read_text()).keys()
    lines = (folder / "bundle.yaml").read_text().splitlines()
    valued = [n for n, line in enumerate(lines) if line.startswith("  ") and not line.startswith(("  #", "  - "))]
    assert len(valued) > 20
    assert all(lines[number - 1].startswith("  # ") for number in valued)
    page = (folder / "docs" / "README.md").read_text()
    for said in ("right-left, mm", "connected parts of ball", "s a step", "0.5, 50, 99.5 %"):
        assert said in page
    assert "train learning\\_rate" in page
    assert "image_0" not in page


def test_from_data_to_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = volumes(tmp_path / "data", classes=3)
    words = [f"{key}={value}" for key, value in QUICK.items() if key != "network_def#channels"]
    assert main(["train", str(data), "--minutes", "5", "--output", str(tmp_path / "out"), *words]) == 0
    said = capsys.readouterr()
    assert "Every voxel background" in said.out
    assert f"model and report: {tmp_path / 'out' / 'run'}" in said.out
    assert "planned: unet" in said.err
    scores = json.loads((tmp_path / "out" / "run" / "test" / "scores.json").read_text())
    assert scores["per_case"]["cases"] == 1
    baseline = json.loads((tmp_path / "out" / "run" / "baseline.json").read_text())
    assert baseline["per_case"]["classes"][1]["dice"] in (0, None)
    image = tmp_path / "data" / "image_0.nii.gz"
    assert main(["predict", str(tmp_path / "out"), str(image), str(tmp_path / "masks"), "device=cpu"]) == 0
    assert main(["evaluate", str(tmp_path / "out"), "device=cpu"]) == 0
    truth = ["score", str(tmp_path / "masks"), str(tmp_path / "data" / "label_0.nii.gz")]
    assert main([*truth, "-o", str(tmp_path / "scores")]) == 2  # named otherwise
    (tmp_path / "truth").mkdir()
    (tmp_path / "data" / "label_0.nii.gz").rename(tmp_path / "truth" / "image_0.nii.gz")
    labels = ["--labels", str(tmp_path / "data" / "dataset.json")]
    assert main(["score", str(tmp_path / "masks"), str(tmp_path / "truth"), *labels]) == 0
    mask, read = nibabel.load(tmp_path / "masks" / "image_0.nii.gz"), nibabel.load(image)
    assert mask.shape == read.shape
    np.testing.assert_allclose(mask.affine, read.affine)


def test_pictures_beside_otsu(tmp_path: Path) -> None:
    quick = {**QUICK, "network_def#channels": [2, 4, 4, 4]}
    done = plan_and_train(pictures(tmp_path / "data"), tmp_path / "out", minutes=5, overrides=quick)
    held = yaml.safe_load((done.plan / "bundle.yaml").read_text())
    assert held["input"]["intensity"] == {"scheme": "zscore"}
    assert held["input"]["spacing"] is None
    assert "mirror_axes: [0, 1]" in (done.plan / "bundle.yaml").read_text()
    assert done.baseline["title"] == "Otsu's threshold, minority side"
    text = done.table().to_text()
    assert "Dice cell" in text
    assert "1.000" in text.splitlines()[-2]  # a threshold finds a bright square


def test_a_plan_is_refused_on_other_data(tmp_path: Path) -> None:
    data = load_data(volumes(tmp_path / "data"))
    folder = plan_bundle.write(make_plan(data, minutes=10, device="cpu"), data, tmp_path / "my_plan")
    other = volumes(tmp_path / "other")
    image = nibabel.load(other / "image_0.nii.gz")
    nibabel.Nifti1Image(image.get_fdata() + 1, image.affine).to_filename(other / "image_0.nii.gz")
    _, problems = workflow.check(folder, data=other, overrides=QUICK)
    assert ["planned for other data" in line for line in problems] == [True]
    _, problems = workflow.check(folder, data=other, overrides={**QUICK, "planned_for": None})
    assert problems == []
    _, problems = workflow.check(folder, data=tmp_path / "data", overrides=QUICK)
    assert problems == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "data", "-o", "full"], "full exists already; name a new folder"),
        (["plan", "data", "-o", "new", "--dimensions", "2"], "--dimensions 2: the images of balls are volumes"),
        (["plan", "data", "-o", "new", "--memory", "0.000001"], "raise --memory"),
        (["plan", "data", "-o", "new", "--network", "unett"], "the nearest is 'unet'"),
        (["plan", "data", "-o", "new", "--network", "psp_net"], "network psp_net cannot be built for these images"),
        (["plan", "nowhere", "-o", "new"], "nowhere"),
        (["plan", "empty", "-o", "new"], "no label holds anything but background; there is nothing to learn"),
        (
            ["train", "lfa_unet_drosophila"],
            "lfa_unet_drosophila is a bundle; say what it is trained on with --data DIR",
        ),
        (["train", "data", "--with", "small"], "--with small: a plan has no overlays"),
        (["train", "unet_drosophila", "--data", "data", "--memory", "3"], "--memory is for a plan"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    volumes(tmp_path / "data")
    volumes(tmp_path / "empty", empty=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert said[-1].startswith("medseg: error: ")
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "runs").exists()


def test_a_class_in_one_case_alone_is_told_in_the_page(tmp_path: Path) -> None:
    data = load_data(volumes(tmp_path / "data", classes=3))
    page = plan_bundle.fingerprint_table(make_plan(data, minutes=1, device="cpu").found).to_markdown()
    assert "classes that are not in all of them: ball in 2, other ball in 3" in page


def test_real_volumes(real_data: Path, tmp_path: Path) -> None:
    """The hippocampus: nnU-Net's published plan has the patch 40 x 56 x 40."""
    content = json.loads((real_data / "msd_hippocampus" / "dataset.json").read_text())
    for key in ("imagesTr", "labelsTr"):
        (tmp_path / key).symlink_to(real_data / "msd_hippocampus" / key)
    content["training"] = content["training"][:20]
    content["numTraining"] = 20
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    plan = make_plan(Datalist.load(tmp_path / "dataset.json"), minutes=1e6, device="cpu")
    assert plan.train["patch"].value == [40, 56, 40]
    assert plan.network.value["strides"] == [[2, 2, 2]] * 3
    assert plan.input["intensity"].value == {"scheme": "zscore"}


def test_nothing_but_errors_of_ours(tmp_path: Path) -> None:
    data: Any = load_data(volumes(tmp_path / "data", empty=True))
    with pytest.raises(PlanError):
        make_plan(data, device="cpu")
