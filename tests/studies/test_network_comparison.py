"""A comparison of networks from pictures to a model, on a device whose costs are known and a clock that is told.

The trainings have a few steps whatever their minutes; the clock is moved by what they would have taken.
"""

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from costs import Device
from PIL import Image
from tiny_study import write_data

from medseg.bundle import ensemble, temperature
from medseg.bundle.library import weights_file
from medseg.cli import main
from medseg.errors import MedsegError
from medseg.prediction.model import load
from medseg.prediction.predict import predict
from medseg.studies import complexity, network_comparison, study_cell
from medseg.studies.executors import Done
from medseg.studies.halving import Budget, stages
from medseg.studies.network_comparison import compare_networks
from medseg.studies.network_record import RECORD, SPENT, Asked, Spent
from medseg.studies.network_result import Compared
from medseg.studies.study import Cell, read_study
from medseg.studies.study_cell import run_cell

MINUTES = 30.0
BESIDE = 0.9  # minutes that a training takes beside its own: not what is expected
PLANNING = 5.0  # seconds of a measurement
THREE = ("unet", "attention_unet", "lfa_unet")
SMALL = {"device": "cpu", "network_def#channels": [2, 4, 4, 4], "batch_size": 2}


class KilledError(BaseException):
    """Ends a process as nothing in it expects."""


class Clock:
    """A clock that tells what it is told, and who makes trainings while it runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.made: list[str] = []
        self.kill_after = 99
        self.failing: dict[str, str] = {}

    def __call__(self) -> float:
        return self.now

    def executor(self, folder: Path, cells: Sequence[Cell], mixed: bool) -> Iterator[Done]:
        minutes = read_study(folder / "study.yaml").minutes or 0.0
        for name in (cell.name for cell in cells):
            if len(self.made) == self.kill_after:
                raise KilledError
            if name in self.failing:
                yield Done(name, self.failing[name])
                continue
            run_cell(folder, name, mixed=mixed, patience=0)
            self.now += 60 * (minutes + BESIDE)
            self.made.append(f"{folder.name}/{name}")
            yield Done(name)


class Whole(NamedTuple):
    """Folder with ``data`` and the comparison ``out``, its clock, what came out, and the lines of news."""

    folder: Path
    clock: Clock
    found: Compared
    said: list[str]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that measurements and trainings move; trainings have two steps."""
    return tiny(monkeypatch)


def tiny(patch: pytest.MonkeyPatch) -> Clock:
    made, device = Clock(), Device()
    overrides = study_cell._overrides

    def measure(*arguments: Any, **options: Any) -> Any:
        made.now += PLANNING * ("training" in arguments[1])
        return device.measure(*arguments, **options)

    def few_steps(*arguments: Any) -> dict[str, Any]:
        return {**overrides(*arguments), "max_epochs": 1, "iterations": 2, "max_minutes": None}

    patch.setattr(complexity, "measure", measure)
    patch.setattr(study_cell, "_overrides", few_steps)
    for place in ("confusion.save_confusion", "curves.save_curves"):
        patch.setattr(f"medseg.reports.{place}", lambda *_, **__: None)
    return made


