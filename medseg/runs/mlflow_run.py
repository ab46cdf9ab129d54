"""One run in an MLflow store; every method raises where the store refuses.

Only MLflow's client is used: its fluent functions keep a process-wide active run, into which the next training would
merge, and record user name, git remote and system metrics that nobody asked for.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import socket
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medseg.errors import MedsegError
from medseg.runs.provenance import git_state
from medseg.runs.run_folder import CONFIG, RunFolder, hide_credentials, to_plain

logger = logging.getLogger(__name__)

RECORD = "mlflow_run.json"
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_SERVERS = {"http", "https", "databricks", "databricks-uc"}
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_MAX_METRICS, _MAX_PARAMS, _MAX_KEY = 1000, 100, 250  # limits of one MLflow request, and of a name


def resolve_store(tracking_uri: str | None, folder: Path) -> tuple[str, str | None]:
    """Choose where MLflow keeps runs.

    Args:
        tracking_uri: server or database; ``None`` for ``MLFLOW_TRACKING_URI`` or else ``mlflow.db`` in ``folder``.
        folder: of the embedded database and of artifacts that no server keeps.

    Returns:
        Tracking URI, free of the working directory, and the URI of the artifact folder (``None``: the server chooses).

    Raises:
        ValueError: if MLflow knows no such store, or cannot read the address.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    if uri is None:
        uri = f"sqlite:///{folder.absolute() / 'mlflow.db'}"
    scheme = urlsplit(uri).scheme
    if scheme in _SERVERS or uri in _SERVERS:
        return uri, None
    if scheme.partition("+")[0] not in {"sqlite", *_PORTS}:
        raise MedsegError(
            f"tracking_uri {hide_credentials(uri)!r} is no MLflow store; give http(s)://server:port or "
            "sqlite:///folder/mlflow.db, or leave it out for a database beside the runs"
        )
    if scheme.startswith("sqlite"):
        database = Path(uri.partition(":///")[2]).absolute()
        if odd := [sign for sign in "?%" if sign in str(database)]:
            raise MedsegError(
                f"MLflow cannot keep its database at {database}: {odd[0]!r} has a meaning in its address; "
                "rename the folder, or give another place as tracking_uri, such as sqlite:///folder/mlflow.db"
            )
        uri, folder = f"{scheme}:///{database}", database.parent
    return uri, (folder.absolute() / "mlartifacts").as_uri()


def import_client() -> Any:
    """Import MLflow without telemetry and chatter and return its ``MlflowClient`` class.

    What the user has set in the environment is left as it is.

    Raises:
        ImportError: if MLflow is not installed.
    """
    for name, value in (_QUIET | _IMPATIENT).items():
        os.environ.setdefault(name, value)
    imported = "mlflow" in sys.modules
    from mlflow.tracking import MlflowClient

    if imported and (telemetry := sys.modules.get("mlflow.telemetry")) is not None:
        telemetry.set_telemetry_client()  # MONAI imported MLflow before the variable was set: read it again
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return MlflowClient


