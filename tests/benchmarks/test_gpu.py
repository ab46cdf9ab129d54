"""The dry run of `benchmarks.gpu` goes through every part on a CPU, and what it decides and writes is right."""

import importlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import common, gpu, gpu_training, gpu_wheels
from benchmarks.gpu import merge
from benchmarks.gpu_page import networks, render
from benchmarks.gpu_rows import BUNDLE, MEASURED, NUCLEI, TABLE_1, TABLE_3, TISSUE, TRAININGS, Measured, Training
from data_scripts import synthetic
from medseg.releases.sections import Layout, write_layout
from medseg.studies.complexity import build
from medseg.studies.study import read_study
from medseg.studies.study_list import recipe

ROOT = Path(__file__).parents[2]


def speeds(seconds: float) -> dict[str, Any]:
    step = {"formats": {"bf16 channels-last": {"training_step_seconds": seconds}}}
    return {"rows": {row.name: step for row in MEASURED}}


def data(folder: Path) -> Path:
    """Draw crops of 32 x 32; there are no nuclei."""
    layout = Layout(5, 32, 5, 0, details=(("size", 64),))
    write_layout(synthetic.make_sections(5, 64, 0), folder / "drosophila", synthetic.SOURCE, layout)
    return folder


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the modules that a benchmark calls be its own process's: what they import costs seconds each time."""

    def call(words: Sequence[str], **options: Any) -> None:
        assert options["timeout"] > 0
        if importlib.import_module(words[0]).main(list(words[1:])):
            raise subprocess.CalledProcessError(1, words)

    monkeypatch.setattr(common, "call", call)
    for command in ("train", "evaluate"):
        monkeypatch.setattr(f"medseg.cli.{command}.own_process", lambda: None)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI of itself
def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--dry-run", "--data", str(data(tmp_path / "data")), "--out", str(tmp_path / "out"), "--concurrent", "1"]
    assert gpu.main([*words, "--work", str(tmp_path / "work"), "--commit", "abc"]) == 0
    said = capsys.readouterr().out
    found = {path.stem.removeprefix("gpu_"): json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert set(found) == {"run", "networks", "engine", "drosophila", "dsb2018", "hippocampus"}, said
    speed = found["networks"]["rows"]
    assert "channels is ()" in speed["fails"]["error"]  # and the row before it stands
    assert speed["Drosophila: U-Net"]["formats"]["bf16 channels-last"]["training_images_per_second"] > 0
    assert [row.get("error") for row in found["engine"]["rows"].values()] == [None] * 4
    (tissue,) = found["drosophila"]["rows"].values()
    assert tissue.get("error") is None
    assert tissue["scored"] == "test"
    assert tissue["images_scored"] == 4  # one fold of five sections
    assert len(tissue["classes"]) == 5
    assert [row["error"] for row in found["dsb2018"]["rows"].values()] == ["FileNotFoundError: no data of dsb2018\n"]
    assert found["hippocampus"]["error"] == "no data of hippocampus"
    assert found["run"]["environment"]["git"] == {"commit": "abc", "dirty": False}
    text = "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert str(tmp_path) not in text
    page = render(tmp_path / "out")
    assert "| U-Net | crops at random | 0 | 1 |" in page
    assert "| dsb2018 | U-Net, the paper's division | FileNotFoundError: no data of dsb2018 |" in page


def options(folder: Path, *words: str) -> Any:
    """What `main` makes of a command line of ten minutes."""
    kept: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "Calls", lambda given: kept.append(given) or SimpleNamespace(left=0))
        gpu.main(["--out", str(folder / "out"), "--work", str(folder / "work"), "--commit", "abc", *words])
    return kept[0]


