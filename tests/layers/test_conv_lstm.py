"""The convolutional LSTM against torch's LSTM cell, pixel by pixel, and against its equations."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from medseg.layers.conv_lstm import ConvLSTM


@pytest.mark.parametrize("size", [(5, 4), (3, 2, 4)])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_with_1x1_kernels_each_pixel_is_an_lstm(size: tuple[int, ...], length: int) -> None:
    torch.manual_seed(0)
    layer = ConvLSTM(len(size), 3, 6, kernel_size=1)
    cell = nn.LSTMCell(3, 6)
    with torch.no_grad():
        cell.weight_ih.copy_(layer.input.weight.flatten(1))
        cell.weight_hh.copy_(layer.state.weight.flatten(1))
        cell.bias_ih.copy_(layer.input.bias)
        cell.bias_hh.zero_()
    sequence = list(torch.randn(length, 2, 3, *size))
    states = None
    for x in sequence:
        states = cell(x.movedim(1, -1).flatten(0, -2), states)  # (B * pixels, 3)
    assert states is not None
    expected = states[0].reshape(2, *size, 6).movedim(-1, 1)
    torch.testing.assert_close(layer(sequence), expected)


def test_equals_its_equations() -> None:
    """Every gate by its own slice of the kernels, from an explicit state of zeros."""
    torch.manual_seed(1)
    layer = ConvLSTM(2, 3, 4)
    names = ("input", "forget", "cell", "output")

    def gate(name: str, x: Tensor, state: Tensor) -> Tensor:
        part = slice(4 * names.index(name), 4 * names.index(name) + 4)
        return conv2d(x, layer.input.weight[part], layer.input.bias[part], padding=1) + conv2d(
            state, layer.state.weight[part], padding=1
        )

    sequence = list(torch.randn(3, 2, 3, 5, 7))
    state = cell = torch.zeros(2, 4, 5, 7)
    for x in sequence:
        new = gate("input", x, state).sigmoid() * gate("cell", x, state).tanh()
        cell, leave = gate("forget", x, state).sigmoid() * cell + new, gate("output", x, state).sigmoid()
        state = leave * cell.tanh()
    torch.testing.assert_close(layer(sequence), state)


def test_the_forget_gate_starts_open() -> None:
    layer = ConvLSTM(3, 2, 5)
    assert torch.equal(layer.input.bias[5:10], torch.ones(5))
    assert (layer.input.bias[:5] != 1).all()
    assert (layer.input.bias[10:] != 1).all()