def compare(data: Path, folder: Path, clock: Clock, **changes: Any) -> Compared:
    options = {key: changes.pop(key) for key in ("pictures", "say") if key in changes}
    asked = Asked(**{"minutes": MINUTES, "networks": THREE, "settings": SMALL, **changes})
    return compare_networks(data, folder, asked, executor=clock.executor, clock=clock, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """A comparison of three networks, run without a break."""
    folder, said = tmp_path_factory.mktemp("compared"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        clock = tiny(patch)
        write_data(folder / "data", folds=2, cases=8)
        found = compare(folder / "data", folder / "out", clock, say=said.append)
        yield Whole(folder, clock, found, said)


def test_rungs_then_folds(whole: Whole) -> None:
    folder, clock, found, said = whole
    rung, last = found.record.stages
    assert sorted(rung["networks"]) == sorted(THREE)
    assert rung["kept"] == sorted(THREE, key=lambda name: -rung["scores"][name])[:2]
    assert last["networks"] == rung["kept"]
    assert (rung["folds"], last["folds"]) == ([0], [0, 1])
    assert rung["minutes"] < last["minutes"]
    assert clock.made[:3] == [f"rung1/{name}-fold0-seed0" for name in THREE]
    assert len(clock.made) == 3 + 4
    assert any("then: rung: 3 networks x 1 fold" in line and "cross-validation: 2 networks x" in line for line in said)
    for name in THREE:
        assert (folder / "out" / "plans" / name / "bundle.yaml").is_file()
    limits = {
        f"limit {found.record.memory / 2**30:.2f} GiB" in (folder / "out" / "plans" / name / "bundle.yaml").read_text()
        for name in THREE
    }
    assert limits == {True}


def test_it_takes_the_minutes_that_were_asked_for(whole: Whole) -> None:
    """Though trainings take longer beside their own than was expected: the rung has shown it."""
    _, clock, found, _ = whole
    assert found.record.took == pytest.approx(MINUTES, rel=0.1)
    assert clock.now / 60 == pytest.approx(found.record.took)


def test_every_network_is_ranked(whole: Whole) -> None:
    folder, _, found, _ = whole
    results = json.loads((folder / "out" / "results.json").read_text())
    assert [row["network"] for row in results["ranking"]] == [place.network for place in found.places]
    assert results["ranking"][0]["mean"] >= results["ranking"][1]["mean"]
    table = found.ranking()
    assert sorted(str(row[1]) for row in table.rows) == sorted(THREE)
    assert str(table.rows[2][3]).startswith("rung 1: ")
    assert results["verdict"] == found.verdict
    assert str(folder) not in (folder / "out" / "results.json").read_text()


def test_the_model_is_the_mean_of_its_folds(whole: Whole, tmp_path: Path) -> None:
    folder, _, found, _ = whole
    image = folder / "data" / "image_0.png"
    words = ["predict", str(found.model), str(image), str(tmp_path / "masks"), "--probabilities", "device=cpu"]
    assert main(words) == 0
    runs = list(found.cells(found.winner).values())
    assert len(runs) == 2
    predict(runs, image, tmp_path / "both", outputs=("probabilities",), overrides={"device": "cpu"})
    ours, theirs = (sorted((tmp_path / name).glob("*prob*"))[0].read_bytes() for name in ("masks", "both"))
    assert ours == theirs
    one, other = ((tmp_path / name / "image_0.png") for name in ("masks", "both"))
    np.testing.assert_array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))
    with pytest.raises(MedsegError, match="is an ensemble of several models; name one of them"):
        weights_file(found.model)


def test_a_member_writes_the_masks_that_were_scored(whole: Whole, tmp_path: Path) -> None:
    """Each on the fold that it has not seen, by the label files alone; no list for testing was looked at."""
    folder, _, found, _ = whole
    with open(folder / "out" / "validation" / "out_of_fold.csv", newline="") as file:
        lines = [line for line in csv.DictReader(file) if (line["row"], line["class"]) == (found.winner, "square")]
    assert len(lines) == 8
    for line in lines:
        member = found.model / f"{found.winner}-fold{line['fold']}.zip"
        out = tmp_path / line["case"]
        predict(member, folder / "data" / line["case"], out, overrides={"device": "cpu"})
        ours = np.asarray(Image.open(out / line["case"])) == 1
        truth = np.asarray(Image.open(folder / "data" / line["case"].replace("image", "label"))) == 1
        dice = 2 * (ours & truth).sum() / (ours.sum() + truth.sum())
        assert dice == pytest.approx(float(line["dice"]), abs=1e-6)
    assert not list((folder / "out").rglob("tested.json"))


def test_temperatures_are_fitted_to_what_each_has_not_seen(whole: Whole) -> None:
    """Once, by an option that may be given later; a network without one is exported all the same, and said."""
    folder, clock, found, _ = whole
    runs, said, numbers = list(found.cells(found.winner).values()), list[str](), itertools.count(2.0)
    kept = {path: path.read_bytes() for path in found.model.iterdir()}
    compare(folder / "data", folder / "out", clock)
    assert {path: path.read_bytes() for path in found.model.iterdir()} == kept
    compare(folder / "data", folder / "out", clock, calibrate=True, say=said.append)  # after two steps none is best
    told = [line.partition(":")[0] for line in said if "temperature" in line]
    assert told == [f"{run.name} has no temperature" for run in runs]
    assert {path: path.read_bytes() for path in found.model.iterdir()} == kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(temperature, "best_temperature", lambda *_: next(numbers))
        compare(folder / "data", folder / "out", clock, calibrate=True)
    fits = [json.loads((run / "calibration.json").read_text()) for run in runs]
    assert [(fit["fitted_on"], fit["cases"]) for fit in fits] == [("held-out", 4)] * 2
    fitted = [fit["temperature"] for fit in fits]
    assert fitted == [2.0, 5.0]  # what comes between is of halves
    assert load(found.model, device="cpu").temperatures == fitted
    page = (folder / "out" / "report.html").read_text()
    assert page.count("4 held-out") == 2
    packs = {path: path.read_bytes() for path in found.model.iterdir()}
    compare(folder / "data", folder / "out", clock, calibrate=True)
    assert {path: path.read_bytes() for path in found.model.iterdir()} == packs
    assert len(clock.made) == 7


