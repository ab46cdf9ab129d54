import math
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from medseg.reports.confusion import confusion_picture, save_confusion, short_count
from medseg.reports.curves import curves_picture, save_curves
from medseg.reports.figures import new_figure, whole_numbers
from medseg.reports.palette import class_colours, contrast_to_white, on_white

NAMES = ["membrane", "mitochondria", "synapse"]
MATRIX = np.array([[900, 100, 0], [50, 40, 10], [0, 0, 0]])


def has(picture, colour):
    return bool((np.abs(np.asarray(picture).astype(int) - np.asarray(colour)) <= 2).all(axis=2).any())


def test_rows_are_normalised():
    picture = np.asarray(confusion_picture(MATRIX, NAMES))
    scaled = np.asarray(confusion_picture(MATRIX * 1000, NAMES))
    blues = mpl.colormaps["Blues"]
    for share in (0.9, 0.1, 0.5, 0.4):
        colour = (np.asarray(blues(share)[:3]) * 255).round()
        assert has(picture, colour)
        assert has(scaled, colour)
    assert has(picture, (0xEC, 0xEC, 0xEC))  # the class without a pixel


@pytest.mark.parametrize("number", [1, 16, 17, 61, 150])
def test_any_number_of_classes(number):
    picture = confusion_picture(np.eye(number, dtype=int) * 10, [f"class {index}" for index in range(number)])
    assert max(picture.size) <= 2500


def test_bad_matrices():
    with pytest.raises(ValueError, match=r"is \(3, 3\), expected \(2, 2\) for 2 classes"):
        confusion_picture(MATRIX, NAMES[:2])
    with pytest.raises(ValueError, match="holds -50"):
        confusion_picture(MATRIX - 50, NAMES)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1234, "1.2k"), (99_960, "100k"), (999_700, "1.0M"), (3_040_000_000, "3.0G")],
)
def test_counts_are_short(count, text):
    assert short_count(count) == text


def make_rows(epochs=12):
    return [
        {
            "epoch": epoch,
            "time": 0.0,
            "loss": 1 / epoch,
            "learning_rate": 1e-3 / epoch,
            "val_mean_iou": 0.5 if epoch % 2 else math.nan,
            "val_iou_glia_x": 0.1 * epoch / epochs,
            "val_iou_synapse": 0.2,
        }
        for epoch in range(1, epochs + 1)
    ]


def test_curves_of_a_training():
    picture = curves_picture(make_rows(), title="run")
    for colour in class_colours(2):
        assert has(picture, on_white(colour))


def test_curves_have_the_colours_of_their_classes():
    """A class that is in no validation yet, or comes late, takes no colour from another."""
    first, second, third = class_colours(3)
    colours = {"membrane": first, "synapse": second, "glia_x": (1, 99, 3)}
    picture = curves_picture(make_rows(), colours=colours)
    assert has(picture, second)
    assert has(picture, (1, 99, 3))
    assert not has(picture, first)
    assert not has(picture, third)


@pytest.mark.parametrize("keys", [{"loss"}, {"val_mean_iou"}, {"lr"}, {"loss", "loss_aux", "learning_rate"}])
def test_curves_of_what_is_there(keys):
    rows = [{"epoch": epoch, **dict.fromkeys(keys, 1 / epoch)} for epoch in (1, 2)]
    empty = [{"epoch": epoch, **dict.fromkeys(keys, math.nan)} for epoch in (1, 2)]
    assert not np.array_equal(np.asarray(curves_picture(rows)), np.asarray(curves_picture(empty)))


def test_every_line_is_seen_on_white():
    """Of classes, of terms of a loss, and of rates: as many as the palette has, and colours that classes name."""
    names = [f"c{number}" for number in range(20)]
    row = {**{f"val_iou_{name}": 0.5 for name in names}, "val_mean_iou": 0.5, "val_boundary": 0.4, "val_loss": 1.0}
    row |= {f"loss_{number}": 1.0 for number in range(9)} | {f"learning_rate_{number}": 1e-3 for number in range(9)}
    rows = [{"epoch": epoch, **row} for epoch in (1, 2)]
    drawn = {}
    for colours in ({}, {"c0": (255, 255, 0), "c1": (255, 255, 255)}):
        figures = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("medseg.reports.curves.to_image", figures.append)
            curves_picture(rows, colours=colours)
        lines = [line for axes in figures[0].axes for line in axes.lines]
        assert len(lines) >= 20 + 2 + 10 + 9
        for line in lines:
            shown = tuple(round(255 * part) for part in to_rgb(line.get_color()))
            assert contrast_to_white(shown) >= 3, (line.get_label(), shown)
            assert line.get_alpha() is None
        drawn[bool(colours)] = {line.get_label(): to_rgb(line.get_color()) for line in figures[0].axes[-1].lines}
    assert len({drawn[False][name] for name in names}) == 20  # none was darkened into another
    assert drawn[True]["c2"] == drawn[False]["c2"]


def test_a_class_keeps_its_colour_where_it_is_dark_enough():
    assert [on_white(colour) for colour in ((0, 114, 178), (0, 0, 0))] == [(0, 114, 178), (0, 0, 0)]
    red, green, blue = on_white((240, 228, 66))
    assert np.allclose(np.array([red, green, blue]) / red, np.array([240, 228, 66]) / 240, atol=0.02)


def test_curves_of_nothing():
    with pytest.raises(ValueError, match=r"1 epochs without loss, .* \(found: epoch, seconds\)"):
        curves_picture([{"epoch": 1, "seconds": 2.0}])


def test_files_and_determinism(tmp_path):
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        save_curves(make_rows(), tmp_path / "curves.png")
        save_confusion(MATRIX, NAMES, tmp_path / "confusion.png", title="x")
        assert mpl.rcParams["font.size"] == 30
    with Image.open(tmp_path / "curves.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(curves_picture(make_rows())))
    with Image.open(tmp_path / "confusion.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(confusion_picture(MATRIX, NAMES, title="x")))


def test_pyplot_stays_out():
    code = (
        "import sys\nfrom medseg.reports.confusion import confusion_picture\n"
        "confusion_picture([[1]], ['a'])\nprint('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(("epochs", "marks"), [((1.0,), {1}), ((1.0, 2.0), {1, 2}), ((1.0, 40.0), set(range(41)))])
def test_epochs_and_images_are_whole_numbers(epochs: tuple[float, ...], marks: set[int]) -> None:
    axes = new_figure(4, 3).subplots()
    axes.plot(epochs, epochs, "o")
    whole_numbers(axes)
    low, high = axes.get_xlim()
    shown = [mark for mark in axes.get_xticks() if low <= mark <= high]
    assert shown
    assert set(shown) <= marks
