"""FocusNet++: residual blocks in which groups of filters attend to their neighbours, and an output from every scale.

C. Kaul, N. Pears, H. Dai, R. Murray-Smith, S. Manandhar, "FocusNet++: Attentive Aggregated Transformations for
Efficient and Accurate Medical Image Segmentation", ISBI 2021, https://arxiv.org/abs/1912.02079. Widths and numbers of
blocks come in three configurations: ``published`` (the authors' code,
https://github.com/chaitanya-kaul/TheFocusNetSeries, 7.78 M parameters where table 2 has 7.80), ``text`` (section 2,
with three blocks a level, which it does not tell; 3.75 M) and ``light`` (table 3 gives no widths: the published ones
times 0.35, rounded to multiples of 4; 0.96 M). Deviations:

- The last layer gives logits; the sigmoid after it belongs to the loss. The maps of the scales keep theirs, with as
  many channels as there are classes.
- The block's 1x1 convolution keeps the input's width; the four groups are cut from that, as in the authors' code.
- The two attention groups are neighbours, and so are the two feature groups, so that each pair is one convolution with
  two groups: the 1x1 convolution ahead can give its channels in any order.
- The residual unit's shortcut is the identity, as the text writes it; the authors' code has a 1x1 convolution with
  normalisation and activation there.
- Output blocks are 1x1 convolutions with half of the level's width inside, as in the authors' code; the finest one is
  like the others (there: 3x3 convolutions to 16, 9 and 3 channels, then one of 1x1), and the maps are enlarged after it
  (there: before it), both as the text has it. The last one has the finest level's width inside (there: 32).
- The 3x3 convolution of a decoder level comes after the sum with the skip, has no normalisation and is followed by a
  ReLU, as in the authors' code; the text names no activation there. The 5x5 convolution gives the finest level's width
  (there: 32).
- Squeeze-and-excitation is in the block as the text has it; the authors' code has none. The text names no ratio of it
  (16 here; its hidden layer has the network's activation), no slope of LeakyReLU (0.3, which is Keras's default) and no
  rate of dropout: 0.5 is the authors' code's, which computes the dropped map and goes on with the whole one, so that
  ``dropout=0`` is what ran there.
- Odd sizes: pooling rounds up, and what is enlarged is cropped to the size of the skip.

Training, of which the bundles' READMEs say more: the text names neither optimiser nor rate; the authors' code has Adam
at 0.0001 with a tenth of it from three epochs on, batch 4 (text: 8), 1 pixel of smoothing in the Tversky index, weights
by the validation loss, and each image stretched from its own least to its own greatest value, which the bundles'
overlay ``as_published`` follows. Without it ISIC's images are divided by 255, and those of the nuclei stretched. The
last batch of an epoch is dropped where it is not full. The paper's scores are means over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from monai.networks.layers.factories import Act, Conv, Dropout, Pool
from monai.networks.layers.utils import get_norm_layer
from torch import Tensor, nn

from medseg.layers.activation import activation
from medseg.layers.conv_block import Named, check_name
from medseg.layers.crop import crop_end
from medseg.layers.network_options import check_network_options
from medseg.layers.pre_activation import PreActivation

CONFIGURATIONS = {
    # name: (features of each level, residual blocks of each level), from the finest
    "published": ((48, 96, 156, 256, 512), (1, 3, 3, 3, 2)),
    "text": ((32, 64, 128, 192, 256), (3, 3, 3, 3, 3)),
    "light": ((16, 32, 56, 88, 180), (1, 3, 3, 3, 2)),
}
LEAKY_RELU: Named = ("leakyrelu", {"negative_slope": 0.3})


class ResidualGroupAttention(nn.Module):
    """Two pairs of filter groups, one group of each pair weighing the pixels of the other (paper, section 2.1, fig. 2).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input, a multiple of 4.
        out_channels: channels of the output.
        se_ratio: how much narrower the squeezed vector is than ``out_channels``.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Raises:
        ValueError: if the channels cannot be cut into four groups.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, out_channels, *S)``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        se_ratio: int = 16,
        act: Named = LEAKY_RELU,
        norm: Named | None = "batch",
    ) -> None:
        super().__init__()
        if in_channels % 4:
            raise ValueError(f"in_channels is {in_channels}; the block cuts them into 4 groups: give a multiple of 4")
        conv, bare, pair = Conv[Conv.CONV, spatial_dims], norm is None, in_channels // 2

        def unit(bias: bool) -> PreActivation:
            return PreActivation(spatial_dims, pair, pair, 3, groups=2, bias=bias, act=act, norm=norm)

        def normalise(channels: int) -> nn.Module:
            layer: nn.Module = nn.Identity() if bare else get_norm_layer(norm, spatial_dims, channels)
            return layer

        self.split = conv(in_channels, in_channels, 1)
        self.attention = nn.Sequential(
            unit(bias=bare),
            unit(bias=False),  # the next convolution's bias does the same
            conv(pair, pair, 1, groups=2),
            nn.Sigmoid(),
        )
        self.features = nn.Sequential(unit(bias=bare), unit(bias=True))
        self.embed = nn.Sequential(
            conv(pair, in_channels, 1, groups=2, bias=bare), normalise(in_channels), activation(act, overwrite=True)
        )
        self.join = nn.Sequential(
            conv(in_channels, out_channels, 1, bias=bare),
            normalise(out_channels),
            ChannelSELayer(spatial_dims, out_channels, se_ratio, acti_type_1=act),
        )
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Sequential(conv(in_channels, out_channels, 1, bias=bare), normalise(out_channels))
        )
        self.act = activation(act, overwrite=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, recalibrated, on top of the input."""
        attending, attended = self.split(x).chunk(2, dim=1)  # two groups each
        attended = self.attention(attending) * (attended + self.features(attended))
        result: Tensor = self.act(self.shortcut(x) + self.join(self.embed(attended)))
        return result


class FocusNetPPDecoderLevel(nn.Module):
    """Enlarge by repeating values, a residual group attention block, add the skip, one 3x3 convolution.

    Args:
        spatial_dims: 2 or 3.
        coarse: channels of the level below.
        fine: channels of this level.
        se_ratio: how much narrower the squeezed vector is than ``fine``.
        act: MONAI's name of the block's activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        decoder_act: of the 3x3 convolution, or name and arguments.

    Shape:
        skip ``(B, fine, *S)``, x ``(B, coarse, *ceil(S / 2))`` to ``(B, fine, *S)``.
    """

    def __init__(
        self,
        spatial_dims: int,
        coarse: int,
        fine: int,
        *,
        se_ratio: int,
        act: Named,
        norm: Named | None,
        decoder_act: Named,
    ) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.block = ResidualGroupAttention(spatial_dims, coarse, fine, se_ratio=se_ratio, act=act, norm=norm)
        self.conv = nn.Sequential(
            Conv[Conv.CONV, spatial_dims](fine, fine, 3, padding=1), activation(decoder_act, overwrite=True)
        )

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """Return this level's features."""
        enlarged = crop_end(self.up(x), list(skip.shape[2:]), 2)
        result: Tensor = self.conv(skip + self.block(enlarged))
        return result


class FocusNetPP(nn.Module):
    """FocusNet++ (paper, fig. 1).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        configuration: ``"published"``, ``"text"`` or ``"light"``: widths and numbers of blocks.
        channels: features of each level, from the finest, multiples of 4; ``None`` for the configuration's.
        blocks: residual blocks of each level; ``None`` for the configuration's.
        se_ratio: reduction of squeeze-and-excitation; no level may be narrower.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        dropout: probability of dropping a value at the bottom.
        decoder_act: of the decoder's 3x3 convolutions: MONAI's name, or name and arguments.

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
        configuration: str = "published",
        channels: Sequence[int] | None = None,
        blocks: Sequence[int] | None = None,
        se_ratio: int = 16,
        act: Named = LEAKY_RELU,
        norm: Named | None = "batch",
        dropout: float = 0.5,
        decoder_act: Named = "relu",
    ) -> None:
        super().__init__()
        check_network_options(spatial_dims, in_channels, out_channels, act=act, norm=norm, dropout=dropout)
        check_name("decoder_act", decoder_act, Act)
        channels, blocks = _widths_and_blocks(configuration, channels, blocks, se_ratio)
        conv = Conv[Conv.CONV, spatial_dims]

        def level(before: int, after: int, count: int) -> nn.Sequential:
            widths = (before, *[after] * count)
            return nn.Sequential(
                *(
                    ResidualGroupAttention(spatial_dims, i, o, se_ratio=se_ratio, act=act, norm=norm)
                    for i, o in pairwise(widths)
                )
            )

        def output(before: int, hidden: int, after: int) -> list[nn.Module]:
            first = conv(before, hidden, 1, bias=norm is None)
            return [first, PreActivation(spatial_dims, hidden, after, 1, act=act, norm=norm)]

        self.first = conv(in_channels, channels[0], 5, padding=2)
        self.encoder = nn.ModuleList(
            level(before, after, count)
            for before, after, count in zip((channels[0], *channels[:-1]), channels, blocks, strict=True)
        )
        self.pool = Pool[Pool.MAX, spatial_dims](2, ceil_mode=True)
        self.dropout = Dropout[Dropout.DROPOUT, 1](dropout)  # single values, not channels
        upwards = list(reversed(channels))
        self.decoder = nn.ModuleList(
            FocusNetPPDecoderLevel(
                spatial_dims, coarse, fine, se_ratio=se_ratio, act=act, norm=norm, decoder_act=decoder_act
            )
            for coarse, fine in pairwise(upwards)
        )
        shrunk = len(channels) - 2  # how often the coarsest decoded map was
        self.scales = nn.ModuleList(
            nn.Sequential(
                *output(width, width // 2, out_channels),
                nn.Sigmoid(),
                nn.Upsample(scale_factor=2 ** (shrunk - i), mode="nearest"),
            )
            for i, width in enumerate(upwards[1:])
        )
        self.head = nn.Sequential(*output(out_channels * len(self.scales), channels[0], out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at the input's size."""
        size = list(x.shape[2:])
        x = self.first(x)
        features: list[Tensor] = []
        for depth, level in enumerate(self.encoder):
            x = level(x) if depth == 0 else level(self.pool(x))
            features.append(x)
        x = self.dropout(features.pop())
        decoded: list[Tensor] = []
        for level in self.decoder:
            x = level(features.pop(), x)
            decoded.append(x)
        maps: list[Tensor] = []
        for index, scale in enumerate(self.scales):
            maps.append(crop_end(scale(decoded[index]), size, 2))
        logits: Tensor = self.head(torch.cat(maps, dim=1))
        return logits


def _widths_and_blocks(
    configuration: str, channels: Sequence[int] | None, blocks: Sequence[int] | None, se_ratio: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if configuration not in CONFIGURATIONS:
        raise ValueError(f"configuration is {configuration!r}; choose one of {', '.join(CONFIGURATIONS)}")
    named_channels, named_blocks = CONFIGURATIONS[configuration]
    widths = tuple(named_channels if channels is None else channels)
    counts = tuple(named_blocks if blocks is None else blocks)
    if len(widths) < 2 or any(width < 4 or width % 4 for width in widths):
        raise ValueError(
            f"channels is {widths}; give two or more levels, each a multiple of 4: blocks cut them into 4 groups"
        )
    if len(counts) != len(widths) or min(counts) < 1:
        raise ValueError(f"blocks is {counts}, channels is {widths}; give one number of blocks, at least 1, a level")
    if not 1 <= se_ratio <= min(widths):
        raise ValueError(f"se_ratio is {se_ratio}, channels is {widths}; it must be in 1 to {min(widths)}")
    return widths, counts
