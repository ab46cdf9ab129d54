"""Models in a process of their own: one that hangs, or crashes, takes a series with it, and not the node.

The process loads the models once and stays. A series that takes longer than allowed ends it by SIGKILL, which stops
what no thread can stop (a wait for a device, a library's endless loop); the next series starts another. When the node
ends, however it does, the process ends too.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.errors import MedsegError, one_line
from medseg.io.dicom_rules import Rule
from medseg.node.config import Config
from medseg.node.work import OverdueError, Route

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

__all__ = ["ChildError", "PredictingProcess", "models_of"]

logger = logging.getLogger(__name__)

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # a terminal and systemd send them to all processes; the node decides
_LOADING = 600.0  # seconds at least that the models may take to load
_EXIT, _KILLED = 1.0, 10.0  # seconds that the end of a process is waited for which closed its pipe, or is killed
_Loaded = tuple[str, Sequence[Rule], str]  # name, rules and state of a model
_QUIET = ("pynetdicom", "pydicom")  # they repeat values of tags


class ChildError(MedsegError):
    """Models that cannot be loaded, a series that could not be done, or a process that ended with one in hand."""


class _Remote:
    """A model of the process, for `medseg.node.work`."""

    def __init__(self, owner: PredictingProcess, name: str, rules: Sequence[Rule], state: str) -> None:
        self.name, self.rules, self.state, self._owner = name, rules, state, owner

    def predict(self, series: Path, output: Path) -> Sequence[Path]:
        return self._owner.predict(self.name, series, output)


class PredictingProcess:
    """The process; a context, which ends it. One thread at a time predicts.

    Args:
        load: makes the models, in the process; a function that can be pickled, or a `functools.partial` of one.
        seconds: that one series may take by one model; then the process is killed.

    Raises:
        ChildError: if the models cannot be loaded.
    """

    def __init__(self, load: Callable[[], Sequence[Route]], seconds: float) -> None:
        self._load, self._seconds, self._closed = load, seconds, False
        self._process: SpawnProcess | None = None
        self._lock = threading.Lock()  # none is started once it is closed
        self.routes: list[Route] = [_Remote(self, *each) for each in self._start()]

    def __enter__(self) -> PredictingProcess:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process; a series that is in hand is not done."""
        with self._lock:
            self._closed = True
        self._end()

    def predict(self, name: str, series: Path, output: Path) -> list[Path]:
        """Predict a series by a model.

        Args:
            name: of the model.
            series: folder of its files.
            output: folder for the results.

        Raises:
            OverdueError: if it takes too long.
            ChildError: if it cannot be done.
            SystemExit: if the node ends meanwhile, which ends the thread: nothing is to be said of the series.
        """
        try:
            if self._process is None:
                logger.info("the models are loaded again")
                self._refuse_others(self._start())
            self._pipe.send((name, series, output))
            return list(self._answer("a prediction", self._seconds))
        except (MedsegError, OSError) as error:
            if self._closed:
                raise SystemExit from None
            if isinstance(error, OSError):  # it ended while it had nothing to do
                raise ChildError(_ended(self._end(_EXIT))) from None
            raise

    def _refuse_others(self, loaded: Sequence[_Loaded]) -> None:
        """Raise if what was loaded is not what the node began with: later studies would be another model's."""
        states = {name: state for name, _, state in loaded}
        for route in self.routes:
            if states.get(route.name) != route.state:
                self._end()
                raise ChildError(
                    f"the files of the model {route.name} (weights, settings, codes or rules) have changed since the "
                    "node began; put them back, or start the node anew with the changed ones: medseg node run"
                )

    def _start(self) -> list[_Loaded]:
        context = multiprocessing.get_context("spawn")
        with self._lock:
            if self._closed:
                raise SystemExit
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._load), name="predicting", daemon=True)
            self._process.start()
        theirs.close()
        try:
            return list(self._answer("loading the models", max(_LOADING, self._seconds)))
        except BaseException:
            self._end()
            raise

    def _answer(self, what: str, seconds: float) -> Any:
        try:
            if not self._pipe.poll(seconds):
                self._end()
                raise OverdueError(
                    f"{what} took longer than {seconds:g} s and was ended; prediction_seconds of the node's "
                    "configuration allows more"
                )
            fault, answer = self._pipe.recv()
        except (EOFError, OSError):
            raise ChildError(_ended(self._end(_EXIT))) from None
        if fault:
            raise ChildError(fault)
        return answer

    def _end(self, wait: float = 0.0) -> int | None:
        """Kill the process, after so many seconds in which it may end by itself; return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.join(wait)
        process.kill()
        process.join(_KILLED)
        self._pipe.close()
        if process.is_alive():
            logger.error("process %s, which predicts, cannot be killed; look for it", process.pid)
        return process.exitcode


def _ended(code: int | None) -> str:
    why = f"exit status {code}" if code is None or code >= 0 else signal.Signals(-code).name
    return f"the process that predicts ended ({why}); is there enough memory?"


def models_of(config: Config, records: Path) -> Sequence[Route]:
    """Load the models of a node, in a process that does nothing else.

    Args:
        config: of the node.
        records: folder for records.

    Raises:
        MedsegError: if one cannot be loaded.
    """
    from medseg.bundle.start import set_up_process
    from medseg.node.models import load_models

    set_up_process()
    for each in map(logging.getLogger, _QUIET):
        each.setLevel(logging.CRITICAL)
    return load_models(config, records)


def _serve(pipe: Connection, load: Callable[[], Sequence[Route]]) -> None:
    """Load the models and predict what is asked for, until the node ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _ignore_signals()
    try:
        routes = {each.name: each for each in load()}
    except Exception as error:
        pipe.send((_said(error), ()))
        return
    _ignore_signals()  # loading may set handlers
    pipe.send(("", [(each.name, each.rules, each.state) for each in routes.values()]))
    while True:
        try:
            name, series, output = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[str, Any] = "", list(routes[name].predict(series, output))
        except Exception as error:  # whatever a model or a library does to one series stays that series'
            logger.debug("a prediction failed", exc_info=error)
            answer = _said(error), None
        pipe.send(answer)


def _said(error: Exception) -> str:
    return one_line(error) or type(error).__name__


def _ignore_signals() -> None:
    for name in _SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
