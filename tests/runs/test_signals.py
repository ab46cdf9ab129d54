"""A signal ends a run with loading processes as KILLED with its last state; tests/bundles sends both to commands."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from ignite.engine import Events
from runs import killed_runs

from medseg.engines.trainer import Trainer
from medseg.runs import signals
from medseg.runs.checkpoint import load_checkpoint
from medseg.runs.mlflow_run import MLflowRun
from medseg.runs.run import Run
from medseg.runs.tracking import MLflowTracker


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process end as a command does, and afterwards as before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    assert before[signal.SIGTERM] is signal.SIG_DFL, "importing sets no handler"
    monkeypatch.setattr(signals, "_received", [])
    monkeypatch.setattr(signals, "_process", [])
    signals.handle()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handled")
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's with SQLAlchemy 2.1
def test_the_run_ends_as_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Asked to in the second of six steps of its second epoch, while two processes load."""
    from mlflow.tracking import MlflowClient

    register, made = Trainer._register, Run.__init__

    def also(self: Trainer) -> None:
        register(self)
        self.add_event_handler(Events.ITERATION_STARTED(once=8), lambda _: os.kill(os.getpid(), signal.SIGTERM))

    def tracked(self: Run, folder: Path, **options: object) -> None:
        made(self, folder, **{**options, "tracking": True})  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_register", also)
    monkeypatch.setattr(Run, "__init__", tracked)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(signals.Terminated) as stopped:
        killed_runs.train(tmp_path / "run", 2, 0)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "Traceback" not in capfd.readouterr().err, "of a loading process"
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["epoch"] == 1
    assert not (tmp_path / "run" / ".lock").exists()
    record = json.loads((tmp_path / "run" / "mlflow_run.json").read_text())
    client = MlflowClient(tracking_uri=record["tracking_uri"])
    assert client.get_run(record["run_id"]).info.status == "KILLED"
    assert [point.step for point in client.get_metric_history(record["run_id"], "loss")] == [1]


@pytest.mark.usefixtures("handled")
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's with SQLAlchemy 2.1
@pytest.mark.parametrize("call", ["start", "log_metrics"])
def test_a_call_of_the_database_is_not_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Its file would stay locked, and the run in it without an end."""
    from mlflow.tracking import MlflowClient

    name, part = {"start": ("create_run", MlflowClient), "log_metrics": ("log_metrics", MLflowRun)}[call]
    real = getattr(part, name)

    def interrupted(*given: object, **named: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*given, **named)

    monkeypatch.setattr(part, name, interrupted)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking = MLflowTracker(None, "trials", "first", tmp_path / "run")
    with pytest.raises(signals.Terminated) as stopped:
        _log(tracking)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert tracking.run_id is not None
    client = MlflowClient(tracking_uri=tracking.uri)
    assert client.get_run(tracking.run_id).info.status == "KILLED"
    assert len(client.get_metric_history(tracking.run_id, "loss")) == (call == "log_metrics")


def _log(tracking: MLflowTracker) -> None:
    """Log one epoch, and end the run as the trainer does."""
    try:
        tracking.start()
        tracking.log_metrics({"loss": 1.0}, step=1)
    except SystemExit:
        tracking.finish("KILLED")
        raise


def test_without_a_block_the_request_ends_the_process_at_once(handled: None) -> None:
    with pytest.raises(signals.Terminated):
        os.kill(os.getpid(), signal.SIGTERM)
