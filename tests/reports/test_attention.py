"""Sheets of attention maps: colours, words, and that nothing lies over anything else."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from medseg.reports import attention
from medseg.reports.attention import MOST_CHANNELS, attention_sheet, enlarge
from medseg.reports.palette import class_colours

NAMES = ["background", "nucleus", "membrane"]


def make_case(shape=(24, 36), channels=1):
    prediction = np.zeros(shape, np.int64)
    prediction[3:9, 4:20] = 1
    return {"name": "x.png", "image": np.full((channels, *shape), 7.0, np.float32), "prediction": prediction}


def has(picture, colour, tolerance=3):
    return bool((np.abs(np.asarray(picture).astype(int) - np.asarray(colour)) <= tolerance).all(axis=2).sum() > 200)


def over_grey(colours, value):
    """An even image is mid-grey, 127 or 128, and three tenths of it shine through."""
    return 0.7 * 255 * np.asarray(mpl.colormaps[colours](value)[:3]) + 0.3 * 127.5


def halves(low, high, shape=(1, 24, 36)):
    values = np.full(shape, low, np.float32)
    values[..., shape[-1] // 2 :] = high
    return values


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, before they become pixels."""
    drawn = []
    to_image = attention.to_image

    def keep(figure):
        drawn.append(figure)
        return to_image(figure)

    monkeypatch.setattr(attention, "to_image", keep)
    return drawn


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


@pytest.mark.parametrize(
    ("low", "high", "colours", "at"),
    [
        (0.25, 0.75, "viridis", (0.25, 0.75)),  # in [0, 1]: as they are
        (0.0, 0.0, "viridis", (0.0, 0.0)),
        (1.0, 5.0, "viridis", (0.0, 1.0)),  # above 1: the range of the values
        (3.0, 3.0, "viridis", (0.5, 0.5)),
        (-1.0, 4.0, "RdBu_r", (0.375, 1.0)),  # either sign: 0 in the middle
        (-0.002, 0.0, "RdBu_r", (0.0, 0.5)),
    ],
)
def test_colours_follow_the_kind_of_values(low, high, colours, at):
    sheet = attention_sheet(make_case(), {"gate": halves(low, high)}, NAMES)
    for value in at:
        assert has(sheet, over_grey(colours, value))


def test_a_few_high_values_do_not_take_all_the_colours(figures):
    values = halves(1, 3)
    values[0, 0, 0] = 1000
    sheet = attention_sheet(make_case(), {"window_0": values}, NAMES)
    assert has(sheet, over_grey("viridis", 0.0))
    assert has(sheet, over_grey("viridis", 1.0))
    assert "1 to 1e+03" in words(figures[0])
    values[:] = 1  # nearly all alike: then the whole range
    values[0, 0, 0] = 3
    assert has(attention_sheet(make_case(), {"window_0": values}, NAMES), over_grey("viridis", 0.0))


def test_the_range_in_words_is_that_of_the_map(figures):
    attention_sheet(make_case(), {"gate": halves(0.25, 0.75, (1, 6, 9))}, NAMES, title="t", subtitle="s")
    assert words(figures[0]) == [
        "t", "s", "image", "24x36 pixels", "prediction", "2 of 3 classes", "gate 6x9", "0.25 to 0.75",
    ]  # fmt: skip


def test_prediction_has_the_class_colours_and_background_none():
    sheet = attention_sheet(make_case(), {"gate": halves(0, 1)}, NAMES)
    background, nucleus, membrane = class_colours(3)
    assert has(sheet, nucleus)
    assert not has(sheet, background)
    assert not has(sheet, membrane)


@pytest.mark.parametrize(("small", "large"), [((5, 7), (24, 36)), ((3, 4, 2), (9, 8, 7)), ((24, 36), (24, 36))])
def test_maps_are_enlarged_linearly(small, large):
    values = np.random.default_rng(0).random(small, np.float32)
    mode = "bilinear" if len(small) == 2 else "trilinear"
    wanted = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], large, mode=mode)[0, 0]
    np.testing.assert_allclose(enlarge(values, large), wanted.numpy(), atol=1e-5)


def test_many_channels_are_cut_and_counted(figures):
    values = np.random.default_rng(0).random((64, 4, 6), np.float32)
    values[8:] *= 50  # not shown: does not stretch the colours of what is
    sheet = attention_sheet(make_case(), {"bases": values + 1}, NAMES)
    said = words(figures[0])
    assert said.count("bases 4x6") == MOST_CHANNELS
    assert any(text.startswith("channel 8 of 64, ") for text in said)
    assert "bases: the first 8 of 64 channels" in said
    assert has(sheet, over_grey("viridis", 1.0), 12)


def test_scales_and_classes_have_names(figures):
    maps = {"scale_weights": np.full((2, 6, 9), 0.5), "recalibration": np.full((3, 6, 9), 0.5)}
    attention_sheet(make_case(), maps, NAMES, scales=(1.0, 0.5))
    said = [text.split(",")[0] for text in words(figures[0])]
    assert [text for text in said if text.startswith("scale ")] == ["scale 1", "scale 0.5"]
    assert [text for text in said if text in NAMES] == ["background", "nucleus"]  # those in the prediction
    assert "recalibration: the classes in the prediction (2 of 3)" in said


