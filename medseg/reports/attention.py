"""A sheet of what a network attends to: image, prediction, and each attention map over the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import MedsegError, counted
from medseg.reports.figures import DPI, default_style, new_figure, to_image
from medseg.reports.overlays import shorten
from medseg.reports.palette import Colour, Named, class_palette
from medseg.reports.views import cut_plane, make_view, show_classes
from medseg.reports.windows import Pixels, about

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_CHANNELS = 8  # panels of one map
BY_SCALE, BY_CLASS = "scale_weights", "recalibration"  # maps whose channels have names

_SEQUENTIAL, _DIVERGING = "viridis", "RdBu_r"
_TOLERANCE = 1e-6  # of a sum or product of weights that is to stay in [0, 1]
_MOST_PERCENT = 99  # of values have a colour of their own where a map has no upper limit: a few pixels get most of it
_ALPHA = 0.7  # of a map over the image
_INK, _SOFT, _FILL = "#1a1a1a", "#5f5f5f", "#7d8ca3"
# inches
_MARGIN, _COLUMN, _PICTURE, _BAR, _GAP = 0.25, 4.0, 3.2, 0.12, 0.3
_HEADING, _LINE, _PLOT, _LEFT, _BELOW = 0.5, 0.24, 1.5, 0.5, 0.6
_COLUMNS = 4
_STRETCH, _LEAST = 2.0, 0.4  # a picture's greatest height by its width; its least height and width


@dataclass(frozen=True)
class _Scale:
    """Colours of a map: the values at both ends, matplotlib's name, and whether some values lie above."""

    low: float
    high: float
    colours: str
    above: bool = False


@dataclass(frozen=True)
class _Shown:
    """What is shown of a map with spatial axes.

    Attributes:
        name: of the map.
        values: all of it, ``(K, *s)``.
        channels: that get a panel, with the name of each.
        scale: of its colours, the same in all its panels.
        note: what is left out, or nothing.
    """

    name: str
    values: NDArray[np.float32]
    channels: dict[int, str]
    scale: _Scale
    note: str


@dataclass(frozen=True)
class _Panel:
    """A picture with its heading, and a map to lay over it."""

    title: str
    detail: str
    picture: Pixels
    heat: NDArray[np.float32] | None = None
    scale: _Scale | None = None

    @property
    def size(self) -> tuple[float, float]:
        """Width and height on the sheet in inches."""
        rows, columns = self.picture.shape[:2]
        factor = min(_PICTURE / columns, _STRETCH * _PICTURE / rows)
        return max(_LEAST, columns * factor), max(_LEAST, rows * factor)


@dataclass(frozen=True)
class _Page:
    """A figure that is drawn on in inches from its upper left corner."""

    figure: Any
    width: float
    height: float

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        """Return axes in a box."""
        corner = left / self.width, 1 - (top + height) / self.height
        return self.figure.add_axes((*corner, width / self.width, height / self.height))

    def text(self, left: float, top: float, text: str, points: float, room: float, **style: Any) -> None:
        """Write a line that ends within ``room``."""
        bold = 1.12 if style.get("fontweight") == "bold" else 1.0  # how much wider its letters are
        text = shorten(text, round(points * DPI / 72), round(room * DPI / bold))
        self.figure.text(left / self.width, 1 - top / self.height, text, va="top", fontsize=points, **style)


