import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent.parent / "data_scripts"


@pytest.fixture(scope="session")
def load_script():
    """Import a script of data_scripts by its name."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"data_scripts_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return load
