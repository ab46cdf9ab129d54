import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["pairs", "ray_here", "stores", "undrawn"]

ROOT = Path(__file__).parent.parent
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray, once imported, listens on the loopback alone


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of small real data sets: ``$MEDSEG_TEST_DATA``, else ``../shared/data`` beside the repository."""
    folder = Path(os.environ.get("MEDSEG_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set MEDSEG_TEST_DATA to a folder that holds drosophila_vnc")
    return folder


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders with a number each: pytest's own would look through all before it makes one."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def own_cache(caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test's caches to itself."""
    folder = next(caches)
    folder.mkdir()
    monkeypatch.setenv("MEDSEG_CACHE", str(folder))
    return folder
