"""The evaluation engine against counting by hand."""

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pairs import LOAD
from PIL import Image
from torch import Tensor, nn

from medseg.engines import loading
from medseg.engines.evaluator import Evaluator
from medseg.engines.loading import SegmentationDataset
from medseg.errors import MedsegError

LABELS = {0: "none", 1: "bright", 2: "dark"}


def matrix_of(evaluator: Evaluator) -> NDArray[np.int64]:
    return np.array(evaluator.table()["overlap"]["confusion_matrix"])


class Threshold(nn.Module):
    """Grey values to classes: above 150 bright, below 50 dark."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), x - 150, 50 - x], dim=1)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("ignore_index", [None, 2])
def test_scores_are_those_of_the_whole_set(
    entries: list[dict[str, Any]], batch_size: int, ignore_index: int | None
) -> None:
    data = SegmentationDataset(entries, LOAD)
    network = Threshold()
    evaluator = Evaluator(
        torch.device("cpu"), data, network, LABELS, batch_size=batch_size, ignore_index=ignore_index, precision="fp32"
    )
    values = evaluator.score(network)
    expected = np.zeros((3, 3), int)
    for sample in (data[n] for n in range(len(data))):
        guess = network(sample["image"][None])[0].argmax(0).numpy()
        truth = sample["label"][0].numpy()
        for t, g in zip(truth.ravel(), guess.ravel(), strict=True):
            expected[t, g] += t != ignore_index
    np.testing.assert_array_equal(matrix_of(evaluator), expected)
    hit = np.diag(expected)
    union = expected.sum(0) + expected.sum(1) - hit
    assert values["val_mean_iou"] == pytest.approx(np.mean(hit[union > 0] / union[union > 0]))
    assert values["val_iou_bright"] == pytest.approx(hit[1] / union[1])
    assert len(evaluator.result().cases) == 4
    evaluator.score(network)
    np.testing.assert_array_equal(matrix_of(evaluator), expected)  # a second time counts anew


def test_images_of_different_sizes(entries: list[dict[str, Any]]) -> None:
    for number, size in enumerate([(16, 16), (9, 20), (31, 7)]):
        for path in entries[number].values():
            with Image.open(path) as picture:
                resized = picture.resize(size, Image.Resampling.NEAREST)
            resized.save(path)
    data = SegmentationDataset(entries[:3], LOAD)
    network = Threshold()
    evaluator = Evaluator(torch.device("cpu"), data, network, LABELS, precision="fp32", shown=2)
    evaluator.score(network)
    assert int(matrix_of(evaluator).sum()) == 16 * 16 + 9 * 20 + 31 * 7
    objects = [index for index, name in LABELS.items() if name != "background"]
    rows = {row.name: row.mean("dice", objects) for row in evaluator.board.rows}
    worst = sorted(rows, key=lambda name: rows[name])[:2]
    cases = evaluator.result().cases
    assert [case["name"] for case in cases] == worst
    for case in cases:
        sample = data[int(case["name"][0])]
        assert case["score"] == rows[case["name"]]
        assert case["affine"] is None
        np.testing.assert_array_equal(case["image"], sample["image"].numpy())
        np.testing.assert_array_equal(case["label"], sample["label"][0].numpy())
        np.testing.assert_array_equal(case["prediction"], network(sample["image"][None])[0].argmax(0).numpy())
    together = Evaluator(torch.device("cpu"), data, network, LABELS, batch_size=3, precision="fp32")
    with pytest.raises(RuntimeError, match="size"):
        together.score(network)


def test_absent_classes_are_left_out(entries: list[dict[str, Any]]) -> None:
    network = nn.Conv2d(1, 4, 1)
    with torch.no_grad():
        network.weight.zero_()
        network.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
    labels = {**LABELS, 3: "never there"}
    evaluator = Evaluator(torch.device("cpu"), SegmentationDataset(entries, LOAD), network, labels, precision="fp32")
    values = evaluator.score(network)
    assert {name for name in values if name.startswith("val_iou")} == {
        "val_iou_none",
        "val_iou_bright",
        "val_iou_dark",
    }
    assert set(values) <= evaluator.score_names
    assert evaluator.table()["absent"] == ["never there"]
    assert values["val_mean_iou"] == pytest.approx(values["val_iou_none"] / 3)


@pytest.mark.parametrize("named", [2, 4])
def test_another_number_of_classes_is_an_error(entries: list[dict[str, Any]], named: int) -> None:
    labels = dict(enumerate("abcd"[:named]))
    evaluator = Evaluator(torch.device("cpu"), SegmentationDataset(entries, LOAD), Threshold(), labels)
    with pytest.raises(ValueError, match=rf"gives 3 classes, but the data set names {named}; set .* out_channels to"):
        evaluator.score(evaluator.network)


def test_nothing_labelled_is_an_error(entries: list[dict[str, Any]]) -> None:
    for entry in entries[:2]:
        Image.new("L", (16, 16), 255).save(entry["label"])
    data = SegmentationDataset(entries[:2], LOAD)
    evaluator = Evaluator(torch.device("cpu"), data, Threshold(), LABELS, ignore_index=255, precision="fp32")
    with pytest.raises(ValueError, match="no image of 2 has a labelled pixel"):
        evaluator.score(evaluator.network)


def test_a_process_without_images_counts_nothing(
    entries: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "world_size", lambda: 3)
    counts = []
    for number in range(3):
        monkeypatch.setattr(loading, "rank", lambda number=number: number)
        data = SegmentationDataset(entries[:2], LOAD)
        evaluator = Evaluator(torch.device("cpu"), data, Threshold(), LABELS, precision="fp32")
        evaluator.run()
        counts.append(int(matrix_of(evaluator).sum()))
    assert counts == [256, 256, 0]


def test_the_network_keeps_its_mode_and_weights(entries: list[dict[str, Any]]) -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluator = Evaluator(torch.device("cpu"), SegmentationDataset(entries, LOAD), network, LABELS, precision="fp32")
    first, second = evaluator.score(network), evaluator.score(network)
    assert first == second
    assert network.training
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)


def test_means_over_cases_and_the_loss(entries: list[dict[str, Any]]) -> None:
    """Against a loop over the images; the loss is that of each image by itself, and less of it is better."""
    data = SegmentationDataset(entries, LOAD)
    network = Threshold()
    loss = nn.CrossEntropyLoss()

    def of_label(logits: Tensor, label: Tensor) -> Tensor:
        return loss(logits, label[:, 0].long())

    evaluator = Evaluator("cpu", data, network, LABELS, batch_size=3, precision="fp32", loss_function=of_label)
    values = evaluator.score(network)
    dice: list[list[float]] = [[], [], []]
    losses = []
    for sample in (data[n] for n in range(len(data))):
        logits = network(sample["image"][None])
        guess, truth = logits[0].argmax(0), sample["label"][0]
        losses.append(float(of_label(logits, sample["label"][None])))
        for index in range(3):
            both = int((guess == index).sum() + (truth == index).sum())
            if both:
                dice[index].append(2 * int(((guess == index) & (truth == index)).sum()) / both)
    for index, name in LABELS.items():
        assert values[f"val_case_dice_{name}"] == pytest.approx(np.mean(dice[index]))
    assert values["val_case_mean_dice"] == pytest.approx(np.mean([np.mean(each) for each in dice]))
    assert values["val_loss"] == pytest.approx(np.mean(losses))
    assert evaluator.lower_is_better >= {"val_loss"}
    assert not evaluator.lower_is_better & {"val_mean_iou", "val_mean_dice", "val_accuracy"}
    assert [row["n"]["dice"] for row in evaluator.table()["per_case"]["classes"]] == [len(each) for each in dice]


def test_logits_that_are_no_numbers_name_their_image(entries: list[dict[str, Any]]) -> None:
    class Broken(Threshold):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            if self.calls == 1:
                logits[1, 0, 3, 4] = float("nan")
            self.calls += 1
            return logits

    network = Broken()
    network.calls = 0
    evaluator = Evaluator("cpu", SegmentationDataset(entries, LOAD), network, LABELS, batch_size=3, precision="fp32")
    with pytest.raises(MedsegError, match=r"^4\.png: the network gives 1 of 768 logits that are NaN or infinite"):
        evaluator.score(network)


def test_a_volume_keeps_its_place(tmp_path: Path) -> None:
    """A score gets the label's spacing, and the pictures the affine."""
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    label = np.zeros((6, 5, 4), np.uint8)
    label[2:4, 1:3] = 1
    for name, array in (("image", (label * 200).astype(np.float32)), ("label", label)):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    rows = [{"image": str(tmp_path / "image.nii.gz"), "label": str(tmp_path / "label.nii.gz")}]
    seen: list[Any] = []
    evaluator = Evaluator("cpu", SegmentationDataset(rows, LOAD), Threshold(), LABELS, precision="fp32")
    update = evaluator.board.update
    evaluator.board.update = lambda case: (seen.append(case.spacing), update(case))[1]  # type: ignore[method-assign]
    evaluator.score(evaluator.network)
    assert seen == [(2.0, 3.0, 5.0)]
    np.testing.assert_array_equal(evaluator.result().cases[0]["affine"], affine)


