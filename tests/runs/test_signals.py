"""A signal ends a run with loading processes as KILLED with its last state; tests/bundles sends both of them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medseg.runs.checkpoint import load_checkpoint

TRAIN = """
import os, signal, sys, time
from pathlib import Path
import torch
import runs.killed_runs as killed
from ignite.engine import Events
from medseg.engines.trainer import Trainer
from medseg.runs import signals
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "importing sets no handler"
signals.handle()
register = Trainer._register
def also(self):
    register(self)
    def ask():
        if self.state.iteration == 8:
            os.kill(os.getpid(), signal.SIGTERM)
    self.add_event_handler(Events.ITERATION_STARTED, ask)
Trainer._register = also
from medseg.runs.run import Run
made = Run.__init__
Run.__init__ = lambda self, folder, **options: made(self, folder, **{**options, "tracking": True})
killed.train(Path(sys.argv[1]), 2, 0)
"""


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's with SQLAlchemy 2.1
def test_the_run_ends_as_killed(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tests.parent}:{tests}", "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    words = [sys.executable, "-c", TRAIN, str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=280)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "Traceback" not in done.stderr
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["epoch"] == 1
    assert not (tmp_path / "run" / ".lock").exists()
    from mlflow.tracking import MlflowClient

    record = json.loads((tmp_path / "run" / "mlflow_run.json").read_text())
    client = MlflowClient(tracking_uri=record["tracking_uri"])
    assert client.get_run(record["run_id"]).info.status == "KILLED"
    assert [point.step for point in client.get_metric_history(record["run_id"], "loss")] == [1]
