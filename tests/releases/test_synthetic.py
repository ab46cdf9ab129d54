"""The synthetic sections must be learnable from shape and texture, not from grey values or class frequencies."""

import hashlib
import itertools

import numpy as np
import pytest
from skimage import measure

from medseg.releases.synthetic import make_cell_section

CLASSES = 5


@pytest.fixture(scope="module")
def sections():
    return [make_cell_section(384, seed) for seed in range(4)]


@pytest.fixture(scope="module")
def histogram(sections):
    """Pixels by class and grey value, ``(5, 256)``."""
    counts = np.zeros((CLASSES, 256))
    for image, label in sections:
        np.add.at(counts, (label, image), 1)
    return counts


def mean_iou(histogram, class_of_grey):
    ious = []
    for index in range(CLASSES):
        predicted = class_of_grey == index
        overlap = histogram[index, predicted].sum()
        ious.append(overlap / (histogram[index].sum() + histogram[:, predicted].sum() - overlap))
    return float(np.mean(ious))


def test_shape_and_determinism():
    image, label = make_cell_section(128, 7)
    assert image.shape == label.shape == (128, 128)
    assert image.dtype == label.dtype == np.uint8
    again = make_cell_section(128, 7)
    assert hashlib.sha256(image.tobytes() + label.tobytes()).digest() == (
        hashlib.sha256(again[0].tobytes() + again[1].tobytes()).digest()
    )
    other = make_cell_section(128, 8)
    assert np.mean(image != other[0]) > 0.5
    assert np.mean(label != other[1]) > 0.1


@pytest.mark.parametrize("size", [64, 100, 257])
def test_any_size(size):
    image, label = make_cell_section(size, 0)
    assert image.shape == label.shape == (size, size)
    assert image.std() > 15


def test_too_small():
    with pytest.raises(ValueError, match="size is 32; a section needs 64 pixels"):
        make_cell_section(32, 0)


def test_class_shares_resemble_the_real_sections(histogram):
    share = histogram.sum(axis=1) / histogram.sum()
    low, high = np.array([0.12, 0.02, 0.002, 0.01, 0.55]), np.array([0.30, 0.10, 0.03, 0.10, 0.80])
    assert np.all((low < share) & (share < high)), share


def test_cells_are_closed(sections):
    for _, label in sections:
        inside = measure.label((label != 0) & (label != 2), connectivity=1)
        areas = np.bincount(inside.ravel())[1:]
        assert (areas > 300).sum() > 20
        assert areas.max() < 0.35 * label.size


def test_knowing_nothing_scores_low(histogram):
    assert mean_iou(histogram, np.full(256, 4)) < 0.2


def test_grey_values_alone_score_low(histogram):
    """The best of all weighted per-pixel classifiers by grey value, and of all divisions by thresholds."""
    share = histogram.sum(axis=1, keepdims=True)
    balanced = [mean_iou(histogram, (histogram / share**power).argmax(axis=0)) for power in (0.0, 0.3, 0.7, 1.0)]
    rng = np.random.default_rng(0)
    weighted = [
        mean_iou(histogram, (histogram / share ** rng.uniform(0, 1) * rng.uniform(0, 1, (5, 1))).argmax(axis=0))
        for _ in range(500)
    ]
    greys = np.arange(256)
    thresholds = [
        mean_iou(histogram, np.select([greys < a, greys < b], order, default=4))
        for a, b in itertools.combinations(range(20, 180, 8), 2)
        for order in itertools.permutations((0, 1, 2, 3), 2)
    ]
    assert 0.2 < max(balanced + weighted + thresholds) < 0.35
