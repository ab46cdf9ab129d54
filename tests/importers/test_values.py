from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.importers.layout import Case, Found, ImportingError, Options, Question
from medseg.importers.said import stored_values
from medseg.importers.scanning import scan
from medseg.importers.values import map_colours, resolve


def found(**more):
    return Found("x", "y", [], **more)


def classes(present, options=None, **more):
    return resolve(found(**more), Counter(present), {}, options or Options(), Path("here"))


def test_values_that_count_from_zero_need_nothing():
    made = classes([0, 1, 2])
    assert (made.labels, made.values, made.ignore) == ({0: "background", 1: "class_1", 2: "class_2"}, {}, None)


@pytest.mark.parametrize(
    ("present", "proposal"),
    [
        ([0, 255], "255=1"),
        ([255], "255=1"),
        ([0, 1, 2, 255], "255=ignore"),
        ([0, 2, 5], "2=1 5=2"),
        ([0, 2, 7, 255], "2=1 7=2 255=3"),
        ([0, 2, *range(10, 20)], "ascending"),
        ([0, *range(3, 40), 255], "1-255=1"),
    ],
)
def test_others_are_asked_for(present, proposal):
    with pytest.raises(
        Question, match=r"^here: labels hold .*; say which class each one is, such as --values"
    ) as error:
        classes(present)
    assert (error.value.option, error.value.proposal) == ("values", proposal)
    asks = "(255 may be a class, or mean what counts nowhere: 255=ignore)" in str(error.value)
    assert asks is (present == [0, 2, 7, 255])


@pytest.mark.parametrize(
    ("present", "said", "labels", "values", "ignore"),
    [
        ([0, 255], {"values": {255: 1}}, {0: "background", 1: "class_1"}, {0: 0, 255: 1}, None),
        ([0, 255], {"values": {255: "lesion"}}, {0: "background", 1: "lesion"}, {0: 0, 255: 1}, None),
        ([0, 1, 255], {"values": {255: "ignore"}}, {0: "background", 1: "class_1"}, {}, 255),
        ([0, 1, 9], {"values": {9: "ignore"}}, {0: "background", 1: "class_1"}, {0: 0, 1: 1, 9: 255}, 255),
        ([0, 32, 255], {"ascending": True}, {0: "background", 1: "class_1", 2: "class_2"}, {0: 0, 32: 1, 255: 2}, None),
        ([0, 1], {"classes": ("skin", "lesion", "hair")}, {0: "skin", 1: "lesion", 2: "hair"}, {}, None),
        ([0], {"classes": ("skin", "lesion")}, {0: "skin", 1: "lesion"}, {}, None),
        ([1, 2], {"values": {1: "a", 2: "b"}}, {0: "a", 1: "b"}, {1: 0, 2: 1}, None),
    ],
)  # fmt: skip
def test_what_is_said(present, said, labels, values, ignore):
    made = classes(present, Options(**said))
    assert (made.labels, made.values, made.ignore) == (labels, values, ignore)


def test_numbers_of_objects_are_no_classes():
    held = [set(range(count + 1)) for count in (12, 3, 30, 0, 7)]
    every = Counter(range(31))

    def made(held, options=None, **more):
        return resolve(found(**more), every, {}, options or Options(), Path("here"), held)

    with pytest.raises(Question, match=r"0 to 30.* look like numbers of objects, not classes; .* 1-30=1") as error:
        made(held)
    assert (error.value.option, error.value.proposal) == ("values", "1-30=1")
    one = made(held, Options(values=dict.fromkeys(range(1, 31), 1)))
    assert one.labels == {0: "background", 1: "class_1"}
    assert len(made(held, Options(ascending=True)).labels) == 31
    assert len(made(held, labels={n: f"c{n}" for n in range(31)}).labels) == 31
    for classes_of_each in ([{0, 1, 5}, *held], [set(range(31)), set(range(30)), set(range(31))]):
        assert len(made(classes_of_each).labels) == 31  # one has a gap, nearly all have all of them
    assert len(classes([0, 1, 2, 3]).labels) == 4


