"""A run's folder belongs to one process at a time."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medseg.runs.lock import LOCK, FolderLock, LockedError, is_locked

HOLD = """
import os, sys, time
from medseg.runs.lock import FolderLock
lock = FolderLock(sys.argv[1])
lock.acquire()
child = os.fork() if sys.argv[2] == "fork" else None
if child == 0:  # a loading process that outlives its parent
    time.sleep(600)
print("held", child, flush=True)
time.sleep(600)
"""


def hold(folder: Path, what: str = "alone") -> tuple["subprocess.Popen[str]", int | None]:
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), what], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said, number = child.stdout.readline().split()
    assert said == "held"
    return child, None if number == "None" else int(number)


def end(child: "subprocess.Popen[str]") -> None:
    child.kill()
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


def test_a_second_process_is_refused_and_a_dead_one_is_in_nobodys_way(tmp_path: Path) -> None:
    child, _ = hold(tmp_path)
    with pytest.raises(LockedError) as caught:
        FolderLock(tmp_path).acquire()
    message = str(caught.value)
    assert f"{tmp_path} is in use by process {child.pid} on " in message
    assert "\n" not in message
    end(child)
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == child.pid, "the file is still there"
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    lock.release()


def test_a_loading_process_that_outlives_its_parent_holds_nothing(tmp_path: Path) -> None:
    child, orphan = hold(tmp_path, "fork")
    assert orphan is not None
    child.kill()
    child.wait()
    try:
        FolderLock(tmp_path).acquire()
    finally:
        os.kill(orphan, signal.SIGKILL)
        end(child)


def test_one_process_twice(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.acquire()
    with pytest.raises(LockedError, match=f"process {os.getpid()} "):
        FolderLock(tmp_path).acquire()
    forked = multiprocessing.get_context("fork").Process(target=os.getpid)
    forked.start()
    forked.join()
    with pytest.raises(LockedError):  # the child's end has not released it
        FolderLock(tmp_path).acquire()
    lock.release()
    FolderLock(tmp_path).acquire()


def test_asking_keeps_nobody_from_a_folder(tmp_path):
    assert not is_locked(tmp_path)
    child, _ = hold(tmp_path)
    assert is_locked(tmp_path)
    end(child)
    assert not is_locked(tmp_path)  # its file lies there still
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert is_locked(tmp_path)
    with pytest.raises(LockedError):
        FolderLock(tmp_path).acquire()
    lock.release()
    assert not is_locked(tmp_path)
