"""Experiment tracking that never stops a training.

The run folder (`RunFolder`) is the record; MLflow gets the same. Where MLflow is missing or does not answer, one
warning says so, the run goes on with files alone, and `import_run` puts the folder into MLflow afterwards.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from medseg.errors import MedsegError
from medseg.runs.mlflow_run import RECORD, MLflowRun
from medseg.runs.mlflow_store import how_to_look, moved_with, quiet, resolve_store
from medseg.runs.paths import resolve_path
from medseg.runs.privacy import scrub
from medseg.runs.run_folder import METRICS, RunFolder, hide_credentials
from medseg.runs.signals import postponed

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MLflowTracker", "RunFolder", "first_line", "import_run", "training_run"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
_STATUS = ("FINISHED", "FAILED", "KILLED")


class MLflowTracker:
    """Send one run to MLflow.

    As a context manager it starts the run and ends it as FINISHED, as FAILED after an exception, or as KILLED after
    Ctrl-C or ``SystemExit``. A run that was started and not finished ends as FAILED when the interpreter exits. One
    killed by a signal stays RUNNING until it is resumed: ``mlflow_run.json`` in the run folder names it.

    Args:
        tracking_uri: server or database; ``None`` for ``MLFLOW_TRACKING_URI``, or else an SQLite file ``mlflow.db``
            and a folder ``mlartifacts`` in ``store``.
        experiment: name of the MLflow experiment; made if missing.
        run_name: name of the run; a number is added where the experiment has it already.
        folder: run folder.
        store: folder of the embedded database; ``None`` for the one that holds ``folder``.
        resume: whether to continue the MLflow run that the folder names; otherwise it is a new one.
        parent: record (`training_run`) of the MLflow run that this one belongs to; where it lies in the same store,
            or no other is named, this becomes a child of it there.

    Raises:
        ValueError: if ``tracking_uri`` is given and is no MLflow store.
    """

    def __init__(
        self,
        tracking_uri: str | None,
        experiment: str,
        run_name: str,
        folder: str | Path,
        *,
        store: str | Path | None = None,
        resume: bool = False,
        parent: Mapping[str, str] | None = None,
    ) -> None:
        folder = resolve_path(folder)
        store = folder.parent if store is None else resolve_path(store)
        if tracking_uri is None and parent is not None and not os.environ.get("MLFLOW_TRACKING_URI"):
            tracking_uri = parent["tracking_uri"]
        self.uri = ""
        self._no_store = ""
        try:
            self.uri, _ = resolve_store(tracking_uri, store)
        except MedsegError as error:
            if tracking_uri is not None:
                raise
            self._no_store = str(error)  # of the environment or of the folder: no reason not to train
        mother = None if parent is None or parent["tracking_uri"] != hide_credentials(self.uri) else parent["run_id"]
        self._place = (self.uri, experiment, run_name, folder, store)
        self._resume, self._parent = resume, mother
        self._folder = folder
        self._run: MLflowRun | None = None
        self._missed = False
        self._open = False
        self._process = os.getpid()

    @property
    def run_id(self) -> str | None:
        """Id of the MLflow run; ``None`` where MLflow has none."""
        return None if self._run is None else self._run.run_id

    @property
    def online(self) -> bool:
        """Whether MLflow still gets what is logged."""
        return self._run is not None and not self._missed

    def start(self) -> None:
        """Begin the MLflow run, or continue the one that the run folder names."""
        self._open, self._missed = True, False
        if self._no_store:
            named = os.environ.get("MLFLOW_TRACKING_URI")
            where = "" if not named else " (it is the environment variable MLFLOW_TRACKING_URI)"
            logger.warning("%s%s; the run goes on and is recorded in its folder alone", self._no_store, where)
            return
        with self._undisturbed():  # or a run would be there that nobody ends
            run = self._run = self._attempt(lambda: MLflowRun(*self._place, resume=self._resume, parent=self._parent))
        if run is None:
            return
        atexit.register(self._abandoned)
        if run.continued:
            # values of epochs that were dropped from the files stay in MLflow, and are logged again with a later time
            logger.info("continuing MLflow run %r", run.name)
        if (self._folder / METRICS).is_file():  # epochs that a killed process did not send
            self._attempt(run.replay_metrics)
        logger.info("MLflow run %r: %s", run.name, how_to_look(self.uri))

    def log_params(self, config: Mapping[str, Any]) -> None:
        """Log a configuration under dotted keys (long values cut) and ``config.yaml`` of the run folder whole."""
        self._send(lambda run: run.log_params(config))

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log the values of one epoch in one request; those not finite are left out.

        Args:
            values: by name.
            step: the epoch.
        """
        self._send(lambda run: run.log_metrics(values, step, time.time()))

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags ``medseg.<name>``, such as the command line; names of persons and folders are taken out."""
        self._send(lambda run: run.log_tags(tags))

    def log_dataset(self, name: str, fingerprint: str, images: int) -> None:
        """Log a data set as input of the run.

        Args:
            name: of the data set.
            fingerprint: of its files.
            images: how many it has.
        """
        self._send(lambda run: run.log_dataset(name, fingerprint, images))

    def log_artifact(self, path: str | Path, artifact_path: str | None = None) -> None:
        """Copy a file into the run's artifacts.

        Args:
            path: the file.
            artifact_path: folder in the artifacts; ``None`` or ``"."`` for the top.

        Raises:
            FileNotFoundError: if there is no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist, so it cannot be logged as an artifact")
        self._send(lambda run: run.log_artifact(path, artifact_path))

    def log_folder(self) -> None:
        """Copy the run folder into the artifacts: all but the state to resume from and unfinished files."""
        self._send(lambda run: run.log_folder())

    def register(self, name: str, network: nn.Module, image_shape: Sequence[int]) -> None:
        """Register the network as a model, with its signature; where that fails, the rest is recorded all the same.

        Args:
            name: of the registered model.
            network: to keep.
            image_shape: ``(C, *S)`` of an image that it takes.
        """
        if self._run is None or not self.online:
            logger.warning("the model is not registered as %r: MLflow does not have its run", name)
            return
        try:
            with quiet(), self._undisturbed():
                version = self._run.register(name, network, image_shape)
        except Exception as error:  # as in _attempt: of the network, of pickling, of the store
            logger.warning(
                "the model is not registered as %r (%s); its run is recorded, and its weights are in the run's folder",
                name,
                _reason(error),
            )
            return
        logger.info("MLflow: model %s, version %s", name, version)

    def _send(self, call: Callable[[MLflowRun], Any]) -> None:
        run = self._run
        if run is not None and self.online:
            self._attempt(lambda: call(run))

    def finish(self, status: str = "FINISHED") -> None:
        """End the run. What MLflow missed while it did not answer is sent once more, from the run folder.

        Args:
            status: ``"FINISHED"``, ``"FAILED"`` or ``"KILLED"``.

        Raises:
            ValueError: if the status is none of these.
        """
        if status not in _STATUS:
            raise MedsegError(f"status {status!r} is none of {', '.join(_STATUS)}")
        atexit.unregister(self._abandoned)
        if not self._open:
            return
        self._open = False
        if self._missed and self._catch_up(status):
            return
        self._send(lambda run: run.finish(status))

    def _catch_up(self, status: str) -> bool:
        """Try once more to reach MLflow and send it the whole run folder."""
        try:
            with quiet(), self._undisturbed():
                # what start() made is gone on with; a record of an earlier run is not
                again = self._resume or self._run is not None
                run = MLflowRun(*self._place, resume=again, parent=self._parent)
                run.replay()
                run.finish(status)
        except Exception as error:  # as in _attempt; the user was warned when the first call failed
            logger.info("MLflow still does not take the run (%s)", _reason(error))
            return False
        self._run, self._missed = run, False
        logger.warning("MLflow answers again and has the whole run %r now", run.name)
        return True

    def _attempt(self, call: Callable[[], Result]) -> Result | None:
        """Call MLflow; after a failure warn once and leave MLflow alone until the end of the run."""
        try:
            with quiet(), self._undisturbed():
                return call()
        except ImportError:
            logger.warning("MLflow is not installed, so the run is recorded in its folder alone; pip install mlflow")
        except Exception as error:  # a database or a network may raise anything; none of it may end a training
            self._missed = True
            logger.warning(
                "MLflow at %s fails (%s); the run goes on and is recorded in its folder: "
                "medseg.runs.tracking.import_run puts it into MLflow afterwards",
                hide_credentials(self.uri),
                _reason(error),
            )
        return None

    def _undisturbed(self) -> contextlib.AbstractContextManager[None]:
        """Let a request to end wait for a database file, which takes milliseconds, but for no server."""
        return postponed() if self.uri.startswith("sqlite") else contextlib.nullcontext()

    def _abandoned(self) -> None:
        if self._open and os.getpid() == self._process:
            self.finish("FAILED")

    def __enter__(self) -> MLflowTracker:
        """Start the run."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the run with the status that fits the exception."""
        if kind is None:
            self.finish("FINISHED")
        else:
            self.finish("FAILED" if issubclass(kind, Exception) else "KILLED")