def attention_sheet(
    case: Mapping[str, Any],
    maps: Mapping[str, NDArray[Any]],
    class_names: Sequence[str],
    *,
    scales: Sequence[float] = (),
    title: str = "",
    subtitle: str = "",
    colours: Named | None = None,
) -> Image:
    """Draw an image, its prediction and each map over the image; weights of channels become plots.

    Maps are enlarged bilinearly, and say how large they are by themselves. Those with negative values have a diverging
    colour map around 0, those in [0, 1] that range, others the range of what is shown, but that the highest 1 % share a
    colour; the range in words is the whole one. At most `MOST_CHANNELS` channels of a map are shown: the first, or of
    ``recalibration`` those of the largest classes in the prediction. Volumes are shown by the middle slice of each
    axis, or by the only slice of an axis that has one. Equal input gives equal pixels.

    Args:
        case: ``image`` ``(C, *S)`` and ``prediction`` ``(*S)`` with class indices; ``name``; see `make_view`.
        maps: by name, ``(K, *s)`` at any resolution, or ``(C,)`` for weights of channels.
        class_names: by index; ``background`` stays uncoloured.
        scales: what the channels of ``scale_weights`` belong to.
        title: heading of the sheet.
        subtitle: line below it.
        colours: that classes name, by index.

    Returns:
        The sheet, to save or show.

    Raises:
        ValueError: if there is no map, a map is not finite or has another number of axes, sizes differ, or a class has
            no name.
    """
    image, prediction = np.asarray(case["image"]), np.asarray(case["prediction"])
    _check(maps, image.ndim - 1)
    if prediction.max() >= len(class_names):
        raise MedsegError(f"the prediction holds {prediction.max()}, but there are {len(class_names)} class names")
    spread = {name: np.asarray(values, np.float32) for name, values in maps.items() if np.ndim(values) > 1}
    shown = [_choose(name, values, class_names, prediction, scales) for name, values in spread.items()]
    plots = {name: np.asarray(values, np.float32) for name, values in maps.items() if np.ndim(values) == 1}
    palette = class_palette(class_names, colours)
    views = [_panels(cut, case, prediction, shown, class_names, palette) for cut in _slices(image.shape[1:])]
    legend = {class_names[index]: palette[index] for index in np.unique(prediction).tolist() if palette[index]}
    with default_style():
        return to_image(_figure(views, plots, legend, [each.note for each in shown if each.note], title, subtitle))


def _check(maps: Mapping[str, NDArray[Any]], spatial: int) -> None:
    if not maps:
        raise MedsegError("there is no map to show; give at least one")
    for name, values in maps.items():
        shape = np.shape(values)
        if len(shape) not in (1, spatial + 1) or 0 in shape:
            raise MedsegError(
                f"map {name} has shape {shape}; expected are (channels,), or channels and {spatial} spatial axes"
            )
        if not np.isfinite(values).all():
            raise MedsegError(f"map {name} holds NaN or infinite values; the weights may have diverged in training")


def _choose(
    name: str,
    values: NDArray[np.float32],
    class_names: Sequence[str],
    prediction: NDArray[Any],
    scales: Sequence[float],
) -> _Shown:
    """Return which channels of a map are shown, and how."""
    count = len(values)
    note = ""
    if name == BY_CLASS and count == len(class_names):
        present, sizes = np.unique(prediction, return_counts=True)
        largest = [int(present[index]) for index in np.argsort(-sizes, kind="stable")[:MOST_CHANNELS]]
        channels = {index: class_names[index] for index in sorted(largest)}
        if len(channels) < count:
            which = f"the largest {MOST_CHANNELS} of " if len(present) > MOST_CHANNELS else ""
            note = f"{name}: {which}the classes in the prediction ({len(present)} of {count})"
    elif name == BY_SCALE and count == len(scales):
        channels = {index: f"scale {scale:g}" for index, scale in enumerate(scales)}
    else:
        channels = {index: f"channel {index + 1} of {count}" for index in range(min(count, MOST_CHANNELS))}
        note = f"{name}: the first {MOST_CHANNELS} of {count} channels" if count > MOST_CHANNELS else ""
    if count == 1:
        channels = {0: ""}
    return _Shown(name, values, channels, _scale_of(values, values[list(channels)]), note)


def _scale_of(values: NDArray[np.float32], shown: NDArray[np.float32]) -> _Scale:
    """Return the colours for values, by what a map is: of either sign, in [0, 1], or from 0 to anything."""
    if values.min() < -_TOLERANCE:
        limit = float(np.abs(shown).max()) or 1.0
        return _Scale(-limit, limit, _DIVERGING)
    if values.max() <= 1 + _TOLERANCE:
        return _Scale(0.0, 1.0, _SEQUENTIAL)
    low, high, top = float(shown.min()), float(np.percentile(shown, _MOST_PERCENT)), float(shown.max())
    if low == top:
        return _Scale(low - 0.5, high + 0.5, _SEQUENTIAL)
    high = high if high > low else top
    return _Scale(low, high, _SEQUENTIAL, above=high < top)


