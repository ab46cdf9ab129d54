"""A folder that is to be imported: its files, found once, and what can be read of its JSON files."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medseg.data.schema import DatalistError, read_json
from medseg.errors import MedsegError, shown
from medseg.io.folder import list_images

__all__ = ["ARCHIVES", "Folder", "stem_of"]

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
"""How the names of archives end."""


class Folder:
    """The files of a folder and its subfolders; hidden ones, and links in a circle, are left out and counted.

    Args:
        root: the folder.
        leave: folders that are passed over, such as the one that is written to.

    Attributes:
        root: the folder.
        images: files of images, but not the slices of DICOM series, sorted.
        files: all files, sorted.
        reasons: why a file is no image.

    Raises:
        MedsegError: if it is no folder, or cannot be listed.
    """

    def __init__(self, root: Path, leave: Iterable[Path] = ()) -> None:
        if root.is_file() and root.name.lower().endswith(ARCHIVES):
            raise MedsegError(f"{shown(root)}: is an archive; unpack it first, and name the folder that comes of it")
        if root.exists() and not root.is_dir():
            raise MedsegError(f"{shown(root)}: is a file; name the folder of the data set")
        listing = list_images(root, leave=leave, masks=True)
        self.root = root
        self.images = [path for path in listing.images if path.is_file()]
        slices = [file for path in listing.images if path.is_dir() for file in path.iterdir() if file.is_file()]
        self.reasons = {each.path: each.reason for each in listing.left_out}
        plain = [path for path in self.reasons if path.is_file() and not path.name.startswith(".")]
        self.files = sorted({*self.images, *slices, *plain})
        self._read: dict[Path, dict[str, Any]] = {}
        self._by_name: dict[str, list[Path]] | None = None

    def rel(self, path: Path) -> str:
        """Return a path relative to the folder."""
        return path.relative_to(self.root).as_posix()

    def named(self, *patterns: str) -> list[Path]:
        """Return the files whose relative path fits one of the patterns, in lower case; ``*`` crosses folders."""
        return [path for path in self.files if any(fnmatch.fnmatch(self.rel(path).lower(), each) for each in patterns)]

    def called(self, name: str) -> list[Path]:
        """Return the files of that name, at any depth."""
        if self._by_name is None:
            self._by_name = defaultdict(list)
            for path in self.files:
                self._by_name[path.name].append(path)
        return self._by_name.get(name, [])

    def subfolder(self, name: str, option: str) -> Path:
        """Return a folder below that a person named.

        Raises:
            MedsegError: if there is none.
        """
        path = self.root / name
        if not path.is_dir():
            raise MedsegError(f"{shown(path)}: no such folder; name one below {shown(self.root)} with --{option}")
        return path

    def read_json(self, path: Path) -> dict[str, Any]:
        """Read a JSON object; twice costs once.

        Raises:
            DatalistError: if it is none.
        """
        if path not in self._read:
            self._read[path] = read_json(path)
        return self._read[path]

    def peek_json(self, path: Path) -> dict[str, Any]:
        """Return a JSON object; an empty one of what is none, which is then not what was looked for."""
        try:
            return self.read_json(path)
        except DatalistError:
            return {}


def stem_of(path: Path) -> str:
    """Return a file's name without the suffix of an image, ``.nii.gz`` being one."""
    from medseg.io.images import image_suffix

    suffix = image_suffix(path) or path.suffix
    return path.name[: len(path.name) - len(suffix)] if suffix else path.name
