"""Activations that may overwrite their input, which saves the memory of one map each in training."""

from __future__ import annotations

from monai.networks.layers.utils import get_act_layer
from torch import nn

from medseg.layers.conv_block import Named


def activation(act: Named, *, overwrite: bool) -> nn.Module:
    """Build an activation that overwrites its input only where that is wanted, and safe for the gradient.

    Args:
        act: MONAI's name of the activation, or name and arguments.
        overwrite: whether nothing but the activation needs its input, which then holds after a normalisation, a
            convolution or a sum. Only ReLU and leaky ReLU make use of it.

    Raises:
        ValueError: if MONAI knows no layer of that name.
    """
    layer = get_act_layer(act)
    if hasattr(layer, "inplace"):
        layer.inplace = overwrite and isinstance(layer, nn.ReLU | nn.LeakyReLU)
    built: nn.Module = layer
    return built
