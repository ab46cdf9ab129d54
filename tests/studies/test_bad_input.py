"""Data and wishes that make trouble for a plan: each is said in one line, with what to do."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from costs import Device
from studies.test_plan import QUICK, pictures, volumes
from studies.test_plan_rules import case, found, picture

from medseg.bundle.data import load_data
from medseg.cli import main
from medseg.data.check import check_datalist
from medseg.data.kinds import never_shown
from medseg.losses.focal_iou import FocalIoULoss
from medseg.studies import complexity
from medseg.studies.baseline import Baseline
from medseg.studies.plan_and_train import Trained, plan_and_train
from medseg.studies.plan_doubts import FEW_STEPS, doubts
from medseg.studies.plan_network import Candidate, Measured

WORDS = [f"{key}={value}" for key, value in QUICK.items()]


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complexity, "measure", Device().measure)


def measured(seconds: float = 0.01) -> Measured:
    return Measured(Candidate({"name": "unet"}, (32, 32, 32), 2), seconds, 2**20, 10**9)


SLICES = case(shape=(40, 50, 2))
THICK = case(spacing=(1.0, 1.0, 20.0))
ABSENT = case(voxels=(1000, 0))


@pytest.mark.parametrize(
    ("cases", "axes", "seconds", "said"),
    [
        (
            [SLICES, SLICES, case()],
            3,
            0.01,
            "half of the volumes have 2 slices or fewer along S, which a 3D",
        ),
        ([SLICES, case(), case()], 3, 0.01, None),
        ([SLICES], 2, 0.01, None),
        (
            [THICK, THICK],
            3,
            0.01,
            "voxels are 20 times as long along S as across it, so that",
        ),
        ([THICK, THICK], 2, 0.01, None),
        ([case(), ABSENT, ABSENT], 3, 0.01, "organ: in one of 3 images alone, so that it can be trained on or scored,"),
        ([ABSENT, ABSENT], 3, 0.01, "no label holds organ; nothing can be learned of it: label it, or leave the class"),
        ([case()], 3, 4.0, "about 127 steps in 10 minutes are too few to learn much; give a training --minutes 12 or"),
        ([picture(), picture()], 2, 0.01, None),
        ([case(spacing=(0.001, 0.001, 0.001))], 3, 0.01, "half of the volumes are 0.05 mm across or less; where their"),
        ([case(spacing=(1.0, 1e3, 1e3))], 3, 0.01, "half of the volumes are 5e+04 mm across or more; where their"),
    ],
)
def test_doubts_of_a_plan(cases: list[Any], axes: int, seconds: float, said: str | None) -> None:
    lines = doubts(found(*cases), axes, measured(seconds), minutes=10)
    assert len(lines) == (said is not None)
    assert said is None or lines[0].startswith(said)


def test_a_background_of_another_name_is_doubted() -> None:
    (line,) = doubts(found(case(), classes=("nothing", "organ"), background=None), 3, measured(), minutes=10)
    assert line.startswith("no class is called background, so that nothing, 90 % of all voxels, is taken for a str")
    even = case(voxels=(400, 300, 300))
    kinds = ("membrane", "mitochondria", "synapse")
    assert doubts(found(even, classes=kinds, background=None), 3, measured(), minutes=10) == []


def test_as_many_minutes_as_it_says_are_enough() -> None:
    slow = measured(3.3)
    (line,) = doubts(found(case()), 3, slow, minutes=2)
    assert slow.steps(float(line.split("--minutes ")[1].split()[0])) >= FEW_STEPS


def change(folder: Path, **entry: Any) -> None:
    """Change the first entry of the pictures' datalist."""
    content = json.loads((folder / "datalist.json").read_text())
    content["training"][0] |= entry
    (folder / "datalist.json").write_text(json.dumps(content))


