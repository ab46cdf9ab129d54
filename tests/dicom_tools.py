"""Programs of others that read or send DICOM: of dcmqi (pip), dicom3tools, plastimatch and dcmtk (apt)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FROM = {
    "itkimage2segimage": "pip install dcmqi",
    "segimage2itkimage": "pip install dcmqi",
    "tid1500reader": "pip install dcmqi",
    "dciodvfy": "apt install dicom3tools",
    "plastimatch": "apt install plastimatch",
    "storescu": "apt install dcmtk",
}


def tool(name):
    """Return the path of a program; skip the test where there is none.

    Of pip it lies beside the interpreter, where pynetdicom has a ``storescu`` of its own, which is not dcmtk's.
    """
    home = Path(sys.executable).parent
    places = [place for place in os.environ.get("PATH", "").split(os.pathsep) if Path(place) != home]
    places = [str(home), *places] if FROM[name].startswith("pip") else places
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        pytest.skip(f"needs {name}: {FROM[name]}")
    return found


def run(name, *arguments):
    """Run a program; return what it said."""
    command = [tool(name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout + done.stderr


def faults(path):
    """Return the errors that dciodvfy finds in a file."""
    done = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, timeout=120, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
