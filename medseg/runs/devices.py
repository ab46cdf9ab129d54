"""The GPUs of this machine, lent to the processes that a study or a cohort starts, one each."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medseg.data.file_facts import cache_folder

__all__ = ["VISIBLE", "Devices"]

VISIBLE = "CUDA_VISIBLE_DEVICES"
_PAUSE = 0.2  # seconds between looks for a free one


class Devices:
    """GPUs that are lent, each to one process at a time, of all processes of this user on this machine.

    The system takes a GPU back when the lender ends, however it ends. Whoever uses a GPU without asking here is not
    seen. With one GPU or none nothing is lent, as there is nothing to choose: processes share it.

    Args:
        names: what ``CUDA_VISIBLE_DEVICES`` calls them, numbers or UUIDs; by default those that this process sees.
        folder: of the locks; by default in medseg's cache.
    """

    def __init__(self, names: Sequence[str] | None = None, folder: str | Path | None = None) -> None:
        self.names = list(_seen() if names is None else names)
        self._folder = Path(folder) if folder is not None else cache_folder() / "gpus"
        self._ours: set[str] = set()  # where the system has no locks of files, those of this process are told apart
        self._guard = threading.Lock()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.names)

    @contextlib.contextmanager
    def lend(self) -> Iterator[Mapping[str, str]]:
        """Lend a GPU until the block is left, waiting for one where all are taken.

        Returns:
            The environment of a process that sees it alone; empty with fewer than two.
        """
        if len(self) < 2:
            yield {}
            return
        name, file = self._wait()
        try:
            yield {VISIBLE: name}
        finally:
            with self._guard:
                self._ours.discard(name)
            os.close(file)

    def _wait(self) -> tuple[str, int]:
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            for name in self.names:
                file = self._take(name)
                if file is not None:
                    return name, file
            time.sleep(_PAUSE)

    def _take(self, name: str) -> int | None:
        """Return the open file that holds a GPU, if it is free."""
        with self._guard:
            if name in self._ours:
                return None
            place = self._folder / f"{platform.node()}_{''.join(c if c.isalnum() else '_' for c in name)}.lock"
            file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not _locked(file):
                os.close(file)
                return None
            self._ours.add(name)
            return file


def _locked(file: int) -> bool:
    """Lock an open file, and tell whether that went; where there are no locks, it goes."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _seen() -> list[str]:
    import torch

    number = torch.cuda.device_count()
    given = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return given[:number] if given else [str(index) for index in range(number)]
