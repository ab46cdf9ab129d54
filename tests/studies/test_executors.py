"""The processes of a study's cells on this machine: what they end with is told, and they end with who started them."""

import subprocess
import sys
from pathlib import Path

import pytest

from medseg.studies import executors
from medseg.studies.executors import here

PROGRAM = """
import os, pathlib, sys, time
folder, name = sys.argv[1:3]
if name == "good":
    (pathlib.Path(folder) / "cells" / name).mkdir(parents=True)
    (pathlib.Path(folder) / "cells" / name / "cell.json").write_text(os.environ["OMP_NUM_THREADS"])
elif name == "refused":
    sys.exit("medseg: error: fold 9 is not there; choose one of 0, 1")
elif name == "killed":
    os.kill(os.getpid(), 9)
elif name == "long":
    sys.stdin.read()
    (pathlib.Path(folder) / "ended").touch()
"""


@pytest.fixture(autouse=True)
def small_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a cell be a few lines of Python that import nothing of ours."""
    monkeypatch.setattr(executors, "COMMAND", (sys.executable, "-c", PROGRAM))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_what_became_of_each_is_told(tmp_path: Path) -> None:
    done = {result.name: result.error for result in here(2)(tmp_path, ["good", "refused", "killed", "nothing"], False)}
    assert done["good"] == ""
    assert done["refused"] == f"fold 9 is not there; choose one of 0, 1; see {tmp_path / 'logs' / 'refused.log'}"
    assert done["killed"].startswith("its process was ended by signal 9; see")
    assert done["nothing"].startswith("its process ended with status 0")  # and left no cell
    assert int((tmp_path / "cells" / "good" / "cell.json").read_text()) >= 1


def test_they_end_with_who_asked_for_them(tmp_path: Path) -> None:
    running = here(2)(tmp_path, ["long", "good", "long"], False)
    assert next(running).name == "good"
    running.close()  # type: ignore[attr-defined]
    assert (tmp_path / "ended").is_file()


def test_a_tied_process_ends_when_its_input_closes() -> None:
    code = "import time; from medseg.cli import study; study._end_with_input(); print(1, flush=True); time.sleep(99)"
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"1\n"
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(timeout=60) == 1
