"""Atrous spatial pyramid pooling: one map seen at several dilations and as a whole.

L.-C. Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017,
https://arxiv.org/abs/1706.05587, section 3.3. torchvision's ``ASPP`` is the same in 2D, but fixes normalisation,
activation and a dropout of 0.5; MONAI's ``SimpleASPP`` has neither image pooling nor a normalisation in its branches.
"""

from collections.abc import Sequence

import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.factories import Pool
from torch import Tensor, nn

from medseg.layers.conv_block import Named


class ASPP(nn.Module):
    """A 1x1 convolution, one dilated 3x3 convolution a rate and image pooling, concatenated and projected.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of each branch and of the output.
        rates: dilations of the 3x3 convolutions, in pixels of the map.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Raises:
        ValueError: if there is no rate, one is below 1, or the normalisation is one over each channel of an image,
            which leaves nothing of image pooling; in training, if batch normalisation gets one image alone.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, out_channels, *S)``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int = 256,
        rates: Sequence[int] = (6, 12, 18),
        act: Named = "relu",
        norm: Named | None = "batch",
    ) -> None:
        super().__init__()
        if not rates or min(rates) < 1:
            raise ValueError(f"rates is {tuple(rates)}; give one or more dilations, each at least 1")
        name = norm if isinstance(norm, str) or norm is None else norm[0]
        if name is not None and name.lower().startswith("instance"):
            raise ValueError(
                f"norm is {name!r}, which makes image pooling's one value a channel zero; choose 'batch' or 'group'"
            )

        def convolution(before: int, edge: int, dilation: int = 1) -> nn.Module:
            layer: nn.Module = Convolution(
                spatial_dims,
                before,
                out_channels,
                kernel_size=edge,
                dilation=dilation,
                adn_ordering="NA",
                act=act,
                norm=norm,
                bias=norm is None,
            )
            return layer

        self.branches = nn.ModuleList(
            [convolution(in_channels, 1), *(convolution(in_channels, 3, rate) for rate in rates)]
        )
        self.pool = nn.Sequential(Pool[Pool.ADAPTIVEAVG, spatial_dims](1), convolution(in_channels, 1))
        self.project = convolution((len(rates) + 2) * out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the projected pyramid."""
        if self.training:
            self._check_batch(x.shape[0])
        pyramid = [branch(x) for branch in self.branches]
        pooled = self.pool(x)  # (B, C, 1, 1)
        pyramid.append(pooled.expand(pooled.shape[:2] + x.shape[2:]))
        projected: Tensor = self.project(torch.cat(pyramid, 1))
        return projected

    @torch.jit.unused  # needs real annotations: no `from __future__ import annotations` here
    def _check_batch(self, images: int) -> None:
        # synchronised batch normalisation, another class, sees the images of all processes
        kinds = nn.BatchNorm2d | nn.BatchNorm3d
        if images < 2 and any(isinstance(layer, kinds) and layer.training for layer in self.pool.modules()):
            raise ValueError(
                "image pooling leaves one value a channel and image, and batch normalisation got one image: "
                "train with a batch_size of at least 2, or with norm ('group', {'num_groups': 32})"
            )
