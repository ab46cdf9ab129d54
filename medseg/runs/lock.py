"""A run's folder belongs to one process at a time."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import platform
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medseg.errors import MedsegError

logger = logging.getLogger(__name__)

LOCK = ".lock"
_PATIENCE = 10.0  # seconds for the children of a dead holder to let go
_WAIT = 0.05  # seconds between two tries
_TEXT = 4096  # bytes that the holder's name may have
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()
_hooked: list[bool] = []


class LockedError(MedsegError):
    """A folder that another process works in."""


class FolderLock:
    """An exclusive lock of a folder, which the system releases when its process ends, however it ends.

    The file ``.lock`` names the holder for the one who is refused; that it lies there locks nothing, so that one left
    by a dead process is in nobody's way.

    Args:
        folder: to lock; it must exist.
        name: of the file, where not the whole folder is meant.
    """

    def __init__(self, folder: str | Path, name: str = LOCK) -> None:
        self.path = Path(folder) / name
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise.

        Raises:
            LockedError: if another process has it; the message names the process.
        """
        while self._file is None:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                self._lock(file)
                if not _is(file, self.path):  # its holder removed it between our opening and locking it
                    continue
                holder = {"pid": os.getpid(), "host": platform.node(), "since": time.time()}
                os.truncate(file, 0)
                os.pwrite(file, json.dumps(holder).encode(), 0)
                self._file, file = file, -1
            finally:
                if file >= 0:
                    os.close(file)
        _hook()
        _held.add(self)

    def _lock(self, file: int) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            logger.warning("this system has no file locks: start no second run in %s", self.path.parent)
            return
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno in _UNSUPPORTED:
                    logger.warning("%s is on a file system without locks: start no second run in it", self.path.parent)
                    return
                if not _died(file) or time.monotonic() > until:
                    raise LockedError(
                        f"{self.path.parent} is in use by {_holder(file)}; wait until it has ended, or choose another "
                        "output folder"
                    ) from error
            time.sleep(0.1)  # a child of the dead holder, forked just then, is about to close the file

    def release(self) -> None:
        """Give the lock back; without it, nothing happens."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # the folder may be gone
            if _is(self._file, self.path):
                self.path.unlink()
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


@contextlib.contextmanager
def locked(folder: str | Path, patience: float, name: str = LOCK) -> Iterator[None]:
    """Hold a folder's lock, once who has it lets go.

    Args:
        folder: as in `FolderLock`.
        patience: seconds to wait.
        name: as in `FolderLock`.

    Raises:
        LockedError: if another process has it for longer.
    """
    lock, until = FolderLock(folder, name), time.monotonic() + patience
    while True:
        try:
            lock.acquire()
            break
        except LockedError:
            if time.monotonic() > until:
                raise
        time.sleep(_WAIT)
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: str | Path) -> bool:
    """Return whether a process of this computer works in a folder, without keeping one from beginning to.

    Args:
        folder: that a `FolderLock` may be held of.
    """
    try:
        import fcntl

        file = os.open(Path(folder) / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ImportError):
        return False
    try:
        if not _read(file) or _died(file):
            return False
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here: what the file says is all there is
        return True
    finally:
        os.close(file)
    return False


def _is(file: int, path: Path) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(file)
    return (opened.st_dev, opened.st_ino) == (found.st_dev, found.st_ino)


def _read(file: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(file, _TEXT, 0))
    except ValueError:  # the holder has the lock and has not written yet
        return {}
    return found if isinstance(found, dict) and {"pid", "host", "since"} <= set(found) else {}


def _holder(file: int) -> str:
    found = _read(file)
    if not found:
        return "another process"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["since"]))
    return f"process {found['pid']} on {found['host']} since {since}"


def _died(file: int) -> bool:
    found = _read(file)
    if not found or found["host"] != platform.node():
        return False
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return False


def _hook() -> None:
    """Let forked children (loading processes) close the file: one that outlives its parent must not hold the lock."""
    if not _hooked and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_close_all)
        _hooked.append(True)


def _close_all() -> None:
    for lock in list(_held):
        lock._close()