@dataclass(frozen=True)
class _Slice:
    """A place in a volume; in an image, which has one, no axis."""

    axis: int | None = None
    index: int = 0
    label: str = ""

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the slice of ``(*S)``."""
        return array if self.axis is None else cut_plane(array, self.axis, self.index)


def _slices(shape: Sequence[int]) -> Iterator[_Slice]:
    if len(shape) == 2:
        yield _Slice()
        return
    single = [axis for axis, length in enumerate(shape) if length == 1]
    if single:  # what a 2D network saw of a volume
        yield _Slice(single[-1])
        return
    for axis, length in enumerate(shape):
        yield _Slice(axis, length // 2, f"slice {length // 2 + 1} of {length}, axis {axis + 1}")


def _panels(
    cut: _Slice,
    case: Mapping[str, Any],
    prediction: NDArray[Any],
    shown: Sequence[_Shown],
    class_names: Sequence[str],
    palette: Sequence[Colour | None],
) -> list[_Panel]:
    """Return the panels of one slice: image, prediction, maps."""
    image, classes = np.asarray(case["image"]), cut.of(prediction)
    piece = {"image": np.stack([cut.of(channel) for channel in image]), "label": classes, "prediction": classes}
    view = make_view({**case, **piece}, len(class_names), None)
    overlaid = show_classes(view.image, view.prediction, palette, view.ignored)
    size = f"{'x'.join(map(str, classes.shape))} pixels"
    where = ", ".join(filter(None, (cut.label or size, about(case.get("window")))))
    found = f"{len(np.unique(classes))} of {len(class_names)} classes"
    panels = [_Panel("image", where, view.image), _Panel("prediction", found, overlaid)]
    grey = np.repeat(view.image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    for each in shown:
        title = f"{each.name} {'x'.join(map(str, _native(each.values.shape[1:], image.shape[1:])))}"
        for channel, label in each.channels.items():
            values = each.values[channel]
            detail = f"{label}{', ' if label else ''}{_range(values)}"
            heat = cut.of(enlarge(values, image.shape[1:]))
            panels.append(_Panel(title, detail, grey, heat, each.scale))
    return panels


def _native(shape: Sequence[int], image: Sequence[int]) -> list[int]:
    """Return the size of a map in pixels, without the axis of a volume of which there is one slice."""
    single = len(image) == 3 and 1 in image
    return [length for length, whole in zip(shape, image, strict=True) if not (single and whole == 1)]


def enlarge(values: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """Bring a map to the image's size by linear interpolation, edges of pixels on edges of pixels.

    Args:
        values: the map.
        shape: size of the image in pixels.

    Shape:
        ``(*s)`` to ``(*S)``.
    """
    from skimage.transform import resize

    resized = resize(values, tuple(shape), order=1, mode="edge", anti_aliasing=False, preserve_range=True)
    return np.asarray(resized, np.float32)


def _range(values: NDArray[np.float32]) -> str:
    return f"{values.min():.3g} to {values.max():.3g}"


def _figure(
    views: Sequence[Sequence[_Panel]],
    plots: Mapping[str, NDArray[np.float32]],
    legend: Mapping[str, Colour | None],
    notes: Sequence[str],
    title: str,
    subtitle: str,
) -> Any:
    columns = min(_COLUMNS, max(map(len, views)))
    rows = [view[start : start + columns] for view in views for start in range(0, len(view), columns)]
    heights = [_HEADING + max(panel.size[1] for panel in row) + _GAP for row in rows]
    beside = 2 if columns == _COLUMNS else 1  # plots in a row
    room = columns * _COLUMN / beside
    plot = _HEADING + _PLOT + _BELOW
    entries = max(1, int(columns * _COLUMN / (0.6 + 0.09 * max(map(len, legend), default=0))))
    names = -(-len(legend) // entries) * _LINE + 0.15 * bool(legend)
    width = 2 * _MARGIN + columns * _COLUMN
    head = 0.36 * bool(title) + 0.3 * bool(subtitle)
    height = 2 * _MARGIN + head + sum(heights) + names + -(-len(plots) // beside) * plot + len(notes) * _LINE
    page = _Page(new_figure(width, height), width, height)
    page.figure.set_layout_engine("none")
    if title:
        page.text(_MARGIN, _MARGIN, title, 13, width - 2 * _MARGIN, fontweight="bold", color=_INK)
    if subtitle:
        page.text(_MARGIN, _MARGIN + 0.36 * bool(title), subtitle, 10, width - 2 * _MARGIN, color=_SOFT)
    y = _MARGIN + head
    for row, step in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            _draw_panel(page, panel, _MARGIN + column * _COLUMN, y)
        y += step
    if legend:
        _draw_legend(page, legend, entries, y)
        y += names
    for index, (name, values) in enumerate(plots.items()):
        _draw_plot(page, name, values, _MARGIN + index % beside * room, y + index // beside * plot, room)
    y = height - _MARGIN - len(notes) * _LINE
    for index, note in enumerate(notes):
        page.text(_MARGIN, y + index * _LINE, note, 9, width - 2 * _MARGIN, color=_SOFT)
    return page.figure


def _head(page: _Page, title: str, detail: str, left: float, top: float, room: float) -> None:
    page.text(left, top, title, 10.5, room, fontweight="bold", color=_INK)
    if detail:
        page.text(left, top + 0.22, detail, 9, room, color=_SOFT)


def _draw_panel(page: _Page, panel: _Panel, left: float, top: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    _head(page, panel.title, panel.detail, left, top, _COLUMN - 0.15)
    width, height = panel.size
    axes = page.axes(left, top + _HEADING, width, height)
    axes.set_axis_off()
    axes.imshow(panel.picture, aspect="auto")
    if panel.heat is None or panel.scale is None:
        return
    scale = panel.scale
    norm = Normalize(scale.low, scale.high)
    options = {"aspect": "auto", "cmap": scale.colours, "norm": norm, "alpha": _ALPHA}
    axes.imshow(panel.heat, **options, interpolation_stage="data")  # mixed colours would mean no value
    beside = page.axes(left + width + 0.08, top + _HEADING, _BAR, height)
    extend = "max" if scale.above else "neither"
    bar = page.figure.colorbar(ScalarMappable(norm, scale.colours), cax=beside, extend=extend)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2, colors=_SOFT)
    bar.locator = MaxNLocator(nbins=max(1, min(5, int(height / 0.35))))
    bar.formatter = FuncFormatter(lambda value, _: f"{value:.3g}")
    bar.update_ticks()


def _draw_plot(page: _Page, name: str, values: NDArray[np.float32], left: float, top: float, room: float) -> None:
    """Draw weights of channels in their order, as figure 7 of https://arxiv.org/abs/1911.08149 does."""
    detail = f"{_range(values)}, mean {values.mean():.3g} (dashed)"
    _head(page, f"{name}, {counted(len(values), 'channel')}", detail, left, top, room)
    axes = page.axes(left + _LEFT, top + _HEADING, room - _LEFT - 0.35, _PLOT)
    axes.stairs(values, np.arange(len(values) + 1) + 0.5, fill=True, color=_FILL)
    axes.axhline(float(values.mean()), color=_INK, linewidth=1, linestyle="--")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        limit = 1.05 * max(-low, high)
        axes.set_ylim(-limit if low < 0 else 0.0, limit)
    else:
        axes.set_ylim(0.0, 1.0)
    axes.set_xlim(0.5, len(values) + 0.5)
    axes.set_xlabel("channel", fontsize=9, color=_INK)
    axes.tick_params(labelsize=8, colors=_SOFT)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_legend(page: _Page, legend: Mapping[str, Colour | None], entries: int, top: float) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=[part / 255 for part in colour], edgecolor=_SOFT, linewidth=0.8, label=name)
        for name, colour in legend.items()
        if colour is not None
    ]
    page.figure.legend(
        handles=patches,
        loc="upper left",
        bbox_to_anchor=(_MARGIN / page.width, 1 - top / page.height),
        ncols=min(entries, len(patches)),
        frameon=False,
        borderaxespad=0,
        borderpad=0,
        fontsize=10,
        handlelength=1.1,
        handleheight=1.1,
    )
