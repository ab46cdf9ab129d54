"""ALL(HL) against numbers worked out by hand, loops in numpy, MONAI's Tversky loss, PyTorch's cross-entropies."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from losses.batches import IGNORE, random_batch, value_and_gradient
from torch import Tensor, nn

from medseg.losses.all_hl import ALLHLLoss, adaptive_logarithm

HYBRID = {"gamma": 0.0}  # no logarithm and C = 0: the hybrid loss itself


def probabilities(scores: np.ndarray, activation: str) -> np.ndarray:
    """One pixel's logits to the probability of each class."""
    if activation == "softmax":
        return np.exp(scores) / np.exp(scores).sum()
    p = 1 / (1 + np.exp(-scores))
    return np.array([1 - p[0], p[0]]) if len(p) == 1 else p


def by_hand(
    logits: Tensor, label: Tensor, *, activation: str, include_background: bool, batch: bool, smooth: float, log: bool
) -> float:
    """Section 2.2 of the paper with its constants, pixel by pixel; ignored pixels are not there at all."""
    classes = range(0 if include_background else 1, max(2, logits.shape[1]))
    groups: list[dict[str, Any]] = []
    for image, truth in zip(logits.double().numpy(), label.numpy(), strict=True):
        if batch is False or not groups:
            groups.append(
                {"tp": dict.fromkeys(classes, 0.0), "lost": dict.fromkeys(classes, 0.0), "cross": 0.0, "n": 0}
            )
        group = groups[-1]
        for scores, value in zip(image.reshape(len(image), -1).T, truth.ravel(), strict=True):
            if value == IGNORE:
                continue
            group["n"] += 1
            p = probabilities(scores, activation)
            for c in classes:
                if value == c:
                    group["cross"] -= 0.7 * np.log(p[c])
                    group["tp"][c] += p[c]
                    group["lost"][c] += 0.7 * (1 - p[c])
                else:
                    group["cross"] -= 0.3 * np.log(1 - p[c])
                    group["lost"][c] += 0.3 * p[c]
    groups = [group for group in groups if group["n"]]
    cross = sum(group["cross"] for group in groups) / sum(group["n"] for group in groups)
    index = [[(g["tp"][c] + smooth) / (g["tp"][c] + g["lost"][c] + smooth) for c in classes] for g in groups]
    tversky = np.mean([sum(1 - value for value in image) for image in index])
    hybrid = 0.5 * cross + 0.5 * float(tversky)
    if not log:
        return float(hybrid)
    return float(10 * np.log(1 + hybrid / 0.5) if hybrid < 0.1 else hybrid - (0.1 - 10 * np.log(1.2)))


@pytest.mark.parametrize(("gamma", "omega", "epsilon"), [(0.1, 10.0, 0.5), (0.3, 4.0, 0.2), (1.0, 14.0, 2.0)])
def test_continuous_at_gamma_with_the_derivatives_of_the_formula(gamma: float, omega: float, epsilon: float) -> None:
    step = 1e-9
    x = torch.tensor([gamma - step, gamma, gamma + step], dtype=torch.float64, requires_grad=True)
    y = adaptive_logarithm(x, gamma, omega, epsilon)
    (slope,) = torch.autograd.grad(y.sum(), x)
    y = y.detach()
    assert float(y[1]) == pytest.approx(omega * math.log(1 + gamma / epsilon), rel=1e-12)
    assert float(y[1] - y[0]) == pytest.approx(
        step * omega / (epsilon + gamma), rel=1e-4
    )  # no jump on top of the slope
    assert float(y[2] - y[1]) == pytest.approx(step, rel=1e-4)
    assert slope.tolist() == pytest.approx([omega / (epsilon + gamma), 1, 1], rel=1e-6)


