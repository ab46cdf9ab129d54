"""An empty database of MLflow's: laid out once, since that takes a second, and copied to where a run expects one."""

import contextlib
import shutil
import warnings
from pathlib import Path

import pytest

from medseg.runs import mlflow_run, mlflow_store


@pytest.fixture(scope="session")
def laid_out_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file, which names no folder."""
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    with mlflow_store.quiet(), warnings.catch_warnings():
        # MLflow's database models use a loader option that SQLAlchemy 2.1 deprecates
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy is deprecated")
        mlflow_store.open_database(f"sqlite:///{database}")
    return database


@pytest.fixture
def new_store() -> None:
    """What a test asks for whose database is to be laid out where it lies."""


@pytest.fixture
def copied_stores(laid_out_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs of this process begin with a copy of the empty database, where there is none yet."""
    open_database = mlflow_store.open_database

    def opened(uri: str) -> None:
        place = Path(uri.partition(":///")[2])
        if uri.startswith("sqlite") and not place.exists():
            with contextlib.suppress(OSError):  # the real function says it
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(laid_out_store, place)
        open_database(uri)

    monkeypatch.setattr(mlflow_run, "open_database", opened)
