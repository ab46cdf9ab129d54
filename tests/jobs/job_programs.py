"""Jobs that are a few lines of Python and import nothing of ours, for tests of those who carry jobs out."""

import sys
import time
from pathlib import Path

from medseg.jobs.job import Job

PROGRAM = """
import os, pathlib, sys, time
folder, name = sys.argv[1:3]
folder = pathlib.Path(folder)
if name.startswith("good"):
    (folder / name).write_text(os.environ["OMP_NUM_THREADS"])
elif name == "refused":
    sys.exit("medseg: error: fold 9 is not there; choose one of 0, 1")
elif name.startswith("sees"):  # sees_N_any: ends once N of these have said what they see
    (folder / f"{name}.seen").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    while len([*folder.glob("*.seen")]) < int(name.split("_")[1]):
        time.sleep(0.01)
    if name.endswith("dies"):
        os.kill(os.getpid(), 9)
    (folder / name).touch()
elif name == "killed":
    os.kill(os.getpid(), 9)
elif name.startswith("long"):
    (folder / f"{name}.pid").write_text(str(os.getppid()))
    sys.stdin.read()
    (folder / "ended").touch()
elif name == "twice":  # the first time it waits to be killed with the process that started it
    first = not (folder / "twice.pid").exists()
    (folder / "twice.pid").write_text(str(os.getppid()))
    if first:
        sys.stdin.read()
    else:
        (folder / name).touch()
"""

COMMAND = (sys.executable, "-c", PROGRAM)


def wait_for(path: Path) -> None:
    """Wait until a file is there; how long, is said by the test's own limit alone."""
    while not path.is_file():
        time.sleep(0.05)


def pid_in(path: Path) -> int:
    """Return the process whose number a file holds, once it is there and whole."""
    wait_for(path)
    while not (text := path.read_text()):
        time.sleep(0.05)
    return int(text)


def seen(folder: Path) -> dict[str, str]:
    """Return which GPUs each job saw that is called ``sees``."""
    return {path.stem: path.read_text() for path in folder.glob("*.seen")}


def jobs_of(folder: Path, *names: str) -> list[Job]:
    """Return a job for each name."""
    return [Job(name, (str(folder), name), folder / "logs" / f"{name}.log", folder / name) for name in names]
