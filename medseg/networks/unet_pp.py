"""UNet++: a U-Net whose skip connections are nested U-Nets; MONAI's network under the house's output rule.

Z. Zhou et al., "UNet++: A Nested U-Net Architecture for Medical Image Segmentation", DLMIA 2018,
https://arxiv.org/abs/1807.10165. Deviations:

- MONAI's finest nodes X(0,j) enlarge X(1,j-1) without halving its channels as the other rows do: 9.12 M parameters at
  3 input channels, 1 class, for the paper's 9.04 M, which halving there gives.
- Batch normalisation by default (MONAI: instance normalisation); convolutions before it have no biases.
- Where a row's size is odd, MONAI pools without the last pixel and repeats the edge on the way up.
- In evaluation the logits are X(0,4)'s: the paper's "fast mode" without pruning. Its "accurate mode" averages the
  outputs of all four heads.
- Without deep supervision MONAI keeps three heads that nothing uses; they are taken out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.basic_unet import UpCat
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from torch import Tensor, nn
from torch.nn.functional import pad

from medseg.layers.conv_block import Named
from medseg.layers.network_options import check_network_options


class Node(nn.Module):
    """What MONAI's ``UpCat`` does, without a branch on sizes: an exporter that leaves them open would settle it.

    Args:
        upsample: doubles the size of a map.
        convs: the convolutions after the concatenation.

    Shape:
        coarse ``(B, C', *floor(S / 2))``, fine ``(B, C, *S)`` to ``(B, C'', *S)``.
    """

    def __init__(self, upsample: nn.Module, convs: nn.Module) -> None:
        super().__init__()
        self.upsample = upsample
        self.convs = convs

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return the node's features."""
        enlarged = self.upsample(coarse)
        padding: list[int] = []
        for axis in range(fine.ndim - 1, 1, -1):
            padding.append(0)
            padding.append(fine.shape[axis] - enlarged.shape[axis])
        result: Tensor = self.convs(torch.cat([fine, pad(enlarged, padding, mode="replicate")], dim=1))
        return result


class UNetPP(nn.Module):
    """UNet++ of five levels (paper, fig. 1).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: features of the five levels, from the finest.
        deep_supervision: also return, in training, the logits of the nodes X(0,1), X(0,2) and X(0,3).
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        dropout: probability of dropping a value after each 3x3 convolution.

    Raises:
        ValueError: if an option is out of range, or an edge of the image is shorter than 16 pixels.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, out_channels, *S)``, every S at least 16. In training with deep supervision
        a dict of four such maps: ``pred``, ``aux_x01``, ``aux_x02``, ``aux_x03``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (32, 64, 128, 256, 512),
        deep_supervision: bool = False,
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_network_options(spatial_dims, in_channels, out_channels, act=act, norm=norm, dropout=dropout)
        if len(channels) != 5 or min(channels) < 2:
            raise ValueError(f"channels is {tuple(channels)}; give five levels, each of at least two channels")
        self.deep_supervision = deep_supervision
        self.network = BasicUNetPlusPlus(
            spatial_dims,
            in_channels,
            out_channels,
            features=(*channels, channels[0]),
            deep_supervision=deep_supervision,
            act=act,
            norm=norm,
            bias=norm is None,
            dropout=dropout,
        )
        for name, module in list(self.network.named_children()):
            if isinstance(module, UpCat):
                setattr(self.network, name, Node(module.upsample, module.convs))
        if not deep_supervision:
            for node in (1, 2, 3):
                setattr(self.network, f"final_conv_0_{node}", nn.Identity())

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Return logits at the input's size; in training with deep supervision, those of all four heads by name."""
        for length in x.shape[2:]:
            if length < 16:
                raise ValueError(
                    f"the image has shape {list(x.shape)}; UNet++ halves each edge four times: pad it to 16"
                )
        outputs: list[Tensor] = self.network(x)
        if self.training and self.deep_supervision:
            return {"pred": outputs[3], "aux_x01": outputs[0], "aux_x02": outputs[1], "aux_x03": outputs[2]}
        return outputs[-1]