def test_the_report_says_it_all_and_names_no_case(whole: Whole) -> None:
    folder, clock = whole.folder, whole.clock
    page = (folder / "out" / "report.html").read_text()
    for part in ("result", "asked", "data", "networks", "rungs", "validation", "pictures", "use", "origin"):
        assert f'<section id="{part}">' in page
    assert "medseg predict out/model IMAGES MASKS" in page
    assert "trained anew, longer, not continued" in page
    assert "image_" not in page
    assert page.count('class="viewer"') > 1
    compare(folder / "data", folder / "out", clock, pictures=False)  # nothing is trained again
    page = (folder / "out" / "report.html").read_text()
    assert 'class="viewer"' not in page
    assert len(clock.made) == 7


def test_killed_it_goes_on_and_counts_what_was_spent(whole: Whole, tmp_path: Path, clock: Clock) -> None:
    """In the rung, in the cross-validation and before the model is packed: the same stages, ranking and minutes.

    The folder is moved in between.
    """
    folder, _, found, _ = whole
    out = tmp_path / "out"
    for kill in (1, 5):
        clock.kill_after = kill
        with pytest.raises(KilledError):
            compare(folder / "data", out, clock)
        clock.now += 1e6  # between two processes nothing is spent
        out = out.rename(tmp_path / f"out{kill}")
    clock.kill_after = 99
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "write", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            compare(folder / "data", out, clock)
    again = compare(folder / "data", out, clock)
    assert len(clock.made) == 7
    for stage, known in zip(again.record.stages, found.record.stages, strict=True):
        assert stage.pop("took") == pytest.approx(known["took"])
        assert stage == {key: value for key, value in known.items() if key != "took"}
    assert again.places == found.places
    assert again.record.took == pytest.approx(found.record.took)
    with pytest.raises(MedsegError, match=r"was asked otherwise: minutes was 30.0 and is 60.0 now; give what it began"):
        compare(folder / "data", out, clock, minutes=60.0)


@pytest.mark.parametrize(("settings", "sharing"), [({}, 2), ({"device": "cpu"}, 4)])
def test_trainings_that_share_a_device_share_its_memory(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], sharing: int
) -> None:
    def stop(*_: object) -> None:
        raise KilledError

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(network_comparison.plan_network, "memory_limit", lambda *_: SimpleNamespace(value=8e9))
    monkeypatch.setattr(network_comparison._Comparison, "_plan", stop)
    asked = Asked(MINUTES, THREE, workers=4, settings=settings)
    with pytest.raises(KilledError):
        compare_networks(whole.folder / "data", tmp_path / "out", asked)
    assert json.loads((tmp_path / "out" / RECORD).read_text())["memory"] == int(8e9) // sharing


@pytest.mark.parametrize(
    ("words", "sharing"),
    [
        ([], 2),
        (["--executor", "submitit", "--job", "cluster=local"], 2),
        (["--executor", "submitit", "--job", "cluster=local", "gpus_per_node=1"], 4),
        (["--executor", "ray", "--job", "address=local"], 2),
        (["--executor", "ray", "--job", "address=local", "num_gpus=1"], 1),
    ],
)
def test_plans_are_for_what_the_executor_gives_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sharing: int
) -> None:
    for name in words[1:2]:
        pytest.importorskip(name, reason=f"the extra {name} is not installed")
    minutes: list[float] = []

    def stop(_: object, name: str, given: float) -> None:
        minutes.append(given)
        raise KilledError

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(network_comparison.plan_network, "memory_limit", lambda *_: SimpleNamespace(value=8e9))
    monkeypatch.setattr(network_comparison._Comparison, "_plan", stop)
    write_data(tmp_path / "data", folds=2, cases=8)
    given = ["compare-networks", str(tmp_path / "data"), "-o", str(tmp_path / "out"), "--minutes", "30"]
    with pytest.raises(KilledError):
        main([*given, "--networks", *THREE, "--workers", "4", *words])
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["memory"] == int(8e9) // sharing
    whole_minutes = stages(Budget(30.0, 4), record["count"], len(record["folds"]))[-1].minutes
    assert minutes == [pytest.approx(whole_minutes / sharing)]


