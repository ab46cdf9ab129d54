"""Programs of others that read or send DICOM: of dcmqi (pip), dicom3tools, plastimatch and dcmtk (apt)."""

import subprocess

import pytest

from benchmarks.orthanc import place_of

FROM = {
    "itkimage2segimage": "pip install dcmqi",
    "segimage2itkimage": "pip install dcmqi",
    "tid1500reader": "pip install dcmqi",
    "dciodvfy": "apt install dicom3tools",
    "plastimatch": "apt install plastimatch",
    "storescu": "apt install dcmtk",
}


def tool(name):
    """Return the path of a program; skip the test where there is none."""
    found = place_of(name)
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
