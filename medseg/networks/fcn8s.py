"""FCN-8s: VGG16 made fully convolutional, its scores joined from three depths.

E. Shelhamer, J. Long, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", TPAMI 2017,
https://arxiv.org/abs/1605.06211. Deviations:

- The paper pads the image by 100 pixels and crops by computed offsets. Here every convolution keeps the size (fc6
  pads by 3), pooling rounds sizes up, and what is too much is cropped at the end of each axis.
- The two 2x upsamplings repeat the edge before the transposed convolution, so that at the start they interpolate up
  to the border. They have one kernel for each class and are learned, as in the paper; the 8x upsampling is fixed.
- All three streams are trained at once, without the paper's stages (32s, 16s, 8s) or its fixed factors on the skips.
- Scores start at random values instead of zeros, other weights at He's; `FCN8s.load_vgg16` takes over VGG16's 13
  convolutions, whereas the paper also turns VGG16's two hidden linear layers into fc6 and fc7.
- Normalisation can be selected (the paper has none): training from scratch needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.factories import Conv, Pad, Pool
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medseg.layers.conv_block import Named
from medseg.layers.crop import crop_end
from medseg.layers.network_options import check_network_options

_DEPTHS = (2, 2, 3, 3, 3)  # convolutions of each stage
_VGG16_LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # torchvision's numbers of the convolutions


class Upsampling2x(nn.Module):
    """Transposed convolution to twice the size, one kernel for each channel; it starts as linear interpolation.

    Args:
        spatial_dims: 2 or 3.
        channels: channels C of the map.

    Shape:
        ``(B, C, *S)`` to ``(B, C, *2 S)``.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.pad = Pad[Pad.REPLICATIONPAD, spatial_dims](1)
        self.conv = Conv[Conv.CONVTRANS, spatial_dims](
            channels, channels, 4, stride=2, padding=3, groups=channels, bias=False
        )
        tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
        kernel = tent
        for _ in range(spatial_dims - 1):
            kernel = kernel[..., None] * tent
        with torch.no_grad():
            self.conv.weight.copy_(kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map at twice the size."""
        enlarged: Tensor = self.conv(self.pad(x))
        return enlarged


class FCN8s(nn.Module):
    """FCN-8s (paper, fig. 3).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: features of the five stages, from the finest.
        fc_channels: features of fc6 and fc7.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation after each convolution but the scores, or name and arguments; ``None``
            for none, as in the paper. Training from scratch needs one.
        dropout: probability of dropping a value of fc6 and fc7.

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
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        fc_channels: int = 4096,
        act: Named = "relu",
        norm: Named | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_network_options(spatial_dims, in_channels, out_channels, act=act, norm=norm, dropout=dropout)
        if len(channels) != len(_DEPTHS) or min(channels) < 1:
            raise ValueError(f"channels is {tuple(channels)}; give five stages, each of at least one channel")
        if fc_channels < 1:
            raise ValueError(f"fc_channels is {fc_channels}; it must be at least 1")

        def convolution(before: int, after: int, edge: int, dropout: float | None = None) -> nn.Module:
            layer: nn.Module = Convolution(
                spatial_dims,
                before,
                after,
                kernel_size=edge,
                adn_ordering="NAD",
                act=act,
                norm=norm,
                dropout=dropout,
                bias=norm is None,
            )
            return layer

        self.stages = nn.ModuleList()
        for before, after, depth in zip((in_channels, *channels[:-1]), channels, _DEPTHS, strict=True):
            convolutions = [convolution(before if i == 0 else after, after, 3) for i in range(depth)]
            self.stages.append(nn.Sequential(*convolutions, Pool[Pool.MAX, spatial_dims](2, ceil_mode=True)))
        self.fc6 = convolution(channels[4], fc_channels, 7, dropout)
        self.fc7 = convolution(fc_channels, fc_channels, 1, dropout)
        for module in self.modules():
            if isinstance(module, Convolution):  # torch's own start would let fifteen layers fade to nothing
                nn.init.kaiming_normal_(module.conv.weight, nonlinearity="relu")
                if module.conv.bias is not None:
                    nn.init.zeros_(module.conv.bias)
        score = Conv[Conv.CONV, spatial_dims]
        self.score_pool3 = score(channels[2], out_channels, 1)
        self.score_pool4 = score(channels[3], out_channels, 1)
        self.score_fc7 = score(fc_channels, out_channels, 1)
        self.up_fc7 = Upsampling2x(spatial_dims, out_channels)
        self.up_pool4 = Upsampling2x(spatial_dims, out_channels)
        self.mode = "bilinear" if spatial_dims == 2 else "trilinear"

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at the input's size."""
        size = list(x.shape[2:])
        pooled: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            pooled.append(x)
        scores = self.up_fc7(self.score_fc7(self.fc7(self.fc6(x))))  # stride 32 to 16
        scores = crop_end(scores, list(pooled[3].shape[2:]), 2) + self.score_pool4(pooled[3])
        scores = self.up_pool4(scores)  # stride 16 to 8
        scores = crop_end(scores, list(pooled[2].shape[2:]), 2) + self.score_pool3(pooled[2])
        return crop_end(interpolate(scores, scale_factor=8.0, mode=self.mode, align_corners=False), size, 2)

    def load_vgg16(self, features: Mapping[str, Tensor]) -> None:
        """Take over the 13 convolutions of a VGG16, for a 2D network of its widths with 3 channels and no norm.

        Args:
            features: weights as ``torchvision.models.vgg16(...).features.state_dict()`` gives them. They expect RGB
                in [0, 1], normalised by ImageNet's mean and standard deviation.

        Raises:
            ValueError: if a weight is missing or does not fit; the network is then as it was.
        """
        layers = [module.conv for module in self.stages.modules() if isinstance(module, Convolution)]
        if layers[0].bias is None:
            raise ValueError(
                "VGG16's convolutions have biases, but a normalisation took them away; build with norm=None"
            )
        pairs: list[tuple[Tensor, Tensor]] = []
        for number, layer in zip(_VGG16_LAYERS, layers, strict=True):
            for name, parameter in ((f"{number}.weight", layer.weight), (f"{number}.bias", layer.bias)):
                if name not in features:
                    raise ValueError(
                        f"features holds no {name!r}; pass torchvision.models.vgg16(...).features.state_dict()"
                    )
                if features[name].shape != parameter.shape:
                    raise ValueError(
                        f"VGG16's {name!r} has shape {list(features[name].shape)}, the network's "
                        f"{list(parameter.shape)}; build with spatial_dims=2, in_channels=3 and the default channels"
                    )
                pairs.append((parameter, features[name]))
        with torch.no_grad():
            for parameter, weight in pairs:
                parameter.copy_(weight)
