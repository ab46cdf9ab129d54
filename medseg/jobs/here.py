"""The executor of this machine: so many processes at a time, each for one job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Lock

from medseg.errors import MedsegError
from medseg.jobs.gpus import Gpus
from medseg.jobs.job import Done, Executor, Job, Process, threads

__all__ = ["at_least_one", "here", "sharing"]


def at_least_one(workers: int) -> int:
    """Return a number of workers.

    Args:
        workers: as it was given.

    Raises:
        MedsegError: if it is not at least 1.
    """
    if workers < 1:
        raise MedsegError(f"workers is {workers}; give a whole number of at least 1")
    return workers


def here(workers: int = 1) -> Executor:
    """Return the executor of this machine.

    The processors are divided between the processes, unless ``OMP_NUM_THREADS`` says otherwise, and each sees one GPU:
    its own, or of more processes than GPUs one that it shares with as few as can be. They end with the process that
    started them, however that ends: their standard input closes then.

    Args:
        workers: processes at a time.

    Raises:
        MedsegError: if ``workers`` is not at least 1.
    """
    at_least_one(workers)

    def execute(given: Sequence[Job]) -> Iterator[Done]:
        running = _Running(threads(workers), Gpus())
        pool = ThreadPoolExecutor(workers)
        try:
            futures = [pool.submit(running.run, job) for job in given]
            for future in as_completed(futures):
                yield future.result()
        finally:  # the caller has had enough, or was told to end
            pool.shutdown(wait=False, cancel_futures=True)
            running.end()
            pool.shutdown()

    return execute


def sharing(workers: int, *, names_device: bool = False) -> int:
    """Return how many jobs at a time work on the same GPU at most, or on this machine where they see none.

    Args:
        workers: processes at a time.
        names_device: whether the jobs name their device, which they share then.
    """
    return (Gpus([]) if names_device else Gpus()).sharing(workers)


class _Running:
    """The processes that work at the moment."""

    def __init__(self, environment: Mapping[str, str], gpus: Gpus) -> None:
        self._environment, self._gpus = environment, gpus
        self._lock = Lock()
        self._alive: list[Process] = []
        self._ended = False

    def run(self, job: Job) -> Done:
        """Do a job in a process of its own, and wait for it."""
        if job.complete.is_file():
            return Done(job.name)
        with self._gpus.lend(job) as lent:
            with self._lock:
                if self._ended:
                    return Done(job.name, "it was not begun")
                process = Process(job, {**self._environment, **lent})
                self._alive.append(process)
            done = process.wait()
        with self._lock:
            self._alive.remove(process)
        return done

    def end(self) -> None:
        """Let all of them end now; what they made so far is kept."""
        with self._lock:
            self._ended = True
            for process in self._alive:
                process.end()
