import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from medseg.importers.layout import ImportingError
from medseg.io.images import read_image


@pytest.fixture
def drawn(make):
    def write(name, *shapes):
        make.picture(f"{name}.png")
        make.text(f"{name}.json", json.dumps({"imagePath": f"{name}.png", "shapes": list(shapes), "imageData": None}))

    return write


def shape(label, *points, kind="polygon", **more):
    return {"label": label, "points": [list(point) for point in points], "shape_type": kind, **more}


def label(made, number=0):
    return read_image(made.datalist.absolute(made.datalist.training[number])["label"], label=True).array


def test_shapes(drawn, make, bring, left_out):
    mask = io.BytesIO()
    Image.fromarray(np.full((2, 3), True)).save(mask, "PNG")
    drawn(
        "a",
        shape("cell", (1, 1), (5, 1), (5, 4), (1, 4)),
        shape("rim", (8, 2), (12, 6), kind="rectangle"),
        shape("rim", (4, 9), (4, 11), kind="circle"),
        shape("cell", (12, 8), (14, 9), kind="mask", mask=base64.b64encode(mask.getvalue()).decode()),
        shape("__ignore__", (0, 0), (16, 0), (16, 1), (0, 1)),
        shape("axis", (0, 0), (5, 5), kind="line"),
    )
    drawn("b")
    made = bring()
    assert made.found.layout == "labelme"
    assert (made.datalist.labels, made.datalist.ignore_index) == ({0: "background", 1: "cell", 2: "rim"}, 255)
    found = label(made)
    assert (found[0] == 255).all()
    assert (found[1:4, 1:5] == 1).all()
    assert (found[2:6, 8:12] == 2).all()
    assert (found[8:10, 12:15] == 1).all()
    assert 9 <= (found[7:11, 2:6] == 2).sum() <= 16
    assert made.found.notes == [
        "a.json: axis is a line, which has no area, and is not drawn",
        "drawn labels without an object, background throughout: 1 of 2",
        "every label that holds class 1 (cell), class 2 (rim) is in fold 0: with it as test nothing is trained on that",
    ]
    assert not label(made, 1).any()
    assert left_out(made) == {}


def test_no_object_at_all(drawn, bring):
    drawn("a")
    with pytest.raises(
        ImportingError, match=r"was taken for labelme, but no object has a class, so that there is nothing"
    ):
        bring()
    assert bring(classes=("background", "cell")).datalist.class_names == ["background", "cell"]


def test_pictures_elsewhere(make, bring):
    """The path in the file is followed, whichever way its separators lean."""
    for name, way in (("s1", "..\\..\\images\\s1\\a.png"), ("s2", "../../images/s2/a.png")):
        make.picture(f"images/{name}/a.png")
        shapes = [shape(name, (1, 1), (5, 1), (5, 4), kind=None)]
        make.text(f"annotations/{name}/a.json", json.dumps({"imagePath": way, "shapes": shapes}))
    made = bring()
    assert [case.name for case in made.found.cases] == ["images/s1/a", "images/s2/a"]
    assert [set(np.unique(label(made, n))) for n in (0, 1)] == [{0, 1}, {0, 2}]


def test_a_picture_of_another_size_and_one_twice(drawn, make, bring):
    drawn("a", shape("b", (1, 1), (5, 1), (5, 4)))
    content = {
        "imagePath": "a.png",
        "shapes": [shape("c", (1, 1), (5, 1), (5, 4))],
        "imageWidth": 32,
        "imageHeight": 24,
    }
    make.text("second.json", json.dumps(content))
    with pytest.raises(ImportingError, match=r"a.png is annotated 2 times"):
        bring()
    (make.root / "a.json").unlink()
    with pytest.raises(
        ImportingError, match=r"second.json: its objects were drawn on a picture of 32x24 pixels, but the"
    ):
        bring()


def test_names_in_a_file(drawn, make, bring):
    drawn("a", shape("b", (1, 1), (5, 1), (5, 4)))
    make.text("labels.txt", "__ignore__\n_background_\na\nb\n")
    assert bring().datalist.class_names == ["background", "a", "b"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"points": []}, r"shapes\[0\] lacks label or points"),
        (shape("x", (1, 2, 3)), "points are not pairs"),
        (shape("x", ("a", 2)), "could not convert"),
        (shape("x", (1, 2), kind="rectangle"), "a rectangle has 1 point, not 2"),
        (shape("x", (1, 2), (2, 3), kind="mask", mask="!"), "its mask is damaged"),
    ],
)
def test_bad_shapes(drawn, bring, bad, message):
    drawn("a", bad)
    with pytest.raises(ImportingError, match=message):
        bring()


def test_no_picture(drawn, make, bring, left_out):
    drawn("a", shape("x", (1, 1), (5, 1), (5, 4)))
    drawn("b", shape("x", (1, 1), (5, 1), (5, 4)))
    (make.root / "b.png").unlink()
    assert left_out(bring()) == {"b.json": "its picture b.png is neither where it says nor beside it"}


def test_against_labelme_s_own_export(bring, real_data):
    """labelme fills with Pillow, which takes border pixels too: all but the borders agree."""
    source = real_data / "labelme_voc"
    made = bring(source=source / "data_annotated", order=("file",))
    listed = [name for name in (source / "labels.txt").read_text().split("\n") if name][1:]  # without __ignore__
    table = np.full(256, 255)
    for index, name in made.datalist.labels.items():
        table[listed.index(name if index else "_background_")] = index
    for number, case in enumerate(made.found.cases):
        theirs = read_image(source / f"data_dataset_voc/SegmentationClass/{case.name}.png", label=True).array
        assert (table[theirs] == label(made, number)).mean() > 0.98
