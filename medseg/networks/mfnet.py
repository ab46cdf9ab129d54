"""MFNet: context by a factorised map, one for all images.

N. R. Gurram, "Learning context with factorization techniques in semantic segmentation"; code by the author:
https://github.com/nageshgurram12/generic-semantic-segmentation/tree/mfnet. From the encoder's features X:
X_in = conv1(X), X' = Y Z, and the decoder of DeepLabv3+ gets conv2(relu(X') + X_in). The loss is cross-entropy + 0.1
MSE(X_in, X'). In the first fifth of the schedule (10 of 50 epochs) the decoder gets conv2(X) and the loss is
cross-entropy alone; `medseg.engines.warm_up` turns the factorisation on. The text names neither conv1 nor conv2 nor
the widths: they are what gives its 29.73 M parameters (here 29.74 M). conv2 is followed by batch normalisation and a
ReLU, as in the author's code.
Deviations from the text:

- Y and Z start uniformly within 1 / sqrt(number of values), as in the author's code, so that X' starts near zero; from
  a standard normal (section 3) it would start with a standard deviation of 8.
- Z has 33x33 columns, those of a 513x513 image at output stride 16. For other sizes it is resized bilinearly.
- `recon`, what training returns beside `pred`, is the difference X_in - X', whose target is zero: so one tensor says
  it all. `medseg.losses.reconstruction.ReconstructionLoss` takes its mean square.

Where the author's code departs from the text, the text is followed; the options in brackets, which the overlay
`as_published` of the bundle mfnet_voc sets, are the code's:

- The loss knew the epoch, the network did not: X' never reached the decoder, which got conv2(X) to the end, while the
  reconstruction error counted from the 11th epoch on (``low_rank_path=False``).
- The last stage of the encoder has a multi-grid of dilations, 1, 2 and 4 times its own (``multi_grid=(1, 2, 4)``).
- The decoder drops half of the values after its first convolution and a tenth after its second
  (``inner_dropout=0.5, dropout=0.1``).
- In its training (`as_published` too, but for the scores) both losses are divided by the batch size, Y and Z have the
  encoder's rate, conv1 and conv2 are in no group, and images are mirrored, scaled and blurred. It trains on VOC's own
  1,464 images unless it is told otherwise, and scores centre crops of 513 x 513 of resized images; here whole ones.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.networks.blocks.convolutions import Convolution
from torch import Tensor, nn

from medseg.encoders import create_encoder
from medseg.layers.activation import activation
from medseg.layers.conv_block import Named
from medseg.layers.deeplab_decoder import DeepLabDecoder, index_at_stride
from medseg.layers.network_options import check_network_options
from medseg.layers.resize import resize


class Factorisation(nn.Module):
    """Features by a 1x1 convolution, and a map of low rank to stand for them (paper, section 3).

    Args:
        channels: channels C of the features.
        factors: rank K.
        size: lengths of the factor maps Z in pixels.

    Shape:
        ``(B, C, H, W)`` to X_in ``(B, C, H, W)`` and X' ``(1, C, H, W)``, which no image changes.
    """

    def __init__(self, channels: int, factors: int, size: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.bases = nn.Parameter(torch.empty(channels, factors))  # Y
        self.factors = nn.Parameter(torch.empty(factors, *size))  # Z, its columns as a map
        for parameter in (self.bases, self.factors):
            bound = parameter.numel() ** -0.5
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return X_in and X'."""
        factors = self.factor_maps(list(x.shape[2:]))
        low_rank = torch.matmul(self.bases, factors.flatten(2))  # (C, K) with (1, K, N) to (1, C, N)
        return self.conv1(x), low_rank.reshape(1, -1, factors.shape[2], factors.shape[3])

    def factor_maps(self, size: list[int]) -> Tensor:
        """Return Z for features of a size, ``(1, K, *size)``."""
        return resize(self.factors.unsqueeze(0), size)


