"""Where a node keeps files: nothing in a name but numbers and hashes, nothing half written under its final name.

```
incoming/                 being written; emptied at every start
received/STUDY/SERIES/    STUDY is the queue's number, SERIES and the file's name are hashes of UIDs
results/STUDY/...         until they are sent
records/                  who asked for what, see `medseg.prediction.audit`
queue.sqlite
```
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from medseg.atomic import sync_folder

__all__ = ["Store", "stands_for"]

_RESERVE = 256 * 2**20  # bytes of the disk that are left for results and the queue itself
_DIGITS = 32  # 128 bits: no two UIDs of any archive share them


def stands_for(uid: str) -> str:
    """Return what stands for a UID in names and in the queue."""
    return hashlib.sha256(uid.encode()).hexdigest()[:_DIGITS]


class Store:
    """The folder of a node, which nobody but its user may look into.

    Args:
        root: the folder; made if it is missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.queue = root / "queue.sqlite"
        self.incoming, self.received, self.results, self.records = (
            root / name for name in ("incoming", "received", "results", "records")
        )

    def full(self, held: int, disk_gib: float, size: int = 0) -> str:
        """Return why nothing more is taken; empty where there is room.

        Args:
            held: bytes that the node holds.
            disk_gib: most that it may hold.
            size: bytes that come.
        """
        if held + size > disk_gib * 2**30:
            return f"{held / 2**30:.2f} of {disk_gib:g} GiB (disk_gib) are held"
        free = shutil.disk_usage(self.root).free
        if free < size + _RESERVE:
            return f"{free // 2**20} MiB of the disk are left, of which {_RESERVE // 2**20} are kept"
        return ""

    def make(self) -> None:
        """Make the folders.

        Raises:
            OSError: if the disk refuses.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for folder in (self.incoming, self.received, self.results, self.records):
            folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(self.root)

    def write(self, content: bytes) -> Path:
        """Write what arrives; when this returns, it is on the disk."""
        path = self.incoming / secrets.token_hex(16)
        try:
            with path.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def file(self, study: int, series: str, instance: str) -> Path:
        """Return the place of an instance."""
        return self.received / str(study) / series / f"{instance}.dcm"

    def series(self, study: int, series: str) -> Path:
        """Return the folder of a series."""
        return self.received / str(study) / series

    def place(self, written: Path, target: Path) -> None:
        """Give a written file its name; when this returns, a power cut does not take it away."""
        made = [folder for folder in (target.parent.parent, target.parent) if not folder.exists()]
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.replace(written, target)
        for folder in {target.parent, *(folder.parent for folder in made)}:
            sync_folder(folder)

    def sync(self, file: Path) -> None:
        """Make the folders that a result lies in survive a power cut; the file itself was written through."""
        for folder in file.parents:
            sync_folder(folder)
            if folder == self.results:
                return

    def remove(self, study: int) -> None:
        """Remove what was received and made of a study."""
        shutil.rmtree(self.received / str(study), ignore_errors=True)
        self.remove_results(study)

    def remove_results(self, study: int) -> None:
        """Remove what was made of a study."""
        shutil.rmtree(self.results / str(study), ignore_errors=True)

    def clear_incoming(self) -> int:
        """Remove what a dead process was writing; return how many files that were."""
        left = list(self.incoming.iterdir())
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def instances(self) -> Iterator[Path]:
        """Yield the files of all instances."""
        return self.received.glob("*/*/*.dcm")
