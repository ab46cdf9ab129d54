"""Labels of natural images that are not what the datalist says, caught before training."""

import json

import numpy as np
import pytest
from PIL import Image

from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist, DatalistError

VOC = {index: f"class {index}" for index in range(21)}
CITYSCAPES = {index: f"class {index}" for index in range(19)}
ADE20K = {index: f"class {index}" for index in range(150)}


def make(folder, labels, arrays, ignore_index=255):
    """Write images of the labels' size, the labels, and their datalist."""
    rows = []
    for n, array in enumerate(arrays):
        pixels = np.random.default_rng(n).integers(0, 255, (*array.shape[:2], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"i{n}.png")
        Image.fromarray(array).save(folder / f"l{n}.png")
        rows.append({"image": f"i{n}.png", "label": f"l{n}.png"})
    return Datalist(
        name="scenes",
        version=1,
        modality=("photograph",),
        licence="CC0-1.0",
        source="drawn by the tests",
        labels=labels,
        ignore_index=ignore_index,
        training=rows,
        path=folder / "datalist.json",
    ).save()


def indices(seed, classes, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, classes, (24, 32)).astype(dtype)


def error(datalist, **options):
    """What training stops with."""
    with pytest.raises(DatalistError) as caught:
        check_datalist(datalist, in_channels=3, **options).raise_for_errors()
    return str(caught.value)


def codes(report):
    return {finding.code for finding in report.findings}


def test_colours_in_place_of_indices(tmp_path):
    colours = np.stack([indices(0, 2) * 128, indices(1, 2) * 128, indices(2, 1)], axis=-1)
    message = error(make(tmp_path, VOC, [colours, indices(3, 21)]))
    assert f"{tmp_path / 'l0.png'}: label with 3 channels, as a coloured picture has" in message
    assert "store one channel of class indices (0-20): map each colour to its class, or prepare" in message
    assert "l1.png" not in message


def test_real_colours(tmp_path, real_data):
    """VOC's colour-coded targets, and beside them the palette masks that they should have been."""
    root = real_data / "pascal_voc2012"
    coded = sorted((root / "SegmentationClassRGB").iterdir())[:2]
    arrays = [np.array(Image.open(path)) for path in coded]
    message = error(make(tmp_path, VOC, arrays))
    assert "2 errors in the data" in message
    assert f"label-channels: {tmp_path / 'l1.png'}: label with 3 channels" in message
    for n, path in enumerate(coded):
        (tmp_path / f"l{n}.png").write_bytes((root / "VOCdevkit/VOC2012/SegmentationClass" / path.name).read_bytes())
    report = check_datalist(tmp_path / "datalist.json", in_channels=3, num_classes=21, roi_size=(513, 513))
    assert codes(report) == {"absent-class"}


def test_instance_ids(tmp_path):
    ids = indices(0, 34, np.uint16)
    ids[:8, :8], ids[8:12, :8] = 26001, 24000
    message = error(make(tmp_path, CITYSCAPES, [ids, indices(1, 19)]))
    assert f"{tmp_path / 'l0.png'}: label holds values 19, 20, 21, 22 ... 26001, but the datalist names 19" in message
    assert "values above 255 look like instance ids (Cityscapes' instanceIds are class x 1000 + number)" in message
    assert "take the labels of classes, prepared with the data set's script in data_scripts/" in message
    assert "l1.png" not in message


def test_more_than_255_classes_are_classes(tmp_path):
    many = {index: f"class {index}" for index in range(300)}
    report = check_datalist(make(tmp_path, many, [indices(0, 300, np.uint16)], ignore_index=None))
    assert codes(report) <= {"absent-class"}
    message = error(make(tmp_path, many, [indices(0, 301, np.uint16)], ignore_index=None))
    assert "holds value 300" in message
    assert "instance ids" not in message
    assert "if classes count from 1 here and 0 is none of them, make 0 the ignore label and subtract 1" in message


def test_raw_ade20k(tmp_path):
    raw = np.arange(24 * 32).reshape(24, 32) % 151
    message = error(make(tmp_path, ADE20K, [raw.astype(np.uint8)]))
    assert f"{tmp_path / 'l0.png'}: label holds value 150, but the datalist names 150 classes (0-149)" in message
    assert "raw ADE20K annotations hold 0 to 150, where 0 = other" in message
    assert "prepare them with data_scripts/ade20k.py" in message
    other = error(make(tmp_path, ADE20K, [(raw + 5).astype(np.uint8)]))
    assert 'map it to a class with "values" in the datalist, or set ignore_index' in other
    assert "ADE20K" not in other


def test_raw_ade20k_without_its_last_class_is_a_warning(tmp_path, real_data):
    """Class 150 (flag) is rare: no real annotation here has it, and each value is a class to the datalist."""
    folder = real_data / "ade20k" / "ADEChallengeData2016" / "annotations" / "validation"
    raw = [np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    assert raw
    report = check_datalist(make(tmp_path, ADE20K, raw), num_classes=150)
    assert report.ok
    (finding,) = [finding for finding in report.warnings if finding.code == "raw-ade20k"]
    assert f"{tmp_path / 'datalist.json'}: no label holds the ignore label 255, but 0" in finding.message
    assert "if these are raw, prepare them with data_scripts/ade20k.py" in finding.message
    prepared = [np.where(label == 0, 255, label - 1).astype(np.uint8) for label in raw]
    assert "raw-ade20k" not in codes(check_datalist(make(tmp_path, ADE20K, prepared), num_classes=150))


def test_datalist_and_network_differ_in_classes(tmp_path):
    message = error(make(tmp_path, VOC, [indices(0, 21)]), num_classes=19)
    assert (
        f"{tmp_path / 'datalist.json'}: names 21 classes, but the network gives 19; set out_channels to 21" in message
    )
    assert "for weights of 19 classes, take the datalist that they were trained with" in message


def test_a_crop_larger_than_the_image(tmp_path):
    arrays = [indices(0, 21), indices(1, 21), np.tile(indices(2, 21), (2, 2))]
    message = error(make(tmp_path, VOC, arrays, ignore_index=None), roi_size=(32, 40))
    assert "2 errors in the data" in message
    assert f"{tmp_path / 'i0.png'}: 24x32 is smaller than the window 32x40, and without an ignore label" in message
    assert "set the datalist's ignore_index" in message
    report = check_datalist(make(tmp_path, VOC, arrays), roi_size=(32, 40))
    assert report.ok
    (finding,) = [finding for finding in report.warnings if finding.code == "smaller-than-window"]
    assert finding.message.startswith("2 images of 3 (")
    assert "must be padded with the ignore label 255" in finding.message
    assert finding.files == (str(tmp_path / "i0.png"), str(tmp_path / "i1.png"))
    assert "smaller-than-window" not in codes(check_datalist(make(tmp_path, VOC, arrays), roi_size=(24, -1)))
    assert codes(check_datalist(make(tmp_path, VOC, arrays), roi_size=(4, 4, 4))) >= {"wrong-dimensions"}


def test_a_mapping_is_for_labels_not_for_numbers_of_objects(tmp_path):
    rng = np.random.default_rng(0)
    for name, values in (("image", range(256)), ("label", (0, 255)), ("instances", (0, 1, 2, 7))):
        Image.fromarray(rng.choice(np.array(values, np.uint8), (8, 9))).save(tmp_path / f"{name}.png")
    content = {"name": "x", "version": 1, "modality": [], "licence": "", "source": "", "ignore_index": None}
    content |= {"labels": {"0": "a", "1": "b"}, "values": {"0": 0, "255": 1}, "validation": [], "test": []}
    content["training"] = [{key: f"{key}.png" for key in ("image", "label", "instances")}]
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    assert check_datalist(tmp_path / "datalist.json").findings == ()