def test_folds_stand_after_the_first_trainings_and_are_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []

    def call(words: Sequence[str], **_: Any) -> None:
        called.append(list(words))
        path = Path(words[words.index("--json") + 1])
        assert not path.exists() or "rows" in json.loads(path.read_text())  # what `gpu_folds` goes on with
        rows = [{"fold": n} if n < 4 or len(called) > 1 else {"fold": n, "error": "not done"} for n in range(5)]
        path.write_text(json.dumps({"rows": rows}))

    monkeypatch.setattr(common, "call", call)
    calls = gpu.Calls(options(tmp_path))
    gpu.folds(calls, {})
    assert gpu.read(calls.file("hippocampus"))["error"] == "no data of hippocampus"
    for complete in (False, True, True):  # the fold that failed is done by the next call, and none by the third
        gpu.folds(calls, {"hippocampus": tmp_path})
        assert gpu.read(calls.file("hippocampus"))["complete"] is complete
    assert len(called) == 2
    assert called[0][:5] == ["benchmarks.gpu_folds", "--data", str(tmp_path), "--minutes", "5.60"]
    short = gpu.Calls(options(tmp_path / "short", "--slice", "5"))
    gpu.folds(short, {"hippocampus": tmp_path})
    assert not short.file("hippocampus").exists()  # the next call, of nine minutes, has the time
    first = gpu.pending(calls, first=True)
    assert {item: sum(row.item == item for row in first) for item in ("drosophila", "dsb2018")} == gpu_training.FIRST
    assert [row for row in gpu.pending(calls) if row in first] == first


def test_wheels_are_installed_where_a_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setenv("MEDSEG_WHEELS", str(tmp_path))
    monkeypatch.setattr(gpu_wheels.subprocess, "run", lambda words, check: commands.append(words))
    assert gpu_wheels.install({"json": "anything"}) == []
    needed = {"json": "anything", "not_there": "pytorch-not-there"}
    with pytest.raises(SystemExit, match=f"pytorch-not-there: not installed, and {tmp_path} holds no wheel of it"):
        gpu_wheels.install(needed)
    (tmp_path / "pytorch_not_there-1.0-py3-none-any.whl").write_bytes(b"")
    assert gpu_wheels.install(needed) == ["pytorch-not-there"]
    assert commands[0][1:] == ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--find-links",
                               str(tmp_path), "pytorch-not-there"]  # fmt: skip


def test_every_network_of_a_table_gets_the_same_passes_and_they_fit() -> None:
    planned = gpu_training.passes(speeds(0.01), 28)
    first = [row for row in TRAININGS if row.item == "drosophila"][: gpu_training.FIRST["drosophila"]]
    spent = sum(gpu_training.cost(row, speeds(0.01), planned) for row in first)
    assert 0.8 < spent / (28 * 60 * gpu_training.SHARES["drosophila"]) <= 1
    assert planned["drosophila"] % gpu_training.REPEATS["drosophila"] == 0
    assert gpu_training.passes(speeds(1e-6), 28) == gpu_training.PASSES
    assert gpu_training.passes({}, 28)["drosophila"] > 0  # nothing measured


def test_a_training_that_does_not_fit_leaves_its_place() -> None:
    long, short = (
        Training("drosophila", name, (), "fold", 0, images, "Drosophila: U-Net")
        for name, images in (("LFA U-Net", 8000), ("U-Net", 80))
    )
    planned = {"drosophila": 10}
    assert gpu_training.choose([long, short], speeds(0.02), planned, 200) == [short]
    assert gpu_training.choose([long, short], speeds(0.02), planned, 900) == [long, short]
    assert gpu_training.choose([long, short], speeds(0.02), planned, 90) == []


def test_a_training_without_time_is_not_begun(tmp_path: Path) -> None:
    place = gpu_training.Place({}, tmp_path, 1, 0, dry=False)
    assert gpu_training.run(TRAININGS[0], place, 1, deadline=0.0) is None


def test_rows_are_told_apart_and_name_what_is_there() -> None:
    names = [(row.item, row.name) for row in TRAININGS]
    assert len(set(names)) == len(names)
    measured = {row.name for row in MEASURED}
    assert len(measured) == len(MEASURED)
    for row in TRAININGS:
        assert row.measured in measured
        assert row.network in (TABLE_1 if row.item == "drosophila" else TABLE_3)
        configs = ROOT / "bundles" / BUNDLE[row.item] / "configs"
        assert all((configs / f"{overlay}.yaml").is_file() for overlay in row.overlays)
    assert (set(TISSUE), set(NUCLEI)) == (set(TABLE_1), set(TABLE_3))  # no row of a study is left out
    assert TABLE_1["LFA U-Net"][:2] == (72.80, 73.22)
    assert TABLE_3["FocusNet++ light"] == (0.9173, 0.9139)
    for mean, *ious in TABLE_1.values():  # as printed
        assert sum(ious) / 5 == pytest.approx(mean, abs=0.01)


