"""`benchmarks.hippocampus` goes through all of its systems on five tiny volumes, in this process."""

import importlib
import importlib.util
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from benchmarks import hippocampus
from benchmarks.common import Budget, merge_rows


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five volumes with two cubes each, laid out as the decathlon's."""
    folder, entries = tmp_path / "Task04_Hippocampus", []
    generator = np.random.default_rng(0)
    for number in range(5):
        label = np.zeros((20 + number, 18, 17), np.uint8)
        label[4:10, 4:9, 4:9], label[4:10, 9:14, 4:9] = 1, 2
        image = generator.normal(size=label.shape).astype(np.float32) + 2 * label
        entry = {}
        for key, array in (("image", image), ("label", label)):
            path = folder / f"{key}sTr" / f"case_{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 1.5, 1, 1])), path)
            entry[key] = f"./{key}sTr/{path.name}"
        entries.append(entry)
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    content = {"name": "Hippocampus", "modality": {"0": "MRI"}, "labels": labels, "training": entries}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the modules that the benchmark calls be its own process's: what they import costs seconds each time."""

    def call(words: Sequence[str], **options: Any) -> None:
        for name, value in options.get("env", {}).items():
            monkeypatch.setenv(name, value)
        if importlib.import_module(words[0]).main(list(words[1:])):
            raise subprocess.CalledProcessError(1, words)

    monkeypatch.setattr(hippocampus, "call", call)
    for command in ("train", "predict"):
        monkeypatch.setattr(f"medseg.cli.{command}.own_process", lambda **_: None)


def task(data: Path, **changes: Any) -> hippocampus.Task:
    made = hippocampus.Task(data, data.parent / "work", 1.0, 2, **changes)
    hippocampus.lay_out(made)
    return made


def check(row: dict[str, Any], made: hippocampus.Task, system: str) -> None:
    """The row of a training of two steps, scored on the volume that was held out."""
    assert row["steps"] == 2
    assert row["seconds_a_step"] == pytest.approx(row["seconds"] / 2)
    assert row["scores"]["cases"] == 1
    assert set(row["scores"]["dice"]) == {"Anterior", "Posterior"}
    held_out = json.loads(made.cases.read_text())["held_out"]
    (mask,) = (made.work / f"{system}_2steps_seed3" / "masks").glob("*.nii.gz")
    image = nibabel.load(held_out[0]["image"])
    assert mask.name == Path(held_out[0]["image"]).name
    np.testing.assert_allclose(nibabel.load(mask).affine, image.affine)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")  # MONAI's, of a reader that is not used
def test_the_plain_script(data: Path) -> None:
    made = task(data, words=["--widths", "4", "4", "8", "--patch", "16", "16", "16"])
    row = hippocampus.compare(made, "monai", 3)
    check(row, made, "monai")
    assert hippocampus.compare(made, "monai", 3) == row  # what is there is not trained again


@pytest.mark.usefixtures("in_this_process")
def test_medseg_by_a_bundle(data: Path) -> None:
    settings = {"network_def#channels": [4, 8], "patch": [16, 16, 16], "mlflow": False, "augmentation": []}
    made = task(data, plan="lfa_unet_hippocampus", settings=settings)
    check(hippocampus.compare(made, "medseg", 3), made, "medseg")


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.filterwarnings("ignore")  # nnU-Net's own
@pytest.mark.skipif(importlib.util.find_spec("nnunetv2") is None, reason="nnunetv2 is not installed")
def test_nnunet(data: Path) -> None:
    made = task(data)
    check(hippocampus.compare(made, "nnunet", 3), made, "nnunet")


def test_all_train_on_the_same(data: Path) -> None:
    cases = json.loads(task(data).cases.read_text())
    names = [{Path(entry["label"]).name for entry in cases[part]} for part in ("training", "held_out")]
    assert [len(part) for part in names] == [4, 1]
    assert not names[0] & names[1]
    assert {path.name for path in (data.parent / "work" / "labels").iterdir()} == names[1]


def test_what_is_missing_is_said_in_one_line(data: Path) -> None:
    words = ["--data", str(data), "--nnunet", str(data), "--system", "nnunet"]
    with pytest.raises(SystemExit, match=r"^nnunetv2 is not here: pip install .*--nnunet build/nnunet$"):
        hippocampus.main(words)


def test_rows_take_the_place_of_their_like(tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.json"

    def row(system: str, seed: int, steps: int) -> dict[str, Any]:
        return {"system": system, "seed": seed, "minutes": 8.0, "planned_steps": None, "steps": steps}

    merge_rows(path, {"data": {}}, [row("monai", 0, 10), row("medseg", 1, 20)], hippocampus._key)
    merge_rows(path, {"data": {"training": 4}}, [row("monai", 0, 30)], hippocampus._key)
    assert json.loads(path.read_text())["data"] == {"training": 4}
    assert [(held["system"], held["steps"]) for held in json.loads(path.read_text())["rows"]] == [
        ("medseg", 20), ("monai", 30),
    ]  # fmt: skip


def test_a_budget_of_steps_looks_at_no_clock() -> None:
    budget = Budget(minutes=1e-9, steps=4)
    assert [budget.progress(step) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert Budget(minutes=1e-9).progress(0) > 1
