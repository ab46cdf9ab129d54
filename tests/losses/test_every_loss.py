"""What holds of every loss of classes: precision, autocast, layouts of labels and logits."""

import pytest
import torch
from losses.batches import random_batch, value_and_gradient
from torch import nn

from medseg.losses.all_hl import ALLHLLoss
from medseg.losses.cross_entropy import CrossEntropyLoss
from medseg.losses.focal_iou import FocalIoULoss

WEIGHTED = CrossEntropyLoss([0.5, 2.0, 1.0, 3.0])
LOSSES = [ALLHLLoss(), WEIGHTED, FocalIoULoss()]
OF_FEWER = [(ALLHLLoss(activation="sigmoid"), 1), (ALLHLLoss(), 2)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("loss", "channels"), [*((loss, 4) for loss in LOSSES), *OF_FEWER])
def test_half_precision_logits_are_summed_in_float32(loss: nn.Module, channels: int, dtype: torch.dtype) -> None:
    """In half precision a sum over so many pixels would stand still or overflow."""
    logits, label = random_batch(13, channels, size=(150, 300), batch=2)
    half = logits.to(dtype)
    value, gradient = value_and_gradient(loss, half, label)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(half.float(), label), rtol=1e-6, atol=0)
    torch.testing.assert_close(value.double(), loss(half.double(), label), rtol=1e-5, atol=0)
    assert gradient.dtype == dtype
    assert torch.isfinite(gradient).all()
    assert gradient.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_changes_nothing(loss: nn.Module) -> None:
    logits, label = random_batch(14)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(logits, label)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits, label), rtol=0, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_layouts(loss: nn.Module) -> None:
    logits, label = random_batch(15)
    expected = loss(logits, label)
    for other in (label[:, 0], label.to(torch.uint8), label.to(torch.int16), label.float()):
        torch.testing.assert_close(loss(logits, other), expected, rtol=0, atol=0)
    torch.testing.assert_close(loss(logits.contiguous(memory_format=torch.channels_last), label), expected)
