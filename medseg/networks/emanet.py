"""EMANet: attention over a few bases that expectation-maximisation fits to each image.

X. Li et al., "Expectation-Maximization Attention Networks for Semantic Segmentation", ICCV 2019,
https://arxiv.org/abs/1907.13426. The defaults are those of the comparison in N. R. Gurram, "Learning context with
factorization techniques in semantic segmentation" (MFNet): ResNet-50 at output stride 16. Its 34.65 M parameters are
this network's own head (3x3 convolution to 256, classifier, enlarged 16 times; 34.66 M); with the decoder of DeepLabv3+
there would be 35.96 M. Deviations:

- Gradients pass the iterations, up to the bases that they start from. The authors' code
  (https://github.com/XiaLiPKU/EMANet) stops them, which leaves the convolution before the iterations untrained.
- The encoder has the stem of a plain ResNet and one dilation a stage; the authors' has three 3x3 convolutions in the
  stem and a multi-grid.
- The moving average of the bases weighs every image of all processes alike.
- In that comparison's code convolutions have the encoder's rate, norms and biases ten times that without weight decay;
  the bundle mfnet_voc gives ten times the encoder's to all but the encoder.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from monai.networks.blocks.convolutions import Convolution
from torch import Tensor, nn
from torch.nn.functional import normalize

from medseg.encoders import create_encoder
from medseg.layers.activation import activation
from medseg.layers.conv_block import Named, conv_norm_act
from medseg.layers.network_options import check_network_options
from medseg.layers.resize import resize


class EMAttention(nn.Module):
    """Rebuild a map from K bases, found by expectation-maximisation (paper, section 3, fig. 2).

    Args:
        channels: channels C of the map.
        bases: number K of bases.
        steps: iterations of expectation and maximisation.
        momentum: weight of the past in the moving average of the bases.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Attributes:
        bases: ``(1, C, K)``, where the iterations start; a moving average over the images of training.

    Shape:
        ``(B, C, H, W)``, kept.
    """

    bases: Tensor  # TorchScript needs real annotations: no `from __future__ import annotations` here

    def __init__(
        self,
        channels: int,
        bases: int = 64,
        steps: int = 3,
        momentum: float = 0.9,
        act: Named = "relu",
        norm: Named | None = "batch",
    ) -> None:
        super().__init__()
        self.steps = steps
        self.momentum = momentum
        self.first = nn.Conv2d(channels, channels, 1)
        self.last = Convolution(
            2, channels, channels, kernel_size=1, adn_ordering="N", act=None, norm=norm, bias=norm is None
        )
        self.act = activation(act, overwrite=False)
        self.register_buffer("bases", normalize(torch.randn(1, channels, bases), dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the map with what the bases hold of it added; in training, move the bases."""
        features = self.first(x)
        responsibilities, bases = self.fit(features)
        if self.training:
            self._update(bases)
        rebuilt = torch.matmul(bases, responsibilities.transpose(1, 2)).reshape(x.shape)  # (B, C, N) to (B, C, H, W)
        result: Tensor = self.act(x + self.last(self.act(rebuilt)))
        return result

    def fit(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return responsibilities ``(B, N, K)`` and bases ``(B, C, K)`` of features ``(B, C, H, W)``, N = H W."""
        pixels = features.flatten(2)  # (B, C, H, W) to (B, C, N)
        bases = self.bases.repeat(pixels.shape[0], 1, 1)  # a copy: the buffer changes before the backward pass
        responsibilities = self.expect(pixels, bases)
        bases = self.maximise(pixels, responsibilities)
        for _ in range(self.steps - 1):
            responsibilities = self.expect(pixels, bases)
            bases = self.maximise(pixels, responsibilities)
        return responsibilities, bases

    def expect(self, pixels: Tensor, bases: Tensor) -> Tensor:
        """Return how much each basis answers for each pixel ``(B, N, K)``; they sum to 1 over the bases."""
        return torch.matmul(pixels.transpose(1, 2), bases).softmax(dim=2)

    def maximise(self, pixels: Tensor, responsibilities: Tensor) -> Tensor:
        """Return the bases ``(B, C, K)``: means of the pixels by responsibility, brought to length 1."""
        shares = normalize(responsibilities, p=1.0, dim=1)
        return normalize(torch.matmul(pixels, shares), dim=1)

    @torch.jit.unused
    def _update(self, bases: Tensor) -> None:
        total = bases.detach().to(self.bases).sum(dim=0, keepdim=True)
        images = total.new_full((1,), bases.shape[0])
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            sums = torch.cat([total.flatten(), images])
            dist.all_reduce(sums)
            total, images = sums[:-1].view_as(total), sums[-1:]
        self.bases.lerp_(total / images, 1 - self.momentum)


class EMANet(nn.Module):
    """Encoder, 3x3 convolution, expectation-maximisation attention, 3x3 convolution, classifier (paper, fig. 2).

    Args:
        spatial_dims: 2.
        in_channels: channels of the image.
        out_channels: classes.
        encoder: timm's name of the encoder, such as ``"resnet50"``.
        weights: of the encoder: ``None``, ``"imagenet"`` or a file; see `create_encoder`.
        output_stride: stride of the coarsest features, 8, 16 or 32.
        channels: features of the attention.
        head_channels: features before the classifier.
        bases: number K of bases.
        steps: iterations of expectation and maximisation.
        momentum: weight of the past in the moving average of the bases.
        act: MONAI's name of the activation, or name and arguments; not of the encoder.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none; not of the encoder.
        dropout: probability of dropping a channel before the classifier (authors' code: 0.1).
        encoder_options: further arguments of `create_encoder`, such as ``freeze_batch_norm``.

    Raises:
        ValueError: if an option is out of range.

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``, any H and W.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        encoder: str = "resnet50",
        weights: str | Path | None = None,
        output_stride: int = 16,
        channels: int = 512,
        head_channels: int = 256,
        bases: int = 64,
        steps: int = 3,
        momentum: float = 0.9,
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.1,
        **encoder_options: Any,
    ) -> None:
        super().__init__()
        check_network_options(spatial_dims, in_channels, out_channels, act=act, norm=norm, dropout=dropout)
        if spatial_dims != 2:
            raise ValueError(f"spatial_dims is {spatial_dims}; EMANet is for images: choose 2")
        sizes = {"channels": channels, "head_channels": head_channels, "bases": bases, "steps": steps}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}; it must be in [0, 1)")
        self.encoder = create_encoder(
            encoder, in_channels, output_stride=output_stride, weights=weights, **encoder_options
        )
        self.reduce = nn.Sequential(*conv_norm_act(2, self.encoder.channels[-1], channels, act, norm))
        self.em_attention = EMAttention(channels, bases, steps, momentum, act, norm)
        self.head = nn.Sequential(
            *conv_norm_act(2, channels, head_channels, act, norm),
            nn.Dropout2d(dropout),
            nn.Conv2d(head_channels, out_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at the input's size."""
        features = self.reduce(self.encoder(x)[-1])
        return resize(self.head(self.em_attention(features)), list(x.shape[2:]))

    def attention(self, x: Tensor) -> dict[str, Tensor]:
        """Return where each basis answers, without moving the bases; for a network in evaluation mode.

        Args:
            x: images.

        Returns:
            ``responsibilities``, which sum to 1 over the bases.

        Shape:
            ``(B, in_channels, H, W)`` to ``(B, K, h, w)`` at the output stride.
        """
        features = self.em_attention.first(self.reduce(self.encoder(x)[-1]))
        responsibilities, _ = self.em_attention.fit(features)
        maps = responsibilities.transpose(1, 2)  # (B, N, K) to (B, K, N)
        maps = maps.reshape(maps.shape[0], maps.shape[1], *features.shape[2:])
        return {"responsibilities": maps}
