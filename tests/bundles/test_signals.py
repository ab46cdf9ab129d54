"""A real training that is asked to end in the middle of an epoch goes on later and ends as if nothing had been."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from bundles.helpers import ENVIRONMENT, ROOT, SECONDS, configs, small

from medseg.runs.checkpoint import load_checkpoint

BUNDLE = ROOT / "bundles" / "lfa_unet_drosophila"
EPOCHS = 6
# under nohup SIGHUP is ignored, and stays so in what is started: a shell's user starts with the usual handlers
USUAL = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"


def words(program: str, data: Path, run: Path, *, resume: bool) -> list[str]:
    """Return the command line of a small training, by medseg's command or by MONAI's."""
    options = {**small(BUNDLE), "batch_size": 2, "max_epochs": EPOCHS, "mlflow": "True", "ema_decay": 0.9}
    options |= {"resume" if resume else "output_dir": str(run)}
    options = {key.replace("__", "#"): v if isinstance(v, str) else json.dumps(v) for key, v in options.items()}
    if program == "medseg":
        place = options.pop("resume" if resume else "output_dir")
        given = [f"{key}={value}" for key, value in options.items()]
        where = ["--resume" if resume else "--output", place]
        return [sys.executable, "-m", "medseg.cli", "train", str(BUNDLE), "--data", str(data), *where, *given]
    options |= {"config_file": configs(BUNDLE, "train.yaml"), "dataset_dir": str(data)}
    return [sys.executable, "-m", "monai.bundle", "run", *(w for k, v in options.items() for w in (f"--{k}", v))]


def start(command: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-c", USUAL, *command], cwd=folder, env=environment, stdout=log, stderr=log, text=True
        )


def stamp(run: Path) -> int:
    """Return when the last checkpoint was written."""
    file = run / "checkpoints" / "last.pt"
    return file.stat().st_mtime_ns if file.is_file() else 0


def interrupt(command: Sequence[str], run: Path, number: int) -> int:
    """Start a training; send a signal once it has completed an epoch, while the next goes on; return the status."""
    before, end = stamp(run), time.monotonic() + SECONDS
    child = start(command, run.parent)
    while stamp(run) == before:
        assert child.poll() is None, "it ended before an epoch was complete"
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.1)  # into the next epoch: its steps, mostly
    child.send_signal(number)
    return child.wait(SECONDS)


def mlflow_run(run: Path) -> tuple[str, str, list[int]]:
    """Return id, status and epochs of a run in MLflow."""
    from mlflow.tracking import MlflowClient

    record = json.loads((run / "mlflow_run.json").read_text())
    client = MlflowClient(tracking_uri=record["tracking_uri"])
    steps = [point.step for point in client.get_metric_history(record["run_id"], "loss")]
    return record["run_id"], client.get_run(record["run_id"]).info.status, steps


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's with SQLAlchemy 2.1
def test_a_training_that_is_asked_to_end_goes_on(sections: Path, laid_out_store: Path, tmp_path: Path) -> None:
    """By one command, then by the other, each time by another signal: what ends is the run that was left alone."""
    whole, run = (tmp_path / name / "run" for name in ("whole", "broken"))
    for folder in (whole.parent, run.parent):
        folder.mkdir()
        shutil.copy(laid_out_store, folder)
    child = start(words("medseg", sections, whole, resume=False), whole.parent)
    assert child.wait(SECONDS) == 0, (whole.parent / "log.txt").read_text()

    before, held, identity = 0, 0, ""
    for program, name in (("medseg", "SIGTERM"), ("monai", "SIGHUP")):
        number = int(getattr(signal, name))
        status = interrupt(words(program, sections, run, resume=held > 0), run, number)
        said = (run.parent / "log.txt").read_text()
        assert status == 128 + number, said
        assert "Traceback" not in said
        assert said.count(f"{name}: the run ends now; --resume FOLDER continues a training") == 1
        assert not (run / ".lock").exists()
        assert not (run / "model.pt").exists()
        before, held = held, load_checkpoint(run / "checkpoints" / "last.pt")["epoch"]
        assert before < held < EPOCHS
        known, ended, epochs = mlflow_run(run)
        assert ended == "KILLED"
        assert epochs in (list(range(1, held + 1)), list(range(1, held))), "the last one may have been on its way"
        assert identity in ("", known)
        identity = known

    child = start(words("medseg", sections, run, resume=True), run.parent)
    assert child.wait(SECONDS) == 0, (run.parent / "log.txt").read_text()
    assert mlflow_run(run) == (identity, "FINISHED", list(range(1, EPOCHS + 1)))
    for file in ("model.pt", "checkpoints/last.pt"):
        one, other = (load_checkpoint(folder / file) for folder in (whole, run))
        found, wanted = (each.get("network", each) for each in (other, one))
        assert found.keys() == wanted.keys()
        assert [key for key in wanted if not torch.equal(found[key], wanted[key])] == [], file
