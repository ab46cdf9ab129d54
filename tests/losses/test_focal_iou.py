"""Focal + IoU loss against the definitions written out by hand, and against MONAI's focal loss."""

from typing import Any

import pytest
import torch
from losses.batches import CLASSES, IGNORE, random_batch, value_and_gradient
from operations import Operations
from torch import Tensor, nn

from medseg.losses import focal_iou
from medseg.losses.focal_iou import FocalIoULoss
from medseg.losses.targets import class_indices


def focal_by_hand(logits: Tensor, label: Tensor, gamma: float, weight: list[float] | None = None) -> Tensor:
    """Lin et al., eq. 4, pixel by pixel; ignored pixels are not there at all."""
    terms = []
    for image, truth in zip(logits, label, strict=True):
        for scores, value in zip(image.flatten(1).T, truth.flatten().tolist(), strict=True):
            if value != IGNORE:
                p = (scores.exp() / scores.exp().sum())[value]
                terms.append(-((1 - p) ** gamma) * p.log() * (weight[value] if weight else 1.0))
    return torch.stack(terms).mean()


def iou_by_hand(logits: Tensor, label: Tensor, batch: bool, classes: str = "present", smooth: float = 0.0) -> Tensor:
    """Mean over classes, those in the label or all, of ``1 - sum(p g) / sum(p + g - p g)``."""
    groups = [range(len(logits))] if batch else [[i] for i in range(len(logits))]
    terms = []
    for group in groups:
        for c in range(CLASSES):
            intersection, union, present = torch.zeros((), dtype=logits.dtype), torch.zeros((), dtype=logits.dtype), 0
            for i in group:
                p, truth = logits[i].softmax(0)[c].flatten(), label[i].flatten()
                for probability, value in zip(p, truth.tolist(), strict=True):
                    g = float(value == c)
                    if value != IGNORE:
                        intersection = intersection + probability * g
                        union = union + probability + g - probability * g
                        present += int(g)
            if present or classes == "all":
                terms.append(1 - (intersection + smooth) / (union + smooth))
    return torch.stack(terms).mean()


def iou_alone(loss: FocalIoULoss, logits: Tensor, label: Tensor) -> Tensor:
    without = FocalIoULoss(loss.gamma, iou_weight=0.0, ignore_index=loss.ignore_index)
    result: Tensor = loss(logits, label) - without(logits, label)
    return result


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 2.5])
@pytest.mark.parametrize("weight", [None, [0.5, 2.0, 1.0, 3.0]])
def test_focal_equals_the_definition(gamma: float, weight: list[float] | None) -> None:
    logits, label = random_batch(1, ignored=0.3)
    loss = FocalIoULoss(gamma, weight, iou_weight=0.0, ignore_index=IGNORE)
    value, gradient = value_and_gradient(loss, logits, label)
    exact = logits.double().requires_grad_()
    expected = focal_by_hand(exact, label, gamma, weight)
    (slope,) = torch.autograd.grad(expected, exact)
    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("size", [(5, 6), (3, 4, 5)])
def test_focal_equals_monai(size: tuple[int, ...]) -> None:
    from monai.losses import FocalLoss  # slow to load, and the processes below do without

    logits, label = random_batch(2, size=size)
    monai = FocalLoss(gamma=2.0, to_onehot_y=True, use_softmax=True, include_background=True)
    ours, gradient = value_and_gradient(FocalIoULoss(iou_weight=0.0), logits, label)
    theirs, expected = value_and_gradient(monai, logits, label)
    # MONAI averages over classes too, of which all but the label's add nothing
    torch.testing.assert_close(ours, theirs * CLASSES, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient, expected * CLASSES, rtol=1e-4, atol=1e-7)


def test_gamma_0_is_cross_entropy() -> None:
    logits, label = random_batch(3, ignored=0.4)
    expected = nn.functional.cross_entropy(logits, label[:, 0], ignore_index=IGNORE)
    torch.testing.assert_close(FocalIoULoss(0.0, iou_weight=0.0, ignore_index=IGNORE)(logits, label), expected)


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
@pytest.mark.parametrize("absent", [False, True])
def test_iou_equals_the_definition(batch: bool, ignored: float, absent: bool) -> None:
    logits, label = random_batch(4, ignored=ignored)
    if absent:
        label[label == 2] = 1  # nowhere
        label[0][label[0] == 3] = 0  # in some images
    loss = FocalIoULoss(iou_weight=0.7, ignore_index=IGNORE, batch=batch)
    exact = logits.double().requires_grad_()
    expected = focal_by_hand(exact, label, 2.0) + 0.7 * iou_by_hand(exact, label, batch)
    (slope,) = torch.autograd.grad(expected, exact)
    value, gradient = value_and_gradient(loss, logits, label)
    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=1e-7)
    if not ignored:
        torch.testing.assert_close(FocalIoULoss(iou_weight=0.7, batch=batch)(logits, label), value)


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize("smooth", [0.0, 0.5])
def test_counted_classes_and_smoothing(batch: bool, classes: str, smooth: float) -> None:
    logits, label = random_batch(17, ignored=0.3)
    label[label == 2] = 1  # nowhere
    label[0][label[0] == 3] = 0  # in some images
    loss = FocalIoULoss(ignore_index=IGNORE, batch=batch, classes=classes, smooth=smooth)
    exact = logits.double().requires_grad_()
    expected = focal_by_hand(exact, label, 2.0) + iou_by_hand(exact, label, batch, classes, smooth)
    (slope,) = torch.autograd.grad(expected, exact)
    value, gradient = value_and_gradient(loss, logits.double(), label)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, slope)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("weight", [None, [0.5, 2.0, 1.0, 3.0]])
