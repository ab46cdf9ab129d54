"""A run in MLflow: as its folder has it, resumed, imported, and never in the way of a training."""

import logging
import math
import os
import socket
import subprocess
import sys
import time

import pytest

from medseg.runs import mlflow_run, mlflow_store
from medseg.runs.tracking import MLflowTracker, RunFolder, import_run

# MLflow 3.17's database models use a loader option that SQLAlchemy 2.1 deprecates
quiet = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def client(folder):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")


def stored(folder, run_id):
    """Return where a run's artifacts lie: beside the database."""
    return mlflow_store.artifact_path(
        f"sqlite:///{folder / 'mlflow.db'}", client(folder).get_run(run_id).info.artifact_uri
    )


def tracker(folder, name="first", **options):
    return MLflowTracker(None, "trials", name, folder, **options)


@quiet
def test_run_holds_everything(tmp_path, monkeypatch, new_store):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(tmp_path / "runs" / "a")
    config = {"network": {"channels": [8, 16]}, "lr": 0.1, "long": "x" * 20000, "labels": {"0": "glia / other?"}}
    folder.write_config(config)
    with tracker(folder.path) as tracking:
        tracking.log_params(config)
        for epoch in (1, 2):
            values = {"loss": 1 / epoch, "val_iou_glia/extra (cell)": 0.5, "absent": math.nan}
            tracking.log_metrics(values, step=epoch)
        tracking.log_artifact(folder.write_text("report/table.md", "table"), "report")
    assert tracking.online
    store = client(tmp_path / "runs")
    run = store.get_run(tracking.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["network.channels"] == "[8, 16]"
    assert run.data.params["lr"] == "0.1"
    assert run.data.params["labels.0"] == "glia / other?"
    assert "long" not in run.data.params  # whole in config.yaml, cut nowhere
    assert [(point.step, point.value) for point in store.get_metric_history(run.info.run_id, "loss")] == [
        (1, 1.0),
        (2, 0.5),
    ]
    assert set(run.data.metrics) == {"loss", "val_iou_glia/extra _cell_"}
    assert run.info.artifact_uri == f"mlflow-artifacts:/trials/{run.info.run_id}/artifacts"
    place = tmp_path / "runs" / "mlartifacts" / "trials" / run.info.run_id / "artifacts"
    assert stored(tmp_path / "runs", run.info.run_id) == place
    assert sorted(os.listdir(place)) == ["config.yaml", "report"]
    assert run.data.tags["mlflow.user"] == run.info.user_id == "medseg"
    assert sorted(os.listdir(tmp_path)) == ["runs"]
    assert sorted(os.listdir(tmp_path / "runs")) == ["a", "mlartifacts", "mlflow.db"]


@quiet
@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_status_after_an_exception(tmp_path, error, status):
    tracking = tracker(tmp_path / "run")
    with pytest.raises(error), tracking:
        raise error
    assert client(tmp_path).get_run(tracking.run_id).info.status == status


@quiet
def test_resume_continues_the_run(tmp_path):
    with tracker(tmp_path / "run") as first:
        first.log_params({"lr": 0.1, "epochs": 5})
        first.log_metrics({"loss": 1.0}, step=1)
    second = tracker(tmp_path / "run", resume=True)
    second.start()
    assert second.run_id == first.run_id
    assert client(tmp_path).get_run(first.run_id).info.status == "RUNNING"
    second.log_params({"lr": 0.1, "epochs": 9, "ema": True})
    second.log_metrics({"loss": 0.5}, step=2)
    second.finish()
    run = client(tmp_path).get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1", "epochs": "5", "ema": "true"}
    assert run.data.tags["resumed.epochs"] == "9"
    assert [point.step for point in client(tmp_path).get_metric_history(first.run_id, "loss")] == [1, 2]


@quiet
def test_resume_after_the_store_is_gone(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with tracker(folder.path, store=tmp_path / "old") as first:
        folder.append_metrics(1, {"loss": 1.0})
        first.log_metrics({"loss": 1.0}, step=1)
    with tracker(folder.path, store=tmp_path / "new") as second:
        second.log_metrics({"loss": 0.5}, step=2)
    assert second.run_id != first.run_id
    assert [point.step for point in client(tmp_path / "new").get_metric_history(second.run_id, "loss")] == [1, 2]


@quiet
def test_names_are_unique(tmp_path):
    names = []
    for number in range(3):
        with tracker(tmp_path / f"run{number}", name="it's 100%") as tracking:
            names.append(client(tmp_path).get_run(tracking.run_id).info.run_name)
    assert names == ["it_s 100_", "it_s 100_-2", "it_s 100_-3"]


@quiet
def test_folder_with_an_odd_name(tmp_path):
    with tracker(tmp_path / "schön & #1" / "run") as tracking:
        tracking.log_artifact(RunFolder(tmp_path / "schön & #1" / "run").write_text("note.txt", "x"))
    assert tracking.online
    assert (tmp_path / "schön & #1" / "mlflow.db").is_file()
    assert len(list((tmp_path / "schön & #1" / "mlartifacts").rglob("note.txt"))) == 1


def test_uri_that_is_no_store(tmp_path):
    with pytest.raises(ValueError, match="'runs/mlruns' is no MLflow store; give http"):
        MLflowTracker("runs/mlruns", "trials", "first", tmp_path / "run")


@pytest.mark.parametrize("name", ["what?", "100%20"])
def test_folder_that_an_address_cannot_hold(tmp_path, name, caplog):
    """Tracking never stops a training; an address that was given is another matter."""
    with tracker(tmp_path / name / "run") as tracking:
        tracking.log_metrics({"loss": 1.0}, step=1)
    (warning,) = warnings_of_ours(caplog)
    assert "has a meaning in its address; rename the folder" in warning
    assert "the run goes on and is recorded in its folder alone" in warning
    with pytest.raises(ValueError, match="has a meaning in its address"):
        MLflowTracker(f"sqlite:///{tmp_path}/{name}/mlflow.db", "trials", "first", tmp_path / "run")


@pytest.mark.parametrize("uri", ["sqlite:////proc/mlflow.db", "postgresql://me:secret@127.0.0.1:{port}/runs"])
def test_database_that_cannot_be_opened(tmp_path, caplog, uri):
    began = time.perf_counter()
    with MLflowTracker(uri.format(port=free_port()), "trials", "first", tmp_path / "run") as tracking:
        tracking.log_metrics({"loss": 1.0}, step=1)
    assert time.perf_counter() - began < 20
    (warning,) = warnings_of_ours(caplog)
    assert "the run goes on" in warning
    assert "secret" not in caplog.text


def test_relative_database_is_fixed_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri, artifacts = mlflow_store.resolve_store("sqlite:///here.db", tmp_path / "elsewhere")
    assert uri == f"sqlite:///{tmp_path}/here.db"
    assert artifacts == "mlflow-artifacts:"
    assert mlflow_store.artifact_folder(uri) == tmp_path / "mlartifacts"
    _, artifacts = mlflow_store.resolve_store("postgresql://here/runs", tmp_path)
    assert artifacts == (tmp_path / "mlartifacts").as_uri()


def test_environment_chooses_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert MLflowTracker(None, "trials", "first", tmp_path / "run").uri == "http://tracking.example:5000"


def test_without_mlflow(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with tracker(tmp_path / "run") as tracking:
        tracking.log_params({"lr": 0.1})
        tracking.log_metrics({"loss": 1.0}, step=1)
    assert tracking.run_id is None
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "MLflow is not installed, so the run is recorded in its folder alone; pip install mlflow"
    ]
    RunFolder(tmp_path / "run").append_metrics(1, {"loss": 1.0})
    with pytest.raises(ImportError):
        import_run(tmp_path / "run")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def warnings_of_ours(caplog):
    records = [record for record in caplog.records if record.name.startswith("medseg")]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


def test_server_that_does_not_answer(tmp_path, caplog):
    uri = f"http://me:secret@127.0.0.1:{free_port()}"
    began = time.perf_counter()
    with MLflowTracker(uri, "trials", "first", tmp_path / "run") as tracking:
        tracking.log_params({"lr": 0.1})
        tracking.log_metrics({"loss": 1.0}, step=1)
    assert time.perf_counter() - began < 20
    assert not tracking.online
    (warning,) = warnings_of_ours(caplog)
    assert "the run goes on and is recorded in its folder" in warning
    assert "secret" not in caplog.text


@pytest.mark.timeout(60)
def test_server_that_hangs(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        began = time.perf_counter()
        with MLflowTracker(f"http://127.0.0.1:{silent.getsockname()[1]}", "t", "n", tmp_path / "run") as tracking:
            for epoch in range(100):
                tracking.log_metrics({"loss": 1.0}, step=epoch)
        assert time.perf_counter() - began < 20
    assert len(warnings_of_ours(caplog)) == 1


@quiet
def test_store_that_fails_for_a_while(tmp_path, monkeypatch, caplog):
    folder = RunFolder(tmp_path / "run")
    tracking = tracker(folder.path)
    tracking.start()
    original = mlflow_run.MLflowRun.log_metrics

    def fail(*_):
        raise ConnectionError("the network is down")

    for epoch in (1, 2, 3):
        folder.append_metrics(epoch, {"loss": 1 / epoch})
        monkeypatch.setattr(mlflow_run.MLflowRun, "log_metrics", fail if epoch == 2 else original)
        tracking.log_metrics({"loss": 1 / epoch}, step=epoch)
    tracking.finish()
    run = client(tmp_path).get_run(tracking.run_id)
    assert run.info.status == "FINISHED"
    history = client(tmp_path).get_metric_history(tracking.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    failed, restored = warnings_of_ours(caplog)
    assert "the network is down" in failed
    assert "answers again" in restored


@quiet
def test_import_of_a_recorded_run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_config({"lr": 0.1})
    folder.write_json("environment.json", {"python": "3.11.7"})
    folder.write_json("data.json", {"fingerprint": "abc"})
    folder.write_text("report/table.md", "table")
    folder.write_text("checkpoints/last.pt", "state")
    folder.write_text("checkpoints/best.pt", "weights")
    for epoch in (1, 2):
        folder.append_metrics(epoch, {"loss": 1 / epoch, "val_iou_x": math.nan})
    run_id = import_run(folder.path, store=tmp_path / "store")
    assert import_run(folder.path, store=tmp_path / "store") == run_id
    store = client(tmp_path / "store")
    run = store.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params == {"lr": "0.1", "data.fingerprint": "abc", "environment.python": "3.11.7"}
    history = store.get_metric_history(run_id, "loss")
    assert [point.step for point in history] == [1, 2]
    assert [point.timestamp for point in history] == [round(row["time"] * 1000) for row in folder.read_metrics()]
    place = stored(tmp_path / "store", run_id)
    assert os.listdir(place / "checkpoints") == ["best.pt"]
    assert set(os.listdir(place)) >= {"config.yaml", "metrics.jsonl", "report"}


def test_import_of_another_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no metrics\.jsonl, so it is no run folder"):
        import_run(tmp_path)


ABANDONED = """
import sys, threading
import {first}
from medseg.runs.tracking import MLflowTracker
tracking = MLflowTracker(None, "trials", "first", sys.argv[1])
tracking.start()
tracking.log_metrics({{"loss": 1.0}}, step=1)
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is None
assert [thread.name for thread in threading.enumerate()] == ["MainThread"], threading.enumerate()
print(tracking.run_id)
raise RuntimeError("nobody finishes the run")
"""


@quiet
@pytest.mark.parametrize("first", ["medseg", "mlflow"])
def test_left_open_ends_as_failed_without_telemetry(tmp_path, first):
    hidden = ("CI", "MLFLOW_", "DO_NOT_TRACK", "PYTEST", "GITHUB", "GITLAB")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    done = subprocess.run(
        [sys.executable, "-c", ABANDONED.format(first=first), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
    )
    assert "nobody finishes the run" in done.stderr
    assert "INFO" not in done.stderr
    assert client(tmp_path).get_run(done.stdout.strip()).info.status == "FAILED"


def test_import_is_lazy():
    code = "import sys, medseg.runs.tracking; print({'mlflow', 'torch', 'yaml', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
