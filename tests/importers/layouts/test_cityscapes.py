import pytest

from medseg.importers.layout import ImportingError, Question


def place(make, values, end="gtFine_labelIds"):
    for split, city in (("train", "aachen"), ("train", "bonn"), ("val", "ulm"), ("test", "berlin")):
        make.picture(f"leftImg8bit/{split}/{city}/{city}_0_leftImg8bit.png")
        if split != "test":
            make.label(f"gtFine/{split}/{city}/{city}_0_{end}.png", values=values)


def test_ids_of_cityscapes(make, bring):
    place(make, (0, 7, 26))
    made = bring()
    assert made.found.layout == "cityscapes"
    assert [entry["group"] for entry in made.datalist.training] == ["aachen", "bonn"]
    assert (len(made.datalist.validation), len(made.datalist.test)) == (1, 1)
    assert (made.datalist.values[7], made.datalist.values[26], made.datalist.values[0]) == (0, 13, 255)
    assert made.datalist.labels[13] == "car"


def test_training_ids(make, bring):
    place(make, (0, 18, 255), "gtFine_labelTrainIds")
    made = bring()
    assert (made.datalist.values, made.datalist.num_classes, made.datalist.ignore_index) == ({}, 19, 255)


def test_own_classes(make, bring):
    place(make, (0, 1, 40))
    with pytest.raises(Question, match=r"labels hold 40"):
        bring()
    made = bring(values={40: "crop"})
    assert made.datalist.class_names == ["background", "class_1", "crop"]


def test_nothing_fits(make, bring):
    make.picture("a/x_leftImg8bit.png")
    make.label("a/y_gtFine_labelIds.png")
    with pytest.raises(ImportingError, match=r"no _leftImg8bit.png has a label of its name"):
        bring()


@pytest.mark.parametrize("values", [(0, 1), tuple(range(11))])
def test_small_numbers_are_own_classes(make, bring, values):
    """Cityscapes calls 0 to 6 no class: all of two classes, and most of eleven, counted nowhere without a word."""
    place(make, values)
    with pytest.raises(
        Question, match=r"labels hold 0, 1.* count nowhere in cityscapes; if these are classes of your own"
    ):
        bring()
    made = bring(ascending=True).datalist
    assert (made.num_classes, made.ignore_index, made.values) == (len(values), None, {})
