"""Run tests with the oldest versions that pyproject.toml names, so that no minimum is a guess.

`build/oldest` becomes an environment of its own: what medseg names at its minimum, what those need in turn at its
newest, as a person gets it who has an old package and installs medseg beside it. uv links the files from its cache, so
that a second time costs seconds and no disk; the first downloads about 4 GB (8 GB on disk). It is removed afterwards
unless --keep is given. The tests are those that exercise other packages; `tests/test_wheel.py`, from data to masks with
the wheel alone, can be named beside them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "oldest"
TOOLS = ("build", "hatchling", "pytest", "pytest-timeout", "simpleitk", "torchmetrics")  # of the tests, not of medseg
TESTS = (  # two processes of one thread each; what needs torch alone is left to the other environment
    ("data", "inferers", "io", "metrics", "test_encoders.py"),
    ("engines", "node", "prediction", "reports", "runs", "transforms"),
)
# minutes of them, and none asks a package for more than the others do: runs that are killed, files made up at random,
# pairs of processes, an archive of others
LEFT_OUT = ("io/test_fuzz.py", "prediction/test_orthanc.py", "runs/test_signals.py", "runs/test_bit_equality.py")
NO_ENVIRONMENT = 75  # EX_TEMPFAIL: no package index, no room; nothing was tested
NOT_NAMED = "not two_processes and not left_open"


def requirements() -> list[str]:
    """Return what medseg requires, its extras ``dicom`` and ``export``, and the tests' tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    tools = [given for given in extras["dev"] if given.split(">=")[0] in TOOLS]
    return [*project["dependencies"], *extras["dicom"], *extras["export"], *tools]


def uv(*arguments: str, given: str | None = None) -> str:
    """Run uv, which can resolve to the lowest versions."""
    command = [sys.executable, "-m", "uv", "--no-progress", *arguments]
    return subprocess.run(command, check=True, cwd=ROOT, input=given, text=True, stdout=subprocess.PIPE).stdout


def make() -> Path:
    """Make the environment; return its Python."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    uv("venv", "--quiet", "--seed", "--python", sys.executable, str(FOLDER))
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
    parser.add_argument("tests", nargs="*", help="tests to run (default: those that exercise other packages)")
    options = parser.parse_args()
    python = FOLDER / "bin" / "python"
    if not (options.keep and python.exists()):
        try:
            python = make()
        except subprocess.CalledProcessError as error:
            sys.stdout.write(f"oldest: SKIPPED, the environment cannot be made here: {error}\n")
            return NO_ENVIRONMENT
    left_out = [f"--ignore=tests/{name}" for name in LEFT_OUT]
    parts = [["-k", NOT_NAMED, *(f"tests/{name}" for name in part), *left_out] for part in TESTS]
    status = run(python, [options.tests] if options.tests else parts)
    if not options.keep:
        shutil.rmtree(FOLDER)
    return status


def run(python: Path, parts: Sequence[Sequence[str]]) -> int:
    """Run tests, each part in a process of its own beside the others; return the worst status.

    Args:
        python: of the environment.
        parts: arguments of pytest.
    """
    # an old package may warn of what a newer one beside it deprecates: that is no fault of either
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    started = []
    for number, part in enumerate(parts):
        with open(FOLDER / f"tests_{number}.log", "w", encoding="utf-8") as log:
            started.append(
                (subprocess.Popen([*command, *part], cwd=ROOT, env=environment, stdout=log, stderr=log), log)
            )
    status = 0
    for process, log in started:
        status = max(status, abs(process.wait()))
        sys.stdout.write(Path(log.name).read_text(encoding="utf-8"))
    return status


if __name__ == "__main__":
    sys.exit(main())
