"""Diagrams that a test does not look at: a training of a few steps ends with several, which take longer than it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from medseg.reports import confusion, curves


@pytest.fixture(scope="session", autouse=True)
def draws() -> Iterator[Callable[[FigureCanvasAgg], None]]:
    """Let figures be made and kept as pictures of their size, but not be laid out and drawn; returns what draws."""

    def left_empty(canvas: FigureCanvasAgg) -> None:
        canvas.get_renderer()

    with pytest.MonkeyPatch.context() as patch:
        draw = FigureCanvasAgg.draw
        patch.setattr(FigureCanvasAgg, "draw", left_empty)
        yield draw


@pytest.fixture(scope="module")
def drawn(draws: Callable[[FigureCanvasAgg], None]) -> Iterator[None]:
    """What a module of tests asks for that looks at diagrams."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FigureCanvasAgg, "draw", draws)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the curves and the matrix of a run of this process be empty files."""

    def empty(_values: Any, *arguments: Any, **_options: Any) -> None:
        next(path for path in arguments if isinstance(path, Path)).touch()

    monkeypatch.setattr(curves, "save_curves", empty)
    monkeypatch.setattr(confusion, "save_confusion", empty)


class _Nothing:
    def save(self, path: Path) -> None:
        """Save no file."""


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Let studies have no pictures at all, which are most of the work of trainings so small."""
    for place in ("confusion.save_confusion", "curves.save_curves", "overlays.overlay_sheet", "slices.save_slices"):
        patch.setattr(f"medseg.reports.{place}", lambda *_, **__: _Nothing())
