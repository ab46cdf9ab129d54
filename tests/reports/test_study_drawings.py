"""Drawings of a study: what stands in them is what numpy says of the scores, and equal scores give equal pixels."""

from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from medseg.reports import study_drawings
from medseg.reports.palette import contrast_to_white
from medseg.reports.study_drawings import boxes, differences, learning

WEAK = np.array([0.5, 0.6, 0.7, np.nan, 0.8, 0.1, 0.65])
STRONG = WEAK + np.array([0.1, 0.05, 0.1, 0, 0.02, 0.3, -0.1])


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give figures instead of pictures."""
    monkeypatch.setattr(study_drawings, "to_image", lambda drawn: drawn)


def lines(axes: Any) -> list[tuple[list[float], list[float]]]:
    return [(np.asarray(x).tolist(), np.asarray(y).tolist()) for x, y in (line.get_data() for line in axes.lines)]


def test_boxes_are_quartiles_and_every_case(figure: None) -> None:
    drawn: Any = boxes({"Dice": {"weak": WEAK, "none": np.full(7, np.nan), "strong": STRONG}})
    (axes,) = drawn.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["weak", "none", "strong"]
    for place, values in ((0, WEAK), (2, STRONG)):
        there = values[~np.isnan(values)]
        assert ([np.median(there)] * 2, [place - 0.25, place + 0.25]) in lines(axes)
        assert ([there.mean()], [place]) in lines(axes)
        assert any(x == there.tolist() and all(abs(at - place) <= 0.2 for at in y) for x, y in lines(axes))
    corners = axes.collections[0].get_paths()[0].vertices
    low, high = np.percentile(WEAK[~np.isnan(WEAK)], [25, 75])
    assert (corners[:, 0].min(), corners[:, 0].max()) == (pytest.approx(low), pytest.approx(high))


def test_of_many_cases_only_those_beyond_the_whiskers_are_points(figure: None) -> None:
    values = np.append(np.linspace(0.4, 0.6, 400), [0.99])
    drawn: Any = boxes({"Dice": {"many": values}})
    assert lines(drawn.axes[0])[0][0] == [0.99]


def test_differences_hold_the_mean_its_interval_and_whether_it_holds(figure: None) -> None:
    apart = STRONG - WEAK
    pairs = [("strong less weak", apart, (0.01, 0.2), True), ("weak less strong", -apart, None, False)]
    drawn: Any = differences({"difference in Dice": pairs})
    (axes,) = drawn.axes
    mean = np.nanmean(apart)
    assert ([0.01, 0.2], [0, 0]) in lines(axes)
    diamonds = [line for line in axes.lines if line.get_marker() == "D"]
    assert [float(line.get_xdata()[0]) for line in diamonds] == pytest.approx([mean, -mean])
    assert [line.get_markerfacecolor() for line in diamonds] == ["#1a1a1a", "white"]


def test_the_mean_of_curves_ends_with_the_shortest(figure: None) -> None:
    long, short = (np.array([1.0, 2, 3]), np.array([3.0, 2, 1])), (np.array([1.0, 2]), np.array([1.0, 1]))
    drawn: Any = learning({"loss": {"a": [long, short], "b": []}})
    assert ([1, 2], [2, 1.5]) in lines(drawn.axes[0])
    assert [text.get_text() for text in drawn.axes[0].get_legend().get_texts()] == ["a", "b"]


def test_every_line_and_point_is_seen_on_white(figure: None) -> None:
    """Of as many rows as a study has, as they are drawn: a colour that is see-through is mixed with white."""
    rows = [f"row {number}" for number in range(14)]
    curve = [(np.arange(9.0), np.linspace(0, 1, 9))]
    drawn: list[Any] = [
        boxes({"Dice": dict.fromkeys(rows, WEAK)}),
        differences({"Dice": [(row, STRONG - WEAK, (0.0, 0.1), True) for row in rows]}),
        learning({"loss": {row: [*curve, (np.arange(9.0), np.linspace(0, 2, 9))] for row in rows}}),
    ]
    for picture in drawn:
        looked_at = [line for axes in picture.axes for line in axes.lines]
        assert len(looked_at) > len(rows)
        for line in looked_at:
            marks = line.get_markeredgecolor() if line.get_markeredgewidth() else line.get_markerfacecolor()
            colour = marks if line.get_linestyle() == "None" else line.get_color()
            red, green, blue, alpha = to_rgba(colour, line.get_alpha())
            mixed = [round(255 * (alpha * value + 1 - alpha)) for value in (red, green, blue)]
            assert contrast_to_white((mixed[0], mixed[1], mixed[2])) >= 3
    lines_of_rows = {to_rgba(line.get_color()) for line in drawn[2].axes[0].lines}
    assert len(lines_of_rows) == len(rows)


def test_equal_scores_give_equal_pixels() -> None:
    first, again, other = (boxes({"Dice": {"a": values}}).tobytes() for values in (WEAK, WEAK.copy(), STRONG))
    assert first == again != other
