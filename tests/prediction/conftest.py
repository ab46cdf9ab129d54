"""Models of what several modules of tests predict."""

from pathlib import Path

import pytest
from tiny_models import write_model


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one model's weights for each kind of image, which no test changes."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("grey", "rgb", "ct", "mr", "slices"):
        write_model(folder / f"{kind}.pt", kind)
    return folder