def test_gradient_equals_finite_differences(gamma: float, batch: bool, weight: list[float] | None) -> None:
    logits, label = random_batch(5, ignored=0.2, size=(2, 3), batch=2)
    loss = FocalIoULoss(gamma, weight, ignore_index=IGNORE, batch=batch)
    assert torch.autograd.gradcheck(lambda z: loss(z, label), (logits.double().requires_grad_(),))


def test_large_maps_keep_float32_accuracy() -> None:
    """Sums over a million pixels: as exact as in float64."""
    logits, label = random_batch(18, ignored=0.1, size=(512, 512), batch=4)
    loss = FocalIoULoss(ignore_index=IGNORE)
    torch.testing.assert_close(loss(logits, label).double(), loss(logits.double(), label), rtol=1e-5, atol=0)


def test_a_class_of_millions_of_pixels_is_summed_as_exactly() -> None:
    """Two volumes of 128 x 128 x 128: a float32 that ones are added to has steps of a quarter from two million on."""
    label = torch.zeros(1, 1, 2048, 2048, dtype=torch.uint8)
    label[..., :256, :] = 1
    logits = torch.stack([2.2 - 4.4 * label[:, 0].float(), torch.zeros(1, 2048, 2048)], dim=1)
    loss = FocalIoULoss()
    torch.testing.assert_close(loss(logits, label).double(), loss(logits.double(), label), rtol=1e-5, atol=0)


def test_iou_is_0_for_a_perfect_and_1_for_a_wrong_prediction() -> None:
    label = torch.arange(CLASSES).repeat(6).reshape(1, 1, 4, 6)
    right = 50.0 * nn.functional.one_hot(label[:, 0], CLASSES).movedim(-1, 1)
    assert float(iou_alone(FocalIoULoss(gamma=5), right, label)) == pytest.approx(0, abs=1e-6)
    assert float(iou_alone(FocalIoULoss(gamma=5), right, (label + 1) % CLASSES)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("batch", [True, False])
def test_ignored_pixels_are_as_if_cut_off(batch: bool) -> None:
    logits, label = random_batch(6)
    label[..., 4:] = IGNORE
    loss = FocalIoULoss(ignore_index=IGNORE, batch=batch)
    value, gradient = value_and_gradient(loss, logits, label)
    expected, cut = value_and_gradient(loss, logits[..., :4], label[..., :4])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient[..., :4], cut)
    assert not gradient[..., 4:].any()


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("iou_weight", [0.0, 1.0])
def test_all_pixels_ignored(batch: bool, iou_weight: float) -> None:
    logits, label = random_batch(7)
    loss = FocalIoULoss(iou_weight=iou_weight, ignore_index=IGNORE, batch=batch)
    value, gradient = value_and_gradient(loss, logits, torch.full_like(label, IGNORE))
    assert float(value) == 0
    assert not gradient.any()


def test_one_image_ignored_counts_for_nothing() -> None:
    logits, label = random_batch(8)
    label[1] = IGNORE
    kept = torch.tensor([0, 2])
    for batch in (True, False):
        loss = FocalIoULoss(ignore_index=IGNORE, batch=batch)
        torch.testing.assert_close(loss(logits, label), loss(logits[kept], label[kept]))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [1e4, 1e36])
@pytest.mark.parametrize("right", [True, False])
def test_extreme_logits_stay_finite(gamma: float, size: float, right: bool) -> None:
    label = torch.arange(CLASSES).repeat(6).reshape(1, 1, 4, 6)
    shown = label if right else (label + 1) % CLASSES
    logits = size * (nn.functional.one_hot(shown[:, 0], CLASSES).movedim(-1, 1) - 0.5)
    value, gradient = value_and_gradient(FocalIoULoss(gamma), logits, label)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert float(value) == 0 if right else float(value) >= 0.9 * size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("smooth", [0.0, 1e-5])
