# ruff: noqa: UP031
"""Make `.venv` with the pinned packages, or leave it as it is where the pins have not changed.

Written for any Python 3, so that one too old gets as far as saying so in one line.
"""

import hashlib
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "medseg-stamp")
LEAST = (3, 11)


def stamp():
    """Return what the environment depends on: the pins, the dependencies, the interpreter, the place."""
    digest = hashlib.sha256(repr((sys.version_info[:2], ROOT)).encode())
    for name in ("constraints.txt", "pyproject.toml", ".ci/make_venv.py"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def read_stamp():
    """Return the stamp of the environment that is there, or nothing."""
    if not os.path.exists(STAMP) or not os.path.exists(PYTHON):
        return ""
    with open(STAMP) as file:
        return file.read()


def main():
    """Make the environment where it is missing or out of date."""
    if sys.version_info < LEAST:
        sys.exit(
            "medseg needs Python %d.%d or newer, this is %s: make PYTHON=python3.11" % (*LEAST, sys.version.split()[0])
        )
    wanted = stamp()
    if read_stamp() == wanted:
        return
    print("making .venv (about 8 GB with PyTorch's CUDA build; some minutes)", flush=True)
    if subprocess.call(
        [sys.executable, "-m", "venv", "--clear", VENV], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ):
        # Debian and Ubuntu ship Python without ensurepip; pip then comes from the package index
        subprocess.check_call([sys.executable, "-m", "venv", "--clear", "--without-pip", VENV])
        bootstrap_pip()
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.check_call([*pip, "-c", os.path.join(ROOT, "constraints.txt"), "-e", os.path.join(ROOT, "") + "[dev]"])
    compile_packages()
    with open(STAMP, "w") as file:
        file.write(wanted)


def compile_packages():
    """Compile what was installed on all processors, without the packages' tests: pip takes one, for minutes.

    A file that is no Python of this version, such as a template, is left as it is, as pip leaves it.
    """
    words = ["-W", "ignore", "-m", "compileall", "-qq", "-j", "0", "-x", r"site-packages/.*/tests?/"]
    subprocess.call([PYTHON, *words, os.path.join(VENV, "lib")])


def bootstrap_pip():
    """Put pip into an environment made without it: by a pip that is there, else from the package index's own page."""
    if (
        subprocess.call(
            [sys.executable, "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        == 0
    ):
        subprocess.check_call([sys.executable, "-m", "pip", "--python", PYTHON, "install", "--quiet", "pip"])
        return
    import re
    import urllib.parse
    import urllib.request

    page = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/pip/"
    release = re.compile(r'href="([^"]*/(pip-[\d.]+-py3-none-any\.whl))#sha256=([0-9a-f]{64})"(?![^>]*data-yanked)')
    try:
        request = urllib.request.Request(page, headers={"Accept": "text/html"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = release.findall(answer.read().decode())
        link, name, checksum = found[-1]
        with urllib.request.urlopen(urllib.parse.urljoin(page, link), timeout=120) as answer:
            content = answer.read()
    except (OSError, ValueError, IndexError) as error:
        sys.exit("this Python has no pip and none could be fetched (%s): sudo apt install python3-venv" % error)
    if hashlib.sha256(content).hexdigest() != checksum:
        sys.exit("the fetched pip does not have the checksum that the index names")
    path = os.path.join(VENV, name)
    with open(path, "wb") as file:
        file.write(content)
    subprocess.check_call([PYTHON, os.path.join(path, "pip"), "install", "--quiet", path])
    os.remove(path)


main()
