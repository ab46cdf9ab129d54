from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from medseg.importers.drawing import IGNORED, Segment, decode_rle, fill_polygons, numbered, paint
from medseg.importers.layout import ImportingError, Options, Question

LABELS = {0: "background", 1: "cell", 2: "rim"}


def box(top, left, bottom, right):
    return [left, top, right, top, right, bottom, left, bottom]


def segment(name, *corners, level=0):
    return Segment(name, lambda shape: fill_polygons([box(*corners)], shape, "here"), level)


def test_pixel_centres_count():
    """Against matplotlib's test of a point in a polygon."""
    rng = np.random.default_rng(0)
    for corners in (3, 5, 9):
        polygon = rng.random((corners, 2)) * 30 - 3
        rows, columns = np.mgrid[:20, :25]
        inside = Outline(np.vstack([polygon, polygon[:1]])).contains_points(
            np.stack([columns + 0.5, rows + 0.5], -1).reshape(-1, 2)
        )
        even_odd = fill_polygons([polygon.ravel()], (20, 25), "here").ravel()
        if corners == 3:  # one that crosses itself is filled by another rule there
            np.testing.assert_array_equal(even_odd, inside)
        assert even_odd.any()


def test_holes():
    mask = fill_polygons([box(1, 1, 9, 9)], (12, 12), "here", [box(3, 3, 6, 7)])
    expected = np.zeros((12, 12), bool)
    expected[1:9, 1:9] = True
    expected[3:6, 3:7] = False
    np.testing.assert_array_equal(mask, expected)


def test_run_lengths_as_pycocotools_writes_them():
    expected = np.zeros((9, 14), bool)
    expected[2:7, 3:11] = True
    expected[4, 5:8] = False
    expected[8, 13] = True
    compressed = {"size": [9, 14], "counts": "m05400MM030M030M0330000h0L"}  # pycocotools.mask.encode
    np.testing.assert_array_equal(decode_rle(compressed, (9, 14), "here"), expected)
    with pytest.raises(
        ImportingError, match=r"here: its run lengths are for the size \[9, 14\], but the image is \[9, 13\]"
    ):
        decode_rle(compressed, (9, 13), "here")
    with pytest.raises(ImportingError, match=r"do not fill 9x14 pixels"):
        decode_rle({"size": [9, 14], "counts": "m054"}, (9, 14), "here")


def test_overlaps_are_refused_or_ordered():
    segments = [segment("cell", 0, 0, 6, 6), segment("rim", 4, 4, 8, 8), segment("cell", 1, 1, 3, 3)]
    with pytest.raises(
        Question, match=r"f.json: cell and rim overlap in 4 pixels; say which lies on top with --order cell,rim"
    ) as e:
        paint(segments, (9, 9), LABELS, (), Path("f.json"))
    assert e.value.option == "order"
    assert paint(segments, (9, 9), LABELS, ("cell", "rim"), Path("f"))[5, 5] == 2
    assert paint(segments, (9, 9), LABELS, ("rim", "cell"), Path("f"))[5, 5] == 1
    assert paint(segments, (9, 9), LABELS, ("file",), Path("f"))[5, 5] == 2
    assert paint(segments[::-1], (9, 9), LABELS, ("file",), Path("f"))[5, 5] == 1


def test_levels_and_regions_that_count_nowhere():
    mask = paint([segment("cell", 0, 0, 6, 6, level=1), segment("rim", 4, 4, 8, 8)], (9, 9), LABELS, (), Path("f"))
    assert mask[5, 5] == 1
    mask = paint([segment("cell", 0, 0, 3, 3), segment(None, 2, 2, 5, 5)], (9, 9), LABELS, (), Path("f"))
    assert (mask[2, 2], mask[4, 4], mask[8, 8]) == (1, IGNORED, 0)


def test_numbered():
    assert numbered(["b", "a", "background"], Options(), Path("x")) == {0: "background", 1: "b", 2: "a"}
    assert numbered(["b"], Options(classes=("none", "a", "b")), Path("x")) == {0: "none", 1: "a", 2: "b"}
    with pytest.raises(ImportingError, match=r"x: holds the class 'c', which --classes does not name"):
        numbered(["c"], Options(classes=("none", "a")), Path("x"))
    with pytest.raises(
        ImportingError, match=r"--classes begins with 'a', which is drawn, but class 0 is what no object"
    ):
        numbered(["a", "b"], Options(classes=("a", "b")), Path("x"))
    with pytest.raises(ImportingError, match=r"x: --order names 'z', which is no class; there are a, b"):
        numbered(["a", "b"], Options(order=("z", "b")), Path("x"))
    assert numbered(["a"], Options(order=("file",)), Path("x")) == {0: "background", 1: "a"}
    with pytest.raises(ImportingError, match=r"has 301 classes"):
        numbered(map(str, range(300)), Options(), Path("x"))


@pytest.mark.parametrize("polygon", ["abc", [1, 2, 3], [1, 2, float("nan"), 4, 5, 6], [[1, 2], [3]]])
def test_bad_polygons(polygon):
    with pytest.raises(ImportingError, match=r"here: a polygon is .*, but must be"):
        fill_polygons([polygon], (5, 5), "here")


def test_background_is_one_class_however_it_is_spelled():
    where = Path("f")
    assert numbered(["Tumor", "Background"], Options(), where) == {0: "Background", 1: "Tumor"}
    assert numbered(["Background", "Tumor"], Options(classes=("Background", "Tumor")), where)[1] == "Tumor"
    with pytest.raises(ImportingError, match=r"holds the class 'Background', which --classes does not name"):
        numbered(["Tumor", "Background"], Options(classes=("background", "Tumor")), where)
