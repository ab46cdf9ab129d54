"""FocusNet: an attention autoencoder whose decoder gates the encoder of a second network.

C. Kaul, S. Manandhar, N. Pears, "FocusNet: An attention-based fully convolutional network for medical image
segmentation", ISBI 2019, https://arxiv.org/abs/1902.03091. The layout follows what the authors published later
(https://github.com/chaitanya-kaul/TheFocusNetSeries), and the number of parameters the 19.07 M that FocusNet++ reports
for it (table 2, 3 channels in, 1 out). Assumptions and deviations:

- Widths: the gated encoder has 64-128-256-512; the autoencoder's encoder is half as wide, its decoder has the widths
  of what it gates. One residual unit before and one strided unit after each gate.
- Residual units are pre-activated throughout (two 3x3 convolutions; a 1x1 convolution as shortcut where width or size
  change); the authors' code leaves out some of the first normalisations.
- Squeeze-and-excitation stands before and after each gate, and once at the coarsest level, which has no gate; its
  ratio is 16, its hidden layer has the network's activation and, as MONAI's layer has, biases.
- A gate is the sigmoid of the autoencoder's decoded features, one weight a channel and pixel.
- One output, from the finest decoded features by normalisation, activation and 1x1 convolution, which gives logits.
  The authors' later code joins outputs of all scales, which is what FocusNet++ introduces, and narrows the finest
  features to 4 channels, too few for many classes.
- Upsampling repeats values; the 2x2 convolution after it pads at the beginning of each axis, and what is enlarged is
  cropped to the size of the skip.
- Dropout acts at the bottom of the autoencoder, with the 0.2 of the authors' code.
- The paper's networks are two-dimensional.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from monai.networks.layers.factories import Conv, Dropout
from monai.networks.layers.utils import get_norm_layer
from torch import Tensor, nn

from medseg.layers.activation import activation
from medseg.layers.conv_block import Named
from medseg.layers.crop import crop_end
from medseg.layers.network_options import check_network_options
from medseg.layers.pre_activation import PreActivation


class ResidualUnit(nn.Module):
    """Two pre-activated 3x3 convolutions with a shortcut.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: 2 to halve the size.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, out_channels, *ceil(S / stride))``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        act: Named = "relu",
        norm: Named | None = "batch",
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            PreActivation(
                spatial_dims, in_channels, out_channels, stride=stride, bias=norm is None, act=act, norm=norm
            ),
            PreActivation(spatial_dims, out_channels, out_channels, act=act, norm=norm),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else Conv[Conv.CONV, spatial_dims](in_channels, out_channels, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolutions' result on top of the input."""
        result: Tensor = self.shortcut(x) + self.convs(x)
        return result


class FocusNetDecoderLevel(nn.Module):
    """Enlarge, a 2x2 convolution, concatenate the skip, a residual unit.

    Args:
        spatial_dims: 2 or 3.
        coarse: channels of the level below.
        skip: channels of the skip.
        fine: channels of this level.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Shape:
        skip ``(B, skip, *S)``, x ``(B, coarse, *ceil(S / 2))`` to ``(B, fine, *S)``.
    """

    def __init__(self, spatial_dims: int, coarse: int, skip: int, fine: int, *, act: Named, norm: Named | None) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"),
            Conv[Conv.CONV, spatial_dims](coarse, fine, 2, padding=1),
            activation(act, overwrite=True),
        )
        self.unit = ResidualUnit(spatial_dims, skip + fine, fine, act=act, norm=norm)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """Return this level's features."""
        enlarged = crop_end(self.up(x), list(skip.shape[2:]), 2)
        result: Tensor = self.unit(torch.cat([skip, enlarged], dim=1))
        return result


class AttentionAutoencoder(nn.Module):
    """The network that says where to look: an encoder half as wide as the gated one, and a decoder for its gates.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        channels: features of each level of the gated network, from the finest.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        dropout: probability of dropping a value at the bottom.

    Shape:
        ``(B, in_channels, *S)`` to a list of ``(B, channels[i], *ceil(S / 2^i))`` in 0 to 1, coarsest first, for all
        levels but the last.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: Sequence[int],
        *,
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [width // 2 for width in channels]
        self.first = _first(spatial_dims, in_channels, widths[0], 3, act, norm)
        self.encoder = nn.ModuleList(
            nn.Sequential(
                ResidualUnit(spatial_dims, fine, fine, 2, act=act, norm=norm),
                ResidualUnit(spatial_dims, fine, coarse, act=act, norm=norm),
            )
            for fine, coarse in pairwise(widths)
        )
        self.dropout = Dropout[Dropout.DROPOUT, 1](dropout)  # single values, not channels
        below = (*channels[1:-1], widths[-1])
        self.decoder = nn.ModuleList(
            FocusNetDecoderLevel(spatial_dims, coarse, skip, fine, act=act, norm=norm)
            for coarse, skip, fine in reversed(list(zip(below, widths[:-1], channels[:-1], strict=True)))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the gates, coarsest first."""
        x = self.first(x)
        skips: list[Tensor] = []
        for level in self.encoder:
            skips.append(x)
            x = level(x)
        x = self.dropout(x)
        gates: list[Tensor] = []
        for level in self.decoder:
            x = level(skips.pop(), x)
            gates.append(x.sigmoid())
        return gates