def test_the_largest_classes_have_a_panel(figures):
    names = [f"class {index}" for index in range(30)]
    case = make_case()
    case["prediction"] = np.repeat(np.arange(24), 36).reshape(24, 36)
    case["prediction"][:2] = 23  # makes it the largest, and leaves out 0 and 1
    attention_sheet(case, {"recalibration": np.random.default_rng(0).random((30, 2, 3))}, names)
    said = words(figures[0])
    shown = [text.split(",")[0] for text in said if text.startswith("class ")]
    assert len(shown) == MOST_CHANNELS
    assert {"class 2", "class 23"} <= set(shown)
    assert "recalibration: the largest 8 of the classes in the prediction (22 of 30)" in said


def test_weights_of_channels_are_plots(figures):
    values = np.array([0.2, 0.9, 0.4])
    attention_sheet(make_case(), {"high": values, "low": -values}, NAMES)
    assert {"high, 3 channels", "0.2 to 0.9, mean 0.5 (dashed)"} <= set(words(figures[0]))
    high, low = figures[0].axes[-2:]
    np.testing.assert_allclose(high.patches[0].get_data().values, values, rtol=1e-6)
    assert high.get_ylim() == (0, 1)
    assert low.get_ylim() == pytest.approx((-0.945, 0.945))


def test_volumes_show_the_middle_of_each_axis(figures):
    case = make_case((10, 12, 7))
    case["prediction"][:] = 0
    case["prediction"][5] = 1
    sheet = attention_sheet(case, {"gate": np.full((1, 5, 6, 4), 0.5)}, NAMES)
    said = words(figures[0])
    assert [text for text in said if text.startswith("slice")] == [
        "slice 6 of 10, axis 1", "slice 7 of 12, axis 2", "slice 4 of 7, axis 3",
    ]  # fmt: skip
    assert [text for text in said if "classes" in text] == ["1 of 3 classes", "2 of 3 classes", "2 of 3 classes"]
    assert said.count("gate 5x6x4") == 3
    assert has(sheet, over_grey("viridis", 0.5))


def test_a_volume_of_one_slice_is_a_picture(figures):
    case = make_case((10, 12, 1))
    attention_sheet(case, {"gate": np.full((1, 5, 6, 1), 0.5)}, NAMES)
    assert [text for text in words(figures[0]) if text.startswith("gate")] == ["gate 5x6"]
    assert "12x10 pixels" in words(figures[0])  # volumes are turned: their second axis points up


LONG = "a name that goes on and on " * 20


@pytest.mark.parametrize(("shape", "classes"), [((24, 36), 30), ((10, 200), 3), ((200, 10), 3), ((8, 8, 8), 2)])
def test_nothing_overlaps_and_all_is_on_the_sheet(figures, shape, classes):
    rng = np.random.default_rng(0)
    names = [f"class {index} of many" for index in range(classes)]
    case = make_case(shape)
    case["prediction"] = rng.integers(0, classes, shape)
    maps = {
        "signed": rng.normal(size=(2, *shape)) / 1234,
        "recalibration": rng.random((classes, *shape)),
        "window_1": 12345 * rng.random((1, *shape)),
        LONG: rng.random((1, *shape)),
        "weights": rng.random(128),
        "more_weights": rng.normal(size=16),
    }
    attention_sheet(case, maps, names, title=LONG, subtitle=LONG)
    (figure,) = figures
    texts = [*figure.texts, *figure.legends[0].texts]
    texts += [axes.xaxis.label for axes in figure.axes if axes.get_xlabel()]
    for axes in (axes for axes in figure.axes if axes.axison):
        low, high = axes.get_ylim()
        ticks = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        texts += [label for at, label in ticks if low <= at <= high and label.get_text()]
    boxes = [text.get_window_extent().padded(-1) for text in texts]
    for index, box in enumerate(boxes):
        assert min(box.x0, box.y0) >= 0, texts[index]
        assert box.x1 <= figure.bbox.x1, texts[index]
        assert box.y1 <= figure.bbox.y1, texts[index]
        hit = [texts[n] for n, other in enumerate(boxes) if n != index and other.overlaps(box)]
        assert not hit, (texts[index], hit)


def test_same_input_same_pixels_and_input_stays():
    case = make_case(channels=3)
    maps = {"gate": halves(0, 1), "weights": np.linspace(0, 1, 5)}
    copies = {name: values.copy() for name, values in maps.items()}
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        first = attention_sheet(case, maps, NAMES)
    np.testing.assert_array_equal(np.asarray(first), np.asarray(attention_sheet(case, maps, NAMES)))
    for name, values in maps.items():
        np.testing.assert_array_equal(values, copies[name])


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({}, "there is no map to show"),
        ({"gate": np.zeros((2, 2))}, r"map gate has shape \(2, 2\); expected are \(channels,\), or channels and 2"),
        ({"gate": np.zeros((0, 2, 2))}, r"map gate has shape \(0, 2, 2\)"),
        ({"gate": np.full((1, 2, 2), np.nan)}, "map gate holds NaN or infinite values"),
    ],
)
def test_bad_maps(maps, message):
    with pytest.raises(ValueError, match=message):
        attention_sheet(make_case(), maps, NAMES)


def test_a_prediction_of_more_classes():
    case = make_case()
    case["prediction"] += 2
    with pytest.raises(ValueError, match="the prediction holds 3, but there are 3 class names"):
        attention_sheet(case, {"gate": halves(0, 1)}, NAMES)
