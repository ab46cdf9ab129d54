"""Keys that are settled before there is a plan: heeded by it, or refused before anything is measured."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from costs import Device
from studies.test_plan import QUICK, volumes

import medseg
from medseg.bundle import workflow
from medseg.cli import main
from medseg.errors import MedsegError
from medseg.studies import complexity, network_comparison, network_record, plan_bundle, study
from medseg.studies.executors import Done
from medseg.studies.measures import StepSettings
from medseg.studies.plan_and_train import plan_and_train
from medseg.studies.study_run import run_study


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()
    monkeypatch.setattr(complexity, "measure", made.measure)
    return made


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["patch=[8,8]"], "patch=[8, 8] has 2 edges, the network 3 axes; give one edge an axis"),
        (["batch_size=0"], "batch_size is 0; give a whole number of at least 1"),
        (["network_def#chanels=[8,16]"], "network unet takes no 'chanels'; did you mean 'channels'?"),
        (["network_def#spatial_dims=2"], "network_def#spatial_dims=2: a plan chooses that itself; leave it out, --dim"),
        (["network_def#channels=[2,4,4,4,4,4]"], "cannot be built for these images with network_def#channels=[2, 4, "),
        (["optimizer#foo#bar=1"], "optimizer#foo#bar: the configuration has no such key"),
        (["model#input#spacin=[1,1,1]"], "spacin"),
        (
            ["model#input#orientation=PSR"],
            "model#input#orientation=PSR: what a plan chooses is along R, A and S in this order; leave it out, or name",
        ),
        (
            ["model#input#orientation=null"],
            "orientation=null, and images are stored as PSR: what a plan chooses is along",
        ),
        (["slices=true"], "slices is true, but the network takes volumes as they are; give slices=false"),
        (["fold=7"], "7"),
    ],
)
def test_what_contradicts_a_plan_is_refused_before_the_device_is_measured(
    tmp_path: Path, device: Device, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    output = tmp_path / "runs" / "out"
    assert main(["train", str(volumes(tmp_path / "data")), "-o", str(output), "--minutes", "1", *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert device.measured == []
    assert not (tmp_path / "runs").exists()


def test_what_the_training_refuses_leaves_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for want of disk, or what only the training's own start can know."""

    def refused(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    data, output = volumes(tmp_path / "data"), tmp_path / "out"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    (output / "data").mkdir()
    monkeypatch.setattr(workflow, "train", refused)
    with pytest.raises(OSError, match="No space left"):
        plan_and_train(data, output, overrides=QUICK)
    assert sorted(each.name for each in output.iterdir()) == ["data", "notes.txt"]
    monkeypatch.setattr(plan_bundle.generate, "build", refused)
    with pytest.raises(OSError, match="No space left"):
        plan_and_train(data, output, overrides=QUICK)
    assert sorted(each.name for each in output.iterdir()) == ["data", "notes.txt"]


def test_a_plan_measures_what_is_asked_for(tmp_path: Path, device: Device) -> None:
    words = ["patch=[8,9,8]", "batch_size=3", "network_def#channels=[3,4]", "max_minutes=7", "mlflow=false"]
    quick = ["max_epochs=1", "iterations=2", "device=cpu"]
    assert main(["train", str(volumes(tmp_path / "data")), "-o", str(tmp_path / "out"), *words, *quick]) == 0
    held = yaml.safe_load((tmp_path / "out" / "plan" / "bundle.yaml").read_text())
    assert device.measured == [(3, (8, 9, 8))]
    assert (held["train"]["patch"], held["train"]["batch_size"]) == ([8, 9, 8], 3)
    assert held["network"]["channels"] == [3, 4]
    assert held["inference"]["window"] == [8, 9, 8]
    assert held["train"]["max_minutes"] == 7


def test_a_plan_measures_the_step_that_is_trained(tmp_path: Path, device: Device) -> None:
    """The optimiser's steps fill the minutes; what is counted in batches has as many of them."""
    where = str(volumes(tmp_path / "data"))
    once = medseg.plan(where, tmp_path / "once", device="cpu", minutes=1, overrides={"network_def#channels": [3, 4]})
    words = {"precision": "bf16", "channels_last": False, "compile": True, "accumulation_steps": 4}
    four = medseg.plan(
        where, tmp_path / "four", device="cpu", minutes=1, overrides={"network_def#channels": [3, 4], **words}
    )
    assert device.steps == {StepSettings.of({}), StepSettings("bf16", False, True, 4)}
    held, other = (yaml.safe_load((each / "bundle.yaml").read_text())["train"] for each in (once, four))
    assert {name: other[name] for name in words} == words
    assert held["patch"] == other["patch"]
    assert other["iterations"] == held["iterations"]  # as many batches an epoch
    assert other["warmup"] == pytest.approx(held["warmup"], abs=4)
    assert ["of 4 batches" in (each / "bundle.yaml").read_text() for each in (once, four)] == [False, True]


ASKED = {
    "batch_size": 3, "learning_rate": 0.01, "iterations": 7, "optimizer#weight_decay": 0.2, "max_minutes": 9,
    "model#input#spacing": [4.0, 4.0, 4.0], "model#inference#overlap": 0.25, "network_def#channels": [3, 4],
    "model#scores#distances#tolerance": 2, "model#postprocess#ball": {"largest": True},
}  # fmt: skip


def check(bundle: Path) -> None:
    """Each value stands in the file of the plan, in that of MONAI, and in what was measured."""
    held, built = (yaml.safe_load((bundle / name).read_text()) for name in ("bundle.yaml", "configs/train.yaml"))
    train = held["train"]
    assert (train["batch_size"], train["learning_rate"], train["iterations"]) == (3, 0.01, 7)
    assert (train["optimizer"]["weight_decay"], train["optimizer"]["_target_"]) == (0.2, "torch.optim.AdamW")
    assert train["max_minutes"] == 9
    assert (held["input"]["spacing"], held["input"]["intensity"]["scheme"]) == ([4, 4, 4], "zscore")
    assert (held["inference"]["overlap"], held["inference"]["window"]) == (0.25, train["patch"])
    assert held["network"]["channels"] == [3, 4]
    assert (held["scores"], held["postprocess"]) == ({"distances": {"tolerance": 2}}, {"ball": {"largest": True}})
    assert (built["batch_size"], built["model"]["input"]["spacing"]) == (3, [4, 4, 4])
    assert built["optimizer"]["weight_decay"] == 0.2


def test_a_plan_writes_what_it_is_asked_for(tmp_path: Path, device: Device) -> None:
    words = [f"{key}={json.dumps(value)}" for key, value in ASKED.items()]
    where = str(volumes(tmp_path / "data"))
    assert main(["plan", where, "-o", str(tmp_path / "plan"), "--device", "cpu", *words]) == 0
    check(tmp_path / "plan")
    assert {base for base, _ in device.measured} == {3}
    small = yaml.safe_load((tmp_path / "plan" / "bundle.yaml").read_text())["train"]["patch"]
    assert main(["plan", where, "-o", str(tmp_path / "fine"), "--device", "cpu", "--minutes", "9"]) == 0
    assert small < yaml.safe_load((tmp_path / "fine" / "bundle.yaml").read_text())["train"]["patch"]  # of larger voxels
    check(medseg.plan(where, tmp_path / "again", device="cpu", overrides=ASKED))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["patch=[8,8]"], "patch=[8, 8] has 2 edges, the network 3 axes; give one edge an axis"),
        (["model#inference#window=[8,8]"], "model#inference#window=[8, 8] has 2 edges, the network 3 axes"),
        (["model#inference#overlap=2"], "model#inference: inference overlap is 2; it must be in [0, 1)"),
        (["model#input#spacin=[1,1,1]"], "spacin"),
        (["model#input#spacing=[1,1]"], "model#input: spacing [1.0, 1.0] is that of volumes; give three numbers"),
        (["model#inference#mirror_axes=[3]"], "inference mirror_axes names the axis 3, the network has 3; give 0 to 2"),
        (["model#input#plane=axial"], "model#input#plane=axial is of slices, and the network sees images whole"),
        (["model#classes=[a,b]"], "the data and the plan say it; give keys of input, inference, scores, postprocess"),
        (["model#postprocess#bal={largest: true}"], "bal"),
        (["network_def#chanels=[8,16]"], "network unet takes no 'chanels'; did you mean 'channels'?"),
        (["network_def#channels=$[2]"], "network_def#channels=$[2]: a plan measures the network before"),
        (["precision=$'fp16'"], "precision=$'fp16': a plan measures the step that is trained; give a value"),
        (["network_def={}"], "network_def: a plan builds the network itself; give single arguments"),
        (["optimizer#foo#bar=1"], "optimizer#foo#bar: the configuration has no such key; give optimizer as a whole"),
        (["fold=1"], "fold is of a training, not of a plan; give it to `medseg train BUNDLE`"),
        (["device=cpu"], "--device is of a training, not of a plan"),
        (["--minutes", "3", "max_minutes=4"], "max_minutes is given twice, as 3.0 and 4; give it once"),
        (["batchsize=4"], "plan has no option 'batchsize'; did you mean batch_size?"),
        (["slices=true"], "slices is true, but the network takes volumes as they are; give slices=false"),
    ],
)  # fmt: skip
def test_a_plan_refuses_what_it_cannot_keep_to(
    tmp_path: Path, device: Device, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["plan", str(volumes(tmp_path / "data")), "-o", str(tmp_path / "plan"), *words]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert device.measured == []
    assert not (tmp_path / "plan").exists()


def planned_study(folder: Path, **settings: Any) -> study.Study:
    row = {"name": "planned", "plan": "unet", "set": {"device": "cpu", **settings}}
    content = {"title": "balls", "data": str(volumes(folder / "data")), "folds": [0], "minutes": 9, "rows": [row]}
    (folder / "s.yaml").write_text(yaml.safe_dump(content))
    return study.read_study(folder / "s.yaml")


def test_a_row_of_a_study_is_planned_as_it_is_set(tmp_path: Path, device: Device) -> None:
    """And anew when it is set otherwise; once a cell rests on the plan, that is refused."""

    def none_done(folder: Path, cells: Any, mixed: bool) -> Any:
        yield from (Done(cell.name, "not now") for cell in cells)

    def begin(**settings: Any) -> None:
        run_study(planned_study(tmp_path, **settings), tmp_path / "out", executor=none_done, tracking=False)

    planned, asked = tmp_path / "out" / "plans" / "planned", {k: v for k, v in ASKED.items() if k != "max_minutes"}
    with pytest.raises(MedsegError, match="network unet takes no 'chanels'"):
        begin(**{"network_def#chanels": [3, 4]})
    with pytest.raises(MedsegError, match="has 2 edges, the network 3 axes"):
        begin(patch=[8, 8])
    assert device.measured == []
    with pytest.raises(MedsegError, match="not now"):
        begin(**asked)
    check(planned)
    number = len(device.measured)
    with pytest.raises(MedsegError, match="not now"):
        begin(**asked)
    assert len(device.measured) == number
    with pytest.raises(MedsegError, match="not now"):
        begin(**{**asked, "batch_size": 5})
    assert yaml.safe_load((planned / "bundle.yaml").read_text())["train"]["batch_size"] == 5
    (tmp_path / "out" / "cells" / "planned-fold0-seed0").mkdir(parents=True)
    with pytest.raises(MedsegError, match=r"was planned otherwise: .*batch_size"):
        begin(**asked)


def test_networks_are_compared_as_they_are_set(tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    two = ("unet", "attention_unet")
    volumes(tmp_path / "data")
    asked = network_record.Asked(30, two, settings={"network_def#window_size": 3})
    with pytest.raises(MedsegError, match="network unet takes no 'window_size'"):
        network_comparison.compare_networks(tmp_path / "data", tmp_path / "out", asked)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(
        network_comparison._Comparison, "_begin_stage", lambda self, names: (_ for _ in ()).throw(KeyError)
    )
    asked = network_record.Asked(30, two, settings={"device": "cpu", "batch_size": 3, "network_def#channels": [3, 4]})
    with pytest.raises(KeyError):
        network_comparison.compare_networks(tmp_path / "data", tmp_path / "out", asked)
    for name in two:
        held = yaml.safe_load((tmp_path / "out" / "plans" / name / "bundle.yaml").read_text())
        assert (held["network"]["channels"], held["train"]["batch_size"]) == ([3, 4], 3)
    assert {base for base, _ in device.measured} == {3}
