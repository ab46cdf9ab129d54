import numpy as np
import pytest

from medseg.importers.layout import ImportingError, Question
from medseg.io.images import read_image

CELL = '<polygon label="cell" points="2.0,2.0;8.0,2.0;8.0,6.0;2.0,6.0" z_order="{}"/>'


@pytest.fixture
def cvat(make):
    def write(*shapes, head="", attributes=""):
        make.picture("images/a.png")
        names = "".join(f"<label><name>{name}</name></label>" for name in ("rim", "cell", "unused"))
        image = f'<image id="0" name="a.png" width="16" height="12" {attributes}>{"".join(shapes)}</image>'
        text = f"<annotations><meta><task><labels>{names}</labels></task></meta>{image}</annotations>"
        make.text("annotations.xml", f'<?xml version="1.0" encoding="utf-8"?>{head}{text}')

    return write


def label(made, split="training"):
    return read_image(made.datalist.absolute(getattr(made.datalist, split)[0])["label"], label=True).array


def test_shapes(cvat, bring, left_out):
    cvat(
        CELL.format(0),
        '<box label="rim" xtl="10" ytl="1" xbr="14" ybr="3"/>',
        '<mask label="rim" rle="1, 2, 1" left="3" top="9" width="2" height="2"/>',
        '<ellipse label="cell" cx="12" cy="8" rx="2" ry="2"/>',
        '<points label="cell" points="1,1"/>',
    )
    made = bring()
    assert made.found.layout == "cvat"
    assert made.datalist.class_names == ["background", "rim", "cell"]
    found = label(made)
    assert (found[2:6, 2:8] == 2).all()
    assert (found[1:3, 10:14] == 1).all()
    np.testing.assert_array_equal(found[9:11, 3:5], [[0, 1], [1, 0]])
    assert found[8, 12] == 2
    assert made.found.notes == ["a.png: points have no area and are not drawn"]
    assert left_out(made) == {}


def test_z_order_is_an_order(cvat, bring):
    cvat(
        CELL.format(1),
        '<box label="rim" xtl="2" ytl="2" xbr="4" ybr="4" z_order="0"/>',
        attributes='subset="Validation"',
    )
    assert label(bring(), "validation")[2, 2] == 2
    cvat(CELL.format(0), '<box label="rim" xtl="2" ytl="2" xbr="4" ybr="4" z_order="0"/>')
    with pytest.raises(Question, match=r"cell and rim overlap in 4 pixels"):
        bring(output="two")


@pytest.mark.parametrize("angle", [90, 30, 300])
def test_turned_boxes(cvat, bring, angle):
    cvat(f'<box label="cell" xtl="4" ytl="4" xbr="12" ybr="8" rotation="{angle}"/>')
    turn = np.exp(1j * np.radians(angle))
    rows, columns = np.mgrid[:12, :16]
    centres = (columns + 0.5 + 1j * (rows + 0.5) - (8 + 6j)) / turn
    expected = (np.abs(centres.real) < 4) & (np.abs(centres.imag) < 2)
    np.testing.assert_array_equal(label(bring()) == 1, expected)


def test_a_picture_of_another_size(cvat, make, bring):
    cvat(CELL.format(0))
    make.picture("images/a.png", shape=(24, 32))
    with pytest.raises(
        ImportingError, match=r"annotations.xml: a.png: .* picture of 16x12 pixels, but the one here has"
    ):
        bring()


@pytest.mark.parametrize(
    ("shape", "head", "message"),
    [
        ('<polygon label="cell" points="2,x;3,4"/>', "", "its polygon cannot be read"),
        ('<box label="cell" xtl="1"/>', "", "its box cannot be read"),
        (
            '</image><track label="cell"><box frame="0"/></track><image>',
            "",
            "is CVAT for video, whose tracks name no file",
        ),
        ('<mask label="cell" rle="5" left="0" top="0" width="2" height="2"/>', "", "does not fill its box"),
        ("<polygon", "", "not valid XML"),
        ("", '<!DOCTYPE x [<!ENTITY a "b">]>', "declares entities, which CVAT never does"),
    ],
)
def test_bad_files(cvat, bring, shape, head, message):
    cvat(shape, head=head)
    with pytest.raises(ImportingError, match=message):
        bring()
