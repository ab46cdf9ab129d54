"""Progress of a training: a bar on a terminal, one line an epoch everywhere, and elsewhere one every 30 seconds."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from medseg.caller import spelt
from medseg.errors import counted

logger = logging.getLogger(__name__)

_SILENCE = 30.0  # seconds without a line, at most


class Progress:
    """Show loss, rate and remaining time.

    Args:
        epochs: of the whole training.
        iterations: of an epoch.
        max_minutes: wall-clock budget, from which the time left is computed; ``None`` for none.
        enabled: whether this process reports.
    """

    def __init__(self, epochs: int, iterations: int, *, max_minutes: float | None = None, enabled: bool = True) -> None:
        self.epochs = epochs
        self.iterations = iterations
        self.max_minutes = max_minutes
        self.enabled = enabled
        self._began = self._said = self._asked = time.monotonic()
        self._gap = 0.0
        self._epochs_done = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        """Show the bar where standard error is a terminal."""
        self._began = self._said = self._asked = time.monotonic()
        self._epochs_done = 0
        if self.enabled and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("epoch", total=self.iterations, note="")
            self._bar.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def start_epoch(self, epoch: int) -> None:
        """Begin an epoch (from 1)."""
        if self._bar is not None:
            self._bar.reset(self._task, total=self.iterations, description=f"epoch {epoch}/{self.epochs}", note="")

    def due(self) -> bool:
        """Return whether a line must be written now, lest the next occasion be too late."""
        now = time.monotonic()
        self._gap, self._asked = max(self._gap, now - self._asked), now
        return self.enabled and self._bar is None and now - self._said + self._gap >= _SILENCE

    def advance(self, epoch: int, done: int, loss: float, rate: float, seconds: float) -> None:
        """Show that ``done`` iterations of the epoch are done.

        Args:
            epoch: its number, from 1.
            done: iterations of it.
            loss: mean so far.
            rate: learning rate.
            seconds: spent on the run so far.
        """
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=f"loss {loss:.4f}  lr {rate:.2e}")
        elif self.due():
            left = self._left(self._epochs_done + done / self.iterations, epoch - 1 + done / self.iterations, seconds)
            self._say(
                f"epoch {epoch}/{self.epochs}  {done}/{self.iterations}  loss {loss:.4f}  lr {rate:.2e}  "
                f"{_clock(seconds)} spent, at most {_clock(left)} left"
            )

    def validate(self, done: int, of: int) -> None:
        """Show that ``done`` of ``of`` batches of the validation are done."""
        if self.due():
            self._say(f"validation {done}/{of}")

    def _say(self, line: str) -> None:
        self._said, self._gap = time.monotonic(), 0.0
        logger.info("%s", line)

    def _left(self, done_here: float, done: float, seconds: float) -> float:
        """Return the seconds left at the pace so far, and no more than the budget has."""
        left = (time.monotonic() - self._began) / max(done_here, 1e-9) * (self.epochs - done)
        if self.max_minutes is not None:
            left = min(left, 60 * self.max_minutes - seconds)
        return max(0.0, left)

    def cut_short(self, done: int, planned: int) -> None:
        """Say that the clock, and not the schedule, ended the training.

        Args:
            done: iterations.
            planned: iterations of the whole schedule.
        """
        if self.enabled:
            logger.warning(
                "%s is over after %s of at most %d: how far it came depends on this machine",
                spelt("max_minutes", f"{self.max_minutes or 0.0:g}"),
                counted(done, "step"),
                planned,
            )

    def finish_epoch(self, epoch: int, values: Mapping[str, float], best: Mapping[str, Any], seconds: float) -> None:
        """Log the epoch's line.

        Args:
            epoch: its number, from 1.
            values: the epoch's values, as recorded.
            best: best validation score so far, its name (``by``) and its epoch.
            seconds: spent on the run so far.
        """
        if not self.enabled:
            return
        self._epochs_done += 1
        parts = [f"epoch {epoch}/{self.epochs}", f"loss {values['loss']:.4f}", f"lr {values['learning_rate']:.2e}"]
        if best["by"] in values:
            name = best["by"].removeprefix("val_").replace("_", " ").replace("iou", "IoU")
            score = f"best {best['score']:.4f}, epoch {best['epoch']}" if best["epoch"] else "none is a number yet"
            parts.append(f"{name} {values[best['by']]:.4f} ({score})")
        parts.append(f"{values['images_per_second']:.1f} images/s")
        parts.append(f"waiting for data {100 * values['data_wait_share']:.1f} %")
        left = self._left(self._epochs_done, epoch, seconds)
        parts.append(f"{_clock(seconds)} spent, at most {_clock(left)} left")
        if self._bar is not None:  # the line would be written into the bar's
            self._bar.stop()
        self._say("  ".join(parts))
        if self._bar is not None:
            self._bar.start()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
