"""The dataset-level scores against torchmetrics and against counting by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from medseg.metrics import confusion_matrix
from medseg.metrics.confusion_matrix import ConfusionMatrix, Scores

CLASSES = 4
IGNORE = 255
DROSOPHILA = {0: 0, 32: 0, 64: 0, 96: 0, 128: 0, 191: 1, 223: 2, 159: 3, 255: 4}


def random_batch(seed: int, ignored: bool, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, classes, 9, 11, generator=generator)
    label = torch.randint(0, classes, (3, 1, 9, 11), generator=generator)
    # agree more often than by chance, so that the scores differ between the classes
    agree = torch.rand(3, 1, 9, 11, generator=generator) < 0.5
    label = torch.where(agree, logits.argmax(1, keepdim=True), label)
    if ignored:
        label[torch.rand(label.shape, generator=generator) < 0.3] = IGNORE
    return logits, label


def counted_by_hand(batches: list[tuple[Tensor, Tensor]], classes: int, ignore: int | None) -> list[list[int]]:
    matrix = [[0] * classes for _ in range(classes)]
    for logits, label in batches:
        for guess, truth in zip(logits.argmax(1).flatten().tolist(), label.flatten().tolist(), strict=True):
            if truth != ignore:
                matrix[truth][guess] += 1
    return matrix


def scores_of(batches: list[tuple[Tensor, Tensor]], classes: int = CLASSES, ignore: int | None = None) -> Scores:
    counter = ConfusionMatrix(classes, ignore)
    for prediction, label in batches:
        counter.update(prediction, label)
    return counter.compute()


def assert_same_scores(one: Scores, other: Scores) -> None:
    """Compare to the last bit, NaN equal to NaN."""
    assert json.dumps(one.to_dict()) == json.dumps(other.to_dict())


@pytest.mark.parametrize("ignore", [None, IGNORE])
def test_equals_torchmetrics(ignore: int | None) -> None:
    from torchmetrics import classification as theirs  # slow to load, and the processes below do without

    batches = [random_batch(seed, ignore is not None) for seed in range(3)]
    ours = scores_of(batches, ignore=ignore)
    common = {"num_classes": CLASSES, "ignore_index": ignore}
    for values, metric in [
        (ours.iou, theirs.MulticlassJaccardIndex(average=None, **common)),
        (ours.dice, theirs.MulticlassF1Score(average=None, **common)),
        (ours.precision, theirs.MulticlassPrecision(average=None, **common)),
        (ours.recall, theirs.MulticlassRecall(average=None, **common)),
        ([ours.mean_iou], theirs.MulticlassJaccardIndex(average="macro", **common)),
        ([ours.mean_dice], theirs.MulticlassF1Score(average="macro", **common)),
        ([ours.mean_accuracy], theirs.MulticlassAccuracy(average="macro", **common)),
        ([ours.pixel_accuracy], theirs.MulticlassAccuracy(average="micro", **common)),
        ([ours.frequency_weighted_iou], theirs.MulticlassJaccardIndex(average="weighted", **common)),
    ]:
        for logits, label in batches:
            metric.update(logits.argmax(1), label[:, 0])
        torch.testing.assert_close(torch.tensor(values), metric.compute().reshape(-1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("ignore", [None, IGNORE])
def test_equals_counting_by_hand(ignore: int | None) -> None:
    batches = [random_batch(seed, ignore is not None) for seed in range(2)]
    counter = ConfusionMatrix(CLASSES, ignore)
    for logits, label in batches:
        counter.update(logits, label)
    matrix = counted_by_hand(batches, CLASSES, ignore)
    assert counter.matrix.tolist() == matrix

    ours = counter.compute()
    total = sum(map(sum, matrix))
    weighted = 0.0
    for c in range(CLASSES):
        hit, support, guessed = matrix[c][c], sum(matrix[c]), sum(row[c] for row in matrix)
        assert ours.support[c] == support
        assert ours.iou[c] == pytest.approx(hit / (support + guessed - hit))
        assert ours.dice[c] == pytest.approx(2 * hit / (support + guessed))
        assert ours.precision[c] == pytest.approx(hit / guessed)
        assert ours.recall[c] == pytest.approx(hit / support)
        weighted += support / total * hit / (support + guessed - hit)
    assert ours.frequency_weighted_iou == pytest.approx(weighted)
    assert ours.pixel_accuracy == pytest.approx(sum(matrix[c][c] for c in range(CLASSES)) / total)
    assert ours.absent == []


def test_is_the_datasets_iou_and_not_the_mean_over_images() -> None:
    """One image of 90 pixels all right, one of 10 all wrong: IoU 0.9 of a class, not the mean of 1 and 0."""
    right = torch.zeros(1, 9, 10, dtype=torch.int64)
    wrong = torch.ones(1, 1, 10, dtype=torch.int64)
    ours = scores_of([(right, right), (wrong, torch.zeros_like(wrong))], classes=2)
    assert ours.iou == [0.9, 0.0]
    assert ours.mean_iou == pytest.approx(0.45)


def test_absent_classes_are_named_and_left_out_of_means() -> None:
    label = torch.tensor([[0, 0, 1, 1, 1]])
    prediction = torch.tensor([[0, 1, 1, 1, 3]])  # 2 is nowhere, 3 is predicted alone
    ours = scores_of([(prediction, label)])
    assert ours.absent == [2]
    assert [math.isnan(v) for v in ours.iou] == [False, False, True, False]
    assert ours.iou[3] == 0  # predicted where it is not: wrong, not absent
    assert ours.mean_iou == pytest.approx((1 / 2 + 2 / 4 + 0) / 3)
    assert ours.mean_dice == pytest.approx((2 / 3 + 4 / 6 + 0) / 3)
    assert ours.recall[3] == 0  # no pixel to recall, but the class is there
    assert ours.mean_recall == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert ours.mean_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert ours.frequency_weighted_iou == pytest.approx(2 / 5 * 1 / 2 + 3 / 5 * 2 / 4)

    plain = ours.to_dict(["a", "b", "c", "d"])
    assert plain["absent"] == ["c"]
    assert plain["classes"][2] == {
        "name": "c",
        "iou": None,
        "dice": None,
        "precision": None,
        "recall": None,
        "support": 0,
    }
    assert plain["classes"][3]["recall"] == 0
    json.dumps(plain, allow_nan=False)


def test_a_class_that_is_never_predicted_has_a_precision_of_0() -> None:
    ours = scores_of([(torch.tensor([[0, 0]]), torch.tensor([[0, 1]]))], classes=2)
    assert ours.iou[1] == ours.dice[1] == ours.precision[1] == ours.recall[1] == 0
    assert ours.mean_precision == 0.25
    assert ours.absent == []


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:.*ill-defined")
def test_means_over_classes_equal_scikit_learns() -> None:
    """Of six classes, 3 is never predicted, 4 is predicted alone, and 5 is nowhere."""
    from sklearn import metrics as theirs

    _, label = random_batch(3, ignored=False)
    guess = label.roll(1)
    guess[guess == 3] = 4
    truth, found = label.flatten().numpy(), guess.flatten().numpy()
    ours = scores_of([(guess, label)], 6)
    assert ours.absent == [5]
    for value, theirs_value in [
        (ours.mean_precision, theirs.precision_score(truth, found, average="macro")),
        (ours.mean_recall, theirs.recall_score(truth, found, average="macro")),
        (ours.mean_dice, theirs.f1_score(truth, found, average="macro")),
        (ours.mean_iou, theirs.jaccard_score(truth, found, average="macro")),
        (ours.mean_accuracy, theirs.balanced_accuracy_score(truth, found)),
        (ours.precision[:5], theirs.precision_score(truth, found, average=None)),
        (ours.recall[:5], theirs.recall_score(truth, found, average=None)),
    ]:
        assert value == pytest.approx(theirs_value, rel=1e-12)
    assert ours.mean_accuracy > ours.mean_recall


def test_nothing_counted_gives_no_numbers() -> None:
    label = torch.full((1, 1, 3, 3), IGNORE)
    ours = scores_of([(torch.rand(1, CLASSES, 3, 3), label)], ignore=IGNORE)
    assert ours.absent == list(range(CLASSES))
    for name in (
        "mean_iou",
        "mean_dice",
        "mean_precision",
        "mean_recall",
        "pixel_accuracy",
        "mean_accuracy",
        "frequency_weighted_iou",
    ):
        assert math.isnan(getattr(ours, name)), name
    json.dumps(ours.to_dict(), allow_nan=False)


def test_logits_and_indices_of_any_layout_count_alike() -> None:
    logits, label = random_batch(5, ignored=True)
    expected = scores_of([(logits, label)], ignore=IGNORE)
    index = logits.argmax(1)
    for prediction, truth in [
        (index, label[:, 0]),
        (index[:, None], label),
        (index.to(torch.uint8), label.to(torch.uint8)),
        (logits.to(memory_format=torch.channels_last), label),
        (logits.requires_grad_().softmax(1), label),
        (logits, label.to(torch.float32)),
    ]:
        assert_same_scores(scores_of([(prediction, truth)], ignore=IGNORE), expected)


def test_3d() -> None:
    logits, label = torch.randn(2, CLASSES, 4, 5, 6), torch.randint(0, CLASSES, (2, 1, 4, 5, 6))
    counter = ConfusionMatrix(CLASSES)
    counter.update(logits, label)
    assert counter.matrix.tolist() == counted_by_hand([(logits, label)], CLASSES, None)


def test_merge_and_reset() -> None:
    batches = [random_batch(seed, ignored=False) for seed in range(4)]
    first, second = ConfusionMatrix(CLASSES), ConfusionMatrix(CLASSES)
    for logits, label in batches[:2]:
        first.update(logits, label)
    for logits, label in batches[2:]:
        second.update(logits, label)
    first.merge(second)
    assert_same_scores(first.compute(), scores_of(batches))
    first.reset()
    assert first.compute().support == [0] * CLASSES


def test_matrices_of_other_sizes_do_not_merge() -> None:
    with pytest.raises(ValueError, match=r"1 classes .* 3 classes"):
        ConfusionMatrix(3).merge(ConfusionMatrix(1))  # would broadcast


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        (torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[0, 7, 255]]), r"label values \[7, 255\].*0 to 3"),
        (torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[0, -1, 1]]), r"label values \[-1\]"),
        (torch.tensor([[0, 4, 1]]), torch.zeros(1, 3, dtype=torch.int64), r"prediction values \[4\]"),
        (torch.rand(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), "do not hold 4 classes"),
        (torch.rand(4), torch.zeros(4, dtype=torch.int64), r"logits of shape \(4,\) do not hold 4 classes"),
        (torch.zeros(1, 2, 3, dtype=torch.int64), torch.zeros(1, 2, 2, dtype=torch.int64), "differ in"),
        (torch.zeros(1, 2, 3, dtype=torch.int64), torch.zeros(1, 3, 2, dtype=torch.int64), "differ in"),
        (torch.rand(1, 4, 2, 3), torch.zeros(1, 1, 3, 2, dtype=torch.int64), "differ in"),
    ],
)
def test_bad_input(prediction: Tensor, label: Tensor, message: str) -> None:
    counter = ConfusionMatrix(CLASSES)
    with pytest.raises(ValueError, match=message):
        counter.update(prediction, label)
    assert int(counter.matrix.sum()) == 0  # nothing half counted


def test_ignored_label_is_never_out_of_range() -> None:
    counter = ConfusionMatrix(2, ignore_index=IGNORE)
    with pytest.raises(ValueError, match=r"label values \[7\]"):
        counter.update(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[0, 7, IGNORE]]))


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="num_classes is 0"):
        ConfusionMatrix(0)
    with pytest.raises(ValueError, match="3 class names for 2 classes"):
        ConfusionMatrix(2).compute().to_dict(["a", "b", "c"])


def test_real_labels(real_data: Path) -> None:
    """Two real sections, one taken as the prediction of the other."""
    from torchmetrics.classification import MulticlassJaccardIndex

    files = sorted((real_data / "drosophila_vnc" / "labels").iterdir())[:2]
    table = np.full(256, -1, dtype=np.int64)
    for value, index in DROSOPHILA.items():
        table[value] = index
    truth, guess = (torch.from_numpy(table[np.asarray(Image.open(file))])[None] for file in files)
    ours = scores_of([(guess, truth)], classes=5)
    theirs = MulticlassJaccardIndex(num_classes=5, average=None)(guess, truth)
    torch.testing.assert_close(torch.tensor(ours.iou), theirs, rtol=1e-5, atol=1e-6)
    assert sum(ours.support) == truth.numel()
    assert ours.absent == []


def theirs_of(name: str, average: str | None, batches: list[tuple[Tensor, Tensor]], classes: int) -> Tensor:
    """Return what torchmetrics counts from indices ``(B, *S)``."""
    from torchmetrics import classification

    metric = getattr(classification, name)(num_classes=classes, average=average, ignore_index=IGNORE)
    for prediction, label in batches:
        metric.update(prediction, label)
    value: Tensor = metric.compute()
    return value


def test_real_labels_with_ignored_pixels_equal_torchmetrics(real_data: Path) -> None:
    """VOC labels, where 255 runs round every object and most classes are absent; moved ones are the predictions."""
    folder = real_data / "pascal_voc2012" / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    batches = []
    for path in sorted(folder.iterdir()):
        label = torch.from_numpy(np.array(Image.open(path)).astype(np.int64))[None]
        batches.append((torch.where(label == IGNORE, 0, label).roll((9, -14), dims=(1, 2)), label))
    ours = scores_of(batches, 21, IGNORE)
    assert sum(ours.support) == sum(int((label != IGNORE).sum()) for _, label in batches)
    assert sum(ours.support) < sum(label.numel() for _, label in batches)
    assert 5 < len(ours.absent) < 15
    assert 0.3 < ours.mean_iou < 0.95

    iou = torch.tensor(ours.iou).nan_to_num(0.0)  # torchmetrics gives absent classes 0, and leaves them out of the mean
    torch.testing.assert_close(theirs_of("MulticlassJaccardIndex", None, batches, 21), iou, rtol=1e-5, atol=1e-6)
    for value, name, average in [
        (ours.mean_iou, "MulticlassJaccardIndex", "macro"),
        (ours.frequency_weighted_iou, "MulticlassJaccardIndex", "weighted"),
        (ours.pixel_accuracy, "MulticlassAccuracy", "micro"),
        (ours.mean_accuracy, "MulticlassAccuracy", "macro"),
    ]:
        assert float(theirs_of(name, average, batches, 21)) == pytest.approx(value, rel=1e-5), (name, average)


def test_classes_that_are_not_in_the_labels_against_torchmetrics() -> None:
    """Of six classes, 4 is predicted alone and 5 is nowhere."""
    logits, label = random_batch(7, ignored=True)
    guess = logits.argmax(1)
    guess[0, :2] = 4
    batches = [(guess, label[:, 0])]
    ours = scores_of(batches, 6, IGNORE)
    assert ours.absent == [5]
    assert ours.iou[4] == 0
    macro = float(theirs_of("MulticlassJaccardIndex", "macro", batches, 6))
    assert ours.mean_iou == pytest.approx(macro, rel=1e-5)
    # there is nothing to recall of class 4: mean accuracy leaves it out, mean recall and torchmetrics count it as 0
    accuracy = float(theirs_of("MulticlassAccuracy", "macro", batches, 6))
    assert ours.mean_recall == pytest.approx(accuracy, rel=1e-5)
    assert ours.mean_accuracy == pytest.approx(accuracy * 5 / 4, rel=1e-5)


def test_pieces_of_a_large_volume_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    label, guess = torch.randint(0, 3, (2, 5, 7)), torch.randint(0, 3, (2, 5, 7))
    whole, pieces = ConfusionMatrix(3), ConfusionMatrix(3)
    whole.update(guess, label)
    monkeypatch.setattr(confusion_matrix, "_AT_ONCE", 9)
    pieces.update(guess, label)
    assert torch.equal(whole.matrix, pieces.matrix)
    assert int(pieces.matrix.sum()) == label.numel()
