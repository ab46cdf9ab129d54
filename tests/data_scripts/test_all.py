"""What holds for every data script: each can be imported and run, from a package as from its file."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
NAMES = sorted(path.stem for path in (ROOT / "data_scripts").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_main_takes_arguments_and_returns_a_status(name, load_script, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["nothing", "--of", "this"])
    main = load_script(name).main
    first, *others = inspect.signature(main).parameters.values()
    assert (first.name, first.default, [other.default is not other.empty for other in others]) == (
        "arguments", None, [True] * len(others),
    )  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "--output" in capsys.readouterr().out


def test_importing_them_does_nothing(tmp_path):
    """All of them, one after the other, in a fresh process and an empty folder."""
    assert NAMES
    code = (
        "import importlib, logging, sys\n"
        f"for name in {NAMES}: importlib.import_module('data_scripts.' + name)\n"
        "assert not logging.getLogger().handlers and not {'torch', 'monai'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
