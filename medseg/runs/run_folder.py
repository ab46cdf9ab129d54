"""The folder of a run: configuration, metrics, environment and pictures as plain files."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from medseg.atomic import atomic_write
from medseg.caller import spelt
from medseg.errors import MedsegError, shown
from medseg.io.yaml_file import read_yaml
from medseg.runs.paths import resolve_path

CONFIG = "config.yaml"
LAST = "checkpoints/last.pt"
MODEL = "model.pt"
METRICS = "metrics.jsonl"
STUDY = "study.yaml"  # of a study's folder, whose cells are runs
FILES = "files.json"  # beside the checkpoints: tells which file of the data has changed
_OWN_KEYS = ("epoch", "time")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


def config_of(folder: Path) -> dict[str, Any]:
    """Return the resolved configuration that a run has written into its folder; empty where there is none.

    Raises:
        MedsegError: if it is damaged.
    """
    path = folder / CONFIG
    held = read_yaml(path, MedsegError, "the folder of a run") if path.is_file() else None
    return held if isinstance(held, dict) else {}


def hide_credentials(text: str) -> str:
    """Replace ``user:password@`` in addresses, so that no record holds a password."""
    return _CREDENTIALS.sub("***@", text)


def to_plain(value: Any) -> Any:
    """Turn a value into what JSON and YAML can hold: dicts, lists, strings, numbers, booleans and ``None``.

    Numbers that are not finite become ``None``, paths strings, other objects the name of their type (their ``repr``
    may hold an address in memory, different in each run). Passwords in addresses are hidden.
    """
    if isinstance(value, Enum):
        return to_plain(value.value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return hide_credentials(str(value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        items: Iterable[Any] = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [to_plain(item) for item in items]
    if hasattr(value, "tolist"):  # numpy and torch
        return to_plain(value.tolist())
    kind = value if isinstance(value, type) else type(value)
    return f"<{kind.__module__}.{kind.__qualname__}>"


class RunError(MedsegError):
    """A run's folder that cannot be used as asked."""


def refuse_taken(folder: Path) -> None:
    """Refuse a folder for a new run that holds a run, or is none.

    Raises:
        RunError: naming how that one is continued.
    """
    if (folder / LAST).is_file() or (folder / MODEL).is_file():
        raise RunError(
            f"{folder} already holds a run; continue it with {spelt('resume', folder)}, or choose another "
            f"{spelt('output_dir')}"
        )
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; name a folder for the run")


def refuse_other(folder: Path, what: str, *, begun: bool) -> None:
    """Refuse a folder that is a file, or holds what is not its own; hidden files are anybody's.

    Args:
        folder: that is named for something, there or not.
        what: it is named for, such as ``study``.
        begun: whether it holds one.

    Raises:
        RunError: naming the folder, and what to name instead.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{shown(folder)} is a file; name a folder for the {what}")
    if not begun and folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise RunError(f"{shown(folder)} holds something else; name a new folder, or that of a {what}")


class RunFolder:
    """A folder that holds a run as files; each appears whole or not at all.

    Args:
        path: of the folder; made if missing.

    Raises:
        NotADirectoryError: if ``path`` is a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = resolve_path(path)
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"{self.path} is a file; name a folder for the run")
        self.path.mkdir(parents=True, exist_ok=True)
        self._last_epoch: int | None = None

    def file(self, name: str) -> Path:
        """Return the path of a file in the folder and make the subfolder it lies in.

        Args:
            name: relative to the folder, such as ``report/scores.json``.

        Raises:
            ValueError: if ``name`` leads out of the folder.
        """
        target = Path(os.path.normpath(self.path / name))
        if not target.is_relative_to(self.path) or target == self.path:
            raise MedsegError(f"file name {name!r} leads out of the run folder {self.path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def write_text(self, name: str, text: str) -> Path:
        """Write ``text`` in UTF-8 to the file ``name`` and return its path."""
        target = self.file(name)
        with atomic_write(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return target

    def write_json(self, name: str, value: Any) -> Path:
        """Write ``value`` (see `to_plain`) to the file ``name`` and return its path."""
        return self.write_text(name, json.dumps(to_plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n")

    def write_config(self, config: Mapping[str, Any]) -> Path:
        """Write the resolved configuration to ``config.yaml``."""
        import yaml

        return self.write_text(CONFIG, yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True))

    def config_before(self) -> dict[str, Any]:
        """Return the configuration that the run has had so far; empty where there is none."""
        return config_of(self.path)

    def keep_config(self, epoch: int) -> Path:
        """Keep the configuration that the run has had up to an epoch, before another one is written."""
        return self.write_text(f"config_until_epoch_{epoch}.yaml", self.file(CONFIG).read_text(encoding="utf-8"))

    def append_metrics(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add one line to ``metrics.jsonl``: the epoch, the time in seconds since 1970, and the values.

        Args:
            epoch: later than every epoch in the file.
            values: by name; those not finite are written as ``null``.

        Raises:
            ValueError: if the epoch is there already, or a value is named ``epoch`` or ``time``.
        """
        if taken := [key for key in _OWN_KEYS if key in values]:
            raise MedsegError(f"a metric may not be named {taken[0]!r}: {METRICS} uses the name itself")
        if self._last_epoch is None:
            self._last_epoch = max((int(row["epoch"]) for row in self.read_metrics()), default=-1)
        if epoch <= self._last_epoch:
            raise MedsegError(
                f"{self.path / METRICS} goes up to epoch {self._last_epoch}, so epoch {epoch} cannot be added; "
                "call truncate_metrics with the last completed epoch before resuming"
            )
        record = {"epoch": epoch, "time": round(time.time(), 3), **to_plain(values)}
        with open(self.path / METRICS, "ab+") as file:
            _cut_unfinished_line(file)
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._last_epoch = epoch

    def read_metrics(self) -> list[dict[str, float]]:
        """Return the lines of ``metrics.jsonl``; ``null`` reads as NaN, a last line cut short by a kill is left out.

        Raises:
            ValueError: if another line cannot be read.
        """
        path = self.path / METRICS
        if not path.is_file():
            return []
        rows = []
        complete = path.read_bytes().rpartition(b"\n")[0]
        for number, line in enumerate(complete.splitlines(), start=1):
            try:
                record = json.loads(line)
                rows.append({key: math.nan if value is None else value for key, value in record.items()})
            except (ValueError, AttributeError) as error:
                raise MedsegError(
                    f"{path}, line {number} cannot be read ({line[:60]!r}); remove the line to continue"
                ) from error
        return rows

    def truncate_metrics(self, last_epoch: int) -> None:
        """Drop the lines after ``last_epoch``, the last one that the checkpoint to resume from has seen."""
        rows = self.read_metrics()
        kept = [row for row in rows if row["epoch"] <= last_epoch]
        if len(kept) < len(rows):
            self.write_text(METRICS, "".join(json.dumps(to_plain(row), allow_nan=False) + "\n" for row in kept))
        self._last_epoch = max((int(row["epoch"]) for row in kept), default=-1)


def _cut_unfinished_line(file: Any) -> None:
    """Remove what a killed process left of a line at the end of the file."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
