"""The executor of Ray: jobs are tasks of a cluster that is there, which tries those of a dead worker elsewhere.

The cluster's machines must have medseg and see the folders as this one does. Which cluster, is said by ``address`` or
by Ray's own ``RAY_ADDRESS``; none is started unasked. One that asks for a token is told it by Ray's own variables:
``RAY_AUTH_MODE=token``, with the token in ``RAY_AUTH_TOKEN`` or a file (``RAY_AUTH_TOKEN_PATH``, by default
``~/.ray/auth_token``). With an address Ray sends no token unless ``RAY_AUTH_MODE`` says so, though one lies there.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from medseg.errors import MedsegError, counted, shown
from medseg.jobs import here
from medseg.jobs.gpus import VISIBLE, Gpus
from medseg.jobs.here import at_least_one
from medseg.jobs.job import Done, Executor, Job, cores, work

__all__ = ["cluster", "sharing"]

logger = logging.getLogger(__name__)

_ADDRESS, _LOCAL, _GPUS = "address", "local", "num_gpus"
_TOKEN = re.compile("InvalidAuthToken|Unauthenticated|authentication token")
_TASK = ("accelerator_type", "max_retries", "memory", "num_cpus", "num_gpus", "scheduling_strategy")


def cluster(workers: int = 1, settings: Mapping[str, Any] | None = None) -> Executor:
    """Return the executor that hands jobs to a Ray cluster.

    Args:
        workers: jobs that wait there or are at work at a time.
        settings: ``address`` of the cluster, ``HOST:PORT``, ``auto`` for the one of this machine, or ``local`` for one
            that is started on this machine and ends with the last job; and Ray's options of a task: ``num_cpus``,
            ``num_gpus``, ``memory`` (bytes), ``accelerator_type``, ``scheduling_strategy``, and ``max_retries`` (3),
            how often the job of a worker that died is given to another. On this machine the GPUs are divided between
            the workers; in a cluster that is there, a job sees as many as ``num_gpus`` says, by default none.

    Raises:
        MedsegError: if Ray is not installed, no cluster is named, an option is none of these, or ``workers`` is not at
            least 1.
    """
    at_least_one(workers)
    given = dict(settings or {})
    address = given.pop(_ADDRESS, None) or os.environ.get("RAY_ADDRESS")
    if unknown := sorted(set(given) - set(_TASK)):
        raise MedsegError(f"--job {unknown[0]}: of a Ray cluster there are {_ADDRESS}, {', '.join(_TASK)}")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when a cluster is started
    if address == _LOCAL:  # read when Ray is imported: it listens on the loopback alone then, else on every interface
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise MedsegError("the executor ray needs the package ray: pip install medseg[ray]") from error
    try:
        ray.remote(_in_cluster).options(**given)
    except (TypeError, ValueError) as error:
        asked = " ".join(f"{key}={value}" for key, value in given.items())
        raise MedsegError(f"--job {asked}: Ray refuses it: {shown(str(error).partition(chr(10))[0])}") from error
    if not address:
        raise MedsegError(
            "no Ray cluster is named: give --job address=HOST:6379 or set RAY_ADDRESS; address=local starts one on "
            "this machine, which ends with the command"
        )
    if address == _LOCAL:
        given.setdefault("num_cpus", max(1, cores() // workers))

    def execute(jobs: Sequence[Job]) -> Iterator[Done]:
        with _joined(str(address)):
            gpus = {} if _GPUS in given else _gpus_each(workers, ours=address == _LOCAL)
            yield from _rolling(jobs, given, gpus, workers)

    return execute


def sharing(workers: int, settings: Mapping[str, Any] | None = None, *, names_device: bool = False) -> int:
    """Return how many jobs at a time work on the same GPU at most, or on the same machine where they see none.

    A cluster that is there is asked how many its largest machine takes at a time.

    Args:
        workers: as of `cluster`.
        settings: as of `cluster`.
        names_device: whether the jobs name their device, which they share then.

    Raises:
        MedsegError: if the cluster cannot be joined.
    """
    given = dict(settings or {})
    address = str(given.get(_ADDRESS) or os.environ.get("RAY_ADDRESS"))
    gpus = float(given.get(_GPUS) or 0)
    if gpus and not names_device:
        return min(workers, max(1, int(1 / gpus)))
    if address == _LOCAL:
        return here.sharing(workers, names_device=names_device or _GPUS in given)
    with _joined(address):
        return min(workers, _on_a_machine(float(given.get("num_cpus", 1))))


def _on_a_machine(processors: float) -> int:
    """Return how many tasks of so many processors the largest machine of the cluster takes at a time."""
    import ray

    machines = [float(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return max(1, int(max(machines, default=0) / processors)) if processors else sys.maxsize


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    """Join a cluster, unless this process is in one."""
    import ray

    if ray.is_initialized():
        yield
        return
    more = {"include_dashboard": False, _GPUS: len(Gpus())} if address == _LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **more)
    except Exception as error:  # of a start that takes more than Ray's 30 seconds, a bare one
        raise MedsegError(_refusal(address, error)) from error
    try:
        yield
    finally:
        ray.shutdown()


def _refusal(address: str, error: Exception) -> str:
    lines = [line.strip() for line in _said_by(error) if line.strip()]
    if asked := [line for line in lines if _TOKEN.search(line)]:
        said = shown(asked[-1].partition(". ")[0])
        return (
            f"the Ray cluster {address} asks for a token ({said}): set RAY_AUTH_MODE=token and its token in "
            "RAY_AUTH_TOKEN, or the file of it in RAY_AUTH_TOKEN_PATH; ray get-auth-token shows it where it was started"
        )
    said = shown(lines[0]) if lines else type(error).__name__
    return f"the Ray cluster {address} cannot be joined ({said}); see that it runs (ray status) and name its address"


def _said_by(error: BaseException | None) -> Iterator[str]:
    """Yield the lines of an error and of what caused it, which alone says that a token was refused."""
    while error is not None:
        yield from str(error).splitlines()
        error = error.__cause__


def _gpus_each(workers: int, *, ours: bool) -> dict[str, float]:
    """Return the option of tasks that see GPUs: of a Ray that is ours all of them are divided between the workers."""
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpus and ours:
        return {_GPUS: 1 / math.ceil(workers / gpus)}
    if gpus:
        logger.warning(
            "the Ray cluster has %s, of which jobs see none; --job num_gpus=1 gives each one", counted(gpus, "GPU")
        )
    return {}


def _rolling(
    jobs: Sequence[Job], options: Mapping[str, Any], gpus: Mapping[str, float], workers: int
) -> Iterator[Done]:
    """Keep so many tasks in the cluster; yield each job that is done."""
    import ray

    task = ray.remote(_in_cluster)
    left = list(jobs)[::-1]
    running: dict[Any, Job] = {}
    try:
        while left or running:
            while left and len(running) < workers:
                job = left.pop()
                asked = options if job.names_device else {**gpus, **options}
                running[task.options(**asked).remote(work, job)] = job
            ended, _ = ray.wait(list(running), num_returns=1)
            for reference in ended:
                job = running.pop(reference)
                yield _result(job, reference)
    finally:  # the caller has had enough, or was told to end
        for reference in running:
            with contextlib.suppress(Exception):  # it may have ended by itself
                ray.cancel(reference, force=True)


def _in_cluster(do: Callable[..., Done], job: Job) -> Done:
    """Do a job as a task of a cluster; it sees the GPUs that it was given there, and of none that are given none.

    Ray by itself shows all GPUs of a machine to a task that was given none; earlier ones showed none of them, as does
    one with RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO. A job that names its device is left what Ray shows.
    """
    import ray

    given = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    sees = {} if job.names_device and not given else {VISIBLE: ",".join(map(str, given))}
    return do(job, environment=sees)


def _result(job: Job, reference: Any) -> Done:
    """Return what a job that has ended says, or what Ray says of it."""
    import ray

    try:
        found: Done = ray.get(reference)
    except ray.exceptions.RayError as error:
        if job.complete.is_file():
            return Done(job.name)
        cause = getattr(error, "cause", None) or error  # of a task, what was raised in it
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [""]
        return Done(job.name, f"{type(cause).__name__} in the cluster: {shown(lines[0])}; see {job.log}")
    return found
