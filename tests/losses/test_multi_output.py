"""The sum of named losses."""

import pytest
import torch
from torch import Tensor, nn

from medseg.losses.focal_iou import FocalIoULoss
from medseg.losses.multi_output import MultiOutputLoss


def squared(prediction: Tensor, target: Tensor) -> Tensor:
    return ((prediction - target) ** 2).mean()


def absolute(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs().mean()


def test_sum_of_named_outputs() -> None:
    torch.manual_seed(0)
    pred, aux, recon, label, image = torch.rand(5, 2, 3, 4, 5)
    loss = MultiOutputLoss(
        [
            {"output": "pred", "loss": squared},
            {"output": "aux_context", "loss": absolute, "weight": 0.4},
            {"output": "recon", "loss": squared, "weight": 2, "target": "image"},
        ]
    )
    total = loss({"pred": pred, "aux_context": aux, "recon": recon, "unused": aux}, {"label": label, "image": image})
    parts = {"pred": squared(pred, label), "aux_context": absolute(aux, label), "recon": squared(recon, image)}
    torch.testing.assert_close(total, parts["pred"] + 0.4 * parts["aux_context"] + 2 * parts["recon"])
    assert loss.last_terms.keys() == parts.keys()
    for name, value in parts.items():
        torch.testing.assert_close(loss.last_terms[name], value)  # without the weight


def test_an_output_of_the_targets_size_is_not_resized() -> None:
    seen: list[Tensor] = []

    def watch(prediction: Tensor, target: Tensor) -> Tensor:
        seen.append(prediction)
        return squared(prediction, target)

    pred = torch.rand(1, 1, 4, 5)
    MultiOutputLoss([{"output": "pred", "loss": watch}])(pred, torch.rand(1, 1, 4, 5))
    assert seen[0] is pred


def test_a_tensor_is_pred_and_a_tensor_target_is_the_label() -> None:
    pred, label = torch.rand(2, 1, 3, 4, 5)
    loss = MultiOutputLoss([{"output": "pred", "loss": squared}])
    expected = squared(pred, label)
    for outputs in (pred, {"pred": pred}):
        for targets in (label, {"label": label}):
            torch.testing.assert_close(loss(outputs, targets), expected)


def test_gradients_reach_every_output_with_its_weight() -> None:
    pred, aux = torch.rand(1, 1, 2, 2, requires_grad=True), torch.rand(1, 1, 2, 2, requires_grad=True)
    label = torch.zeros(1, 1, 2, 2)
    terms = [{"output": "pred", "loss": squared}, {"output": "aux", "loss": squared, "weight": 0.25}]
    loss = MultiOutputLoss(terms)
    loss({"pred": pred, "aux": aux}, label).backward()
    torch.testing.assert_close(pred.grad, pred.detach() / 2)
    torch.testing.assert_close(aux.grad, aux.detach() / 8)
    assert not loss.last_terms["aux"].requires_grad  # kept for the record, it must not keep the graph


@pytest.mark.parametrize(
    ("low", "full", "mode"), [((3, 4), (6, 9), "bilinear"), ((2, 3, 2), (4, 5, 6), "trilinear"), ((5,), (8,), "linear")]
)
def test_a_smaller_output_is_resized(low: tuple[int, ...], full: tuple[int, ...], mode: str) -> None:
    logits = torch.randn(2, 3, *low, requires_grad=True)
    label = torch.randint(0, 3, (2, 1, *full))
    loss = MultiOutputLoss([{"output": "aux", "loss": FocalIoULoss()}])
    value = loss({"aux": logits}, label)
    resized = nn.functional.interpolate(logits, size=full, mode=mode, align_corners=True)
    torch.testing.assert_close(value, FocalIoULoss()(resized, label))
    value.backward()
    assert logits.grad is not None
    assert logits.grad.any()


def test_a_label_without_channel_is_not_taken_for_another_size() -> None:
    logits, label = torch.randn(2, 3, 6, 7), torch.randint(0, 3, (2, 6, 7))
    loss = MultiOutputLoss([{"output": "pred", "loss": FocalIoULoss()}])
    torch.testing.assert_close(loss(logits, label), FocalIoULoss()(logits, label))
    small = torch.randn(2, 3, 3, 4)
    resized = nn.functional.interpolate(small, size=(6, 7), mode="bilinear", align_corners=True)
    torch.testing.assert_close(loss(small, label), FocalIoULoss()(resized, label))


def test_resize_can_be_left_to_the_loss() -> None:
    seen: list[tuple[int, ...]] = []

    def own(prediction: Tensor, target: Tensor) -> Tensor:
        seen.append(tuple(prediction.shape))
        return prediction.mean()

    MultiOutputLoss([{"output": "pred", "loss": own, "resize": False}])(torch.rand(1, 1, 2, 2), torch.rand(1, 1, 4, 4))
    assert seen == [(1, 1, 2, 2)]


def test_two_terms_on_one_output_are_both_recorded() -> None:
    pred, label = torch.rand(2, 1, 1, 4, 5)
    loss = MultiOutputLoss(
        [{"output": "pred", "loss": squared}, {"output": "pred", "loss": absolute, "weight": 3.0, "target": "edge"}]
    )
    total = loss(pred, {"label": label, "edge": label})
    torch.testing.assert_close(total, squared(pred, label) + 3 * absolute(pred, label))
    recorded = {name: float(value) for name, value in loss.last_terms.items()}
    assert recorded == pytest.approx({"pred.0": float(squared(pred, label)), "pred.1": float(absolute(pred, label))})


def test_buffers_of_losses_move_and_save_with_it() -> None:
    loss = MultiOutputLoss([{"output": "pred", "loss": FocalIoULoss(weight=[1.0, 2.0])}])
    assert [buffer.tolist() for buffer in loss.buffers()] == [[1.0, 2.0]]
    assert next(loss.to(torch.float64).buffers()).dtype == torch.float64


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (("pred", "aux_b"), ("label",), "the loss wants 'aux_a', but the network gives aux_b, pred"),
        (("pred", "aux_a"), ("image",), "the loss wants 'label', but the batch has image"),
        (("pred", "aux_a"), (), "the loss wants 'label', but the batch has nothing"),
    ],
)
def test_missing_names(outputs: tuple[str, ...], targets: tuple[str, ...], message: str) -> None:
    loss = MultiOutputLoss([{"output": name, "loss": squared} for name in ("pred", "aux_a")])
    x = torch.rand(1, 1, 2, 2)
    with pytest.raises(ValueError, match=message):
        loss(dict.fromkeys(outputs, x), dict.fromkeys(targets, x))


def test_evaluation_output_lacks_auxiliary_heads() -> None:
    loss = MultiOutputLoss([{"output": "aux", "loss": squared}])
    with pytest.raises(ValueError, match="the loss wants 'aux', but the network gives pred"):
        loss(torch.rand(1, 1, 2, 2), torch.rand(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "at least one term"),
        ([{"loss": squared}], "`output`"),
        ([{"output": "pred"}], "`loss`"),
        ([{"output": "pred", "loss": "dice"}], "`loss`"),
        (
            [{"output": "pred", "loss": squared, "wieght": 2.0, "to": 0, "a": 1, "by": 2}],
            r"loss term 0 has unknown keys \['a', 'by', 'to', 'wieght'\]; choose among \['loss', 'output', 'resize', ",
        ),
    ],
)
def test_incomplete_terms(terms: list[dict[str, object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiOutputLoss(terms)
