"""What MLflow gets of a run, and what it must not get."""

import contextlib
import getpass
import json
import logging
import os
import warnings

import pytest
import torch
from runs.test_tracking import client, quiet, stored, tracker, warnings_of_ours

from medseg.runs import mlflow_run, privacy
from medseg.runs.tracking import MLflowTracker, RunFolder, training_run


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def everything_in(folder):
    """Return all rows of the database, all artifacts as text and their names, and the database's bytes."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [f"{name}: {row}" for name in names for row in database.execute(f"SELECT * FROM {name}")]
    files = [path for path in (folder / "mlartifacts").rglob("*") if path.is_file()]
    texts = [path.read_bytes().decode(errors="replace") for path in [folder / "mlflow.db", *files]]
    return "\n".join([*rows, *texts, *(str(path.relative_to(folder)) for path in files)])


@quiet
def test_nothing_names_a_person_a_host_or_a_home(tmp_path, monkeypatch, new_store):
    home = tmp_path / "home" / "alice77"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", "alice77")
    monkeypatch.setattr(privacy.platform, "node", lambda: "wolke9.example.org")
    config = {
        "dataset_dir": f"{home}/my data/ct",
        "notes": ["~/x/y.json", f"{home}/a.nii.gz"],
        "uri": f"sqlite:///{home}/mlflow.db",
        "url": "https://data.example/set/1",
        "author": "alice77",
        "transforms": [{"_target_": "Load", "path": str(home)}],
        "loss": "$monai.losses.DiceLoss()",
        "lr": 0.1,
        "spacing": [0.5, 0.5, 2.0],
    }
    runs = home / "work" / "runs"
    folder = RunFolder(runs / "a_alice77")
    monkeypatch.chdir(home)
    folder.write_config(config)
    folder.write_json("data.json", {"where": str(home / "x")})
    folder.append_metrics(1, {"loss": 1.0})
    folder.write_text(".0123abcd.model.pt", "unfinished")
    folder.write_text("checkpoints/last.pt", "state")
    with MLflowTracker(None, "trials of alice77", folder.path.name, folder.path) as tracking:
        tracking.log_params(config)
        tracking.log_tags({"command": f"medseg train --data '{home}/my data/ct' on wolke9", "overlays": ""})
        tracking.log_tags({"error": f"OSError: {home}/ct/scan 1.nii.gz cannot be read by alice77@wolke9.example.org"})
        tracking.log_dataset("ct", "0123456789abcdef" * 4, 7)
        tracking.log_folder()
        tracking.register("cells", torch.nn.Conv2d(3, 5, 1), (3, 8, 8))
    assert tracking.online
    seen = everything_in(runs)
    names = ("alice77", str(home), str(tmp_path), "wolke9", f"{getpass.getuser()}@", "/home/")
    assert [name for name in names if name in seen] == []
    run = client(runs).get_run(tracking.run_id)
    assert run.data.params == {
        "dataset_dir": "ct",
        "notes": '["y.json", "a.nii.gz"]',
        "uri": "sqlite:mlflow.db",
        "url": "https://data.example/set/1",
        "author": "<user>",
        "lr": "0.1",
        "spacing": "[0.5, 0.5, 2.0]",
    }
    assert run.data.tags["medseg.command"].startswith("medseg train --data ")
    assert run.data.tags["medseg.error"].startswith("OSError: ")
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.name == "ct"
    assert given.dataset.digest == ("0123456789abcdef" * 4)[:36]
    assert json.loads(given.dataset.profile) == {"images": 7, "fingerprint": "0123456789abcdef" * 4}
    files = [path.name for path in stored(runs, tracking.run_id).rglob("*") if path.is_file()]
    assert sorted(files) == ["config.yaml", "data.json", "metrics.jsonl"]


@quiet
def test_epochs_that_a_killed_process_did_not_send(tmp_path):
    folder = RunFolder(tmp_path / "run")
    first = tracker(folder.path)
    first.start()
    for epoch in (1, 2, 3):
        folder.append_metrics(epoch, {"loss": 1 / epoch})
    first.log_metrics({"loss": 1.0}, step=1)  # and is killed
    with tracker(folder.path, resume=True) as second:
        assert second.run_id == first.run_id
    first.finish()
    history = client(tmp_path).get_metric_history(second.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


class Killed(BaseException):
    """As SIGKILL: nothing that follows is done."""


@quiet
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("before", [False, True], ids=["new folder", "folder of an earlier run"])
def test_killed_before_the_record_is_written(tmp_path, monkeypatch, resume, before):
    """The run that MLflow has by then is used by the next start: none stays RUNNING that nothing ends."""
    if before:
        with tracker(tmp_path / "run"):
            pass
    written = RunFolder.write_json

    def killed(folder, name, value):
        if name == mlflow_run.RECORD:
            raise Killed
        return written(folder, name, value)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "write_json", killed)
        with pytest.raises(Killed):
            tracker(tmp_path / "run").start()
    store = client(tmp_path)
    (lost,) = [run for run in store.search_runs(["1"]) if run.info.status == "RUNNING"]
    with tracker(tmp_path / "run", resume=resume) as second:
        second.log_metrics({"loss": 1.0}, step=1)
    assert second.run_id == lost.info.run_id
    assert [run.info.status for run in store.search_runs(["1"])] == ["FINISHED"] * (1 + before)
    with tracker(tmp_path / "run") as third:  # the record is there: a start is a new run again
        pass
    assert third.run_id != second.run_id


@quiet
@pytest.mark.parametrize("damage", ["", "[]", '{"start": "of nothing", "experiment_id": "77"}'])
def test_note_of_a_start_that_made_nothing(tmp_path, damage):
    RunFolder(tmp_path / "run").write_text(".mlflow_begun.json", damage)
    with tracker(tmp_path / "run") as tracking:
        pass
    assert client(tmp_path).get_run(tracking.run_id).info.status == "FINISHED"
    assert not (tmp_path / "run" / ".mlflow_begun.json").exists()


@quiet
def test_a_start_is_a_new_run(tmp_path):
    with tracker(tmp_path / "run") as first:
        pass
    with tracker(tmp_path / "run") as second:
        pass
    assert second.run_id != first.run_id


@quiet
def test_an_evaluation_is_a_child_of_the_training(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "a")
    folder.append_metrics(1, {"loss": 1.0})
    folder.write_text("model.pt", "weights")
    with tracker(folder.path) as training:
        pass
    parent = training_run(folder.path / "model.pt")
    assert parent["run_id"] == training.run_id
    assert training_run(tmp_path / "elsewhere.pt") is None
    with MLflowTracker(None, "other", "evaluate", tmp_path / "scores", parent=parent) as child:
        child.log_metrics({"test_mean_iou": 0.5}, step=0)
    run = client(tmp_path / "runs").get_run(child.run_id)
    assert run.data.tags["mlflow.parentRunId"] == training.run_id
    assert run.info.experiment_id == client(tmp_path / "runs").get_run(training.run_id).info.experiment_id
    with MLflowTracker(None, "other", "evaluate", tmp_path / "two", parent={**parent, "run_id": "0" * 32}) as orphan:
        pass
    assert orphan.online
    assert "mlflow.parentRunId" not in client(tmp_path / "runs").get_run(orphan.run_id).data.tags


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "nonsense://x"])
def test_a_store_of_the_environment_that_cannot_be_used(tmp_path, monkeypatch, caplog, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with tracker(tmp_path / "run") as tracking:
        tracking.log_metrics({"loss": 1.0}, step=1)
    assert tracking.run_id is None
    (warning,) = warnings_of_ours(caplog)
    assert "MLFLOW_TRACKING_URI" in warning
    assert "is recorded in its folder alone" in warning


@quiet
def test_a_registered_model_has_its_signature(tmp_path):
    import mlflow.pytorch

    network = torch.nn.Conv2d(3, 5, 1)
    with tracker(tmp_path / "run") as tracking:
        tracking.register("cells", network, (3, 8, 8))
    assert tracking.online
    store = client(tmp_path)
    (version,) = store.search_model_versions("name = 'cells'")
    assert version.run_id == tracking.run_id
    folder = next((tmp_path / "mlartifacts").rglob("MLmodel")).parent
    signature = mlflow.models.Model.load(str(folder)).signature
    assert signature.inputs.inputs[0].shape == (-1, 3, -1, -1)
    assert signature.outputs.inputs[0].shape == (-1, 5, -1, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = mlflow.pytorch.load_model(str(folder))
    assert torch.equal(loaded.weight, network.weight)


@quiet
def test_a_model_that_cannot_be_registered_is_no_fault_of_the_run(tmp_path, caplog):
    network = torch.nn.Conv2d(3, 5, 1)
    network.hook = lambda: None  # cannot be copied to a file
    network.forward = lambda image: (_ for _ in ()).throw(RuntimeError("no such image"))
    with tracker(tmp_path / "run") as tracking:
        tracking.register("cells", network, (3, 8, 8))
        tracking.log_metrics({"loss": 1.0}, step=1)
    (warning,) = warnings_of_ours(caplog)
    assert warning == (
        "the model is not registered as 'cells' (RuntimeError: no such image); its run is recorded, and its weights "
        "are in the run's folder"
    )
    store = client(tmp_path)
    assert store.get_run(tracking.run_id).data.metrics == {"loss": 1.0}
    assert store.search_registered_models() == []
    (model,) = store.search_logged_models([store.get_run(tracking.run_id).info.experiment_id])
    assert model.status == "FAILED"


def test_without_a_run_in_mlflow_no_model_is_registered(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    with tracker(tmp_path / "run") as tracking:
        tracking.register("cells", torch.nn.Conv2d(3, 5, 1), (3, 8, 8))
    assert warnings_of_ours(caplog)[1:] == ["the model is not registered as 'cells': MLflow does not have its run"]


@quiet
def test_a_folder_of_runs_may_be_moved(tmp_path):
    """The database, the artifacts and the runs move together; training and evaluation go on in the new place."""
    folder = RunFolder(tmp_path / "runs" / "a")
    folder.append_metrics(1, {"loss": 1.0})
    with tracker(folder.path) as training:
        training.log_folder()
    (tmp_path / "runs").rename(tmp_path / "moved")
    folder = RunFolder(tmp_path / "moved" / "a")
    folder.append_metrics(2, {"loss": 0.5})
    folder.write_text("model.pt", "weights")
    with tracker(folder.path, resume=True) as resumed:
        resumed.log_folder()
    assert resumed.run_id == training.run_id
    place = stored(tmp_path / "moved", training.run_id)
    assert sorted(os.listdir(place)) == ["metrics.jsonl", "model.pt"]
    assert len((place / "metrics.jsonl").read_text().splitlines()) == 2
    (tmp_path / "moved").rename(tmp_path / "again")
    parent = training_run(tmp_path / "again" / "a" / "model.pt")
    assert parent["tracking_uri"] == f"sqlite:///{tmp_path}/again/mlflow.db"
    with MLflowTracker(None, "other", "evaluate", tmp_path / "scores", parent=parent) as child:
        pass
    assert client(tmp_path / "again").get_run(child.run_id).data.tags["mlflow.parentRunId"] == training.run_id
    assert sorted(os.listdir(tmp_path)) == ["again", "scores"]


@quiet
def test_the_process_stays_its_own(tmp_path, new_store):
    before = dict(os.environ)
    levels = {name: logging.getLogger(name).level for name in ("alembic", "medseg", "")}
    with tracker(tmp_path / "run") as tracking:
        tracking.log_metrics({"loss": 1.0}, step=1)
    assert dict(os.environ) == before
    assert {name: logging.getLogger(name).level for name in levels} == levels
