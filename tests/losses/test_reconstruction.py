"""The reconstruction loss against torch's mean squared error."""

import pytest
import torch
from torch import nn

from medseg.losses.multi_output import MultiOutputLoss
from medseg.losses.reconstruction import ReconstructionLoss


@pytest.mark.parametrize("label_shape", [(2, 1, 8, 10), (2, 8, 10)])
def test_is_the_mean_squared_error(label_shape: tuple[int, ...]) -> None:
    x = torch.randn(2, 5, 4, 5, requires_grad=True)
    rebuilt = torch.randn(2, 5, 4, 5)
    value = ReconstructionLoss()(x - rebuilt, torch.zeros(label_shape))
    torch.testing.assert_close(value, nn.functional.mse_loss(x, rebuilt))
    value.backward()
    torch.testing.assert_close(x.grad, 2 * (x.detach() - rebuilt) / x.numel())


def test_low_precision_is_left() -> None:
    difference = torch.full((1, 4096, 3, 3), 300.0, dtype=torch.float16)  # whose square is infinite in float16
    value = ReconstructionLoss()(difference, torch.zeros(1, 1, 48, 48))
    torch.testing.assert_close(value, torch.tensor(300.0**2))


def test_in_a_sum_of_losses() -> None:
    """As a bundle has it; without ``resize: false`` the features would be enlarged to the label."""
    outputs = {"pred": torch.randn(2, 3, 16, 16), "recon": torch.randn(2, 4, 2, 2)}
    label = torch.zeros(2, 1, 16, 16)
    term = {"output": "recon", "loss": ReconstructionLoss(), "weight": 0.1}
    value = MultiOutputLoss([{**term, "resize": False}])(outputs, label)
    torch.testing.assert_close(value, 0.1 * outputs["recon"].square().mean())
    with pytest.raises(ValueError, match=r"the difference has the label's size \(16, 16\).*set `resize: false`"):
        MultiOutputLoss([term])(outputs, label)