@pytest.mark.parametrize("right", [True, False])
def test_empty_classes_under_saturated_half_precision(
    dtype: torch.dtype, classes: str, batch: bool, smooth: float, right: bool
) -> None:
    """Classes 2 and 3 are nowhere: unpredicted they cost nothing, predicted they stay finite."""
    label = torch.arange(2).repeat(12).reshape(1, 1, 4, 6)
    shown = label if right else label + 2
    logits = (2e4 * (nn.functional.one_hot(shown[:, 0], CLASSES).movedim(-1, 1) - 0.5)).to(dtype)
    loss = FocalIoULoss(classes=classes, batch=batch, smooth=smooth)
    value, gradient = value_and_gradient(loss, logits, label)
    assert torch.isfinite(gradient).all()
    if right:
        assert float(value) == 0
        assert not gradient.any()
    else:
        assert float(value) == pytest.approx(2e4 + 1, rel=1e-2)
        assert gradient.any()


@pytest.mark.parametrize("classes", ["present", "all"])
def test_empty_classes_have_the_gradient_of_finite_differences(classes: str) -> None:
    logits, label = random_batch(19, size=(2, 3), batch=2)
    label[label > 1] = 0
    loss = FocalIoULoss(classes=classes, smooth=0.2)
    assert torch.autograd.gradcheck(lambda z: loss(z, label), (logits.double().requires_grad_(),))


@pytest.mark.parametrize(
    "shape", [(3, 1, 6, 5), (3, 6, 5), (2, 1, 5, 6), (3, 4, 5, 6), (3, 1, 5), (3, 1, 1, 5, 6), (1, 3, 5, 6)]
)
def test_shapes_must_fit(shape: tuple[int, ...]) -> None:
    logits, _ = random_batch(12)
    with pytest.raises(ValueError, match=r"logits have shape \(3, 4, 5, 6\) and the label"):
        FocalIoULoss()(logits, torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("value", [CLASSES, IGNORE, -1])
def test_label_without_a_logit(value: int) -> None:
    logits, label = random_batch(13)
    label[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=rf"label values \[{value}\].*4 classes"):
        FocalIoULoss(ignore_index=None if value == IGNORE else IGNORE)(logits, label)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -1.0}, "gamma is -1.0"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"iou_weight": -0.5}, "iou_weight is -0.5"),
        ({"smooth": -1e-5}, "smooth is -1e-05"),
        ({"classes": "some"}, "classes is 'some'; choose one of present, all"),
        ({"weight": []}, "weight"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FocalIoULoss(**options)  # type: ignore[arg-type]


def test_weights_must_be_one_a_class() -> None:
    logits, label = random_batch(14)
    with pytest.raises(ValueError, match="3 class weights for 4 classes"):
        FocalIoULoss(weight=[1.0, 2.0, 3.0])(logits, label)


def test_all_classes_count_where_half_of_them_are_absent() -> None:
    logits, label = random_batch(8)
    label %= 2
    expected = iou_by_hand(logits, label, batch=True, classes="all")
    torch.testing.assert_close(iou_alone(FocalIoULoss(classes="all", smooth=0.0), logits, label), expected)


def test_an_image_ignored_altogether_is_no_image_of_the_mean_over_all_classes() -> None:
    logits, label = random_batch(9, batch=2)
    loss = FocalIoULoss(ignore_index=IGNORE, batch=False, classes="all")
    alone = loss(logits[:1], label[:1])
    label[1] = IGNORE
    torch.testing.assert_close(loss(logits, label), alone)


@pytest.mark.parametrize("ignored", [0.0, 0.3])
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("size", [(5, 6), (3, 4, 2)])
def test_sums_of_a_gpu_are_a_cpus(ignored: float, batch: bool, size: tuple[int, ...]) -> None:
    logits, label = random_batch(7, ignored=ignored, size=size)
    index, valid = class_indices(logits, label, IGNORE)
    assert valid is not None
    p = logits.softmax(1) * valid[:, None]
    first = 0 if batch else CLASSES * torch.arange(len(index)).view(-1, *[1] * len(size))
    pixels = (0, *range(2, p.ndim)) if batch else tuple(range(2, p.ndim))
    pt, slots = p.gather(1, index[:, None])[:, 0], CLASSES * (1 if batch else len(index))
    expected = focal_iou._sums_by_slot(pt, valid, (index + first).flatten(), slots)
    for kept in (valid, None) if not ignored else (valid,):
        found = focal_iou._sums_by_class(p, index, kept, pixels)
        torch.testing.assert_close([each.flatten() for each in found], list(expected), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("options", "most"), [({"gamma": 0.0}, 44), ({"gamma": 2.0, "ignore_index": IGNORE}, 63)])
def test_a_gpu_gets_few_operations_and_is_not_waited_for(options: dict[str, Any], most: int) -> None:
    """Each takes the processor about as long as a layer's; a device without numbers refuses to be asked for one."""
    logits = torch.empty(2, CLASSES, 4, 4, 4, device="meta", requires_grad=True)
    label = torch.empty(2, 1, 4, 4, 4, device="meta", dtype=torch.uint8)
    with Operations() as counted:
        FocalIoULoss(**options)(logits, label).backward()
    assert counted.number <= most, counted.counts
