import json

import numpy as np
import pytest

from medseg.importers.layout import ImportingError, Question
from medseg.io.images import read_image

SQUARE = [[2, 2, 8, 2, 8, 6, 2, 6]]


@pytest.fixture
def coco(make):
    make.picture("images/a.png", "images/b.png")

    def write(*objects, name="train.json", images=("a.png", "b.png"), ids=(0, 1), size=(12, 16), **more):
        listed = [
            {"id": n, "file_name": each, "height": size[0], "width": size[1]}
            for n, each in zip(ids, images, strict=False)
        ]
        content = {"images": listed, "annotations": [{"id": n, **each} for n, each in enumerate(objects)]}
        content["categories"] = [{"id": 7, "name": "rim"}, {"id": 3, "name": "cell"}]
        make.text(name, json.dumps({**content, **more}))

    return write


def item(category, segmentation=SQUARE, image=0, **more):
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **more}


def label(made, number=0):
    return read_image(made.datalist.absolute(made.datalist.training[number])["label"], label=True).array


def test_objects_are_drawn(coco, bring, left_out):
    runs = {"size": [12, 16], "counts": [12 * 14, 24]}
    crowd = [[0, 8, 4, 8, 4, 12, 0, 12]]
    coco(item(3), item(7, [[10, 8, 14, 8, 14, 12, 10, 12]]), item(7, runs, image=1), item(3, crowd, iscrowd=1))
    made = bring()
    assert made.found.layout == "coco"
    assert (made.datalist.labels, made.datalist.ignore_index) == ({0: "background", 1: "cell", 2: "rim"}, 255)
    expected = np.zeros((12, 16), np.uint8)
    expected[2:6, 2:8], expected[8:12, 10:14], expected[8:12, 0:4] = 1, 2, 255
    np.testing.assert_array_equal(label(made), expected)
    assert (label(made, 1)[:, 14:] == 2).all()
    assert left_out(made) == {}


def test_categories_that_differ_by_a_capital_are_told_of(coco, bring):
    coco(item(3), images=("a.png",), categories=[{"id": 3, "name": "big cell"}, {"id": 4, "name": "CD4+"}])
    coco(
        item(3),
        name="val.json",
        images=("b.png",),
        categories=[{"id": 3, "name": "Big_Cell"}, {"id": 4, "name": "CD4"}],
    )
    told = "big cell and Big_Cell are two classes; if they are one, give them one name in the files"
    assert [note for note in bring().found.notes if "two classes" in note] == [told]


def test_overlaps(coco, bring):
    coco(item(3), item(7))
    with pytest.raises(Question, match=r"train.json: a.png: cell and rim overlap in 24 pixels; .* --order cell,rim"):
        bring()
    assert label(bring(order=("rim", "cell")))[3, 3] == 1


def test_lists_by_name_and_what_is_not_there(coco, bring, left_out):
    coco(item(3), images=("a.png", "gone.png"))
    coco(item(3), name="val.json", images=("b.png",))
    made = bring()
    assert [case.split for case in made.found.cases] == ["training", "validation"]
    assert left_out(made) == {"gone.png": "named by train.json, but no such file"}


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (item(9), "an object is of category 9, which has no name"),
        (item(3, "text"), "its segmentation is text, not polygons"),
        (item(3, [[1, 2, 3]]), "a polygon is"),
        ({"image_id": 0}, r"annotations\[0\] lacks 'category_id'"),
        (item(3, {"size": [1, 1], "counts": [1]}), r"run lengths are for the size \[1, 1\]"),
    ],
)
def test_bad_objects(coco, bring, thing, message):
    coco(thing)
    with pytest.raises(ImportingError, match=message):
        bring()


def test_objects_of_no_image_and_images_without_one(coco, bring):
    coco(item(3), item(3, image=9), item(7, image=9))
    assert bring().found.notes == [
        "train.json: objects of images that it does not list are not drawn: 2 of 3",
        "drawn labels without an object, background throughout: 1 of 2",
        "every label that holds class 1 (cell) is in fold 0: with it as test nothing is trained on that",
    ]


