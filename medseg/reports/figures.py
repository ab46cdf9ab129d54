"""Matplotlib figures without its global state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

DPI = 120
MARKERS = "os^Dv*PX"
"""Of classes, beside their colours: they are told apart in grey, too."""


@contextlib.contextmanager
def default_style() -> Iterator[None]:
    """Draw as matplotlib does by itself, whatever the user's ``matplotlibrc`` says; it is in force again afterwards."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        yield


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure that draws with Agg and keeps clear of ``pyplot``.

    Args:
        width: in inches of `DPI` pixels.
        height: likewise.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    margins = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(width, height), dpi=DPI, layout=margins, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def whole_numbers(axes: Any) -> None:
    """Mark whole numbers alone on an x axis, as of epochs and images, with room around a single one.

    Args:
        axes: on which all is drawn.
    """
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    low, high = axes.dataLim.intervalx
    if low == high:
        axes.set_xlim(low - 0.5, high + 0.5)


def to_image(figure: Any) -> Image:
    """Draw a figure; equal figures give equal pixels.

    Args:
        figure: from `new_figure`.
    """
    import numpy as np
    from PIL import Image

    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
