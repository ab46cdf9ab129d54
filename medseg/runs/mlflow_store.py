"""Where MLflow keeps runs, and how it is called without changing the process that calls it."""

from __future__ import annotations

import contextlib
import logging
import os
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


def check_database(uri: str) -> None:
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