def test_two_images_of_one_patient_in_two_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(pictures(tmp_path / "data"), group="1")
    assert main(["train", str(tmp_path / "data"), "--output", str(tmp_path / "out"), *WORDS]) == 2
    assert "group '1' is on both sides of a split (fold 0, 1; e.g. " in capsys.readouterr().err
    assert not (tmp_path / "out" / "plan").exists()
    assert main(["plan", str(tmp_path / "data"), "--output", str(tmp_path / "plan")]) == 2
    assert "group '1' is on both sides of a split (fold 0, 1; e.g. " in capsys.readouterr().err
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize("name", ["unet_drosophila", "plan"])
def test_volumes_among_pictures_and_channels_that_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    data = pictures(tmp_path / "data")
    for key in ("image", "label"):
        nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)).to_filename(data / f"{key}.nii.gz")
    two = np.zeros((40, 52, 2), np.uint8)
    change(data, image="image.nii.gz", label="label.nii.gz")
    command = ["train", name, "--data", str(data)] if name != "plan" else ["train", str(data)]
    assert main([*command, "--output", str(tmp_path / "out"), *WORDS]) == 2
    said = capsys.readouterr().err
    assert "mixed-dimensions: images differ in spatial axes: 2 in 5 images; 3 in 1 image" in said
    from PIL import Image

    Image.fromarray(two, "LA").save(data / "two.png")
    change(data, image="two.png", label="0_mask.png")
    assert main([*command, "--output", str(tmp_path / "out"), *WORDS]) == 2
    assert "mixed-channels: images differ in channels: 1 in 5 images; 2 in 1 image" in capsys.readouterr().err


def test_classes_that_folds_keep_out_of_the_training(tmp_path: Path) -> None:
    from PIL import Image

    data = pictures(tmp_path / "data")
    content = json.loads((data / "datalist.json").read_text())
    content["labels"] |= {"2": "in a fold", "3": "in two folds", "4": "everywhere"}
    for number, classes in enumerate(([2, 3], [4], [4], [2, 4], [3, 4], [4])):
        label = np.zeros((40, 52), np.uint8)
        label[0, :5] = [0, 1, *classes, 4][:5] if len(classes) == 2 else [0, 1, *classes, 1, 1]
        Image.fromarray(label).save(data / f"{number}_mask.png")
    (data / "datalist.json").write_text(json.dumps(content))
    said = [each.message for each in check_datalist(data / "datalist.json").warnings if each.code == "untrained-class"]
    path = data / "datalist.json"
    assert said == [
        f"{path}: every label that holds class 2 (in a fold) is in fold 0: with it as test nothing is trained on that; "
        "spread its cases over the folds, as far as there are several",
        f"{path}: every label that holds class 3 (in two folds) is in fold 0 or 1: with 0 as test and 1 as validation "
        "nothing is trained on that; spread its cases over the folds, as far as there are several",
    ]
    lists = {"training": content["training"][1:3], "validation": content["training"][3:4], "test": []}
    entries = {key: [{k: v for k, v in e.items() if k != "fold"} for e in held] for key, held in lists.items()}
    path.write_text(json.dumps({**content, **entries}))
    (warned,) = [each.message for each in check_datalist(path).warnings if each.code == "untrained-class"]
    assert "no label of the training list holds class 2 (in a fold), other lists do: nothing is trained on it" in warned


def test_a_table_says_which_class_was_never_trained_on(tmp_path: Path) -> None:
    from PIL import Image

    data = pictures(tmp_path / "data")
    content = json.loads((data / "datalist.json").read_text())
    content["labels"]["2"] = "in a fold"
    (data / "datalist.json").write_text(json.dumps(content))
    label = np.asarray(Image.open(data / "0_mask.png")).copy()
    label[:5] = 2
    Image.fromarray(label).save(data / "0_mask.png")
    assert never_shown(load_data(data), load_data(data).split(fold=1)[2]) == ["in a fold"]
    quick = {**QUICK, "network_def#channels": [2, 4, 4, 4]}
    said = "no image of the training shows in a fold: nothing is learned of it"
    for fold, there in ((0, True), (1, False)):
        done = plan_and_train(data, tmp_path / str(fold), minutes=5, overrides={**quick, "fold": fold})
        assert (said in done.tables()[0].to_text()) == there
        assert (said in (done.run / "report.html").read_text()) == there


