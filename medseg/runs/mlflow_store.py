"""Where MLflow keeps runs, and how it is called without changing the process that calls it."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from medseg.errors import MedsegError
from medseg.runs.run_folder import hide_credentials

_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_SERVERS = {"http", "https", "databricks", "databricks-uc"}
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_LOGGERS = ("mlflow", "alembic")
_NEUTRAL = "mlflow-artifacts:"
_ARTIFACTS = "mlartifacts"  # as `mlflow ui` calls it that is started where the database is


def resolve_store(tracking_uri: str | None, folder: Path) -> tuple[str, str | None]:
    """Choose where MLflow keeps runs.

    Args:
        tracking_uri: server or database; ``None`` for ``MLFLOW_TRACKING_URI`` or else ``mlflow.db`` in ``folder``.
        folder: of the embedded database and of artifacts that no server keeps.

    Returns:
        Tracking URI, free of the working directory, and the URI of the artifact folder (``None``: the server chooses).
        Of an SQLite file it is MLflow's ``mlflow-artifacts:``, which names no folder: `artifact_folder` says where the
        files lie, and so does ``--artifacts-destination`` of ``mlflow ui``.

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
        return f"{scheme}:///{database}", _NEUTRAL
    return uri, (folder.absolute() / _ARTIFACTS).as_uri()


def artifact_folder(uri: str) -> Path | None:
    """Return the folder of the artifacts that a database file names without their place: the one beside it.

    Args:
        uri: of `resolve_store`; of anything but an SQLite file there is none.
    """
    database = _database(uri)
    return None if database is None else database.parent / _ARTIFACTS


def artifact_path(uri: str, location: str) -> Path | None:
    """Return where artifacts lie that MLflow itself reaches through its server alone.

    Args:
        uri: of `resolve_store`.
        location: of a run's or a model's artifacts, as MLflow has it.
    """
    folder = artifact_folder(uri)
    if folder is None or not location.startswith(f"{_NEUTRAL}/"):
        return None
    return folder / location.removeprefix(f"{_NEUTRAL}/")


def how_to_look(uri: str) -> str:
    """Return the command that shows a store, or the address of its server.

    Args:
        uri: of `resolve_store`.
    """
    if urlsplit(uri).scheme in _SERVERS or uri in _SERVERS:
        return hide_credentials(uri)
    artifacts = artifact_folder(uri)
    where = [] if artifacts is None else ["--artifacts-destination", str(artifacts)]
    return shlex.join(["mlflow", "ui", "--backend-store-uri", hide_credentials(uri), *where])


def moved_with(uri: str, folder: Path) -> str:
    """Return the address of a database file that is no longer where it was, but in a folder that was moved with it.

    Args:
        uri: as it was recorded.
        folder: of the runs.
    """
    database = _database(uri)
    if database is None or database.exists() or not (folder / database.name).is_file():
        return uri
    return f"{urlsplit(uri).scheme}:///{folder.absolute() / database.name}"


def _database(uri: str) -> Path | None:
    return Path(uri.partition(":///")[2]) if uri.startswith("sqlite") else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep MLflow from chatter, telemetry and long waits inside the block; the process's settings stay as they are.

    What the user has set in the environment holds.
    """
    set_here = {name: value for name, value in (_QUIET | _IMPATIENT).items() if name not in os.environ}
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    os.environ.update(set_here)
    imported = "mlflow" in sys.modules
    try:
        with contextlib.suppress(ImportError):  # the caller finds out
            import mlflow.tracking  # noqa: F401

            if imported:  # by MONAI, before the variable was set: read it again
                sys.modules["mlflow.telemetry"].set_telemetry_client()
        if "MLFLOW_LOGGING_LEVEL" not in os.environ:
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(logging.WARNING)
        yield
    finally:
        for name in set_here:
            os.environ.pop(name, None)
        for name, level in levels.items():
            if imported or name != "mlflow":  # its level of before the import is none
                logging.getLogger(name).setLevel(level)


def open_database(uri: str) -> None:
    """Raise at once where MLflow would try for minutes to open a database that it cannot write or reach.

    A new file is laid out here: by itself, MLflow would write the working directory into it.
    """
    address = urlsplit(uri)
    kind = address.scheme.partition("+")[0]
    database = _database(uri)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection:
            connection.execute("BEGIN IMMEDIATE")
        if database.stat().st_size == 0:
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            SqlAlchemyStore(uri, f"{_NEUTRAL}/")
    elif kind in _PORTS and address.hostname:
        socket.create_connection((address.hostname, address.port or _PORTS[kind]), timeout=10).close()
