"""Who makes the cells of a study: an executor takes their names and tells of each when it is done.

That is all there is between a study and the machines that work for it. `here` starts a process a cell on this machine;
another executor hands `run_cell` of `medseg.studies.study_cell` to a batch system. The cells themselves see to it that
each is made once: whichever process comes to one locks it, goes on with it, or finds it complete.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from medseg.errors import MedsegError
from medseg.studies.study_cell import Places

__all__ = ["Done", "Executor", "here"]

COMMAND = (sys.executable, "-m", "medseg.cli", "study", "cell")
"""Makes a cell, followed by the study's folder and the cell's name."""

_SAID = "medseg: error: "  # how `medseg` begins the line that says what is wrong
_TAIL = 4096  # bytes of a log that are looked at


@dataclass(frozen=True)
class Done:
    """A cell that nobody works on any more.

    Args:
        name: of the cell.
        error: why it is not complete; empty where it is.
    """

    name: str
    error: str = ""


Executor = Callable[[Path, Sequence[str], bool], Iterator[Done]]
"""Takes the folder of a study, the names of cells and whether cells may be mixed; yields each cell when it is done."""


def here(workers: int = 1) -> Executor:
    """Return the executor of this machine: so many processes at a time, each for one cell.

    The processors are divided between them, unless ``OMP_NUM_THREADS`` says otherwise. They end with the process that
    started them, however that ends: their standard input closes then.

    Args:
        workers: processes at a time.

    Raises:
        MedsegError: if it is not at least 1.
    """
    if workers < 1:
        raise MedsegError(f"workers is {workers}; give a whole number of at least 1")

    def execute(folder: Path, names: Sequence[str], mixed: bool) -> Iterator[Done]:
        running = _Children()
        pool = ThreadPoolExecutor(workers)
        try:
            futures = [pool.submit(running.run, folder, name, mixed, workers) for name in names]
            for future in as_completed(futures):
                yield future.result()
        finally:  # the caller has had enough, or was told to end
            pool.shutdown(wait=False, cancel_futures=True)
            running.end()
            pool.shutdown()

    return execute


class _Children:
    """The processes that work at the moment."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._alive: list[subprocess.Popen[bytes]] = []
        self._ended = False

    def run(self, folder: Path, name: str, mixed: bool, workers: int) -> Done:
        """Make a cell in a process of its own, and wait for it."""
        places = Places(folder)
        log = places.log(name)
        log.parent.mkdir(exist_ok=True)
        words = [*COMMAND, str(folder), name, "--tied", *(["--mixed"] if mixed else [])]
        with open(log, "ab") as file:
            with self._lock:
                if self._ended:
                    return Done(name, "it was not begun")
                child = subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, env=_environment(workers)
                )
                self._alive.append(child)
            status = child.wait()
        with self._lock:
            self._alive.remove(child)
        if child.stdin is not None:
            child.stdin.close()
        if status == 0 and places.complete(name):
            return Done(name)
        return Done(name, f"{_reason(log, status)}; see {log}")

    def end(self) -> None:
        """Let all of them end now; what they made so far is kept."""
        with self._lock:
            self._ended = True
            for child in self._alive:
                with suppress(OSError):
                    if child.stdin is not None:
                        child.stdin.close()


def _environment(workers: int) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // workers)), **os.environ}


def _reason(log: Path, status: int) -> str:
    """Return the last error that a process named, or how it ended."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    said = [line.removeprefix(_SAID) for line in lines[-3:] if line.startswith(_SAID)]
    how = f"its process was ended by signal {-status}" if status < 0 else f"its process ended with status {status}"
    return said[-1] if said else how