def test_adaptive_logarithm_of_the_paper() -> None:
    # C = 0.1 - 10 ln 1.2 = -1.7232156; 10 ln(1 + 0.05/0.5) = 0.9531018; slopes 10/0.5, 10/0.6 and 1
    x = torch.tensor([0.0, 0.05, 0.1 - 1e-12, 0.1, 0.6], dtype=torch.float64, requires_grad=True)
    y = adaptive_logarithm(x)
    assert y.tolist() == pytest.approx([0, 0.9531018, 1.8232156, 1.8232156, 2.3232156], abs=1e-7)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope.tolist() == pytest.approx([20, 10 / 0.55, 10 / 0.6, 1, 1])
    assert float(slope[3] - slope[2]) == pytest.approx(1 - 16.6666667)  # it falls: the logarithm is the steep part


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        # C_b = (0.7 (-ln .8 - ln .4) + 0.3 (-ln .7 - ln .9)) / 4 = (0.7 * 1.1394343 + 0.3 * 0.4620355) / 4 = 0.2340537
        # TI = 1.2 / (1.2 + 0.3 * 0.4 + 0.7 * 0.8) = 1.2 / 1.88, TL = 0.3617021, HL = (C_b + TL) / 2 = 0.2978779
        # HL >= 0.1: HL - 0.1 + 10 ln 1.2
        ((0.8, 0.4, 0.3, 0.1), 2.0210935),
        # C_b = (-ln .99 - ln .98) / 4 = 0.0075633, TI = 1.97 / (1.97 + 0.009 + 0.021) = 0.985, HL = 0.0112816
        # HL < 0.1: 10 ln(1 + 0.0112816 / 0.5) = 10 ln 1.0225633
        ((0.99, 0.98, 0.02, 0.01), 0.2231250),
    ],
)
def test_four_pixels_by_hand(probability: tuple[float, ...], expected: float) -> None:
    p = torch.tensor(probability, dtype=torch.float64).view(1, 1, 2, 2)
    label = torch.tensor([[[1, 1], [0, 0]]])
    one = ALLHLLoss(activation="sigmoid", smooth=0.0)(p.logit(), label)
    two = ALLHLLoss(activation="softmax", smooth=0.0)(torch.cat([1 - p, p], dim=1).log(), label)
    assert [float(one), float(two)] == pytest.approx([expected, expected], abs=1e-6)


@pytest.mark.parametrize(("channels", "activation"), [(2, "softmax"), (4, "softmax"), (1, "sigmoid"), (3, "sigmoid")])
@pytest.mark.parametrize("include_background", [False, True])
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("log", [True, False])
def test_equals_the_definition(
    channels: int, activation: str, include_background: bool, batch: bool, log: bool
) -> None:
    logits, label = random_batch(1, channels, ignored=0.3)
    label[1] = IGNORE
    options: dict[str, Any] = {
        "activation": activation,
        "include_background": include_background,
        "batch": batch,
        "smooth": 0.5,
    }
    loss = ALLHLLoss(**options, ignore_index=IGNORE, **({} if log else HYBRID))
    expected = by_hand(logits, label, **options, log=log)
    assert float(loss(logits.double(), label)) == pytest.approx(expected, rel=1e-12)
    assert float(loss(logits, label)) == pytest.approx(expected, rel=1e-5)


def test_equals_the_definition_below_gamma() -> None:
    _, label = random_batch(2, 3)
    logits = 9.0 * nn.functional.one_hot(label[:, 0], 3).movedim(-1, 1) + random_batch(2, 3)[0] / 4
    options: dict[str, Any] = {"activation": "softmax", "include_background": True, "batch": True, "smooth": 1e-5}
    expected = by_hand(logits, label, **options, log=True)
    assert expected < 10 * math.log(1.2)
    assert float(ALLHLLoss(**options)(logits, label)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dims", [(5, 6), (3, 4, 5), (7,)])
def test_two_softmax_classes_without_background_are_the_binary_loss(dims: tuple[int, ...]) -> None:
    logits, label = random_batch(3, 2, ignored=0.2, size=dims)
    value, gradient = value_and_gradient(ALLHLLoss(ignore_index=IGNORE), logits, label)
    binary = ALLHLLoss(activation="sigmoid", ignore_index=IGNORE)
    expected, slope = value_and_gradient(binary, logits[:, 1:] - logits[:, :1], label)
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradient, torch.cat([-slope, slope], dim=1))


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_tversky_equals_monai(batch: bool, include_background: bool, ignored: float) -> None:
    from monai.losses import TverskyLoss  # slow to load

    logits, label = random_batch(4, ignored=ignored)
    ours = ALLHLLoss(
        k=0.0, include_background=include_background, ignore_index=IGNORE, batch=batch, smooth=0.1, **HYBRID
    )
    monai = TverskyLoss(
        include_background=include_background, to_onehot_y=True, softmax=True, alpha=0.3, beta=0.7, reduction="sum",
        smooth_nr=0.1, smooth_dr=0.1, batch=batch, ignore_index=IGNORE,
    )  # fmt: skip
    value, gradient = value_and_gradient(ours, logits, label)
    expected, slope = value_and_gradient(monai, logits, label)
    images = 1 if batch else len(logits)  # MONAI's sum is over images too
    torch.testing.assert_close(value, expected / images)
    torch.testing.assert_close(gradient, slope / images, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("channels", [1, 4])
def test_cross_entropy_equals_pytorch(channels: int) -> None:
    logits, label = random_batch(5, channels)
    ours = ALLHLLoss(k=1.0, activation="sigmoid", include_background=channels > 1, **HYBRID)
    truth = (label == 1 if channels == 1 else label == torch.arange(channels).view(1, -1, 1, 1)).float()
    weight = 0.3 + 0.4 * truth
    mean = nn.functional.binary_cross_entropy_with_logits(logits, truth, weight=weight)
    torch.testing.assert_close(ours(logits, label), mean * channels)


def test_equal_shares_of_two_softmax_classes_are_cross_entropy() -> None:
    """Omega 1/2 counts every pixel's -log p twice (in its class and against the other), at half weight."""
    logits, label = random_batch(6, 2)
    ours = ALLHLLoss(k=1.0, omega_bce=0.5, include_background=True, **HYBRID)
    torch.testing.assert_close(ours(logits, label), nn.functional.cross_entropy(logits, label[:, 0]))


def test_false_negatives_cost_more_than_false_positives() -> None:
    label = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0]).view(1, 1, 8)
    more, fewer = (torch.where(label == 1, 6.0, -6.0) for _ in range(2))
    more[0, 0, 4], fewer[0, 0, 3] = 6.0, -6.0
    loss = ALLHLLoss(activation="sigmoid")
    assert float(loss(fewer, label)) > float(loss(more, label))


