"""Boundary F-scores against a brute-force reference."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter, generate_binary_structure
from torch import Tensor

from medseg.metrics.boundary import BoundaryFScore, BoundaryScores

CLASSES = 4
IGNORE = 255


def blobs(seed: int, size: tuple[int, ...], ignored: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a label of smooth regions, and a prediction that differs a little."""
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.normal(size=(CLASSES, *size)), [0, *[2.0] * len(size)])
    label = noise.argmax(0)
    prediction = (noise + gaussian_filter(rng.normal(size=noise.shape), [0, *[1.0] * len(size)]) * 0.2).argmax(0)
    if ignored:
        label[gaussian_filter(rng.normal(size=size), 2.0) > 0.06] = IGNORE
    return prediction, label


def boundary_by_hand(inside: NDArray[np.bool_]) -> list[tuple[int, ...]]:
    """Walk over all pixels and look at their face neighbours one by one."""
    points = []
    steps = [tuple(step * (axis == k) for k in range(inside.ndim)) for axis in range(inside.ndim) for step in (-1, 1)]
    for point in itertools.product(*map(range, inside.shape)):
        neighbours = [tuple(p + s for p, s in zip(point, step, strict=True)) for step in steps]
        here = [n for n in neighbours if all(0 <= p < edge for p, edge in zip(n, inside.shape, strict=True))]
        if inside[point] and any(not inside[n] for n in here):
            points.append(point)
    return points


def near_by_hand(points: list[tuple[int, ...]], others: list[tuple[int, ...]], reach: float) -> int:
    return sum(any(math.dist(p, o) <= reach for o in others) for p in points)


def reference(
    pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]], tolerance: float
) -> tuple[list[tuple[int, int, int, int]], float]:
    """Return the counts of each class and the mean over images."""
    totals = [(0, 0, 0, 0)] * CLASSES
    images = []
    for prediction, label in pairs:
        reach = tolerance * math.sqrt(sum(edge**2 for edge in label.shape))
        scores = []
        for index in range(CLASSES):
            ours = boundary_by_hand((prediction == index) & (label != IGNORE))
            theirs = boundary_by_hand(label == index)
            row = (near_by_hand(ours, theirs, reach), len(ours), near_by_hand(theirs, ours, reach), len(theirs))
            totals[index] = tuple(a + b for a, b in zip(totals[index], row, strict=True))  # type: ignore[assignment]
            if ours or theirs:
                p, r = row[0] / max(1, row[1]), row[2] / max(1, row[3])
                scores.append(2 * p * r / (p + r) if p + r else 0.0)
        if scores:
            images.append(sum(scores) / len(scores))
    return totals, sum(images) / len(images)


def by_distance_transform(
    pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]], classes: int, ignore: int | None, tolerance: float
) -> list[float]:
    """Return the F-score of each class: boundaries by erosion, nearness by the distance to the other boundary."""
    totals = np.zeros((classes, 4), np.int64)
    for prediction, label in pairs:
        reach = tolerance * math.sqrt(sum(edge**2 for edge in label.shape))
        faces = generate_binary_structure(label.ndim, 1)
        for index in range(classes):
            masks = [(values == index) & (label != ignore) for values in (prediction, label)]
            ours, theirs = (mask & ~binary_erosion(mask, faces, border_value=1) for mask in masks)
            for column, (one, other) in enumerate([(ours, theirs), (theirs, ours)]):
                near = distance_transform_edt(~other)[one] <= reach if other.any() else np.zeros(int(one.sum()))
                totals[index, 2 * column : 2 * column + 2] += int(near.sum()), int(one.sum())
    scores = []
    for near_ours, n_ours, near_theirs, n_theirs in totals.tolist():
        p, r = near_ours / max(1, n_ours), near_theirs / max(1, n_theirs)
        scores.append(math.nan if not n_ours + n_theirs else 2 * p * r / (p + r) if p + r else 0.0)
    return scores


