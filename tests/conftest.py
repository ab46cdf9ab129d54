import os
from pathlib import Path

import pytest

pytest_plugins = ["pairs", "stores"]

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of small real data sets: ``$MEDSEG_TEST_DATA``, else ``../shared/data`` beside the repository."""
    folder = Path(os.environ.get("MEDSEG_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set MEDSEG_TEST_DATA to a folder that holds drosophila_vnc")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test's caches to itself."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MEDSEG_CACHE", str(folder))
    return folder
