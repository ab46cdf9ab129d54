import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medseg.studies.isolated import EndedError, isolated

ROOT = Path(__file__).parents[2]


def test_result_and_error_come_back():
    assert isolated(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="invalid literal"):
        isolated(int, "seven")


def test_a_process_that_is_ended():
    with pytest.raises(EndedError, match="ended from outside, as systems do when memory runs out"):
        isolated(os._exit, 9)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory under Linux")
def test_memory_that_is_not_there_is_refused():
    import resource

    allowed, _ = isolated(resource.getrlimit, resource.RLIMIT_DATA)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < allowed < 2 * there
    with pytest.raises(MemoryError):
        isolated(bytearray, 1 << 42)


WORKED = """
import os, pathlib, time
def work(path):
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(600)
"""
ASKED = """
import sys, worked
from medseg.studies.isolated import isolated
if __name__ == "__main__":
    isolated(worked.work, sys.argv[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for a process under /proc")
def test_it_does_not_outlive_who_asked(tmp_path):
    """A parent that is killed says nothing to it: it would wait for work, with all its memory, for ever."""
    (tmp_path / "worked.py").write_text(WORKED)
    (tmp_path / "asked.py").write_text(ASKED)
    told = tmp_path / "told"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "asked.py"), str(told)], env=environment)
    try:
        assert until(lambda: told.is_file() and told.read_text() != "")
    finally:
        parent.kill()
        parent.wait()
    assert until(lambda: not Path(f"/proc/{told.read_text()}").exists())


def until(holds, seconds=90.0):
    """Wait until something holds; returns whether it does."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.1)
    return holds()