def scores_of(
    pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]], ignore: int | None = None, tolerance: float = 0.0075
) -> BoundaryScores:
    counter = BoundaryFScore(CLASSES, ignore, tolerance)
    for prediction, label in pairs:
        counter.update(torch.from_numpy(prediction)[None], torch.from_numpy(label)[None])
    return counter.compute()


@pytest.mark.parametrize("sizes", [[(20, 31), (26, 17)], [(9, 10, 8)]])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("tolerance", [0.0, 0.04, 0.08])
def test_equals_brute_force(sizes: list[tuple[int, ...]], ignored: bool, tolerance: float) -> None:
    pairs = [blobs(seed, size, ignored) for seed, size in enumerate(sizes)]
    found = scores_of(pairs, IGNORE if ignored else None, tolerance)
    totals, mean_over_images = reference(pairs, tolerance)
    assert found.support == [row[3] for row in totals]
    for index, (near_ours, ours, near_theirs, theirs) in enumerate(totals):
        assert found.precision[index] == pytest.approx(near_ours / ours)
        assert found.recall[index] == pytest.approx(near_theirs / theirs)
        p, r = near_ours / ours, near_theirs / theirs
        assert found.f_score[index] == pytest.approx(2 * p * r / (p + r))
    assert found.mean_f_score == pytest.approx(sum(found.f_score) / CLASSES)
    assert found.mean_image_f_score == pytest.approx(mean_over_images)
    assert 0.05 < found.mean_f_score < 1  # neither all right nor all wrong, so that the comparison says something


@pytest.mark.parametrize("size", [(61, 83), (11, 17, 13)])
@pytest.mark.parametrize("ignore", [None, IGNORE])
def test_random_labels_equal_the_distance_transform(size: tuple[int, ...], ignore: int | None) -> None:
    pairs = [blobs(seed, size, ignore is not None) for seed in range(2)]
    rng = np.random.default_rng(3)
    pairs.append((rng.integers(0, CLASSES, size), rng.integers(0, CLASSES, size)))  # a boundary at every pixel
    for tolerance in (0.0, 0.0075, 0.03):
        found = scores_of(pairs, ignore, tolerance)
        np.testing.assert_allclose(found.f_score, by_distance_transform(pairs, CLASSES, ignore, tolerance))
    assert max(found.f_score) > min(found.f_score) > 0


def test_the_tolerance_is_named_in_pixels() -> None:
    counter = BoundaryFScore(CLASSES, tolerance=0.01)
    assert counter.compute().tolerance_pixels is None
    assert counter.compute().to_dict()["tolerance_pixels"] is None
    for size in ((300, 400), (60, 80), (90, 120)):
        label = torch.zeros(1, *size, dtype=torch.int64)
        counter.update(label, label)
    found = counter.compute().to_dict()
    assert found["tolerance"] == 0.01
    assert found["tolerance_pixels"] == pytest.approx([1.0, 5.0])
    other = BoundaryFScore(CLASSES, tolerance=0.01)
    other.merge(counter)
    assert other.compute().tolerance_pixels == counter.compute().tolerance_pixels
    counter.reset()
    assert counter.compute().tolerance_pixels is None


def test_the_tolerance_is_a_share_of_the_diagonal() -> None:
    """300 x 400 has a diagonal of 500 pixels: 3.75 of them are allowed."""

    def square(shift: int) -> NDArray[np.int64]:
        label = np.zeros((300, 400), np.int64)
        label[100:200, 100 + shift : 200 + shift] = 1
        return label

    assert scores_of([(square(3), square(0))]).f_score[:2] == [1.0, 1.0]
    moved = scores_of([(square(4), square(0))])
    # of the square's 396 boundary pixels the 100 of one side are 4 pixels off; so are those of the other side, but for
    # the 4 at each end, which are near the true top and bottom
    assert moved.precision[1] == moved.recall[1] == pytest.approx((396 - 100 - (100 - 2 * 4)) / 396)


def test_what_is_predicted_on_ignored_pixels_changes_nothing() -> None:
    prediction, label = blobs(3, (30, 30), ignored=True)
    other = np.where(label == IGNORE, 3 - prediction, prediction)
    assert (other != prediction).sum() > 50
    assert scores_of([(other, label)], IGNORE) == scores_of([(prediction, label)], IGNORE)


