"""Convolutional LSTM over a short sequence of maps."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn


class ConvLSTM(nn.Module):
    """LSTM whose products are convolutions, over a sequence of maps, from a state of zeros.

    X. Shi et al., "Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting", NeurIPS 2015,
    https://arxiv.org/abs/1506.04214, without the peepholes from the cell to the gates. Gates are ordered as in
    ``torch.nn.LSTMCell``: input, forget, cell, output. The forget gate's bias starts at 1.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of each map.
        out_channels: channels H of state and cell.
        kernel_size: edge of the kernels over input and state in pixels, odd.

    Shape:
        a list of ``(B, in_channels, *S)``, one or more, to ``(B, H, *S)``: the state after the last one.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        conv, padding = Conv[Conv.CONV, spatial_dims], kernel_size // 2
        self.input = conv(in_channels, 4 * out_channels, kernel_size, padding=padding)
        self.state = conv(out_channels, 4 * out_channels, kernel_size, padding=padding, bias=False)
        nn.init.ones_(self.input.bias[out_channels : 2 * out_channels])

    def forward(self, sequence: list[Tensor]) -> Tensor:
        """Return the state after the last map."""
        enter, forget, candidate, leave = self.input(sequence[0]).chunk(4, 1)
        # nothing to forget and no state to convolve at the first map
        cell = torch.sigmoid(enter) * torch.tanh(candidate)
        state = torch.sigmoid(leave) * torch.tanh(cell)
        for x in sequence[1:]:
            enter, forget, candidate, leave = (self.input(x) + self.state(state)).chunk(4, 1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(candidate)
            state = torch.sigmoid(leave) * torch.tanh(cell)
        return state