@pytest.mark.parametrize(("channels", "activation"), [(2, "softmax"), (3, "softmax"), (1, "sigmoid"), (3, "sigmoid")])
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("gamma", [0.1, 50.0])  # hybrid losses above and below it
def test_gradient_equals_finite_differences(channels: int, activation: str, batch: bool, gamma: float) -> None:
    logits, label = random_batch(7, channels, ignored=0.2, size=(2, 3), batch=2)
    loss = ALLHLLoss(
        activation=activation, gamma=gamma, include_background=True, ignore_index=IGNORE, batch=batch, smooth=0.3
    )
    assert torch.autograd.gradcheck(lambda z: loss(z, label), (logits.double().requires_grad_(),))


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("channels", [2, 4])
def test_ignored_pixels_are_as_if_cut_off(batch: bool, channels: int) -> None:
    logits, label = random_batch(8, channels)
    label[..., 4:] = IGNORE
    loss = ALLHLLoss(ignore_index=IGNORE, batch=batch)
    value, gradient = value_and_gradient(loss, logits, label)
    expected, cut = value_and_gradient(loss, logits[..., :4], label[..., :4])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient[..., :4], cut)
    assert not gradient[..., 4:].any()


@pytest.mark.parametrize("batch", [True, False])
def test_one_image_ignored_counts_for_nothing(batch: bool) -> None:
    logits, label = random_batch(9)
    label[1] = IGNORE
    loss = ALLHLLoss(ignore_index=IGNORE, batch=batch)
    kept = torch.tensor([0, 2])
    torch.testing.assert_close(loss(logits, label), loss(logits[kept], label[kept]))


def test_a_class_can_be_the_ignore_label() -> None:
    logits, label = random_batch(10)
    moved = label.where(label != 2, IGNORE)
    torch.testing.assert_close(
        ALLHLLoss(ignore_index=2)(logits, label), ALLHLLoss(ignore_index=IGNORE)(logits, moved), rtol=0, atol=0
    )


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("smooth", [0.0, 1e-5])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_all_pixels_ignored(batch: bool, smooth: float, activation: str) -> None:
    logits, label = random_batch(11)
    loss = ALLHLLoss(activation=activation, ignore_index=IGNORE, batch=batch, smooth=smooth)
    value, gradient = value_and_gradient(loss, logits, torch.full_like(label, IGNORE))
    assert float(value) == 0
    assert not gradient.any()


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("smooth", [0.0, 1e-5, 1.0])
def test_empty_foreground(channels: int, batch: bool, smooth: float) -> None:
    """No class but background in the label: nothing predicted costs nothing, and what is predicted is pushed down."""
    logits, _ = random_batch(12, channels)
    label = torch.zeros(3, 1, 5, 6, dtype=torch.uint8)
    loss = ALLHLLoss(activation="sigmoid" if channels == 1 else "softmax", batch=batch, smooth=smooth)
    value, gradient = value_and_gradient(loss, logits, label)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, -1] > 0).all() if channels < 3 else (gradient[:, 0] < 0).all()
    right = torch.full_like(logits, -1e4)
    if channels > 1:
        right[:, 0] = 1e4
    value, gradient = value_and_gradient(loss, right, label)
    assert float(value) == 0
    assert not gradient.any()


