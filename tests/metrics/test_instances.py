"""Instance scores against counting by hand and against a dense reference."""

import functools
import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment

from medseg.metrics.instances import (
    IOU_THRESHOLDS,
    SCORES,
    InstanceMatching,
    InstanceScores,
    label_instances,
)

Array = NDArray[Any]

DSB_TOUCHING = ("97158b2fe387", "9f073db4acd7", "b67a6e5da8b1")  # 256 x 256, with nuclei that touch


def strip(*runs: tuple[int, int], rows: int = 10) -> Array:
    """Return bands side by side, each an id and a number of columns."""
    return np.repeat(np.concatenate([np.full(width, index) for index, width in runs])[None], rows, axis=0)


def scores_of(*images: tuple[Array, Array], thresholds: tuple[float, ...] = IOU_THRESHOLDS) -> InstanceScores:
    counter = InstanceMatching(thresholds)
    for prediction, truth in images:
        counter.update(prediction, truth)
    return counter.compute()


def blobs(seed: int, objects: int, shape: tuple[int, ...] = (14, 15), background: float = 0.3) -> Array:
    """Return touching objects: every pixel belongs to the nearest of some random points, some to none."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1, (objects, len(shape))) * shape
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    distance = np.linalg.norm(grid[..., None, :] - points, axis=-1)
    nearest = distance.argmin(-1) + 1
    nearest[distance.min(-1) > (1 - background) * distance.min(-1).max()] = 0
    return nearest


def disturbed(truth: Array, seed: int) -> Array:
    """Return a guess of the truth: shifted, with objects merged, lost and cut."""
    rng = np.random.default_rng(seed)
    guess = np.roll(truth, rng.integers(-1, 2, truth.ndim), tuple(range(truth.ndim)))
    guess[guess == rng.integers(1, 7)] = 0
    guess[guess == rng.integers(1, 7)] = 3
    corner = tuple(slice(None, n // 2) for n in truth.shape)
    guess[corner] += 10 * (guess[corner] > 0)
    return guess


def dense_iou(prediction: Array, truth: Array) -> Array:
    """Compare every true mask with every predicted mask."""
    rows = [
        [
            ((truth == t) & (prediction == p)).sum() / ((truth == t) | (prediction == p)).sum()
            for p in np.unique(prediction[prediction > 0])
        ]
        for t in np.unique(truth[truth > 0])
    ]
    return np.array(rows).reshape(len(rows), len(np.unique(prediction[prediction > 0])))


def most_matches(iou: Array, threshold: float) -> tuple[int, float]:
    """Try all assignments: the most matches, and the largest sum of their IoU."""

    @functools.cache
    def best(row: int, taken: frozenset[int]) -> tuple[int, float]:
        if row == len(iou):
            return 0, 0.0
        found = [best(row + 1, taken)]
        for column in set(range(iou.shape[1])) - taken:
            if iou[row, column] >= threshold:
                count, total = best(row + 1, taken | {column})
                found.append((count + 1, total + float(iou[row, column])))
        return max(found)

    return best(0, frozenset())


def assert_same_scores(one: InstanceScores, other: InstanceScores) -> None:
    """Compare to the last bit, NaN equal to NaN."""
    assert json.dumps(one.to_dict()) == json.dumps(other.to_dict())


def test_thresholds_are_the_decimals() -> None:
    assert IOU_THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    assert InstanceMatching(np.arange(0.5, 1.0, 0.05)).thresholds == IOU_THRESHOLDS  # 0.6000000000000001 and the like


def test_perfect() -> None:
    truth = strip((1, 4), (2, 4), (0, 2), (7, 3))
    ours = scores_of((truth, truth))
    assert ours.true_positives == [3] * 10
    assert ours.false_positives == ours.false_negatives == [0] * 10
    for average in (ours.pooled, ours.per_image):
        for name in SCORES:
            assert getattr(average, name) == [1.0] * 10
        assert average.means == dict.fromkeys(SCORES, 1.0)


def test_merged_pair() -> None:
    """A (100 pixels) and B (60) touch and are predicted as one, IoU(A, AB) = 100 / 160 = 0.625; C is right.

    0.5, 0.55, 0.6: A and C are found, B is missed: AP 2/3. From 0.65: C alone, AB is invented, A and B are missed: 1/4.
    """
    truth = strip((1, 10), (2, 6), (0, 1), (3, 10))
    prediction = strip((5, 16), (0, 1), (6, 10))
    ours = scores_of((prediction, truth))
    assert ours.true_positives == [2] * 3 + [1] * 7
    assert ours.false_positives == [0] * 3 + [1] * 7
    assert ours.false_negatives == [1] * 3 + [2] * 7
    assert ours.pooled.average_precision == pytest.approx([2 / 3] * 3 + [1 / 4] * 7)
    assert ours.pooled.precision == pytest.approx([1] * 3 + [1 / 2] * 7)
    assert ours.pooled.recall == pytest.approx([2 / 3] * 3 + [1 / 3] * 7)
    assert ours.pooled.f1 == pytest.approx([4 / 5] * 3 + [2 / 5] * 7)
    assert ours.pooled.mean_matched_iou == pytest.approx([(1 + 0.625) / 2] * 3 + [1] * 7)
    assert ours.pooled.panoptic_quality == pytest.approx([1.625 / 2.5] * 3 + [1 / 2.5] * 7)  # 2.5 = (3 + 2) / 2
    assert ours.pooled.means["average_precision"] == pytest.approx((3 * 2 / 3 + 7 / 4) / 10)  # 0.375
    assert ours.image_average_precision == pytest.approx([0.375])


def test_split() -> None:
    """One object cut 7 to 3: the larger part has IoU 0.7, a match up to and with 0.7."""
    ours = scores_of((strip((1, 7), (2, 3)), strip((1, 10))))
    assert ours.true_positives == [1] * 5 + [0] * 5
    assert ours.false_positives == [1] * 5 + [2] * 5
    assert ours.false_negatives == [0] * 5 + [1] * 5
    assert ours.pooled.average_precision == [0.5] * 5 + [0.0] * 5
    assert ours.pooled.mean_matched_iou[:5] == pytest.approx([0.7] * 5)
    assert all(math.isnan(value) for value in ours.pooled.mean_matched_iou[5:])
    assert ours.pooled.means["mean_matched_iou"] == pytest.approx(0.7)  # where nothing matches there is no IoU


def test_missed() -> None:
    ours = scores_of((strip((1, 10), (0, 10)), strip((1, 10), (0, 5), (2, 5))))
    assert ours.pooled.precision == [1.0] * 10
    assert ours.pooled.recall == ours.pooled.average_precision == [0.5] * 10
    assert ours.pooled.f1 == pytest.approx([2 / 3] * 10)


def test_shifted_square() -> None:
    """8 columns shifted by 2: 6 of 10 in common, IoU 0.6, which still counts at 0.6."""
    truth, prediction = strip((0, 3), (1, 8), (0, 5)), strip((0, 5), (1, 8), (0, 3))
    ours = scores_of((prediction, truth))
    assert ours.pooled.average_precision == [1.0] * 3 + [0.0] * 7
    assert ours.pooled.means["average_precision"] == pytest.approx(0.3)
    assert ours.pooled.panoptic_quality == pytest.approx([0.6] * 3 + [0.0] * 7)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100])
def test_an_iou_on_the_threshold_is_a_match(width: int) -> None:
    for threshold in IOU_THRESHOLDS:
        part = round(width * threshold)  # width is a multiple of 20, so that the share is exact
        ours = scores_of((strip((1, part), (0, width - part), rows=3), strip((1, width), rows=3)))
        assert ours.true_positives == [int(other <= threshold) for other in IOU_THRESHOLDS]


def test_pooled_and_per_image_differ() -> None:
    """One of one found, none of three: pooled AP 1/4, mean of the images (1 + 0) / 2."""
    one = strip((1, 5), (0, 5))
    three = strip((1, 3), (0, 1), (2, 3), (3, 3))
    ours = scores_of((one, one), (np.zeros_like(three), three))
    assert (ours.images, ours.true_objects, ours.predicted_objects, ours.empty_images) == (2, 4, 1, 0)
    assert ours.pooled.average_precision == ours.pooled.recall == [0.25] * 10
    assert ours.pooled.precision == [1.0] * 10
    for name in ("precision", "recall", "f1", "average_precision", "panoptic_quality"):
        assert getattr(ours.per_image, name) == [0.5] * 10, name
    assert ours.per_image.mean_matched_iou == [1.0] * 10  # of the image that has a match
    assert ours.image_average_precision == [1.0, 0.0]


def test_two_halves_of_one_prediction_are_one_match() -> None:
    """Both true halves have IoU 0.5 with the whole; a prediction is matched once."""
    ours = scores_of((strip((1, 10)), strip((1, 5), (2, 5))))
    assert ours.true_positives == [1] + [0] * 9
    assert ours.false_negatives == [1] + [2] * 9
    assert ours.pooled.average_precision[0] == 0.5


def test_low_thresholds_take_the_most_matches_and_not_the_best_pair_first() -> None:
    """IoU(t1, p1) = 7/14 is the largest, but t1-p2 (3/10) and t2-p1 (4/17) are two matches."""
    truth, prediction = strip((1, 10), (2, 10)), strip((2, 3), (1, 11), (0, 6))
    ours = scores_of((prediction, truth), thresholds=(0.2, 0.25, 0.5))
    assert ours.true_positives == [2, 1, 1]
    assert ours.pooled.mean_matched_iou == pytest.approx([(3 / 10 + 4 / 17) / 2, 7 / 14, 7 / 14])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(14, 15), (6, 7, 8)])
def test_equals_trying_all_assignments(seed: int, shape: tuple[int, ...]) -> None:
    truth = blobs(seed, 6, shape)
    prediction = disturbed(truth, seed)
    thresholds = (0.05, 0.1, 0.2, 0.3, *IOU_THRESHOLDS)
    ours = scores_of((prediction, truth), thresholds=thresholds)
    iou = dense_iou(prediction, truth)
    best = [most_matches(iou, threshold) for threshold in thresholds]
    assert ours.true_positives == [count for count, _ in best]
    objects = (ours.true_objects + ours.predicted_objects) / 2
    assert ours.pooled.panoptic_quality == pytest.approx([total / objects for _, total in best])


@pytest.mark.parametrize("seed", range(4))
def test_equals_one_dense_assignment(seed: int) -> None:
    """Many objects: the published recipe, an assignment over all pairs (StarDist, Cellpose)."""
    truth = blobs(seed, 120, (90, 100))
    prediction = disturbed(np.roll(truth, 1, 0), seed)
    ours = scores_of((prediction, truth))
    iou = dense_iou(prediction, truth)
    for threshold, hits in zip(IOU_THRESHOLDS, ours.true_positives, strict=True):
        rows, columns = linear_sum_assignment(-(iou >= threshold).astype(float) - iou / (2 * min(iou.shape)))
        assert hits == (iou[rows, columns] >= threshold).sum()
    assert (ours.true_objects, ours.predicted_objects) == iou.shape
    assert ours.true_positives[0] > ours.true_positives[-1]  # the case is not trivial


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64])
def test_ids_are_names(dtype: Any) -> None:
    """Other ids, with gaps up to 65,535, in any integer type: the same scores."""
    truth = blobs(3, 9)
    prediction = disturbed(truth, 3)
    expected = scores_of((prediction, truth))
    rng = np.random.default_rng(0)
    top = min(np.iinfo(dtype).max, 65535)
    lookup = np.append(0, rng.choice(np.arange(1, top), 30, replace=False))
    lookup[1:][rng.integers(30)] = top
    assert_same_scores(scores_of((lookup[prediction].astype(dtype), lookup[::-1][30 - truth].astype(dtype))), expected)
    assert_same_scores(scores_of((np.asfortranarray(prediction), truth[::1].astype(dtype))), expected)


def test_order_of_axes_does_not_matter_and_swapping_roles_swaps_errors() -> None:
    truth = blobs(5, 12, (10, 11, 12))
    prediction = disturbed(truth, 5)
    ours = scores_of((prediction, truth))
    assert_same_scores(scores_of((prediction.T, truth.T)), ours)
    swapped = scores_of((truth, prediction))
    assert swapped.false_positives == ours.false_negatives != ours.false_positives
    assert swapped.pooled.precision == ours.pooled.recall
    assert swapped.pooled.average_precision == ours.pooled.average_precision


def test_3d_shift() -> None:
    """A cube of 8 x 4 x 4 shifted by 2 along its first axis: 6 of 10 slices in common."""
    truth = np.zeros((12, 6, 6), dtype=np.uint16)
    truth[1:9, 1:5, 1:5] = 65535
    assert scores_of((np.roll(truth, 2, 0), truth)).pooled.average_precision == [1.0] * 3 + [0.0] * 7


def test_empty_images() -> None:
    none, some = np.zeros((4, 6), dtype=np.int64), strip((1, 3), (0, 3), rows=4)
    rates = ("precision", "recall", "f1", "average_precision", "panoptic_quality")
    for prediction, truth, expected in [(none, some, 0.0), (some, none, 0.0), (none, none, 1.0)]:
        ours = scores_of((prediction, truth))
        for name in rates:
            assert getattr(ours.pooled, name) == getattr(ours.per_image, name) == [expected] * 10, name
        assert all(math.isnan(value) for value in ours.pooled.mean_matched_iou)
        assert ours.to_dict()["pooled"]["mean_matched_iou"] is None
    ours = scores_of((none, none), (none, some), (some, none), (some, some))
    assert ours.empty_images == 1
    assert ours.per_image.average_precision == [0.5] * 10  # (1 + 0 + 0 + 1) / 4
    assert ours.pooled.average_precision == pytest.approx([1 / 3] * 10)  # TP 1, FP 1, FN 1
    assert ours.image_average_precision == [1.0, 0.0, 0.0, 1.0]


def test_nothing_counted_gives_no_numbers() -> None:
    ours = InstanceMatching().compute()
    assert (ours.images, ours.true_objects, ours.true_positives) == (0, 0, [0] * 10)
    plain = ours.to_dict()
    assert plain["pooled"] == plain["per_image"] == dict.fromkeys(SCORES)
    json.dumps(plain, allow_nan=False)


def test_to_dict() -> None:
    plain = scores_of((strip((1, 7), (2, 3)), strip((1, 10)))).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    row = plain["thresholds"][4]
    assert (row["threshold"], row["true_positives"], row["false_positives"], row["false_negatives"]) == (0.7, 1, 1, 0)
    assert row["pooled"]["recall"] == row["per_image"]["recall"] == 1.0
    assert plain["thresholds"][5]["pooled"]["mean_matched_iou"] is None
    assert plain["pooled"]["average_precision"] == plain["per_image"]["average_precision"] == 0.25


def test_counts_of_processes_take_turns() -> None:
    images = [(disturbed(blobs(seed, 5 + seed), seed), blobs(seed, 5 + seed)) for seed in range(5)]
    parts = [InstanceMatching(), InstanceMatching()]
    for number, image in enumerate(images):
        parts[number % 2].update(*image)
    whole = InstanceMatching()
    whole.take_turns(parts)
    assert_same_scores(whole.compute(), scores_of(*images))
    assert whole.compute().image_average_precision == scores_of(*images).image_average_precision
    whole.reset()
    assert whole.compute().images == 0
    assert parts[0].compute().images == 3
    with pytest.raises(ValueError, match=r"IoU \(0.5,\) to counts at IoU \(0.5, 0.55"):
        whole.take_turns([InstanceMatching([0.5])])


@pytest.mark.parametrize(
    ("prediction", "truth", "error", "message"),
    [
        (np.zeros((3, 4), int), np.zeros((4, 3), int), ValueError, r"prediction \(3, 4\) and truth \(4, 3\) differ"),
        (np.zeros((3, 4), int), np.full((3, 4), -1), ValueError, "the truth holds the instance id -1"),
        (np.full((3, 4), 2**31), np.zeros((3, 4), int), ValueError, "id 2147483648, above 2147483647"),
        (
            np.zeros((3, 4)),
            np.zeros((3, 4), int),
            TypeError,
            "the prediction is float64, not a numpy array of instance ids",
        ),
        (np.zeros((3, 4), int), np.zeros((3, 4), bool), TypeError, "the truth is bool.*label_instances"),
        (torch.zeros(3, 4), np.zeros((3, 4), int), TypeError, "the prediction is Tensor"),
        (np.zeros((1, 1, 3, 4), int), np.zeros((1, 1, 3, 4), int), ValueError, r"\(1, 1, 3, 4\) is no 2D or 3D image"),
        (np.zeros((0, 4), int), np.zeros((0, 4), int), ValueError, r"\(0, 4\) is no 2D or 3D image"),
    ],
)
def test_bad_maps(prediction: Any, truth: Any, error: type[Exception], message: str) -> None:
    counter = InstanceMatching()
    with pytest.raises(error, match=message):
        counter.update(prediction, truth)
    assert counter.compute().images == 0  # nothing half counted


def test_identity_alone_is_a_match_at_an_iou_of_1() -> None:
    same = strip((1, 3), (2, 4))
    scores = scores_of((strip((1, 3), (2, 3), (0, 1)), same), thresholds=(1.0,))
    assert (scores.true_positives, scores.false_positives, scores.false_negatives) == ([1], [1], [1])


@pytest.mark.parametrize("thresholds", [(), (0.0,), (0.5, 1.1), (0.6, 0.5), (0.5, 0.5), (math.nan,)])
def test_bad_thresholds(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"IoU thresholds .* must be in \(0, 1\] and ascend"):
        InstanceMatching(thresholds)


@pytest.fixture(scope="module")
def nuclei(real_data: Path) -> list[Array]:
    """Return instance maps of three images of the 2018 Data Science Bowl, one mask file a nucleus."""
    path = real_data / "dsb2018" / "stage1_train.zip"
    if not path.is_file():
        pytest.skip(f"no {path}")
    maps = []
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for image in DSB_TOUCHING:
            masks = [name for name in names if name.startswith(f"stage1_train/{image}") and "/masks/" in name]
            truth = np.zeros((256, 256), dtype=np.uint16)
            for index, name in enumerate(sorted(masks), start=1):
                truth[np.asarray(Image.open(io.BytesIO(archive.read(name)))) > 0] = index
            maps.append(truth)
    return maps


def test_real_nuclei(nuclei: list[Array]) -> None:
    perfect = scores_of(*((truth, truth) for truth in nuclei))
    assert perfect.true_objects == perfect.predicted_objects == sum(int(truth.max()) for truth in nuclei) == 44
    assert perfect.pooled.means == perfect.per_image.means == dict.fromkeys(SCORES, 1.0)

    joined = scores_of(*((label_instances(truth > 0), truth) for truth in nuclei))
    cut = scores_of(*((label_instances(truth > 0, "watershed"), truth) for truth in nuclei))
    assert all(score < 1 for score in joined.image_average_precision)  # each image has nuclei that touch
    assert joined.predicted_objects < perfect.true_objects
    for average in ("pooled", "per_image"):
        parted = getattr(cut, average).means["average_precision"]
        assert getattr(joined, average).means["average_precision"] < parted < 1
