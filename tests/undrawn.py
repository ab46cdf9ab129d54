"""Diagrams that a test does not look at: a training of a few steps ends with two, which take longer than the steps."""

from pathlib import Path
from typing import Any

import pytest

from medseg.reports import confusion, curves


@pytest.fixture
def drawn() -> None:
    """What a test asks for that looks at the diagrams of its run."""


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
