"""Prepared cases on disk, for data sets that do not fit in memory: memory-mapped arrays of which a patch is read alone.

Plain ``.npy`` files, not compressed ones: `benchmarks.patches` reads a patch of either.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg import __version__
from medseg.atomic import atomic_write
from medseg.data.file_facts import cache_folder
from medseg.data.schema import PATH_KEYS
from medseg.errors import MedsegError
from medseg.io.channels import paths_of
from medseg.io.labels import VALUES_KEY
from medseg.io.parts import content_hash, file_stamp

__all__ = ["CaseFiles", "size_of"]

logger = logging.getLogger(__name__)

_FORMAT = 3
_DISK_SHARE = 0.5  # of the free disk that a data set may take
_KEPT_SECONDS = 30 * 24 * 3600.0  # a case that was not used for so long is removed
_MARK = "case.json"  # written last: a folder without it is a killed process's

Sample = dict[str, Any]


def size_of(sample: Mapping[str, Any]) -> int:
    """Return the bytes of a sample's tensors."""
    return sum(value.numel() * value.element_size() for value in sample.values() if isinstance(value, Tensor))


class CaseFiles:
    """A folder of prepared cases, each under a hash of its files' content, of how it was prepared and by which MONAI.

    A case appears whole or not at all, so that processes and workers may share the folder; two that prepare the same
    one write the same. Cases that nobody used for 30 days are removed.

    Args:
        prepared: says in full how a case is prepared, such as the model's description of its input as JSON.
        folder: by default ``cases`` in medseg's cache folder.
    """

    def __init__(self, prepared: str, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else cache_folder() / "cases"
        self.key = f"{_FORMAT} {version('monai')} {__version__} {prepared}"

    def have_room(self, size: int) -> bool:
        """Return whether a data set may be kept here, which takes at most half of the free disk.

        Args:
            size: of the data set, in bytes; what is here of it already is not counted off.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.remove_unused()
            return size <= _DISK_SHARE * shutil.disk_usage(self.folder).free
        except OSError as error:
            logger.warning("%s cannot hold prepared cases (%s)", self.folder, error.strerror)
            return False

    def dataset(self, data: Sequence[Sample], transform: Callable[[Sample], Sample]) -> torch.utils.data.Dataset[Any]:
        """Return the cases as a data set of memory-mapped samples, each prepared when it is first asked for.

        Args:
            data: entries of a datalist with absolute paths.
            transform: from an entry to plain tensors, as ``prepared`` says.
        """
        return _Mapped(self, data, transform)

    def case(self, entry: Sample, transform: Callable[[Sample], Sample]) -> Sample:
        """Return one case, memory-mapped; what is written into its tensors stays in this process.

        Args:
            entry: of a datalist, with absolute paths.
            transform: makes it, where it is not here yet.

        Raises:
            MedsegError: if the disk refuses it.
        """
        folder = self.folder / self._name(entry)
        mark = folder / _MARK
        try:
            keys = json.loads(mark.read_text(encoding="utf-8"))
            os.utime(mark)
        except FileNotFoundError:
            sample = {key: value for key, value in transform(entry).items() if isinstance(value, Tensor)}
            try:
                keys = self._write(folder, sample)
            except OSError as error:
                raise MedsegError(
                    f"{folder}: a prepared case cannot be written ({error.strerror}); make room there, or name another "
                    "folder with the environment variable MEDSEG_CACHE"
                ) from error
        return {key: torch.from_numpy(np.load(folder / f"{key}.npy", mmap_mode="c")) for key in keys}

    def _write(self, folder: Path, sample: Mapping[str, Tensor]) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        for key, value in sample.items():
            with atomic_write(folder / f"{key}.npy") as temporary, open(temporary, "wb") as file:
                np.save(file, value.numpy())  # in its order of axes, which is that of reading
        with atomic_write(folder / _MARK) as temporary:
            temporary.write_text(json.dumps(list(sample)), encoding="utf-8")
        return list(sample)

    def _name(self, entry: Sample) -> str:
        named = [(name, path) for name in PATH_KEYS if name in entry for path in paths_of(entry[name])]
        parts = [f"{name} {self._content(path)}" for name, path in named]
        parts.append(json.dumps(entry.get(VALUES_KEY), sort_keys=True, default=str))
        return hashlib.sha256("\n".join([self.key, *parts]).encode()).hexdigest()[:32]

    def _content(self, path: Path) -> str:
        """Return the hash of a file's content; it is read once, until its size or one of its times changes."""
        stamp = f"{file_stamp(path)} {path.resolve()}"
        known = self.folder / "files" / hashlib.sha256(stamp.encode()).hexdigest()[:32]
        try:
            text = known.read_text(encoding="ascii")
            os.utime(known)
            return text
        except FileNotFoundError:
            digest = content_hash(path)
            known.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(known) as temporary:
                temporary.write_text(digest, encoding="ascii")
            return digest

    def remove_unused(self, seconds: float = _KEPT_SECONDS) -> int:
        """Remove cases and hashes that were not used for so long, and return how many.

        Args:
            seconds: since the last use.
        """
        removed = 0
        for path in [*self.folder.glob("*"), *self.folder.glob("files/*")]:
            used = path / _MARK if (path / _MARK).is_file() else path
            if path.name == "files" or time.time() - used.stat().st_mtime < seconds:
                continue
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            removed += 1
        return removed


class _Mapped(torch.utils.data.Dataset[Any]):
    def __init__(self, files: CaseFiles, data: Sequence[Sample], transform: Callable[[Sample], Sample]) -> None:
        self.files = files
        self.data = data
        self.transform = transform
        self.opened: dict[int, Sample] = {}

    def __getitem__(self, index: int) -> Sample:
        if index not in self.opened:
            self.opened[index] = self.files.case(self.data[index], self.transform)
        return self.opened[index]
