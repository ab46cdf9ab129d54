"""Run the tests of MONAI Label in an environment of its own: what it asks for does not go together with medseg.

`build/monai_label` gets MONAI Label and those of its packages that medseg's environment, whose Python runs this, has
not; the others (PyTorch, MONAI, NumPy) are taken from there. So it is small, and tests the packages that medseg has.
pydicom and what goes with it are older there, as pydicom-seg needs; sam2, which the bundles' app does not use, is left
out. The environment is removed afterwards unless --keep is given.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "monai_label"
WANTED = "monailabel==0.8.5"
EXTRAS = ("psutil",)  # it asks for it by an extra of MONAI, which is not installed here again
OTHERS = {"pydicom": "pydicom==2.4.5", "dicomweb-client": "dicomweb-client==0.60.1", "pynetdicom": "pynetdicom==2.1.1"}
TESTS = ("tests/bundle/test_monai_label.py",)
NO_ENVIRONMENT = 75  # EX_TEMPFAIL: no package index, no room; nothing was tested


def overrides() -> list[str]:
    """Return what uv is to take in place of what MONAI Label asks for: the older ones, and nothing that is here."""
    here = {each.metadata["Name"].lower().replace("_", "-") for each in distributions()} | {"sam2"}
    return [*OTHERS.values(), *(f"{name}; sys_platform == 'none'" for name in sorted(here - set(OTHERS)))]


def uv(*arguments: str) -> None:
    """Run uv, which can override what packages ask for."""
    subprocess.run([sys.executable, "-m", "uv", "--no-progress", *arguments], check=True, cwd=ROOT)


def make() -> Path:
    """Make the environment; return its Python."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    python = FOLDER / "bin" / "python"
    uv("venv", "--quiet", "--python", sys.executable, str(FOLDER))
    given = FOLDER / "overrides.txt"
    given.write_text("\n".join(overrides()) + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", WANTED], check=True)  # uv leaves out its apps, which are data of the wheel
    uv("pip", "install", "--quiet", "--python", str(python), "--override", str(given), WANTED, *EXTRAS)
    site = FOLDER / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (site / "medseg_environment.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    return python


def main() -> int:
    """Make the environment, run the tests; return their status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave the environment for the next time")
    options = parser.parse_args()
    try:
        python = FOLDER / "bin" / "python"
        python = python if options.keep and python.exists() else make()
    except subprocess.CalledProcessError as error:
        sys.stdout.write(f"MONAI Label: SKIPPED, the environment cannot be made here: {error}\n")
        return NO_ENVIRONMENT
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    # its packages warn of what newer ones deprecate: no fault of medseg's
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default", *TESTS]
    status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if not options.keep:
        shutil.rmtree(FOLDER)
    return status


if __name__ == "__main__":
    sys.exit(main())