class MFNet(nn.Module):
    """MFNet (paper, fig. 4).

    Args:
        spatial_dims: 2.
        in_channels: channels of the image.
        out_channels: classes.
        encoder: timm's name of the encoder, such as ``"resnet50"``.
        weights: of the encoder: ``None``, ``"imagenet"`` or a file; see `create_encoder`.
        output_stride: stride of the coarsest features, 8, 16 or 32.
        factors: rank K of the factorisation.
        factor_size: lengths of the factor maps Z in pixels.
        channels: features of the context and of the decoder.
        low_channels: features that the low-level ones are cut down to.
        act: MONAI's name of the activation, or name and arguments; not of the encoder.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none; not of the encoder.
        dropout: probability of dropping a value before the classifier.
        inner_dropout: probability of dropping a value between the decoder's two 3x3 convolutions.
        low_rank_path: whether X' reaches the decoder; else it is learned beside it, by the reconstruction error alone.
        encoder_options: further arguments of `create_encoder`, such as ``freeze_batch_norm`` and ``multi_grid``.

    Attributes:
        factorise: a boolean buffer: whether the factorisation counts, as at the start: the decoder gets
            conv2(relu(X') + X_in), and `recon` is a difference; else it gets conv2(X), and `recon` is zero. It is saved
            with the weights. In place of a branch it selects, so that every parameter takes part in every backward
            pass, with a gradient of zero if it does not count.

    Raises:
        ValueError: if an option is out of range, or the encoder has no features at stride 4.

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``, any H and W. In training a dict: ``pred`` of that
        shape, and ``recon`` ``(B, C, h, w)``, X_in - X' at the output stride (zero while `factorise` is off).
    """

    factorise: Tensor  # TorchScript needs real annotations: no `from __future__ import annotations` here

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        encoder: str = "resnet50",
        weights: str | Path | None = None,
        output_stride: int = 16,
        factors: int = 64,
        factor_size: Sequence[int] = (33, 33),
        channels: int = 256,
        low_channels: int = 48,
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.0,
        inner_dropout: float = 0.0,
        low_rank_path: bool = True,
        **encoder_options: Any,
    ) -> None:
        super().__init__()
        check_network_options(spatial_dims, in_channels, out_channels, act=act, norm=norm, dropout=dropout)
        if spatial_dims != 2:
            raise ValueError(f"spatial_dims is {spatial_dims}; MFNet is for images: choose 2")
        if len(factor_size) != 2 or min(factor_size) < 1:
            raise ValueError(f"factor_size is {tuple(factor_size)}; give two lengths, each at least 1")
        for name, value in {"factors": factors, "channels": channels, "low_channels": low_channels}.items():
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.encoder = create_encoder(
            encoder, in_channels, output_stride=output_stride, weights=weights, **encoder_options
        )
        self.low = index_at_stride(self.encoder.reductions, 4, encoder)
        deepest = self.encoder.channels[-1]
        self.factorisation = Factorisation(deepest, factors, factor_size)
        self.act = activation(act, overwrite=False)
        self.conv2 = Convolution(
            2, deepest, channels, kernel_size=1, adn_ordering="NA", act=act, norm=norm, bias=norm is None
        )
        self.decoder = DeepLabDecoder(
            2,
            self.encoder.channels[self.low],
            channels,
            out_channels,
            reduced_channels=low_channels,
            channels=channels,
            act=act,
            norm=norm,
            dropout=dropout,
            inner_dropout=inner_dropout,
        )
        self.low_rank_path = low_rank_path
        self.register_buffer("factorise", torch.tensor(True))

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Return logits at the input's size; in training also the difference that is to vanish."""
        features = self.encoder(x)
        context = features[-1]
        x_in, low_rank = self.factorisation(context)
        if self.low_rank_path:
            context = torch.where(self.factorise, self.act(low_rank) + x_in, context)
        pred = resize(self.decoder(features[self.low], self.conv2(context)), list(x.shape[2:]))
        if not self.training:
            return pred
        return {"pred": pred, "recon": torch.where(self.factorise, x_in - low_rank, 0.0)}

    def attention(self, x: Tensor) -> dict[str, Tensor]:
        """Return the factor maps Z at the size of the features, the same for every image.

        Args:
            x: images.

        Returns:
            ``factors``, of either sign. With `factorise` off they do not count.

        Shape:
            ``(B, in_channels, H, W)`` to ``(B, K, h, w)`` at the output stride.
        """
        size = list(self.encoder(x)[-1].shape[2:])
        return {"factors": self.factorisation.factor_maps(size).expand(x.shape[0], -1, -1, -1)}
