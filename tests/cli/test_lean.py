"""MONAI without what it only tries: stand-ins do what packages do, and nothing else of the process sees any."""

import gc
import importlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medseg.cli import _lean
from medseg.cli._lean import LATER, lean_monai, leave
from tests.tiny_models import write_model

TRYING = """
import importlib
import heavy
from heavy import Kind, number
import heavy.inner as inner
try:
    import gone
except ImportError:
    gone = None
class Mine(Kind if {derives} else object):
    pass
"""


@pytest.fixture
def trying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package that tries others as MONAI does; returns what imports it."""
    for name, text in (
        ("heavy/__init__.py", "class Kind:\n    pass\ndef number():\n    return 7\nlist_of = [1]"),
        ("heavy/inner.py", "value = 3"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_lean, "_ROOT", "trying")
    monkeypatch.setattr(_lean, "LATER", ("heavy", "gone"))

    def imported(derives: bool = False) -> ModuleType:
        (tmp_path / "trying.py").write_text(TRYING.replace("{derives}", str(derives)))
        with lean_monai():
            import trying

            return trying  # type: ignore[no-any-return]

    yield imported
    for name in [name for name in sys.modules if name.split(".")[0] in ("trying", "heavy")]:
        del sys.modules[name]


def test_what_is_tried_is_imported_by_its_first_use(trying: Any) -> None:
    module = trying()
    assert "heavy" not in sys.modules
    assert module.gone is None
    assert module.number() == 7
    import heavy  # type: ignore[import-not-found]

    assert isinstance(heavy.Kind(), module.Kind)
    assert not isinstance(object(), module.Kind)
    assert issubclass(heavy.Kind, module.Kind)
    assert module.heavy.list_of is heavy.list_of
    assert module.inner.value == 3
    with pytest.raises(AttributeError, match="nothing"):
        _ = module.heavy.nothing


def test_a_class_that_is_derived_from_is_imported_at_once(trying: Any) -> None:
    module = trying(derives=True)
    import heavy

    assert issubclass(module.Mine, heavy.Kind)
    assert type(heavy) is ModuleType


def test_others_import_the_packages_themselves(trying: Any) -> None:
    trying()
    import heavy.inner  # type: ignore[import-not-found]

    assert type(heavy) is type(heavy.inner) is ModuleType
    assert heavy.Kind.__module__ == "heavy"


def test_the_process_is_as_before(trying: Any) -> None:
    finders = list(sys.meta_path)
    with lean_monai():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert not gc.get_freeze_count()
    with pytest.raises(ZeroDivisionError), lean_monai():
        raise ZeroDivisionError
    assert gc.isenabled()
    trying()
    assert sys.meta_path == finders
    assert not gc.get_freeze_count()
    with lean_monai():  # it is imported: nothing is left to do
        assert gc.isenabled()


@pytest.mark.parametrize("frozen", [False, True])
def test_what_was_imported_is_not_looked_through_for_garbage(trying: Any, frozen: bool) -> None:
    del sys.modules[trying().__name__]
    if frozen:  # by whoever calls the command, who alone takes that back
        gc.freeze()
    kept = gc.get_freeze_count()
    try:
        with lean_monai():
            module = importlib.import_module("trying")
            assert gc.isenabled()
            assert any(each is vars(module) for each in gc.get_objects()) == frozen
        assert gc.isenabled()
        assert (gc.get_freeze_count() > 0) == (kept > 0)
    finally:
        gc.unfreeze()


def test_a_process_is_not_left_while_anything_works_or_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr("os._exit", left.append)
    monkeypatch.setattr("atexit._run_exitfuncs", lambda: None)
    monkeypatch.setattr("threading.enumerate", lambda: [threading.main_thread(), threading.Thread(daemon=True)])
    monkeypatch.setattr("sys.gettrace", lambda: None)
    monkeypatch.setattr("sys.getprofile", lambda: None)
    monkeypatch.setattr(_lean, "_lean", [])
    leave(1)
    monkeypatch.setattr(_lean, "_lean", ["a command that imported MONAI"])
    leave(2)
    with monkeypatch.context() as patch:
        patch.setattr("threading.enumerate", lambda: [threading.main_thread(), threading.Thread()])
        leave(3)
    with monkeypatch.context() as patch:
        patch.setattr("sys.gettrace", lambda: print)
        leave(4)
    with monkeypatch.context() as patch:
        patch.setattr("sys.getprofile", lambda: print)
        leave(5)
    assert left == [2]


def test_a_prediction_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    """MONAI's own modules hold stand-ins for the packages, which work."""
    model = write_model(tmp_path / "model.pt", "grey")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "image.png")
    code = (
        "import json, sys\nfrom medseg.cli import main\nstatus = main(sys.argv[1:])\n"
        "loaded = sorted(sys.modules)\n"
        "import monai.data.utils as utils, pandas\n"
        "frame = utils.pd.DataFrame({'a': [1]})\n"
        "same = isinstance(frame, utils.DataFrame) and type(frame) is pandas.DataFrame\n"
        "sys.stdout.write('\\n' + json.dumps([status, same, loaded]) + '\\n')\n"
        "import atexit\nfrom medseg.cli._lean import leave\n"
        "atexit.register(lambda: sys.stdout.write('registered'))\n"
        "leave(7)\nsys.stdout.write('not left')"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, "predict", str(model), str(tmp_path / "image.png")]
    done = subprocess.run([*command, str(tmp_path / "masks")], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    *_, said, last = done.stdout.splitlines()
    assert last == "registered"
    status, same, loaded = json.loads(said)
    assert (status, same) == (0, True), done.stderr
    assert {"monai", "monai.handlers.mlflow_handler"} <= set(loaded)
    assert [name for name in loaded if name in LATER] == []
    assert (tmp_path / "masks" / "image.png").is_file()
