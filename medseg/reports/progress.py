"""Progress bars for the command line: shown on a terminal, silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(title: str, *, transfer: bool = False) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar on standard error while the body runs.

    Args:
        title: text before the bar.
        transfer: count bytes, not items.

    Yields:
        A function to call with what is done and what there is in all (``None`` if unknown).
    """
    if not sys.stderr.isatty():  # nor is rich imported
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    console = Console(file=sys.stderr)
    if not console.is_terminal:  # before 14.3 rich ends a bar that it does not show with an empty line
        yield lambda done, total: None
        return

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.3g}/s")

    counted: list[ProgressColumn] = (
        [DownloadColumn(), TransferSpeedColumn()] if transfer else [MofNCompleteColumn(), Rate()]
    )
    columns = [TextColumn("{task.description}"), BarColumn(), *counted, TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)

        def update(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield update
