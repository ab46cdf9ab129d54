"""Run the fast tests with the oldest versions that pyproject.toml names, so that no minimum is a guess.

`build/oldest` becomes an environment of its own (about 9 GB, two minutes with a fast connection): what medseg names at
its minimum, what those need in turn at its newest, as a person gets it who has an old package and installs medseg
beside it. It is removed afterwards unless --keep is given.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "oldest"
TOOLS = ("pytest>=8.3", "pytest-timeout>=2.3", "torchmetrics>=1.6")  # of the tests, not of medseg
# what is slow, says nothing about other packages, or is about the style of the sources
LEFT_OUT = (
    *("bundle", "bundles", "cli", "data_scripts", "docs", "layers", "networks", "studies"),
    *("test_dependencies.py", "test_house.py", "test_wheel.py"),
)


def requirements() -> list[str]:
    """Return what medseg requires, its extra ``export`` and the tests' tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["export"], *TOOLS]


def uv(*arguments: str, given: str | None = None) -> str:
    """Run uv, which can resolve to the lowest versions."""
    command = [sys.executable, "-m", "uv", "--no-progress", *arguments]
    return subprocess.run(command, check=True, cwd=ROOT, input=given, text=True, stdout=subprocess.PIPE).stdout


def make() -> Path:
    """Make the environment; return its Python."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    uv("venv", "--quiet", "--python", sys.executable, str(FOLDER))
    python = FOLDER / "bin" / "python"
    lowest = uv(
        *("pip", "compile", "--quiet", "--no-header", "--no-annotate", "--resolution", "lowest-direct"),
        *("--python", str(python), "-"),
        given="\n".join(requirements()),
    )
    (FOLDER / "requirements.txt").write_text(lowest, encoding="utf-8")
    uv("pip", "install", "--quiet", "--python", str(python), "-r", str(FOLDER / "requirements.txt"))
    uv("pip", "install", "--quiet", "--python", str(python), "--no-deps", "--editable", str(ROOT))
    return python


def main() -> int:
    """Make the environment where it is missing, run the tests; return their status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave the environment and take it as it is next time")
    parser.add_argument("tests", nargs="*", help="tests to run (default: the fast ones)")
    options = parser.parse_args()
    python = FOLDER / "bin" / "python"
    if not (options.keep and python.exists()):
        python = make()
    tests = options.tests or ["tests", *(f"--ignore=tests/{name}" for name in LEFT_OUT)]
    # an old package may warn of what a newer one beside it deprecates: that is no fault of either
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default", *tests]
    status = subprocess.call(command, cwd=ROOT, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    if not options.keep:
        shutil.rmtree(FOLDER)
    return status


if __name__ == "__main__":
    sys.exit(main())
