"""What a comparison of networks was asked and has done, in a file that is whole at any moment; and the time it took."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

from medseg.atomic import remove_leftovers
from medseg.errors import MedsegError, shown
from medseg.runs.identity import differences
from medseg.runs.run_folder import RunFolder, to_plain

__all__ = ["RECORD", "SPENT", "Asked", "Record", "Spent"]

RECORD = "comparison.json"
SPENT = "spent.json"
_BEAT = 5.0  # seconds between two notes of the time: what a kill loses at most


@dataclass(frozen=True)
class Asked:
    """What is asked of a comparison.

    Args:
        minutes: for all of it, planning and scoring included.
        networks: names; empty for those that medseg proposes.
        dimensions: of the plans.
        memory: GiB that a training step of any network may take.
        folds: of the cross-validation; ``None`` for as many as the minutes hold.
        fold_key: fold scheme.
        workers: trainings at a time.
        settings: single keys of the configuration of all trainings.
        best_fold: whether the best fold's model alone is exported, not the ensemble of all.
        calibrate: whether each model that is exported gets a temperature, fitted to the fold that it has not seen.
    """

    minutes: float
    networks: tuple[str, ...] = ()
    dimensions: int | None = None
    memory: float | None = None
    folds: int | None = None
    fold_key: str = "fold"
    workers: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    best_fold: bool = False
    calibrate: bool = False

    def lasting(self) -> dict[str, Any]:
        """Return what must stay the same when a comparison goes on, as plain values."""
        held = {key: value for key, value in asdict(self).items() if key not in ("workers", "best_fold", "calibrate")}
        return dict(to_plain(held))


@dataclass
class Record:
    """What has been done.

    Args:
        folder: of the comparison.
        asked: see `Asked.lasting`, and the fingerprint of the data.
        memory: bytes that a training step of any network may take.
        count: networks that are to be planned.
        folds: of the cross-validation.
        plans: by network: what it costs.
        failed: by network: why it is out.
        stages: rungs and the cross-validation: networks, folds, minutes, and what came out.
        pace: what trainings took beside their own minutes, over what was expected.
        took: minutes of all of it, once it has ended.
    """

    folder: Path
    asked: dict[str, Any]
    memory: int = 0
    count: int = 0
    folds: list[int] = field(default_factory=list)
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)
    pace: float = 1.0
    took: float | None = None

    @classmethod
    def begin(cls, folder: Path, asked: Mapping[str, Any]) -> Self:
        """Return the record of a folder, or a new one.

        Raises:
            MedsegError: if the folder's comparison was asked otherwise, or its record cannot be read.
        """
        path = folder / RECORD
        for name in (RECORD, SPENT):
            remove_leftovers(folder, name)
        wanted = dict(to_plain(asked))
        if not path.is_file():
            return cls(folder, wanted)
        try:
            made = cls(folder, **json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise MedsegError(f"{shown(path)} is no record of a comparison; name a new folder with -o") from error
        if different := differences(made.asked, wanted):
            raise MedsegError(
                f"{shown(folder)} holds a comparison that was asked otherwise: {'; '.join(different)}; give what it "
                "began with, or a new folder with -o"
            )
        return made

    def save(self) -> None:
        """Write the record."""
        held = {key: value for key, value in vars(self).items() if key != "folder"}
        RunFolder(self.folder).write_json(RECORD, held)


class Spent:
    """The minutes that a comparison has taken, of all processes that worked on it, killed ones included.

    Args:
        folder: of the comparison.
        clock: seconds, from any moment on.
        since: when this process began by the clock; now by default.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic, since: float | None = None) -> None:
        self._folder, self._clock = RunFolder(folder), clock
        self._before = 0.0
        if not (folder / RECORD).is_file():  # the minutes of what ended before anything was planned are nobody's
            (folder / SPENT).unlink(missing_ok=True)
        with contextlib.suppress(OSError, ValueError, KeyError):
            self._before = float(json.loads((folder / SPENT).read_text(encoding="utf-8"))["minutes"])
        self._started = clock() if since is None else since
        self._ended = Event()
        self._thread = Thread(target=self._keep, daemon=True)

    @property
    def minutes(self) -> float:
        """Minutes so far."""
        return self._before + (self._clock() - self._started) / 60

    def __enter__(self) -> Self:
        """Begin to note the time."""
        self._note()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Note it for the last time."""
        self._ended.set()
        self._thread.join()
        self._note()

    def _keep(self) -> None:
        while not self._ended.wait(_BEAT):
            with contextlib.suppress(OSError):  # a full disk stops what matters more
                self._note()

    def _note(self) -> None:
        self._folder.write_json(SPENT, {"minutes": self.minutes})
