"""From a folder of volumes or pictures to a plan, a bundle, a trained model and its table."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from costs import Device
from PIL import Image

import medseg
from benchmarks.own_data import mean_dice, row_of
from medseg.bundle import library, workflow
from medseg.bundle.data import load_data
from medseg.bundle.source import read_source
from medseg.cli import main
from medseg.data.datalist import Datalist
from medseg.data.file_facts import cache_folder
from medseg.data.fingerprint import Fingerprint
from medseg.io.images import read_image
from medseg.studies import complexity, plan_bundle
from medseg.studies.measures import StepSettings
from medseg.studies.plan import _loading, _schedule, make_plan
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
    assert plan.inference["mirror_axes"].value == [0]


@pytest.mark.parametrize(
    ("network", "data", "name"),
    [
        ("unet", "Dataset 7: Köpfe/CT", "unet_dataset_7_kopfe_ct"),
        ("monai.networks.nets.DynUNet", "a", "dynunet_a"),
        ("unet", "срезы", "unet"),
        (
            "unet",
            "drosophila",
            "unet_drosophila_planned",
        ),  # else the overlays and texts of that bundle would be its own
    ],
)
def test_a_model_that_nobody_named(tmp_path: Path, network: str, data: str, name: str) -> None:
    datalist = replace(load_data(volumes(tmp_path / "data")), name=data)
    plan = make_plan(datalist, minutes=10, device="cpu")
    named = replace(plan, network=replace(plan.network, value={**plan.network.value, "name": network}))
    assert plan_bundle.name_of(named, datalist) == name


def test_the_bundle_says_why(tmp_path: Path) -> None:
    data = load_data(volumes(tmp_path / "data"))
    plan = make_plan(data, minutes=10, device="cpu")
    folder = plan_bundle.write(plan, data, tmp_path / "my_plan")
    source = read_source(folder)
    assert source.description.input.spacing == plan.input["spacing"].value
    assert source.description.network["strides"] == plan.network.value["strides"]
    assert source.options()["patch"] == plan.train["patch"].value
    assert source.options()["augment_on"] == "auto"
    assert library.build(folder, check=True) == []
    assert library.is_ours(folder)
    assert set(KEYS) <= yaml.safe_load((folder / "configs" / "train.yaml").read_text()).keys()
    lines = (folder / "bundle.yaml").read_text().splitlines()
    valued = [n for n, line in enumerate(lines) if line.startswith("  ") and not line.startswith(("  #", "  - "))]
    assert len(valued) > 20
    assert all(lines[number - 1].startswith("  # ") for number in valued)
    page = (folder / "docs" / "README.md").read_text()
    for said in ("s a step", "train learning\\_rate", "[fingerprint.md](fingerprint.md)"):
        assert said in page
    assert "image_0" not in page


def test_from_data_to_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = volumes(tmp_path / "data", classes=3)
    words = [f"{key}={value}" for key, value in QUICK.items() if key != "network_def#channels"]
    assert main(["train", str(data), "--minutes", "5", "--output", str(tmp_path / "out"), *words]) == 0
    said = capsys.readouterr()
    assert "Every voxel background" in said.out
    assert "HD95 ball in mm" in said.out
    steps = "the network had 2 steps of training, a plan asks for 900: it may not be done learning; give more minutes"
    assert steps in said.out
    assert said.out.endswith(f"report: {tmp_path / 'out' / 'run' / 'report.html'}\n")
    assert "\n\n\n" not in said.out
    page = (tmp_path / "out" / "run" / "report.html").read_text()
    assert "Every voxel background" in page
    assert "ml of ball" in page  # what was measured
    assert steps in page
    assert "1 epoch, 2 steps" in page
    assert "image_0" not in page
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


def test_a_command_that_was_killed_before_its_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, output = str(volumes(tmp_path / "data")), tmp_path / "out"
    words = [f"{key}={value}" for key, value in QUICK.items()]

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(plan_bundle.generate, "build", killed)
        assert main(["train", data, "--output", str(output), *words]) == 130
    assert not (output / "plan").exists()  # whole or not there: the same command begins anew
    with monkeypatch.context() as patched:
        patched.setattr(workflow, "train", killed)
        assert main(["train", data, "--output", str(output), *words]) == 130
    assert not (output / "run").exists()
    planned = (output / "plan" / "bundle.yaml").read_bytes()
    assert main(["train", data, "--resume", str(output), *words]) == 0
    assert (output / "plan" / "bundle.yaml").read_bytes() == planned
    assert (output / "run" / "baseline.json").is_file()
    assert library.is_ours(output / "plan")


def test_pictures_beside_otsu(tmp_path: Path) -> None:
    quick = {**QUICK, "network_def#channels": [2, 4, 4, 4]}
    news: list[str] = []
    done = plan_and_train(pictures(tmp_path / "data"), tmp_path / "out", minutes=5, overrides=quick, say=news.append)
    assert news[0] == "reading and checking the images"  # before PyTorch is imported, and a step measured
    held = yaml.safe_load((done.plan / "bundle.yaml").read_text())
    assert held["input"]["intensity"] == {"scheme": "percentiles"}
    assert held["input"]["spacing"] is None
    assert "mirror_axes: [0, 1]" in (done.plan / "bundle.yaml").read_text()
    assert done.baseline.title == "Otsu's threshold, minority side"
    text = done.tables()[0].to_text()
    assert "Dice cell" in text
    assert "Dice background" not in text
    assert "1.000" in text.splitlines()[3]  # a threshold finds a bright square
    scored = [done.scores["per_case"]["classes"][1]["dice"], done.baseline.scores["per_case"]["classes"][1]["dice"]]
    kept = json.loads((done.run / "baseline.json").read_text())
    assert kept["difference"]["dice"] == pytest.approx(scored[0] - scored[1])
    assert f"network less {done.baseline.title}: {scored[0] - scored[1]:.3f}" in text
    assert f"the network is no better than {done.baseline.title}: do not use it; give more minutes" in text
    assert "do not use it" in (done.run / "report.html").read_text().split('id="asked"')[0]  # before all figures
    assert "left out of the training, too few for intervals" in text
    row = row_of("squares", "planned", 5, tmp_path / "out")
    assert (row["steps"], row["cases"], row["difference"]) == (2, done.scores["per_case"]["cases"], kept["difference"])
    assert (row["data"], row["network"], row["baseline_title"]) == ("squares", "planned", done.baseline.title)
    assert mean_dice(row) == pytest.approx(scored[0])
    assert mean_dice(row, "baseline") == pytest.approx(scored[1])
    assert done.kinds == ["grey, bright objects"] * len(done.kinds)
    assert "Dice cell" in (done.run / "report.html").read_text()


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
        (["plan", "flat", "-o", "new", "--dimensions", "3"], "--dimensions 3: the images of squares are pictures"),
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
    pictures(tmp_path / "flat")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert said[-1].startswith("medseg: error: ")
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "runs").exists()


def test_few_steps_are_warned_of_and_the_training_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = volumes(tmp_path / "data")
    words = [f"{key}={value}" for key, value in QUICK.items() if key != "network_def#channels"]
    assert main(["train", str(data), "--minutes", "0.0001", "--output", str(tmp_path / "out"), *words]) == 0
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: about ")]
    assert "steps in 0.0001 minutes are too few to learn much; give a training --minutes 1 or more (for 150" in said
    assert said.removeprefix("warning: ") in (tmp_path / "out" / "plan" / "docs" / "README.md").read_text()
    assert (tmp_path / "out" / "run" / "test" / "scores.json").is_file()
    assert (tmp_path / "out" / "run" / "report.html").is_file()


def test_slices_of_volumes_from_data_to_masks(tmp_path: Path) -> None:
    """Thick along the patient's right and left, which is the file's last axis but one: sagittal slices."""
    data = volumes(tmp_path / "data")
    quick = {**QUICK, "iterations": 3, "network_def#channels": [2, 4]}
    done = plan_and_train(data, tmp_path / "out", dimensions=2, minutes=5, overrides=quick)
    held = yaml.safe_load((done.plan / "bundle.yaml").read_text())
    assert held["name"] == medseg.load(done.run, device="cpu").description.name == "unet_balls"
    assert held["input"]["plane"] == "sagittal"
    assert held["input"]["spacing"] == [None, 1.0, 1.0]
    assert (held["network"]["spatial_dims"], held["train"]["slices"], held["train"]["patch"]) == (2, True, [14, 12])
    assert done.scores["per_case"]["cases"] == 1
    assert main(["predict", str(done.run), str(data / "image_0.nii.gz"), str(tmp_path / "masks"), "device=cpu"]) == 0
    mask, image = (nibabel.load(path) for path in (tmp_path / "masks" / "image_0.nii.gz", data / "image_0.nii.gz"))
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine)
    turned = image.as_reoriented([[1, 1], [2, -1], [0, 1]])  # stored otherwise, the same patient
    found = medseg.load(done.run, device="cpu").predict(turned.get_fdata(), affine=turned.affine).mask
    expected = mask.as_reoriented([[1, 1], [2, -1], [0, 1]])
    np.testing.assert_array_equal(found, np.asarray(expected.dataobj))


def test_series_of_slices_from_data_to_masks(real_data: Path, tmp_path: Path) -> None:
    """A datalist names the folders of two series: all that is done with data sees them whole."""
    entries = []
    for number, name in enumerate(("study1", "study2")):
        (tmp_path / name).symlink_to(real_data / "dicom_mr_hippocrop" / name)
        image = read_image(tmp_path / name)
        label = nibabel.Nifti1Image((image.array > np.quantile(image.array, 0.9)).astype(np.uint8), image.affine)
        label.to_filename(tmp_path / f"{name}.nii.gz")
        entries.append({"image": name, "label": f"{name}.nii.gz", "group": name, "fold": number})
    content = {
        "name": "series", "version": 1, "modality": ["MR"], "licence": "", "source": "", "ignore_index": None,
        "labels": {"0": "background", "1": "bright"}, "training": entries, "validation": [], "test": [],
    }  # fmt: skip
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    assert main(["check", str(tmp_path / "datalist.json")]) == 0
    quick = {**QUICK, "network_def#channels": [2, 2, 4, 4], "patch": [16, 16, 16]}
    done = plan_and_train(tmp_path / "datalist.json", tmp_path / "out", minutes=5, overrides=quick)
    found = Fingerprint.of(json.loads(next((cache_folder() / "fingerprint").iterdir()).read_text()))
    assert [case.shape[2] for case in found.cases] == [32, 35]
    assert done.scores["per_case"]["cases"] == 1
    assert main(["predict", str(done.run), str(tmp_path / "study1"), str(tmp_path / "masks"), "device=cpu"]) == 0
    mask, image = nibabel.load(tmp_path / "masks" / "study1.nii.gz"), read_image(tmp_path / "study1")
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)


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


def test_the_minutes_end_a_training_that_is_faster_than_its_plan(tmp_path: Path, device: Device) -> None:
    plan = make_plan(load_data(volumes(tmp_path)), minutes=5, device="cpu")
    assert device.steps == {StepSettings("auto")}  # what a training computes in
    assert plan.train["max_epochs"].value * plan.train["iterations"].value >= 20 * plan.steps
    assert "num_workers" not in plan.train


def test_loading_leaves_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, number in ((1, 0), (2, 1), (16, 4)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert _loading(torch.device("cuda"))["num_workers"].value == number


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (4, 2), (30, 10), (900, 45)])
def test_a_short_training_is_not_over_before_its_rate_has_risen(steps: int, warmup: int) -> None:
    assert _schedule(steps, 1.0)["warmup"].value == warmup


@pytest.mark.parametrize(
    ("parameters", "records"),
    [(0, 20), (1_000_000, 20), (10_000_000, 3), (30_000_000, 1), (300_000_000, 1)],  # 160 MB are 0.8 of the 3 seconds
)
def test_records_of_large_networks_do_not_eat_the_minutes(parameters: int, records: int) -> None:
    found = _schedule(900, 1.0, parameters=parameters)
    assert 900 // found["iterations"].value == records
    assert found["max_epochs"].value * found["iterations"].value >= 20 * 900
    assert _schedule(900, 1.0, parameters=parameters, asked=7)["iterations"].value == 7
