import itertools

import numpy as np
import pytest
from skimage.color import rgb2lab

from medseg.reports.palette import (
    LEAST_CONTRAST,
    class_colours,
    class_palette,
    contrast_to_white,
    line_colours,
    parse_colour,
)

# Machado et al. 2009, severity 1, on linear RGB
SEEN = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def seen_as(colours, matrix):
    value = np.asarray(colours) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    mixed = (linear @ np.asarray(matrix).T).clip(0, 1)
    return rgb2lab(np.where(mixed <= 0.0031308, mixed * 12.92, 1.055 * mixed ** (1 / 2.4) - 0.055)[None])[0]


@pytest.mark.parametrize("sight", SEEN)
def test_twenty_colours_differ_for_everyone(sight):
    lab = seen_as(class_colours(20), SEEN[sight])
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)) > 15  # 2.3 is just noticeable


@pytest.mark.parametrize("number", [0, 5, 20, 150])
def test_as_many_as_asked_all_different(number):
    assert len(class_colours(number)) == len(set(class_colours(number))) == number
    assert class_colours(number) == class_colours(number + 1)[:number]


@pytest.mark.parametrize(
    ("colour", "ratio"), [("#000000", 21.0), ("#ffffff", 1.0), ("#767676", 4.54), ("#949494", 3.03), ("#ff0000", 4.0)]
)
def test_contrast_as_others_compute_it(colour, ratio):
    """WebAIM's contrast checker gives these."""
    assert contrast_to_white(parse_colour(colour)) == pytest.approx(ratio, abs=0.005)


@pytest.mark.parametrize("number", [0, 6, 12, 60])
def test_lines_are_seen_on_white(number):
    colours = line_colours(number)
    assert len(set(colours)) == number
    assert colours == line_colours(number + 1)[:number]
    assert all(contrast_to_white(colour) >= LEAST_CONTRAST for colour in colours)
    assert set(colours[:12]) <= set(class_colours(20))


@pytest.mark.parametrize("sight", SEEN)
def test_twelve_lines_differ_for_everyone(sight):
    lab = seen_as(line_colours(12), SEEN[sight])
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)) > 15


def test_colours_are_read():
    assert parse_colour("#E69F00") == parse_colour("e69f00") == parse_colour((230, 159, 0)) == (230, 159, 0)


@pytest.mark.parametrize("colour", ["#E69F0", "orange", (1, 2), (256, 0, 0), (0.5, 0.5, 0.5)])
def test_what_is_no_colour(colour):
    with pytest.raises(ValueError, match="neither '#RRGGBB' nor three values"):
        parse_colour(colour)


def test_classes_name_colours():
    assert class_colours(3, {"1": "#010203"}) == [class_colours(1)[0], (1, 2, 3), class_colours(3)[2]]
    assert class_colours(3, {2: (1, 2, 3)})[:2] == class_colours(2)
    swapped = class_colours(3, {0: class_colours(2)[1]})  # what class 1 would have got
    assert len(set(swapped)) == 3
    assert swapped[2] == class_colours(3)[2]
    for bad in ({"3": "#010203"}, {-1: "#010203"}, {"x": "#010203"}):
        with pytest.raises(ValueError, match="but the classes are 0 to 2"):
            class_colours(3, bad)


def test_background_has_no_colour_unless_it_names_one():
    assert class_palette(["Background ", "a", "b"]) == [None, *class_colours(3)[1:]]
    assert class_palette(["a", "background"], {1: "#010203"}) == [class_colours(1)[0], (1, 2, 3)]