def test_absent_classes_are_named() -> None:
    label = np.zeros((12, 12), np.int64)
    label[3:8, 3:8] = 1
    prediction = np.where(label == 1, 2, 0)  # 1 is missed, 2 invented, 3 nowhere
    found = scores_of([(prediction, label)])
    assert found.absent == [3]
    assert found.f_score[:3] == [1.0, 0.0, 0.0]
    assert math.isnan(found.precision[1])
    assert found.recall[1] == 0
    assert found.precision[2] == 0
    assert math.isnan(found.recall[2])
    assert math.isnan(found.f_score[3])
    assert found.mean_f_score == pytest.approx(1 / 3)
    plain = found.to_dict(["a", "b", "c", "d"])
    assert plain["absent"] == ["d"]
    assert (plain["mean_f_score"], plain["mean_image_f_score"]) == (found.mean_f_score, found.mean_image_f_score)
    assert plain["classes"][3] == {"name": "d", "f_score": None, "precision": None, "recall": None, "support": 0}
    json.dumps(plain, allow_nan=False)


def test_a_class_that_fills_the_image_has_no_boundary() -> None:
    whole = np.zeros((5, 5), np.int64)
    found = scores_of([(whole, whole)])
    assert found.absent == [0, 1, 2, 3]
    assert math.isnan(found.mean_f_score)
    assert math.isnan(found.mean_image_f_score)
    json.dumps(found.to_dict(), allow_nan=False)


def test_logits_and_indices_of_any_layout_count_alike() -> None:
    prediction, label = (torch.from_numpy(each)[None] for each in blobs(4, (14, 18), ignored=True))
    logits = torch.nn.functional.one_hot(prediction, CLASSES).movedim(-1, 1).float()
    expected = BoundaryFScore(CLASSES, IGNORE)
    expected.update(prediction, label)
    for guess, truth in [
        (logits, label),
        (logits, label[:, None]),
        (logits.requires_grad_(), label),
        (prediction[:, None], label),
        (prediction, label[:, None]),
        (prediction[:, None].to(torch.uint8), label[:, None].to(torch.uint8)),
    ]:
        found = BoundaryFScore(CLASSES, IGNORE)
        found.update(guess, truth)
        assert torch.equal(found.counts, expected.counts)
        assert found.compute() == expected.compute()


def test_merge_and_reset() -> None:
    pairs = [blobs(seed, size) for seed, size in enumerate([(15, 15), (20, 31), (9, 12)])]
    parts = []
    for some in (pairs[:1], pairs[1:]):
        part = BoundaryFScore(CLASSES)
        for prediction, label in some:
            part.update(torch.from_numpy(prediction)[None], torch.from_numpy(label)[None])
        parts.append(part)
    parts[0].merge(parts[1])
    together, expected = parts[0].compute(), scores_of(pairs)
    assert (together.f_score, together.precision, together.support) == (
        expected.f_score,
        expected.precision,
        expected.support,
    )
    assert together.mean_image_f_score == pytest.approx(expected.mean_image_f_score)
    assert together.tolerance_pixels == expected.tolerance_pixels
    parts[0].reset()
    assert parts[0].compute().to_dict() == BoundaryFScore(CLASSES).compute().to_dict()
    prediction, label = blobs(3, (9, 12))  # other sizes than what was forgotten
    parts[0].update(torch.from_numpy(prediction)[None], torch.from_numpy(label)[None])
    assert parts[0].compute().to_dict() == scores_of([(prediction, label)]).to_dict()
    assert parts[0].compute().tolerance_pixels == pytest.approx((0.0075 * 15,) * 2)
    with pytest.raises(ValueError, match=r"counts of 1 classes within 0\.0075 to counts of 4 classes"):
        parts[0].merge(BoundaryFScore(1))