@pytest.mark.parametrize("size", [1e4, 1e36])
@pytest.mark.parametrize(("channels", "activation"), [(2, "softmax"), (4, "softmax"), (1, "sigmoid"), (4, "sigmoid")])
@pytest.mark.parametrize("smooth", [0.0, 1e-5])
def test_saturated_logits(size: float, channels: int, activation: str, smooth: float) -> None:
    classes = max(2, channels)
    label = torch.arange(classes).repeat(12)[:24].reshape(1, 1, 4, 6)
    loss = ALLHLLoss(activation=activation, include_background=True, smooth=smooth)
    for shown in (label, (label + 1) % classes):
        logits = size * (nn.functional.one_hot(shown[:, 0], classes).movedim(-1, 1) - 0.5)
        value, gradient = value_and_gradient(loss, logits[:, -channels:], label)
        assert torch.isfinite(gradient).all()
        if shown is label:
            assert float(value) == 0
            assert not gradient.any()
        else:
            # log odds of the two classes in question are +-size with softmax, +-size / 2 with sigmoid, up to log(C - 1)
            wide = size if activation == "softmax" else size / 2
            hybrid = 0.5 * (0.7 * wide + 0.3 * wide) + 0.5 * classes
            assert float(value) == pytest.approx(hybrid - 0.1 + 10 * math.log(1.2), rel=1e-4)
            assert gradient.any()


def test_softmax_keeps_the_digits_of_what_is_left_to_others() -> None:
    # label 1 under logits (30, 0, -5): 1 - p0 = (1 + e^-5) / (e^30 + 1 + e^-5), which is 0 where p0 is rounded to 1
    logits, label = torch.tensor([30.0, 0.0, -5.0]).view(1, 3, 1), torch.tensor([[[1]]])
    loss = ALLHLLoss(k=1.0, omega_bce=0.0, include_background=True, **HYBRID)
    others = math.log1p(math.exp(-5))
    expected = math.log(math.exp(30) + 1 + math.exp(-5)) - others  # class 2 adds -log(1 - p2), 6e-16
    value, gradient = value_and_gradient(loss, logits, label)
    assert float(value) == pytest.approx(expected, rel=1e-6)
    share = math.exp(-5) / (1 + math.exp(-5))
    assert gradient.flatten().tolist() == pytest.approx([1, share - 1, -share], rel=1e-5)


def test_shapes_must_fit() -> None:
    logits, _ = random_batch(16)
    with pytest.raises(ValueError, match=r"logits have shape \(3, 4, 5, 6\) and the label \(3, 6, 5\)"):
        ALLHLLoss()(logits, torch.zeros(3, 1, 6, 5))


@pytest.mark.parametrize(("channels", "activation", "classes"), [(4, "softmax", 4), (1, "sigmoid", 2)])
def test_label_without_a_logit(channels: int, activation: str, classes: int) -> None:
    logits, label = random_batch(17, channels)
    label[0, 0, 0, 0] = classes
    with pytest.raises(ValueError, match=rf"label values \[{classes}\] have no logit: the network gives {classes}"):
        ALLHLLoss(activation=activation)(logits, label)


def test_softmax_of_one_logit_is_refused() -> None:
    logits, label = random_batch(18, 1)
    with pytest.raises(ValueError, match="hold 1 class, whose softmax is 1 everywhere"):
        ALLHLLoss()(logits, label)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 1.5}, "k is 1.5; it must be between 0 and 1"),
        ({"omega_bce": -0.1}, "omega_bce is -0.1; it must be between"),
        ({"alpha": -1.0}, "alpha is -1.0; it must be at least 0"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"gamma": float("inf")}, "gamma is inf"),
        ({"smooth": -1e-5}, "smooth is -1e-05"),
        ({"omega": 0.0}, "omega is 0.0; it must be above 0"),
        ({"epsilon": 0.0}, "epsilon is 0.0; it must be above 0"),
        ({"activation": "relu"}, "activation is 'relu'; choose one of softmax, sigmoid"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ALLHLLoss(**options)


def test_defaults_are_the_papers_over_the_batch() -> None:
    logits, label = random_batch(9)
    expected = by_hand(logits, label, activation="softmax", include_background=False, batch=True, smooth=1e-5, log=True)
    assert float(ALLHLLoss()(logits, label)) == pytest.approx(expected, rel=1e-5)


def test_an_invented_class_costs_all_of_its_tversky_loss_however_faint() -> None:
    logits = torch.zeros(1, 2, 3, 4)
    logits[:, 1] = -9.0  # a thousandth of a pixel altogether
    loss = ALLHLLoss(k=0.0, **HYBRID, smooth=0.0)(logits, torch.zeros(1, 3, 4, dtype=torch.int64))
    assert float(loss) == pytest.approx(1.0)
