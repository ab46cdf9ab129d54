"""BCDU-Net: convolutional LSTMs join skip and decoder features, densely connected blocks form the bottom.

R. Azad, M. Asadi-Aghbolaghi, M. Fathy, S. Escalera, "Bi-Directional ConvLSTM U-Net with Densley Connected
Convolutions", ICCVW 2019, https://arxiv.org/abs/1909.00166. Text and published code differ: the text joins the states
of two ConvLSTMs, one in each direction, by a convolution and tanh; the code has one ConvLSTM, from the decoder's map
to the encoder's. 20.66 M parameters, the figure that FocusNet++ gives, are the code's (3 input channels, 1 class):
3x3 kernels, half of a level's channels as state, biases on the input's kernels alone, transposed convolutions of 2x2.
That is the default; ``bidirectional=True`` has 23.37 M, with half of a level's channels in each direction and a 3x3
convolution from both to as many. Deviations:

- Gates use the logistic sigmoid (the code's Keras: a piecewise linear one); no peepholes, as in the code.
- The code narrows the last features to two channels before its 1x1 classifier, which more classes could not pass.
- Transposed convolutions have no biases, which the normalisation after them would take away.
- The code drops half of the values after each dense block and of the deepest skip; ``dropout`` acts on the bottom's
  result alone, and is 0 by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medseg.layers.conv_block import ConvBlock, Named, norm_act
from medseg.layers.conv_lstm import ConvLSTM
from medseg.layers.unet import UNetSkeleton


class ConvLSTMMerge(nn.Module):
    """Read the maps of encoder and decoder as a sequence of two.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels C of both maps.
        out_channels: channels H of the result and of each state.
        bidirectional: read in both directions and join both last states by a convolution and tanh; else from the
            decoder's map to the encoder's.

    Shape:
        encoder, decoder ``(B, C, *S)`` to ``(B, H, *S)``.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, bidirectional: bool = False) -> None:
        super().__init__()
        self.to_encoder = ConvLSTM(spatial_dims, in_channels, out_channels)
        self.to_decoder = ConvLSTM(spatial_dims, in_channels, out_channels) if bidirectional else None
        self.join = (
            Conv[Conv.CONV, spatial_dims](2 * out_channels, out_channels, 3, padding=1) if bidirectional else None
        )

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        """Return what the sequence leaves."""
        state: Tensor = self.to_encoder([decoder, encoder])
        if self.to_decoder is not None and self.join is not None:
            states = torch.cat([state, self.to_decoder([encoder, decoder])], dim=1)
            state = torch.tanh(self.join(states))
        return state


class DenseBottom(nn.Module):
    """Blocks of two convolutions, each over the results of all before it.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input, which the first block alone sees.
        out_channels: channels of each block's result.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        blocks: how many, at least 1.

    Raises:
        ValueError: if there is no block.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, out_channels, *S)``: the last block's result.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        act: Named = "relu",
        norm: Named | None = None,
        blocks: int = 3,
    ) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"dense_blocks is {blocks}; it must be at least 1")
        self.first = ConvBlock(spatial_dims, in_channels, out_channels, act, norm)
        self.further = nn.ModuleList(
            ConvBlock(spatial_dims, before * out_channels, out_channels, act, norm) for before in range(1, blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the last block's result."""
        results: list[Tensor] = [self.first(x)]
        for block in self.further:
            results.append(block(torch.cat(results, dim=1)))
        return results[-1]


class BCDUNet(UNetSkeleton):
    """BCDU-Net: a U-Net with ConvLSTMs in its skip connections and a dense bottom.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: features of each level, from the finest, two or more.
        dense_blocks: blocks at the bottom; 1 leaves the U-Net's own.
        bidirectional: join skip and decoder by ConvLSTMs in both directions.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation after each enlargement, the one place that has one, or name and
            arguments; ``None`` for none.
        dropout: probability of dropping a channel at the bottom.

    Raises:
        ValueError: if an option is out of range.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, out_channels, *S)``, any S.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (64, 128, 256, 512),
        dense_blocks: int = 3,
        bidirectional: bool = False,
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.0,
    ) -> None:
        if min(channels, default=0) < 2:
            raise ValueError(f"channels is {tuple(channels)}; a ConvLSTM keeps half of a level's: give 2 or more each")

        def up(coarse: int, fine: int) -> nn.Module:
            enlarge = Conv[Conv.CONVTRANS, spatial_dims](coarse, fine, 2, stride=2, bias=norm is None)
            return nn.Sequential(enlarge, *norm_act(spatial_dims, fine, act, norm))

        super().__init__(
            spatial_dims,
            in_channels,
            out_channels,
            channels=channels,
            merge=lambda fine: ConvLSTMMerge(spatial_dims, fine, fine // 2, bidirectional),
            merged=lambda fine: fine // 2,
            bottom=partial(DenseBottom, blocks=dense_blocks),
            up=up,
            act=act,
            norm=None,
            dropout=dropout,
        )
        for path in (self.encoder, self.decoder):  # as the authors start: nothing normalises these maps
            for module in path.modules():
                if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
