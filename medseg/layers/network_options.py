"""Checks of the options that all networks have, before anything is built."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.layers.factories import Act, Norm

from medseg.layers.conv_block import Named, check_name

PerAxis = int | Sequence[int]
"""One number for all axes, or one an axis."""


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


def per_level(
    name: str, given: Sequence[PerAxis] | None, usual: int, levels: int, spatial_dims: int
) -> list[tuple[int, ...]]:
    """Return an option that has a value a level, such as strides, with one number an axis in each.

    Args:
        name: of the option.
        given: as a network takes it; ``None`` for ``usual`` everywhere.
        usual: number.
        levels: how many values there must be.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: if there are not as many values, or one is no number of at least 1 for each axis.
    """
    values = [usual] * levels if given is None else list(given)
    full = [tuple(value) if isinstance(value, Sequence) else (value,) * spatial_dims for value in values]
    wrong = [value for value in full if len(value) != spatial_dims or not all(map(_is_edge, value))]
    if len(full) != levels or wrong:
        raise ValueError(
            f"{name} is {values}; give {levels} of them, each a number of at least 1, or one for each of "
            f"{spatial_dims} axes"
        )
    return full


def _is_edge(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