def test_what_the_layout_says():
    made = classes([0, 1, 255], labels={0: "back", 1: "liver", 2: "tumour"}, ignore=255)
    assert (made.labels, made.values, made.ignore) == ({0: "back", 1: "liver", 2: "tumour"}, {}, 255)
    made = classes([0, 4], labels={0: "back", 4: "liver"}, colours={4: "#ff0000"})
    assert (made.labels, made.values, made.colours) == ({0: "back", 1: "liver"}, {0: 0, 4: 1}, {1: "#ff0000"})
    with pytest.raises(Question, match=r"labels hold 7, of which the layout names no class.* --values 7=ignore"):
        classes([0, 7], labels={0: "back", 1: "liver"})
    assert classes([0, 7], Options(values={7: "ignore"}), labels={0: "a", 1: "b"}).values == {0: 0, 1: 1, 7: 255}


@pytest.mark.parametrize(
    ("present", "said", "message"),
    [
        ([0], {}, "every label is 0 throughout"),
        ([], {}, "no label can be used"),
        ([0, 5], {"values": {5: 2}}, "--values leaves out class 1"),
        ([0, 1, 2], {"classes": ("a", "b")}, "--classes names 2, but the labels have 3 classes"),
        ([0, 1], {"classes": ("a", "a")}, "give each its own name"),
        ([0, 9], {"values": {0: 1, 9: "background"}}, None),
        ([0, 1, 9], {"values": {1: 1, 9: "class_1"}}, "two classes would be called alike"),
    ],
)
def test_what_cannot_be(present, said, message):
    if message is None:
        assert classes(present, Options(**said)).values == {0: 1, 9: 0}
        return
    with pytest.raises(ImportingError, match=message):
        classes(present, Options(**said))


def test_a_few_of_many_structures():
    """What a message proposes is taken: all is background but what is named after it."""
    present, few = [*range(12), 117], {0: "background", 5: "liver", 1: "spleen"}
    way = r"other values \(2, 3, 4, 6, 7, 8, 9, 10 ...\) are.* --values 0-117=background 5=liver 1=spleen$"
    with pytest.raises(ImportingError, match=way):
        classes(present, Options(values=few))
    with pytest.raises(Question, match=r"--values ascending \(or 0-117=background 1=NAME, for one of them alone\)$"):
        classes(present)
    values, _ = stored_values(["0-117=background", "5=liver", "1=spleen"])
    made = classes(present, Options(values=values))
    assert made.labels == {0: "background", 1: "spleen", 2: "liver"}
    assert {stored: made.values[stored] for stored in (0, 1, 5, 11, 117)} == {0: 0, 1: 1, 5: 2, 11: 0, 117: 0}


def test_names_of_the_layout_are_not_moved():
    with pytest.raises(ImportingError, match=r"--classes names 'liver' as 2, but the labels hold it as 1"):
        classes([0, 1, 2], Options(classes=("back", "tumour", "liver")), labels={0: "back", 1: "liver", 2: "tumour"})