@pytest.mark.parametrize(("missed", "invented", "there"), [(6, 0, True), (6, 1, True), (5, 1, False), (0, 6, False)])
def test_a_table_says_which_class_was_found_nowhere(missed: int, invented: int, there: bool) -> None:
    """Its truth is in six images, whatever was invented in others: the mean over the classes may look well."""
    counts = {"missed": missed, "invented": invented, "n": {"dice": 6 + invented if missed else invented}}
    row = {"name": "tail", "dice": 0.0, "interval": {}, **counts}
    other = {"name": "head", "dice": 0.7, "interval": {}, "missed": 0, "invented": 0, "n": {"dice": 6}}
    scores = {"per_case": {"classes": [other, row], "units": {}, "cases": 6 + invented}}
    baseline = Baseline("every voxel background", scores, [])
    done = Trained(Path("plan"), Path("run"), scores, [], baseline, [], ["head", "tail"], (900, 900))
    done.__dict__["difference"] = (None, None)  # of cases, of which there are none here
    said = "tail: found in none of the images that hold it; give more minutes"
    assert (said in done.tables()[0].notes) == there


def test_a_test_list_of_which_some_have_no_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = pictures(tmp_path / "data") / "datalist.json"
    content = json.loads(path.read_text())
    entries = [{key: value for key, value in entry.items() if key != "fold"} for entry in content["training"]]
    del entries[5]["label"]
    path.write_text(json.dumps({**content, "training": entries[:4], "test": entries[4:]}))
    assert main(["train", str(path.parent), "--output", str(tmp_path / "out"), *WORDS]) == 2
    said = capsys.readouterr().err
    assert "1 of 2 test images have no label, such as" in said
    assert "measuring" not in said  # before anything is planned, not after the training
    assert not (tmp_path / "out").exists()


def test_slices_of_volumes_for_a_network_of_volumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = volumes(tmp_path / "data")
    assert main(["train", str(data), "--output", str(tmp_path / "out"), *WORDS, "slices=true"]) == 2
    assert "slices is true, but the network takes volumes as they are; give slices=false" in capsys.readouterr().err


def test_memory_that_ends_in_the_middle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, output, steps = volumes(tmp_path / "data"), tmp_path / "out", []
    real = FocalIoULoss.forward

    def scarce(self: FocalIoULoss, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        steps.append(len(logits))
        if len(steps) > 3 and len(logits) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return real(self, logits, label)

    monkeypatch.setattr(FocalIoULoss, "forward", scarce)
    words = [*(word for word in WORDS if "max_epochs" not in word), "max_epochs=3"]
    assert main(["train", str(data), "--minutes", "5", "--output", str(output), *words]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "epoch 2, iteration 4: cpu has no memory left for batch_size 2 of 8x14x12; lower batch_size" in said
    assert f"--resume {output / 'run'} goes on after the last completed epoch" in said
    again = ["train", str(data), "--resume", str(output / "run")]
    assert main([*again, "--memory", "3"]) == 2
    assert "--memory is for a plan, which the run to resume has" in capsys.readouterr().err
    assert main([*again, *words, "batch_size=1"]) == 0
    assert "Otsu's threshold" in capsys.readouterr().out
    rows = [json.loads(line) for line in (output / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["batch_size"] for row in rows] == [2, 1, 1]
    assert (output / "run" / "test" / "scores.json").is_file()
    assert main(["evaluate", str(output), "--choose-postprocessing", "device=cpu"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "its validation part is empty" in said
    assert "a training keeps some apart with validation_fold=1" in said
    (tmp_path / "run").mkdir()
    assert main(["train", str(data), "--resume", str(tmp_path / "run")]) == 2
    assert "run: no plan lies beside it, so that its bundle is not known" in capsys.readouterr().err
    assert main(["train", "unet_drosophila", "--resume", str(tmp_path / "run")]) == 2
    assert "say what it is trained on with --data DIR" in capsys.readouterr().err


def test_a_part_to_choose_postprocessing_on(tmp_path: Path) -> None:
    data, output = volumes(tmp_path / "data"), tmp_path / "out"
    command = ["train", str(data), "--minutes", "5", "--output", str(output)]
    assert main([*command, *WORDS, "validation_fold=1"]) == 0
    assert main(["evaluate", str(output), "--choose-postprocessing", "device=cpu"]) == 0
    held = json.loads((output / "run" / "postprocessing.json").read_text())
    assert (held["chosen_on"], held["cases"]) == ("validation", 1)