def test_one_picture_twice(coco, make, bring):
    """The label of one would silently be that of the other, or the last one's alone."""
    coco(item(3))
    coco(item(7), name="more.json", images=("a.png",))
    with pytest.raises(ImportingError, match=r"images/a.png is annotated 2 times, and a case has one label; join"):
        bring()


def test_pictures_that_differ_by_their_suffix(coco, make, bring):
    make.picture("images/a.jpg")
    coco(item(3), item(7, image=1), images=("a.png", "a.jpg"))
    made = bring()
    assert [entry["label"] for entry in made.datalist.training] == [
        "labels/images/a_png.png",
        "labels/images/a_jpg.png",
    ]
    assert (label(made, 0).max(), label(made, 1).max()) == (1, 2)


def test_pictures_of_one_id(coco, bring):
    coco(item(3, image=1), ids=(1, 1))
    with pytest.raises(ImportingError, match=r"train.json: two images have the id 1, so that objects cannot be told"):
        bring()


def test_a_picture_of_another_size(coco, bring):
    coco(item(3), size=(24, 32))
    with pytest.raises(
        ImportingError, match=r"train.json: a.png: .* picture of 32x24 pixels, but the one here has 16x12"
    ):
        bring()
    coco(item(3, [[20, 2, 30, 2, 30, 6]]), size=(None, None))
    with pytest.raises(ImportingError, match=r"object 0: an outline from 20, 2 on lies outside its picture of 16x12"):
        bring()


def test_boxes_alone(coco, bring):
    coco(item(3), {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]})
    assert bring().found.notes == [
        "train.json: objects that are boxes alone are not drawn: 1 of 2",
        "drawn labels without an object, background throughout: 1 of 2",
        "every label that holds class 1 (cell) is in fold 0: with it as test nothing is trained on that",
    ]


def test_objects_that_leave_no_pixel_are_counted(coco, bring):
    """A line of two points, and an object between the centres of pixels; b.png is without a word of it."""
    coco(item(3), item(3, [[1, 1, 2, 2]]), item(7, [[4.6, 4.6, 5.4, 4.6, 5.4, 5.4]]), item(7, image=1))
    assert "objects that cover no pixel's centre, or have no outline, are in no label: 1 of cell, 1 of rim" in (
        bring().found.notes
    )


def test_names_of_files_as_windows_writes_them(coco, bring):
    coco(item(3), item(7, image=1), images=("images\\a.png", "images\\b.png"))
    assert [entry["image"] for entry in bring().datalist.training] == [
        "../source/images/a.png",
        "../source/images/b.png",
    ]


def test_a_class_that_counts_nowhere_beside_crowds(coco, bring):
    """Of crowds, which are drawn as 255, it was said that no class is called so."""
    crowd = item(3, {"counts": [0, 12, 180], "size": [12, 16]}, iscrowd=1)
    coco(item(3), crowd, item(7, image=1))
    made = bring(values={2: "ignore"})
    assert (made.datalist.class_names, made.datalist.ignore_index) == (["background", "cell"], 255)
    assert [sorted(np.unique(label(made, number))) for number in (0, 1)] == [[0, 1, 255], [0, 255]]


@pytest.mark.parametrize(("names", "lists"), [(("val.json",), [2, 0]), (("train.json", "val.json"), [1, 1])])
def test_one_part_alone_is_the_whole(coco, bring, names, lists):
    """Of a validation file alone nothing was for training."""
    for number, name in enumerate(names):
        images = ("a.png", "b.png") if len(names) == 1 else (("a.png", "b.png")[number],)
        coco(item(3), name=name, images=images)
    made = bring().datalist
    assert [len(made.training), len(made.validation)] == lists