@pytest.fixture
def coloured(tmp_path):
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[1:3, 1:3] = (255, 0, 0)
    pixels[0] = (0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_colours_are_asked_for_and_mapped(coloured):
    case = Case("a", (coloured,), coloured)
    made = found()
    made.cases = [case]
    _, present, colours = scan(made, lambda done, total: None)
    with pytest.raises(
        Question, match=r"colour-coded, and 3 of 3 colours have no class: #000000 \(55 %\), #0000ff"
    ) as error:
        resolve(made, present, colours, Options(), Path("here"))
    assert error.value.option == "colours"
    named = {"#000000": "skin", "#ff0000": "lesion", "#0000ff": "ignore"}
    result = resolve(made, present, colours, Options(colours=named), Path("here"))
    assert (result.labels, result.ignore) == ({0: "skin", 1: "lesion"}, 255)
    assert result.colours == {0: "#000000", 1: "#ff0000"}
    drawn = made.cases[0].label(None)
    np.testing.assert_array_equal(drawn[:, 1], [255, 1, 1, 0])
    with pytest.raises(ImportingError, match=r"b.png: holds the colour #ff0000, which has no class"):
        map_colours(np.full((2, 2, 3), (255, 0, 0), np.uint8), {0: 0}, Path("b.png"))


def test_one_class_as_1_and_as_255_is_not_ignored_by_what_is_proposed():
    """0 and 1 in some files, 0 and 255 in others; where one file holds both, 255 may be what counts nowhere."""

    def asked(held):
        with pytest.raises(Question) as error:
            resolve(found(), Counter([0, 1, 255]), {}, Options(), Path("here"), held)
        return error.value

    apart = asked([{0, 1}, {0, 255}])
    assert apart.proposal == "255=1"
    assert "no label holds 1 and 255 together" in str(apart)
    assert asked([{0, 1}, {0, 1, 255}]).proposal == "255=ignore"


def paletted(path, indices, colours):
    picture = Image.fromarray(indices)
    picture.putpalette(colours)
    picture.save(path)
    return Case(path.stem, (path,), path)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_indices_of_unlike_palettes_are_no_classes(tmp_path, suffix):
    """A program that numbers the colours it meets: red is 1 in one file and 0 in the other."""
    mask = np.zeros((6, 6), np.uint8)
    mask[2:4, 2:5] = 1
    made = found()
    made.cases = [
        paletted(tmp_path / f"a.{suffix}", mask, [0, 0, 0, 255, 0, 0]),
        paletted(tmp_path / f"b.{suffix}", 1 - mask, [255, 0, 0, 0, 0, 0]),
    ]
    with pytest.raises(ImportingError, match=r"a\.\w+: its palette has #(000000|ff0000) for ., that of .*b\.") as error:
        scan(made, lambda done, total: None)
    assert "--colours '#" in str(error.value)
    assert "--values 0=0 1=1" in str(error.value)
    assert scan(made, lambda done, total: None, indexed=True)[0] == [{0, 1}, {0, 1}]
    _, present, colours = scan(made, lambda done, total: None, coded=True)
    assert not present
    named = Options(colours={"#000000": "skin", "#ff0000": "lesion"})
    assert resolve(made, present, colours, named, Path("here")).labels == {0: "skin", 1: "lesion"}
    for case in made.cases:
        np.testing.assert_array_equal(case.label(None), mask)


def test_palettes_that_differ_where_no_pixel_is_are_alike(tmp_path):
    mask = np.eye(6, dtype=np.uint8)
    made = found()
    made.cases = [
        paletted(tmp_path / "a.png", mask, [0, 0, 0, 255, 0, 0, 9, 9, 9]),
        paletted(tmp_path / "b.png", mask, [0, 0, 0, 255, 0, 0, 0, 0, 9]),
        paletted(tmp_path / "c.png", 0 * mask, [0, 0, 0]),
    ]
    held, _, coloured = scan(made, lambda done, total: None)
    assert held == [{0, 1}, {0, 1}, {0}]
    assert not coloured


def test_labels_that_cannot_be_used_are_left_out(tmp_path):
    noise = np.random.default_rng(0).integers(0, 60000, (60, 60)).astype(np.uint16)
    Image.fromarray(noise).save(tmp_path / "ids.png")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "lossy.jpg")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / "good.png")
    made = found()
    made.cases = [
        Case(n, (tmp_path / f"{n}_image",), tmp_path / n) for n in ("ids.png", "lossy.jpg", "broken.png", "good.png")
    ]
    held, present, _ = scan(made, lambda done, total: None)
    assert [case.name for case in made.cases] == ["good.png"]
    assert (held, set(present)) == ([{0, 1}], {0, 1})
    reasons = {path.name: reason for path, reason in made.left_out.items()}
    assert "numbers of objects?" in reasons["ids.png"]
    assert "compressed with loss" in reasons["lossy.jpg"]
    assert reasons["broken.png_image"] == "its label cannot be used"


def test_a_number_of_a_class_that_has_a_name_is_no_other_class():
    """Of liver, stored as 1, and 4=1, liver became class 2 and what 4 is class 1."""
    with pytest.raises(ImportingError, match=r"--values 4=1 would make class 1 another one .* say --values 4=liver"):
        classes([0, 1, 4], Options(values={4: 1}), labels={0: "back", 1: "liver"})
    made = classes([0, 1, 4], Options(values={4: "liver"}), labels={0: "back", 1: "liver"})
    assert (made.labels, made.values) == ({0: "back", 1: "liver"}, {0: 0, 1: 1, 4: 1})
    assert classes([0, 1], Options(values={0: 0}), labels={1: "liver"}).labels == {0: "background", 1: "liver"}