class GatedLevel(nn.Module):
    """A residual unit, its features recalibrated, gated and recalibrated again, and a strided residual unit.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the level above.
        out_channels: channels of this level.
        se_ratio: how much narrower the squeezed vector is than ``out_channels``.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Shape:
        x ``(B, in_channels, *S)``, gate ``(B, out_channels, *S)`` to ``(B, out_channels, *ceil(S / 2))``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        se_ratio: int = 16,
        act: Named = "relu",
        norm: Named | None = "batch",
    ) -> None:
        super().__init__()
        self.ungated = nn.Sequential(
            ResidualUnit(spatial_dims, in_channels, out_channels, act=act, norm=norm),
            ChannelSELayer(spatial_dims, out_channels, se_ratio, acti_type_1=act),
        )
        self.gated = nn.Sequential(
            ChannelSELayer(spatial_dims, out_channels, se_ratio, acti_type_1=act),
            ResidualUnit(spatial_dims, out_channels, out_channels, 2, act=act, norm=norm),
        )

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """Return the gated features at half the size."""
        result: Tensor = self.gated(gate * self.ungated(x))
        return result


class FocusNet(nn.Module):
    """FocusNet.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: features of each level of the gated network, from the finest, even; (32, 64, 128, 256) comes near the
            small network of FocusNet++'s table 3.
        se_ratio: reduction of squeeze-and-excitation; no level may be narrower.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        dropout: probability of dropping a value at the bottom of the autoencoder.

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
        se_ratio: int = 16,
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        check_network_options(spatial_dims, in_channels, out_channels, act=act, norm=norm, dropout=dropout)
        if len(channels) < 2 or any(width < 2 or width % 2 for width in channels):
            raise ValueError(
                f"channels is {tuple(channels)}; give two or more levels, each of an even number of channels: the "
                "autoencoder has half of them"
            )
        if not 1 <= se_ratio <= min(channels):
            raise ValueError(
                f"se_ratio is {se_ratio}, channels is {tuple(channels)}; it must be in 1 to {min(channels)}"
            )
        self.attention = AttentionAutoencoder(spatial_dims, in_channels, channels, act=act, norm=norm, dropout=dropout)
        self.first = _first(spatial_dims, in_channels, channels[0], 7, act, norm)
        self.encoder = nn.ModuleList(
            GatedLevel(spatial_dims, before, after, se_ratio=se_ratio, act=act, norm=norm)
            for before, after in zip((channels[0], *channels[:-2]), channels[:-1], strict=True)
        )
        self.bottom = nn.Sequential(
            ResidualUnit(spatial_dims, channels[-2], channels[-1], act=act, norm=norm),
            ChannelSELayer(spatial_dims, channels[-1], se_ratio, acti_type_1=act),
            ResidualUnit(spatial_dims, channels[-1], channels[-1], 2, act=act, norm=norm),
        )
        skips = (channels[0], *channels[:-1])
        widths = (channels[0] // 2, *channels)
        self.decoder = nn.ModuleList(
            FocusNetDecoderLevel(spatial_dims, coarse, skip, fine, act=act, norm=norm)
            for skip, (fine, coarse) in reversed(list(zip(skips, pairwise(widths), strict=True)))
        )
        self.head = PreActivation(spatial_dims, widths[0], out_channels, 1, act=act, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at the input's size."""
        gates: list[Tensor] = self.attention(x)
        x = self.first(x)
        skips: list[Tensor] = []
        for level in self.encoder:
            skips.append(x)
            x = level(x, gates.pop())
        skips.append(x)
        x = self.bottom(x)
        for level in self.decoder:
            x = level(skips.pop(), x)
        logits: Tensor = self.head(x)
        return logits


def _first(
    spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int, act: Named, norm: Named | None
) -> nn.Sequential:
    return nn.Sequential(
        Conv[Conv.CONV, spatial_dims](
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=norm is None
        ),
        nn.Identity() if norm is None else get_norm_layer(norm, spatial_dims, out_channels),
        activation(act, overwrite=True),
    )