def import_run(
    folder: str | Path,
    tracking_uri: str | None = None,
    *,
    experiment: str = "medseg",
    run_name: str | None = None,
    status: str = "FINISHED",
    store: str | Path | None = None,
    parent: str | None = None,
) -> str:
    """Put a run that was recorded as files into MLflow; done twice, it adds nothing.

    Args:
        folder: run folder.
        tracking_uri: as in `MLflowTracker`.
        experiment: name of the MLflow experiment.
        run_name: name of the run; ``None`` for the folder's.
        status: how the run ended.
        store: as in `MLflowTracker`.
        parent: id of the MLflow run that it belongs to, in the same store.

    Returns:
        Id of the MLflow run.

    Raises:
        FileNotFoundError: if the folder holds no ``metrics.jsonl``.
        ImportError: if MLflow is not installed.
        ValueError: if the status or the URI cannot be used.
        Exception: what MLflow raises where it does not answer.
    """
    folder = Path(folder).absolute()
    if not (folder / METRICS).is_file():
        raise FileNotFoundError(f"{folder} holds no {METRICS}, so it is no run folder; name the folder of one run")
    if status not in _STATUS:
        raise MedsegError(f"status {status!r} is none of {', '.join(_STATUS)}")
    place = folder.parent if store is None else Path(store).absolute()
    with quiet():
        run = MLflowRun(tracking_uri, experiment, run_name or folder.name, folder, place, parent=parent)
        run.replay()
        run.finish(status)
    return run.run_id


def training_run(weights: str | Path) -> dict[str, str] | None:
    """Return the record (``run_id``, ``tracking_uri`` ...) of the MLflow run that made weights, from beside them.

    Args:
        weights: ``RUN/model.pt`` or ``RUN/checkpoints/best.pt``.
    """
    path = Path(weights).resolve()
    for folder in (path.parent, path.parent.parent):
        if (folder / METRICS).is_file() and (folder / RECORD).is_file():
            held = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            found = {str(key): str(value) for key, value in held.items()}
            return {**found, "tracking_uri": moved_with(found["tracking_uri"], folder.parent)}
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without passwords, names and folders."""
    return scrub((str(error).splitlines() or [""])[0])


def _reason(error: Exception) -> str:
    """Return the kind and first line of an error, without passwords."""
    line = (str(error).splitlines() or [""])[0][:300]
    return hide_credentials(f"{type(error).__name__}: {line}")