class MLflowRun:
    """A run in MLflow, new or continued.

    Args:
        tracking_uri: as in `resolve_store`.
        experiment: name; made if missing.
        run_name: wanted name; a number is added where the experiment has it already.
        folder: of the run. ``mlflow_run.json`` in it names the MLflow run to continue.
        store: folder for the embedded database.

    Raises:
        ImportError: if MLflow is not installed.
        ValueError: if the URI is no MLflow store.
        Exception: whatever MLflow, the database or the network raise.
    """

    def __init__(
        self, tracking_uri: str | None, experiment: str, run_name: str, folder: str | Path, store: str | Path
    ) -> None:
        self.uri, self._artifacts = resolve_store(tracking_uri, Path(store))
        self._files = RunFolder(folder)
        _check_database(self.uri)
        self._client = import_client()(tracking_uri=self.uri)
        run = self._held()
        self.continued = run is not None
        if run is None:
            identity = self._experiment(experiment)
            run_name = self._free_name(identity, run_name)
            run = self._client.create_run(identity, run_name=run_name, tags=_tags())
        self.run_id: str = run.info.run_id
        self.name: str = run.info.run_name
        self._params: dict[str, str] = dict(run.data.params)
        self._files.write_json(
            RECORD, {"run_id": self.run_id, "run_name": self.name, "experiment": experiment, "tracking_uri": self.uri}
        )

    def _held(self) -> Any:
        """Return the MLflow run of an earlier start of this run, running again, or ``None``."""
        from mlflow.exceptions import MlflowException

        record = self._files.path / RECORD
        if not record.is_file():
            return None
        run_id = json.loads(record.read_text(encoding="utf-8"))["run_id"]
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        if run is None or run.info.lifecycle_stage != "active":
            logger.info("MLflow has no run %s (any more); a new one is made", run_id)
            return None
        self._client.update_run(run_id, status="RUNNING")
        return run

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=self._artifact_folder(name)))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another run may have made it just now
                    raise
                found = self._client.get_experiment_by_name(name)
        elif self._artifacts is not None and not found.artifact_location.startswith(self._artifacts):
            logger.warning(
                "MLflow experiment %r keeps its files in %s, not beside its database: was the folder moved? "
                "Choose another experiment name to have them beside it",
                name,
                found.artifact_location,
            )
        return str(found.experiment_id)

    def _artifact_folder(self, experiment: str) -> str | None:
        if self._artifacts is None:
            return None
        return f"{self._artifacts}/{re.sub(r'[^A-Za-z0-9._-]', '_', experiment)}"

    def _free_name(self, experiment_id: str, name: str) -> str:
        name = re.sub(r"[\"'`%]", "_", name)
        found = self._client.search_runs([experiment_id], f"attributes.run_name LIKE '{name}%'")
        taken = {run.info.run_name for run in found}
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        return free

    def log_params(self, config: Mapping[str, Any]) -> None:
        """Log a configuration under dotted keys, long values cut, and ``config.yaml`` whole.

        MLflow's parameters cannot change. Where a continued run has other values, they become tags ``resumed.<key>``.
        """
        from mlflow.entities import Param, RunTag
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH

        values = {key: value[:MAX_PARAM_VAL_LENGTH] for key, value in flatten(config).items()}
        changed = {key: value for key, value in values.items() if self._params.get(key, value) != value}
        params = [Param(key, value) for key, value in values.items() if key not in self._params]
        tags = [RunTag(f"resumed.{key}"[:_MAX_KEY], value[:MAX_TAG_VAL_LENGTH]) for key, value in changed.items()]
        for part in _parts(params, _MAX_PARAMS):
            self._client.log_batch(self.run_id, params=part)
        for part in _parts(tags, _MAX_PARAMS):
            self._client.log_batch(self.run_id, tags=part)
        self._params = values | self._params
        if (self._files.path / CONFIG).is_file():
            self.log_artifact(self._files.path / CONFIG)

    def log_metrics(self, values: Mapping[str, float], step: int, seconds: float) -> None:
        """Log the finite values of one epoch.

        Args:
            values: by name.
            step: epoch.
            seconds: when, since 1970.
        """
        from mlflow.entities import Metric

        stamp = round(seconds * 1000)
        finite = {clean_key(key): float(value) for key, value in values.items() if math.isfinite(value)}
        for part in _parts([Metric(key, value, stamp, step) for key, value in finite.items()], _MAX_METRICS):
            self._client.log_batch(self.run_id, metrics=part)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file into the run's artifacts, into ``folder`` there."""
        self._client.log_artifact(self.run_id, str(path), None if folder in (None, "", ".") else folder)

    def replay(self) -> None:
        """Log what the run folder holds and MLflow does not: parameters, metrics and every file."""
        root = self._files.path
        self.log_params(recorded_params(root))
        rows = self._files.read_metrics()
        known: dict[str, set[int]] = {}
        for key in {key for row in rows for key in row} - {"epoch", "time"}:
            history = self._client.get_metric_history(self.run_id, clean_key(key)) if self.continued else []
            known[key] = {point.step for point in history}
        for row in rows:
            epoch = int(row["epoch"])
            values = {key: value for key, value in row.items() if key in known and epoch not in known[key]}
            self.log_metrics(values, epoch, row["time"])
        for path in artifact_files(root):
            self.log_artifact(path, path.parent.relative_to(root).as_posix())

    def finish(self, status: str) -> None:
        """End the run with ``status``."""
        self._client.set_terminated(self.run_id, status)


def recorded_params(folder: Path) -> dict[str, Any]:
    """Return the configuration of a run folder, with ``data`` and ``environment`` where it has them."""
    import yaml

    params: dict[str, Any] = {}
    if (folder / CONFIG).is_file():
        params |= yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")) or {}
    for name in ("data", "environment"):
        if (folder / f"{name}.json").is_file():
            params[name] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return params


def artifact_files(folder: Path) -> list[Path]:
    """Return the files worth keeping: all but hidden ones, the state to resume from and MLflow's own record."""
    left_out = {"last.pt", RECORD}
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in left_out)
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested mappings to dotted keys that MLflow accepts; lists become JSON."""
    flat: dict[str, str] = {}
    for key, value in to_plain(config).items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[clean_key(name)] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def clean_key(key: str) -> str:
    """Replace what MLflow refuses in the name of a parameter or metric."""
    parts = [part for part in re.sub(r"[^\w./ -]", "_", key).split("/") if part not in {"", ".", ".."}]
    return "/".join(parts)[:_MAX_KEY] or "_"


def _check_database(uri: str) -> None:
    """Raise at once where MLflow would try for minutes to open a database that it cannot write or reach."""
    address = urlsplit(uri)
    kind = address.scheme.partition("+")[0]
    if kind == "sqlite":
        database = Path(uri.partition(":///")[2])
        database.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection:
            connection.execute("BEGIN IMMEDIATE")
    elif kind in _PORTS and address.hostname:
        socket.create_connection((address.hostname, address.port or _PORTS[kind]), timeout=10).close()


def _tags() -> dict[str, str]:
    state = git_state(Path(__file__).parents[1])
    tags = {"mlflow.source.name": "medseg", "mlflow.source.type": "LOCAL"}
    return tags if state is None else {**tags, "mlflow.source.git.commit": state["commit"]}


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
