import numpy as np
import pytest
from PIL import Image

from medseg.importers.layout import ImportingError, Question


@pytest.fixture
def voc(make):
    make.picture(*(f"VOC/JPEGImages/{n}.jpg" for n in range(4)))
    make.label(*(f"VOC/SegmentationClass/{n}.png" for n in range(3)), values=(0, 1, 255))
    make.text("VOC/ImageSets/Segmentation/train.txt", "0\n1\n")
    make.text("VOC/ImageSets/Segmentation/val.txt", "2\n9\n")
    return make


def test_lists_and_border(voc, bring, left_out):
    voc.text("VOC/class_names.txt", "__ignore__\n_background_\ncat\n")
    made = bring()
    assert made.found.layout == "voc"
    assert [len(getattr(made.datalist, split)) for split in ("training", "validation")] == [2, 1]
    assert (made.datalist.labels, made.datalist.ignore_index) == ({0: "background", 1: "cat"}, 255)
    assert left_out(made) == {"VOC/JPEGImages/3.jpg": "in no list of ImageSets/Segmentation"}
    assert made.found.notes == ["lists name 1 image without a file, such as 9"]


def test_no_names(voc, bring):
    made = bring()
    assert made.datalist.class_names == ["background", "class_1"]
    assert made.found.notes[-1] == "no file names the classes; say them with --classes"
    assert bring(output="two", classes=("back", "cat")).datalist.class_names == ["back", "cat"]


def test_coloured_labels_and_their_map(voc, bring):
    pixels = np.zeros((12, 16, 3), np.uint8)
    pixels[2:5], pixels[6] = (128, 0, 0), (224, 224, 192)
    for n in range(3):
        Image.fromarray(pixels).save(voc.root / f"VOC/SegmentationClass/{n}.png")
    voc.text("labelmap.txt", "background:0,0,0::\ncat:128,0,0::\nvoid:224,224,192::\n")
    made = bring()
    assert (made.drawn, made.datalist.class_names, made.datalist.ignore_index) == (3, ["background", "cat"], 255)


def test_twice(voc, bring):
    voc.picture("other/JPEGImages/0.jpg")
    voc.label("other/SegmentationClass/0.png")
    with pytest.raises(ImportingError, match=r"2 times \(VOC, other\); name one folder"):
        bring()


@pytest.mark.parametrize(("place", "count"), [("pascal_voc2012", 14), ("labelme_voc/data_dataset_voc", 3)])
def test_real(bring, real_data, place, count):
    made = bring(source=real_data / place)
    assert len(made.found.cases) == count
    assert made.datalist.class_names[:2] == ["background", "aeroplane"]
    assert made.datalist.ignore_index == 255


@pytest.mark.parametrize("values", [[(0, 255)] * 3, [(0, 1), (0, 1), (0, 255)]])
def test_masks_of_255_are_no_border_without_a_question(voc, bring, values):
    """All objects, or those of one picture in three, counted nowhere."""
    voc.text("VOC/class_names.txt", "background\ncell\n")
    for number, held in enumerate(values):
        voc.label(f"VOC/SegmentationClass/{number}.png", values=held)
    with pytest.raises(Question, match=r"255 counts nowhere in voc.* say --values 255=cell if it is the object") as e:
        bring()
    assert e.value.proposal == "255=cell"
    made = bring(values={255: "cell"}).datalist
    assert (made.class_names, made.values[255], made.ignore_index) == (["background", "cell"], 1, None)
    made = bring(output="other", values={255: "ignore"}).datalist
    assert (made.class_names, made.ignore_index) == (["background", "cell"], 255)
