"""The executor of batch systems: jobs go to Slurm, or to processes of this machine, through submitit.

The folder that all logs are below holds what submitit writes, in ``submitit/``, which the machines that work must see
as this one does; a job's own folder may go as soon as it is done, while others are not. A job of a process that was
killed is not called back: whoever does the same job again waits until it has ended.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import MedsegError, shown
from medseg.jobs import here
from medseg.jobs.gpus import VISIBLE, Gpus
from medseg.jobs.here import at_least_one
from medseg.jobs.job import Done, Executor, Job, work

__all__ = ["batch", "sharing"]

_CLUSTER, _GPUS = "cluster", "gpus_per_node"
_OF_THIS_MACHINE, _ONE_BY_ONE = ("local", "debug"), "debug"
_END = 20.0  # seconds
_POLL = 1.0  # seconds between two looks at the jobs
_LONG = 14 * 24 * 60  # minutes that a job on this machine may take, which submitit otherwise ends after two


class _Work:
    """A job as submitit takes it: one that its batch system puts off goes on later."""

    def __init__(self, job: Job, share: int, environment: Mapping[str, str]) -> None:
        self._job, self._share, self._environment = job, share, environment

    def __call__(self) -> Done:
        return work(self._job, self._share, environment=self._environment)

    def checkpoint(self) -> Any:
        """Return what is put into the queue again, as the time of the job is over or its machine is wanted."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def batch(workers: int = 1, settings: Mapping[str, Any] | None = None) -> Executor:
    """Return the executor that hands jobs to a batch system.

    Args:
        workers: jobs in its queue or at work at a time.
        settings: ``cluster`` (``slurm``, ``local`` for processes of this machine, ``debug`` for this process; by
            default Slurm where it is there, else ``local``), and submitit's parameters of a job, such as
            ``timeout_min``, ``slurm_partition`` or ``cpus_per_task``.

    Raises:
        MedsegError: if submitit is not installed, there is no such cluster or parameter, or ``workers`` is not at
            least 1.
    """
    at_least_one(workers)
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise MedsegError("the executor submitit needs the package submitit: pip install medseg[submitit]") from error
    given = {"name": "medseg", **(settings or {})}
    _cluster_of(given)  # what it refuses, it refuses now

    def execute(jobs: Sequence[Job]) -> Iterator[Done]:
        if not jobs:
            return
        executor = _executor(Path(os.path.commonpath([job.log.parent for job in jobs])) / "submitit", given)
        yield from _rolling(executor, jobs, workers, _Shares.of(executor.cluster, given, workers))

    return execute


def sharing(workers: int, settings: Mapping[str, Any] | None = None, *, names_device: bool = False) -> int:
    """Return how many jobs at a time work on the same GPU at most, or on this machine where they see none.

    On other machines it is one: its batch system gives a job what it asks for.

    Args:
        workers: as of `batch`.
        settings: as of `batch`.
        names_device: whether the jobs name their device, which they share then.
    """
    given = dict(settings or {})
    cluster = _cluster_of(given)
    if cluster not in _OF_THIS_MACHINE or cluster == _ONE_BY_ONE:
        return 1
    return here.sharing(workers, names_device=names_device or _GPUS in given)  # submitit shows the same ones to all


def _cluster_of(given: Mapping[str, Any]) -> str:
    """Return what kind of batch system submitit takes."""
    with tempfile.TemporaryDirectory() as folder:
        return str(_executor(Path(folder), given).cluster)


def _executor(folder: Path, given: Mapping[str, Any]) -> Any:
    import submitit

    parameters = dict(given)
    cluster = parameters.pop(_CLUSTER, None)
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        if executor.cluster != "slurm":
            parameters = {"timeout_min": _LONG, **parameters}
        executor.update_parameters(**parameters)
    except (ValueError, TypeError, NameError, AssertionError, RuntimeError) as error:
        said = shown(str(error).partition("\n")[0])
        asked = " ".join(f"{key}={value}" for key, value in given.items() if key != "name")
        raise MedsegError(
            f"--job {asked}: submitit refuses it: {said}; its parameters are those of submitit.AutoExecutor, such as "
            "cluster=slurm timeout_min=240 slurm_partition=gpu"
        ) from error
    return executor


@dataclass(frozen=True)
class _Shares:
    """What jobs get of the machine that they work on; of another machine, its batch system says it."""

    processors: int
    gpus: Gpus | None

    @classmethod
    def of(cls, cluster: str, given: Mapping[str, Any], workers: int) -> _Shares:
        if cluster not in _OF_THIS_MACHINE:
            return cls(1, None)
        return cls(1 if cluster == _ONE_BY_ONE else workers, None if _GPUS in given else Gpus())

    @contextmanager
    def lend(self, job: Job) -> Iterator[Mapping[str, str]]:
        if self.gpus is None:
            yield {}
            return
        with self.gpus.lend(job) as lent:  # submitit hides all GPUs from jobs of this machine, or shows all the same
            yield {VISIBLE: ",".join(self.gpus.names), **lent}


def _rolling(executor: Any, jobs: Sequence[Job], workers: int, shares: _Shares) -> Iterator[Done]:
    """Keep so many jobs in the queue; yield each that has ended."""
    left = list(jobs)[::-1]
    running: dict[str, tuple[Job, Any, ExitStack]] = {}
    try:
        while left or running:
            while left and len(running) < workers:
                job, lent = left.pop(), ExitStack()
                environment = lent.enter_context(shares.lend(job))
                with _interruptible():
                    submitted = executor.submit(_Work(job, shares.processors, environment))
                running[job.name] = (job, submitted, lent)
            ended = [each for each in running.values() if each[1].done()]
            for job, submitted, lent in ended:
                del running[job.name]
                lent.close()
                yield _result(job, submitted)
            if not ended:
                time.sleep(_POLL)
    finally:  # the caller has had enough, or was told to end
        for _, submitted, _ in running.values():
            with suppress(Exception):  # a batch system may say anything of a job that has ended by itself
                submitted.cancel()
        _let_end([submitted for _, submitted, _ in running.values()])


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let processes that are started take SIGINT, by which submitit ends those of this machine.

    What a script's shell has put into the background ignores it, and with it all that is started there.
    """
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if not ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: None)  # what is started has the default, this process goes on to ignore it
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _let_end(cancelled: Sequence[Any]) -> None:
    """Wait until processes of this machine have ended; a batch system's end in their own time."""
    until = time.monotonic() + _END
    here = [each for each in cancelled if getattr(each, "_process", None) is not None]
    while any(not each.done() for each in here) and time.monotonic() < until:
        time.sleep(0.1)


def _result(job: Job, submitted: Any) -> Done:
    """Return what a job that has ended says, or what the batch system says of it."""
    error = submitted.exception()
    if error is None:
        found: Done = submitted.result()
        return found
    if job.complete.is_file():
        return Done(job.name)
    lines = [line for line in str(error).splitlines() if line.strip()]
    return Done(job.name, f"job {submitted.job_id} ended before it was done ({shown(lines[0])}); see {job.log}")
