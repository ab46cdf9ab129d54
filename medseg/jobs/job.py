"""A job: a process of its own with a name, a log and a file that says that it is complete; and who carries jobs out.

An executor takes jobs and tells of each when nobody works on it any more. `medseg.jobs.here` starts them on this
machine, `medseg.jobs.batch` hands them to a batch system through submitit, `medseg.jobs.cluster` to Ray. None of them
makes a job twice at the same time on purpose, and none has to keep it from happening: jobs lock what they work on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["COMMAND", "Done", "Executor", "Job", "Process", "cores", "names_device", "threads", "work"]

COMMAND = (sys.executable, "-m", "medseg.cli")
"""What a job's words are given to."""

_SAID = "medseg: error: "  # how `medseg` begins the line that says what is wrong
_TAIL = 4096  # bytes of a log that are looked at


@dataclass(frozen=True)
class Job:
    """What is to be done, as plain values that another machine can be told.

    Args:
        name: of the job, for readers.
        words: of the command ``medseg``, which ends when its standard input closes.
        log: file that what it says is added to; its folder is made.
        complete: file that is there when the job is done.
        names_device: whether its words, or what they refer to, name a device; else it takes the GPU that it is given.
    """

    name: str
    words: tuple[str, ...]
    log: Path
    complete: Path
    names_device: bool = False


@dataclass(frozen=True)
class Done:
    """A job that nobody works on any more.

    Args:
        name: of the job.
        error: why it is not complete; empty where it is.
    """

    name: str
    error: str = ""


Executor = Callable[[Sequence[Job]], Iterator[Done]]
"""Takes jobs, and yields each when it is done; closed before the last, it ends those that are at work."""


def names_device(settings: Mapping[str, Any]) -> bool:
    """Return whether settings of a model name a device, ``cpu`` or one GPU of several, and do not leave it open.

    Args:
        settings: single keys of a configuration.
    """
    return settings.get("device") not in (None, "auto", "cuda")


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Process:
    """The process of a job, which ends with the process that started it, however that ends.

    Args:
        job: what it does.
        environment: variables beside those of this process.
        command: what the job's words are given to; by default medseg of this Python.
    """

    def __init__(self, job: Job, environment: Mapping[str, str], command: Sequence[str] = ()) -> None:
        self._job = job
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with open(job.log, "ab") as file:
            self._began = file.tell()
            self._child = subprocess.Popen(
                [*(command or COMMAND), *job.words],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )

    def wait(self) -> Done:
        """Wait until it ends, and say what came of the job."""
        status = self._child.wait()
        self.end()
        job = self._job
        if status == 0 and job.complete.is_file():
            return Done(job.name)
        return Done(job.name, f"{self._reason(status)}; see {job.log}")

    def end(self) -> None:
        """Let it end now; what it made so far is kept."""
        with suppress(OSError):
            if self._child.stdin is not None:
                self._child.stdin.close()

    def _reason(self, status: int) -> str:
        """Return the last error that the process named, or how it ended."""
        with open(self._job.log, "rb") as file:
            file.seek(max(self._began, self._job.log.stat().st_size - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
        said = [line.removeprefix(_SAID) for line in lines[-3:] if line.startswith(_SAID)]
        how = f"its process was ended by signal {-status}" if status < 0 else f"its process ended with status {status}"
        return said[-1] if said else how


def work(job: Job, share: int = 1, command: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Done:
    """Do a job where this function is called, such as on a machine of a batch system, in a process of its own.

    Args:
        job: what is to be done; one that is complete is left as it is.
        share: jobs between which the processors of this machine are divided, unless ``OMP_NUM_THREADS`` says otherwise.
        command: as in `Process`.
        environment: variables beside those of this process.
    """
    if job.complete.is_file():
        return Done(job.name)
    return Process(job, {**threads(share), **(environment or {})}, command).wait()


def threads(share: int) -> dict[str, str]:
    """Return the environment that divides the processors of this machine between so many jobs."""
    held = os.environ.get("OMP_NUM_THREADS")
    return {"OMP_NUM_THREADS": held or str(max(1, cores() // share))}
