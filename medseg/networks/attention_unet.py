"""Attention U-Net: gates on the skip connections; MONAI's network for any size, with the U-Net's decoder blocks.

O. Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018,
https://arxiv.org/abs/1804.03999. Deviations that come with MONAI's network:

- It halves sizes by convolutions of stride 2 instead of max-pooling.
- A gate takes the enlarged features of the level below as its signal and works at the skip's resolution, instead of
  taking the coarse features and enlarging the coefficients; the finest level is gated as well.
- The gate normalises its three projections (batch normalisation), which the paper's eq. 1 does not print.
- There is no deep supervision.

FocusNet++'s authors compare with another one of their own code (https://github.com/chaitanya-kaul/TheFocusNetSeries):
max-pooling, gates at half the skip's resolution as in the paper, a 1x1 convolution and a normalisation after each gate.

Deviations from MONAI's network:

- After the gate come the two convolutions of a U-Net's decoder; MONAI has one, with instance normalisation and PReLU.
  That gives 8.72 M parameters at widths 32 to 512, 3 input channels, 1 class (with one convolution 7.94 M), for
  FocusNet++'s 8.91 M. Instance normalisation would also let padding change every pixel.
- Convolutions before a normalisation have no biases.
- Sizes that strides do not divide are padded by repeating the far edge, and cropped again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.utils import get_act_layer, get_norm_layer
from monai.networks.nets.attentionunet import AttentionBlock, AttentionLayer, AttentionUnet
from torch import Tensor, nn

from medseg.layers.conv_block import ConvBlock, Named
from medseg.layers.crop import crop_end
from medseg.layers.network_options import check_network_options
from medseg.layers.pad import pad_to_multiple


class AttentionUNet(nn.Module):
    """Attention U-Net.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: features of each level, from the finest.
        act: MONAI's name of the activation outside the gates, or name and arguments.
        norm: MONAI's name of the normalisation outside the gates, or name and arguments; ``None`` for none. One that
            takes statistics over an image in evaluation, such as ``"instance"``, counts padded pixels as well.
        dropout: probability of dropping a value after each convolution of the encoder.

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
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_network_options(spatial_dims, in_channels, out_channels, act=act, norm=norm, dropout=dropout)
        if len(channels) < 2 or min(channels) < 2:
            raise ValueError(f"channels is {tuple(channels)}; give two or more levels, each of at least two channels")
        self.network = AttentionUnet(
            spatial_dims,
            in_channels,
            out_channels,
            channels=channels,
            strides=(2,) * (len(channels) - 1),
            dropout=dropout,
        )
        self.multiples = [2 ** (len(channels) - 1)] * spatial_dims
        for layer in _all(self.network, AttentionLayer):
            fine = layer.upconv.up.out_channels
            layer.merge = ConvBlock(spatial_dims, 2 * fine, fine, act, norm)
        for convolution in _all(self.network, Convolution):
            if hasattr(convolution, "adn"):
                features = convolution.out_channels
                convolution.adn.A = get_act_layer(act)
                convolution.adn.N = nn.Identity() if norm is None else get_norm_layer(norm, spatial_dims, features)
                if norm is not None:
                    _drop_bias(convolution)
        for gate in _all(self.network, AttentionBlock):
            for projection in (gate.W_g, gate.W_x, gate.psi):
                _drop_bias(projection[0])

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at the input's size."""
        logits: Tensor = self.network(pad_to_multiple(x, self.multiples, "replicate"))
        return crop_end(logits, list(x.shape[2:]), 2)


def _all(network: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, kind)]


def _drop_bias(convolution: Convolution) -> None:
    convolution.conv.register_parameter("bias", None)  # the normalisation that follows would take it away
