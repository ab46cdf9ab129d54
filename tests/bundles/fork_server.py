"""Runs `python -m monai.bundle ...` in a fork of a process that has imported everything: seconds less a command.

Reads one JSON object a line, ``{"words", "cwd", "stdout", "stderr", "timeout", "environments"}``, answers with the exit
status a line. Each of ``environments`` is what a process has beside: one process, or several as torchrun starts them;
nobody ends the others when one has failed. The status is the first that is not 0.
"""

import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import sys
import time
from typing import Any

IMPORTED = (
    *("monai.bundle", "ignite.engine", "mlflow.store.tracking.sqlalchemy_store", "matplotlib.backends.backend_agg"),
    *("matplotlib.pyplot", "torch.onnx", "timm", "fire", "medseg.bundle.assembly", "medseg.prediction.predict"),
)


def run(request: dict[str, Any]) -> int:
    """Be the command; returns its exit status."""
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]  # as `python -m` has it
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = ["monai.bundle", *request["words"]]
    try:
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if isinstance(error.code, str):
            sys.stderr.write(error.code + "\n")
            return 1
        return int(error.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    return 0


def child(request: dict[str, Any]) -> None:
    status = 1
    try:
        status = run(request)
    finally:
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def start(request: dict[str, Any], environment: dict[str, str]) -> int:
    pid = os.fork()
    if pid == 0:
        os.environ.update(environment)
        child(request)
    return pid


def wait(pid: int, end: float) -> int:
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 124


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        pids = [start(request, environment) for environment in request["environments"]]
        end = time.monotonic() + request["timeout"]
        statuses = [wait(pid, end) for pid in pids]
        sys.stdout.write(f"{next((status for status in statuses if status), 0)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
