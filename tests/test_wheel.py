"""The built wheel, installed alone into an empty folder: what README promises works there, without a clone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from medseg.cli import names

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("medseg-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install the wheel, without what it depends on; return a function that runs something of it elsewhere."""
    target, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(target), "MEDSEG_CACHE": str(elsewhere / "cache")}

    def run(*arguments, program=(str(target / "bin" / "medseg"),)):
        command = [sys.executable, *program, *arguments]
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.target, run.elsewhere = target, elsewhere
    return run


def test_it_is_the_wheel_that_runs(installed):
    code = "import medseg.resources as r; print(r.__file__, r.bundles_root(), r.data_scripts_root(), sep='\\n')"
    inside = installed.target / "medseg"
    assert installed("-c", code, program=()).split() == [
        str(inside / name) for name in ("resources.py", "_bundles", "_data_scripts")
    ]


def tracked(*folders):
    done = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no git here to say which files belong to the project")
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


def test_all_that_is_tracked_and_nothing_else_is_in_it(wheel):
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    places = {"bundles/": "medseg/_bundles/", "data_scripts/": "medseg/_data_scripts/"}
    expected = tracked("medseg")
    for place, inside in places.items():
        expected |= {inside + name.removeprefix(place) for name in tracked(place)}
    new = {name for name in files - expected if not name.endswith(".py")}  # a file that is not yet added is no defect
    assert (expected - files, new) == (set(), set())


def test_every_command_is_there(installed):
    said = installed("--help")
    assert all(f"\n    {name}" in said for name in names())
    assert installed("--version").startswith("medseg ")


def test_data_made_by_the_wheel_is_sound(installed):
    installed("data", "synthetic", "--output", "data", "--sections", "5", "--size", "64", "--crop-size", "32")
    assert "0 errors, 0 warnings" in installed("check", "data/datalist.json")
    assert len(installed("data").splitlines()) == len(list((ROOT / "data_scripts").glob("*.py")))