def test_one_class_has_no_boundary() -> None:
    counter = BoundaryFScore(1)
    counter.update(torch.zeros(1, 3, 4, dtype=torch.int64), torch.zeros(1, 3, 4, dtype=torch.int64))
    assert counter.compute().absent == [0]


def test_an_axis_of_one_is_the_channel() -> None:
    lines = torch.tensor([[[0, 0, 1, 1, 1, 0, 0]]])  # one line of seven pixels, not an image of 1 x 7
    counter = BoundaryFScore(2, tolerance=0.5)
    counter.update(lines, lines)
    assert counter.compute().tolerance_pixels == (3.5, 3.5)


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        (torch.zeros(1, 2, 2, dtype=torch.int64), torch.tensor([[[0, 7], [255, 0]]]), r"label values \[7, 255\]"),
        (torch.tensor([[[0, 4], [0, 0]]]), torch.zeros(1, 2, 2, dtype=torch.int64), r"prediction values \[4\]"),
        (torch.tensor([[[0, -1], [0, 0]]]), torch.zeros(1, 2, 2, dtype=torch.int64), r"prediction values \[-1\]"),
        (torch.rand(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), "do not hold 4 classes"),
        (torch.rand(4), torch.zeros(4, dtype=torch.int64), r"logits of shape \(4,\) do not hold 4 classes"),
        (torch.rand(1, 4, 2, 3), torch.zeros(1, 1, 3, 2, dtype=torch.int64), "differ in shape"),
    ],
)
def test_bad_input(prediction: Tensor, label: Tensor, message: str) -> None:
    counter = BoundaryFScore(CLASSES)
    with pytest.raises(ValueError, match=message):
        counter.update(prediction, label)
    assert int(counter.counts.sum()) == 0


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="num_classes is 0"):
        BoundaryFScore(0)
    with pytest.raises(ValueError, match="tolerance is 1"):
        BoundaryFScore(2, tolerance=1.0)
    with pytest.raises(ValueError, match="3 class names for 2 classes"):
        BoundaryFScore(2).compute().to_dict(["a", "b", "c"])


def test_real_labels(real_data: Path) -> None:
    """VOC, where ignored pixels run round every object: right labels score 1, moved ones less the farther they move."""
    folder = real_data / "pascal_voc2012" / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    labels = [torch.from_numpy(np.array(Image.open(path)))[None] for path in sorted(folder.iterdir())[:3]]
    means = []
    for shift in (0, 4, 12):
        counter = BoundaryFScore(21, IGNORE)
        for label in labels:
            guess = torch.where(label == IGNORE, 0, label).roll(shift, dims=-1)
            counter.update(guess, label)
        found = counter.compute()
        means.append(found.mean_f_score)
        there = {int(value) for label in labels for value in label.unique()} - {IGNORE}
        assert {index for index in range(21) if index not in found.absent} == there
    assert means[0] == 1.0
    assert means[0] > means[1] > means[2] > 0


def test_real_labels_equal_the_distance_transform(real_data: Path) -> None:
    """VOC masks, palette PNG with 255 round every object; the guess is moved, and wrong in blobs."""
    folder = real_data / "pascal_voc2012" / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    rng = np.random.default_rng(0)
    counter, pairs = BoundaryFScore(21, IGNORE), []
    for path in sorted(folder.iterdir())[:5]:
        with Image.open(path) as picture:
            assert picture.mode == "P"
            label = np.array(picture).astype(np.int64)
        guess = np.roll(np.where(label == IGNORE, 0, label), (2, -3), axis=(0, 1))
        guess[gaussian_filter(rng.normal(size=label.shape), 8) > 0.04] = 15
        counter.update(torch.from_numpy(guess)[None, None], torch.from_numpy(label)[None, None])
        pairs.append((guess, label))
    found = counter.compute()
    np.testing.assert_allclose(found.f_score, by_distance_transform(pairs, 21, IGNORE, 0.0075), equal_nan=True)
    assert 0.05 < found.mean_f_score < 0.95
    assert 10 < len(found.absent) < 20
    assert found.tolerance_pixels == pytest.approx((0.0075 * 513 * math.sqrt(2),) * 2)
