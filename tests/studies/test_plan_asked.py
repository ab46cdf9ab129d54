"""Keys that are settled before there is a plan: heeded by it, or refused before anything is measured."""

from pathlib import Path

import pytest
import yaml
from costs import Device
from studies.test_plan import QUICK, volumes

from medseg.bundle import workflow
from medseg.cli import main
from medseg.studies import complexity, plan_bundle
from medseg.studies.plan_and_train import plan_and_train


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
