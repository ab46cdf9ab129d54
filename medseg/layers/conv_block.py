"""Two convolutions with normalisation and activation: the block of the U-Net family, and what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.networks.layers.factories import Act, Conv, LayerFactory, Norm
from monai.networks.layers.utils import get_act_layer, get_norm_layer
from torch import nn

Named = str | tuple[str, dict[str, Any]]
"""A layer by MONAI's name, or its name and arguments: ``"relu"``, ``("leakyrelu", {"negative_slope": 0.1})``."""

BlockFactory = Callable[[int, int, int, Named, Named | None], nn.Module]
"""Makes the block of a level; called as :class:`ConvBlock` is: spatial_dims, in_channels, out_channels, act, norm."""


def norm_act(spatial_dims: int, channels: int, act: Named, norm: Named | None) -> list[nn.Module]:
    """Make a normalisation, unless it is ``None``, and an activation.

    Args:
        spatial_dims: 2 or 3.
        channels: of the map.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Raises:
        ValueError: if MONAI knows no layer of that name.
    """
    check_name("act", act, Act)
    if act == "relu":  # saves a feature map: neither the normalisation nor the convolution before needs it back
        act = ("relu", {"inplace": True})
    activation: nn.Module = get_act_layer(act)
    if norm is None:
        return [activation]
    check_name("norm", norm, Norm)
    return [get_norm_layer(norm, spatial_dims, channels), activation]


def conv_norm_act(
    spatial_dims: int, in_channels: int, out_channels: int, act: Named, norm: Named | None
) -> list[nn.Module]:
    """Make a 3x3 convolution, a normalisation, unless it is ``None``, and an activation.

    The convolution before a normalisation has no bias: the normalisation would take it away.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Raises:
        ValueError: if MONAI knows no layer of that name.
    """
    convolution = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, 3, padding=1, bias=norm is None)
    return [convolution, *norm_act(spatial_dims, out_channels, act, norm)]


class ConvBlock(nn.Sequential):
    """``(3x3 convolution, normalisation, activation)`` twice.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Raises:
        ValueError: if MONAI knows no layer of that name.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, out_channels, *S)``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        act: Named = "relu",
        norm: Named | None = "batch",
    ) -> None:
        super().__init__(
            *conv_norm_act(spatial_dims, in_channels, out_channels, act, norm),
            *conv_norm_act(spatial_dims, out_channels, out_channels, act, norm),
        )


def check_name(option: str, layer: str | Sequence[Any], factory: LayerFactory) -> None:
    """Refuse a layer that MONAI does not know by name.

    Args:
        option: the argument's name, for the message.
        layer: name, or name and arguments.
        factory: MONAI's, such as ``Act``.

    Raises:
        ValueError: naming the nearest or all known names.
    """
    name = layer if isinstance(layer, str) else layer[0]
    if str(name).upper() not in factory.names:
        choices = ", ".join(sorted(known.lower() for known in factory.names))
        raise ValueError(f"{option} is {name!r}; choose one of {choices}")