@pytest.mark.parametrize(
    ("affine", "factor", "named", "said"),
    [
        (False, 1.0, 3, r"^case\.nii: the image says where it lies, its label does not; store both in one format"),
        (
            True,
            math.nan,
            3,
            r"^case\.nii: the network gives \d+ of \d+ logits that are NaN or infinite, of which no class",
        ),
        (True, 1.0, 2, r"^case\.nii: the network gives 3 classes, but the data set names 2"),
    ],
)
def test_what_cannot_go_back_to_its_label_names_the_image(affine: bool, factor: float, named: int, said: str) -> None:
    place = {"image_affine": torch.eye(4), **({"affine": torch.eye(4)} if affine else {})}

    def loaded(_: dict[str, Any]) -> dict[str, Tensor]:
        return {"image": torch.ones(1, 4, 5, 6), "label": torch.zeros(1, 4, 5, 6, dtype=torch.uint8), **place}

    data = SegmentationDataset([{"image": "case.nii"}], loaded)
    labels = dict(enumerate("abc"[:named]))
    evaluator = Evaluator("cpu", data, nn.Identity(), labels, precision="fp32")
    evaluator.network.forward = lambda x: factor * torch.cat([x, -x, 2 * x], 1)
    with pytest.raises(MedsegError, match=said):
        evaluator.score(evaluator.network)
