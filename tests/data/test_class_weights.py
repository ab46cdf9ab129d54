import logging
import math

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from medseg.data.class_weights import class_weights, count_pixels
from medseg.io.images import ImageError, read_image

FIRST = np.array([[0, 0, 0, 0], [0, 0, 1, 1]], np.uint8)
SECOND = np.array([[0, 0, 0, 0], [2, 2, 255, 255]], np.uint8)  # in all: 10, 2, 2 and 2 ignored


def entries(folder, *labels):
    found = []
    for number, label in enumerate(labels):
        path = folder / f"{number}.png"
        Image.fromarray(label).save(path)
        found.append({"image": str(folder / f"image{number}.png"), "label": str(path)})
    return found


def weigh(folder, scheme, num_classes=3):
    return class_weights(entries(folder, FIRST, SECOND), num_classes, 255, scheme)


def test_counts(tmp_path):
    counts = count_pixels(entries(tmp_path, FIRST, SECOND), 3, 255)
    assert counts.tolist() == [[6, 2, 0], [4, 0, 2]]
    assert counts.dtype == np.int64


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        # shares 10/14, 2/14, 2/14: 14/10, 7, 7; mean over pixels (10 * 1.4 + 2 * 7 + 2 * 7) / 14 = 3
        ("inverse", [1.4 / 3, 7 / 3, 7 / 3]),
        # square roots of those; mean over pixels (10 sqrt(1.4) + 4 sqrt(7)) / 14 = 1.6010832
        ("sqrt", [0.7390097, 1.6524758, 1.6524758]),
        # of 14, 8 and 6 pixels: 1.4, 4, 3; mean over pixels (10 * 1.4 + 2 * 4 + 2 * 3) / 14 = 2
        ("median", [0.7, 2.0, 1.5]),
    ],
)
def test_schemes_by_hand(tmp_path, scheme, expected):
    weights = weigh(tmp_path, scheme)
    assert weights == pytest.approx(expected, abs=1e-6)
    assert all(type(weight) is float for weight in weights)


def test_median_is_proportional_to_the_paper(tmp_path):
    rng = np.random.default_rng(0)
    labels = [rng.choice(4, (30, 20), p=p).astype(np.uint8) for p in ([0.9, 0.1, 0, 0], [0.5, 0, 0.3, 0.2])]
    frequency = []
    for c in range(4):
        holding = [label for label in labels if (label == c).any()]
        frequency.append(sum((label == c).sum() for label in holding) / sum(label.size for label in holding))
    paper = np.median(frequency) / np.array(frequency)
    weights = np.array(class_weights(entries(tmp_path, *labels), 4, scheme="median"))
    np.testing.assert_allclose(weights / weights[0], paper / paper[0])


@pytest.mark.parametrize("scheme", ["inverse", "sqrt", "median"])
def test_mean_over_pixels_is_1(tmp_path, scheme):
    rng = np.random.default_rng(1)
    label = rng.choice(5, (40, 50), p=[0.6, 0.3, 0.08, 0.015, 0.005]).astype(np.uint8)
    weights = np.array(class_weights(entries(tmp_path, label), 5, scheme=scheme))
    assert weights[label].mean() == pytest.approx(1)
    assert (np.diff(weights) > 0).all()  # the rarer, the heavier


def test_a_class_that_never_occurs_gets_1_and_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        weights = weigh(tmp_path, "inverse", num_classes=5)
    assert "no label of 2 holds class 3, 4; its weight is set to 1" in caplog.text
    assert weights[3:] == [1.0, 1.0]
    caplog.clear()
    assert weights[:3] == weigh(tmp_path, "inverse")
    assert not caplog.records


def test_other_formats(tmp_path):
    nibabel.save(nibabel.Nifti1Image(FIRST.astype(np.int16)[..., None], np.eye(4)), tmp_path / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(FIRST.astype(np.float32)[..., None], np.eye(4)), tmp_path / "b.nii")
    tifffile.imwrite(tmp_path / "c.tif", FIRST.astype(np.uint16))
    palette = Image.fromarray(FIRST)
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.save(tmp_path / "d.png")
    files = [{"label": tmp_path / name} for name in ("a.nii.gz", "b.nii", "c.tif", "d.png")]
    assert count_pixels(files, 2).tolist() == [[6, 2]] * 4


def test_negative_ignore_label(tmp_path):
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(np.array([[[0, 1, -1, -1]]], np.int16), np.eye(4)), path)
    assert count_pixels([{"label": path}], 2, -1).tolist() == [[1, 1]]


def test_real_palette_labels(real_data):
    paths = sorted((real_data / "covid_semiseg").glob("TrainingSet/MultiClassInfection-Train/**/GT/*.png"))
    if not paths:
        pytest.skip("no covid_semiseg labels in the real data")
    counts = count_pixels([{"label": path} for path in paths], 3)
    with Image.open(paths[7]) as image:
        expected = np.bincount(np.asarray(image).ravel(), minlength=3)
    assert counts[7].tolist() == expected.tolist()
    weights = class_weights([{"label": path} for path in paths], 3)
    assert np.average(weights, weights=counts.sum(0)) == pytest.approx(1)
    assert weights[0] < min(weights[1:])  # background


def test_expression_in_a_bundle(tmp_path):
    from monai.bundle import ConfigParser

    config = {
        "imports": ["$from medseg.data.class_weights import class_weights"],
        "entries": entries(tmp_path, FIRST, SECOND),
        "loss": {
            "_target_": "medseg.losses.cross_entropy.CrossEntropyLoss",
            "weight": "$class_weights(@entries, 3, 255, 'median')",
            "ignore_index": 255,
        },
    }
    parser = ConfigParser(config)
    parser.get_parsed_content("imports")
    assert parser.get_parsed_content("loss").weight.tolist() == pytest.approx([0.7, 2.0, 1.5])


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.array([[0, 1, 7, 255]], np.uint8), r"0.png: label holds value 7, 255, but the classes are 0-2; map it"),
        (np.zeros((2, 2, 3), np.uint8), r"0.png: label with 3 channels; store one channel of class indices"),
    ],
)
def test_wrong_labels_are_named(tmp_path, label, message):
    with pytest.raises(ImageError, match=message):
        class_weights(entries(tmp_path, label), 3)


@pytest.mark.parametrize("value", [0.5, math.nan, -1])
def test_values_that_are_no_indices(tmp_path, value):
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(np.array([[[0, 1, value]]], np.float32), np.eye(4)), path)
    with pytest.raises(ImageError, match=rf"a.nii: label holds value {value}, but the classes are 0-1 and the ignore"):
        class_weights([{"label": path}], 2, 255)
    assert read_image(path).array.size == 3


def test_missing_file(tmp_path):
    with pytest.raises(ImageError, match=r"gone.png: no such file"):
        class_weights([{"label": str(tmp_path / "gone.png")}], 2)


def test_bad_options(tmp_path):
    good = entries(tmp_path, FIRST)
    with pytest.raises(ValueError, match="scheme is 'log'; choose one of inverse, sqrt, median"):
        class_weights(good, 2, scheme="log")
    with pytest.raises(ValueError, match="there are no entries"):
        class_weights([], 2)
    with pytest.raises(ValueError, match="num_classes is 0"):
        class_weights(good, 0)
    with pytest.raises(ValueError, match=r"entry 1 \(b.png\) has no label"):
        class_weights([*good, {"image": "b.png"}], 2)
    with pytest.raises(ValueError, match="all pixels of 1 label have the ignore label 9"):
        class_weights(entries(tmp_path, np.full((2, 2), 9, np.uint8)), 2, 9)
