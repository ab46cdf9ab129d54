"""Progress of a training: a bar on a terminal, one line an epoch everywhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)


class Progress:
    """Show loss, rate and remaining time.

    Args:
        epochs: of the whole training.
        iterations: of an epoch.
        enabled: whether this process reports.
    """

    def __init__(self, epochs: int, iterations: int, *, enabled: bool = True) -> None:
        self.epochs = epochs
        self.iterations = iterations
        self.enabled = enabled
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        """Show the bar where standard error is a terminal."""
        self._began = time.monotonic()
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

    def advance(self, epoch: int, done: int, loss: float, rate: float) -> None:
        """Show that ``done`` iterations of the epoch are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=f"loss {loss:.4f}  lr {rate:.2e}")

    def finish_epoch(self, epoch: int, values: Mapping[str, float], best: Mapping[str, Any], seconds: float) -> None:
        """Log the epoch's line.

        Args:
            epoch: its number, from 1.
            values: the epoch's values, as recorded.
            best: best validation score so far and its epoch.
            seconds: spent on the run so far.
        """
        if not self.enabled:
            return
        self._epochs_done += 1
        pace = (time.monotonic() - self._began) / self._epochs_done
        parts = [f"epoch {epoch}/{self.epochs}", f"loss {values['loss']:.4f}", f"lr {values['learning_rate']:.2e}"]
        if "val_mean_iou" in values:
            parts.append(f"mean IoU {values['val_mean_iou']:.4f} (best {best['score']:.4f}, epoch {best['epoch']})")
        parts.append(f"{values['images_per_second']:.1f} images/s")
        parts.append(f"waiting for data {100 * values['data_wait_share']:.1f} %")
        parts.append(f"{_clock(seconds)} spent, at most {_clock(pace * (self.epochs - epoch))} left")
        if self._bar is not None:  # the line would be written into the bar's
            self._bar.stop()
        logger.info("  ".join(parts))
        if self._bar is not None:
            self._bar.start()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