CALLED = {
    "R2U-Net (t = 2)": "R2U-Net", "FCN-8s": "FCN", "DF-DAM, ResNet-18, Cityscapes": "DAFM and 2DPAM",
    "DF-DAM, ResNet-50, VOC": "ResNet-50, DAFM and 2DPAM", "merge by maximum": "largest of the scales",
    "refinement, LargeFOV": "refinement", "refinement, ResNet-34": "refinement", "PSPNet": "PSP",
    "ResNet-34-dilated-8": "dilated ResNet-34",
}  # fmt: skip


def study_of(row: Measured) -> str:
    known = {"Drosophila": "lfa_unet_1", "nuclei": "focusnet_pp_3", "ISIC": "focusnet_pp_1"}
    scenes = {
        "Cityscapes": "df_dam_2",
        "VOC": "df_dam_1",
        "MFNet": "mfnet_6",
        "DeepLabv3+": "mfnet_6",
        "EMANet": "mfnet_6",
    }
    found = known.get(row.name.partition(":")[0]) or scenes.get(row.name.rpartition(" ")[2])
    return found or ("multi_scale_3" if row.out_channels == 150 else "multi_scale_1")


@pytest.mark.parametrize("row", [row for row in MEASURED if len(row.size) == 2], ids=lambda row: row.name)
def test_what_is_measured_is_the_step_that_its_bundle_trains(row: Measured) -> None:
    study, called = read_study(study_of(row)), row.name.rpartition(": ")[2]
    (asked,) = (each for each in study.rows if each.name == CALLED.get(called, called))
    trained = recipe(study, asked)
    assert trained is not None
    assert (row.size, row.batch, row.path) == (trained.row.size, trained.batch, trained.row.target)
    like = replace(trained.row, name=row.name, in_channels=row.in_channels, out_channels=row.out_channels)
    ours = replace(like, target=row.path, kwargs=row.kwargs)
    shapes = [{k: v.shape for k, v in build(each, "meta").state_dict().items()} for each in (ours, like)]
    assert shapes[0] == shapes[1]


def test_what_was_timed_otherwise_is_named() -> None:
    count = 29738997  # as the record has it
    right = {"size": [513, 513], "batch": 4, "macs": 1, "parameters": count, "formats": {}}
    assert "Timed" not in networks({"rows": {"MFNet": right}})
    for other in ({"size": [473, 473]}, {"parameters": count + 1}):
        assert networks({"rows": {"MFNet": {**right, **other}}}).endswith("than the bundle trains now: MFNet.\n")


def test_merged_calls_keep_both_and_prefer_scores(tmp_path: Path) -> None:
    good, bad = {"mean_iou": 0.7}, {"error": "not done when the call was over"}
    for name, rows, seconds in (("one", {"a": good, "b": bad}, [1.0, 2.0]), ("two", {"a": bad, "b": good}, [1.0, 3.0])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "gpu_drosophila.json").write_text(json.dumps({"rows": rows}))
        (tmp_path / name / "gpu_run.json").write_text(json.dumps({"calls_seconds": seconds}))
    merge(tmp_path / "one", tmp_path / "two")
    assert json.loads((tmp_path / "one" / "gpu_drosophila.json").read_text())["rows"] == {"a": good, "b": good}
    assert json.loads((tmp_path / "one" / "gpu_run.json").read_text())["calls_seconds"] == [1.0, 2.0, 3.0]
    (tmp_path / "two" / "gpu_drosophila.json").write_text(json.dumps({"rows": {"a": {"mean_iou": 0.6}}}))
    merge(tmp_path / "one", tmp_path / "two")
    held = json.loads((tmp_path / "one" / "gpu_drosophila.json").read_text())["rows"]
    assert held["a, again"] == {"mean_iou": 0.6}


def test_the_page_is_what_the_records_say() -> None:
    results = ROOT / "docs" / "results"
    assert (results / "gpu.md").read_text() == render(results)
