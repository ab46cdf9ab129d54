"""Checks of the options that all networks have, before anything is built."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.layers.factories import Act, Norm

from medseg.layers.conv_block import Named, check_name

Stride = int | Sequence[int]
"""Of a pooling: one number for all axes, or one an axis."""


def check_network_options(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    act: Named,
    norm: Named | None,
    dropout: float,
) -> None:
    """Refuse what no network can be built from.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        dropout: probability of dropping a value.

    Raises:
        ValueError: if an option is out of range; names it, its value and the choices.
    """
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims is {spatial_dims!r}; choose 2 or 3")
    if in_channels < 1 or out_channels < 1:
        raise ValueError(f"in_channels is {in_channels}, out_channels is {out_channels}; both must be at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must be in [0, 1)")
    check_name("act", act, Act)
    if norm is not None:
        check_name("norm", norm, Norm)


def level_strides(strides: Sequence[Stride] | None, levels: int, spatial_dims: int) -> list[tuple[int, ...]]:
    """Return the stride of each step between two levels, one number an axis.

    Args:
        strides: as a network takes them; ``None`` for 2 everywhere.
        levels: of the network.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: if there are not as many strides as steps, or one is no stride.
    """
    given = [2] * (levels - 1) if strides is None else list(strides)
    if len(given) != levels - 1:
        raise ValueError(f"strides is {given}; {levels} levels take {levels - 1}, one between each two")
    found = []
    for stride in given:
        axes = (stride,) * spatial_dims if isinstance(stride, int) else tuple(stride)
        if len(axes) != spatial_dims or any(isinstance(edge, bool) or edge < 1 for edge in axes):
            raise ValueError(
                f"a stride is {stride!r}; give a number of at least 1, or one for each of {spatial_dims} axes"
            )
        found.append(axes)
    return found
