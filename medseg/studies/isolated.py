"""Work in a process of its own: what it allocates ends with it, and so does a failure for want of memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class EndedError(RuntimeError):
    """The process went away without a result."""


def isolated(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function in a fresh process.

    Under Linux the process is refused memory that the machine does not have, which raises an error there instead of
    making the system end some process.

    Args:
        function: of a module, with arguments and result that can be pickled.
        args: for it.
        kwargs: for it.

    Returns:
        What it returns; what it raises is raised here.

    Raises:
        EndedError: if the process was ended from outside.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_prepare) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool as error:
            raise EndedError("its process was ended from outside, as systems do when memory runs out") from error


def _end_with_parent() -> None:
    """End this process when its parent has gone, as one that was killed does without a word to it."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _prepare() -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    # torch's profiler reports the absence of a GPU as an error, and memory that was there before as a surprise
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if sys.platform != "linux":
        return
    import resource

    kib = _kib("/proc/meminfo", "MemAvailable") + _kib("/proc/self/status", "VmData")
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = kib * 1024 if hard == resource.RLIM_INFINITY else min(kib * 1024, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _kib(path: str, key: str) -> int:
    lines = Path(path).read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