def test_what_fails_is_a_row_and_the_others_go_on(whole: Whole, tmp_path: Path, clock: Clock) -> None:
    """One that cannot be planned, one whose training fails; the model is the best fold's, as it was asked for."""
    networks = ("unet", "monai.networks.nets.DynUNet", "attention_unet")
    clock.failing = {"attention_unet-fold0-seed0": "its process was ended by signal 9; see logs"}
    found = compare(whole.folder / "data", tmp_path / "out", clock, networks=networks, best_fold=True, pictures=False)
    rows = {str(row[1]): str(row[3]) for row in found.ranking().rows}
    assert list(rows) == list(networks)
    assert f"network {networks[1]} cannot be built for these images" in rows[networks[1]]
    assert "ended by signal 9" in rows["attention_unet"]
    assert "there is nothing to hold it against" in found.verdict
    assert "ended by signal 9" in (tmp_path / "out" / "report.html").read_text()
    scores = found.table.scores.of_folds("unet", "dice", "")
    assert [Path(each).name for each in ensemble.members(found.model)] == [f"unet-fold{int(scores.argmax())}.zip"]


def test_none_that_can_be_trained(whole: Whole, tmp_path: Path, clock: Clock) -> None:
    clock.failing = {f"{name}-fold{fold}-seed0": "out of memory" for name in THREE[:2] for fold in range(2)}
    with pytest.raises(MedsegError, match=r"no network could be trained; .*\n  unet: unet-fold0-seed0: out of memory"):
        compare(whole.folder / "data", tmp_path / "out", clock, networks=THREE[:2])


def test_minutes_add_up(tmp_path: Path) -> None:
    """From when networks are planned on: before that there is nothing that they were spent on."""
    clock = Clock()

    def spend(before: float) -> None:
        with Spent(tmp_path, clock) as spent:
            assert spent.minutes == before
            clock.now += 90
        clock.now += 1e6

    spend(0)
    spend(0)
    (tmp_path / RECORD).write_text("{}")
    spend(1.5)
    spend(3)
    assert Spent(tmp_path, clock).minutes == 4.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "30", "--networks", "unett", "unet"], "there is no network 'unett'; the nearest is 'unet'"),
        (["--minutes", "30", "--networks", "unet"], "unet alone cannot be compared; name two networks or more"),
        (["--minutes", "30", "--networks", "unet", "unet"], "network unet is named twice"),
        (["--minutes", "2"], "are too few to compare 2 networks on 2 folds: with planning"),
        (["--minutes", "9", "--networks", *THREE, "--folds", "2"], "are too few to compare 3 networks on 2 folds"),
        (["--minutes", "30", "--folds", "3"], "its scheme fold has 2 folds, 3 are asked for; give --folds 2 to 2"),
        (["--minutes", "30", "--fold-key", "fold_x"], "no fold scheme 'fold_x'; it has fold"),
        (["--minutes", "30", "batch_sise=2"], "has no option 'batch_sise'; did you mean batch_size?"),
        (["--minutes", "30", "--networks", "unet", "dynunet", "fold=1"], "has no option 'fold'"),
    ],
)
def test_refused_before_anything_is_planned(
    whole: Whole,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert main(["compare-networks", str(whole.folder / "data"), "-o", str(tmp_path / "out"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("there", [False, True])
def test_minutes_of_a_refusal_are_not_spent(whole: Whole, tmp_path: Path, there: bool) -> None:
    """Else the minutes that it asks for were too few again."""
    out = tmp_path / "out"
    if there:
        out.mkdir()
    asked, news = Asked(14, networks=("unet", "dynunet")), list[str]()
    with pytest.raises(MedsegError, match=r"14 minutes \(10.0 of them are spent\) are too few .*; give --minutes 1\d"):
        compare_networks(whole.folder / "data", out, asked, clock=lambda: 600.0, since=0.0, say=news.append)
    assert news[0] == "reading and checking the images"
    assert not (out / SPENT).exists()
    assert out.exists() == there


def test_a_folder_that_is_something_else(whole: Whole, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(MedsegError, match="holds something else; name a new folder, or that of a comparison"):
        compare_networks(whole.folder / "data", tmp_path, Asked(30))
