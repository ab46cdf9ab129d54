"""How a network is built for a plan: its arguments by the levels of a patch, tried on shapes alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from medseg.bundle import networks

__all__ = ["MOST_CHANNELS", "ROOM", "VOLUMES_A_BATCH", "arguments", "beside_pred", "with_room"]

MOST_CHANNELS = {2: 512, 3: 320}
VOLUMES_A_BATCH = 2
ROOM = (1, 8, 16, 32, 64)
"""Edges that a network may need for its levels."""


def arguments(name: str, strides: Sequence[Sequence[int]], base: int, axes: int) -> tuple[dict[str, Any], int]:
    """Return a network's arguments for a plan, as far as its constructor has them, and the base that was used.

    Args:
        name: of the network.
        strides: between levels, from the finest.
        base: channels of the finest level.
        axes: 2 or 3.
    """
    known = inspect.signature(networks.resolve(name)).parameters
    given: dict[str, Any] = {"name": name, "spatial_dims": axes}
    usual: Any = known["channels"].default if "channels" in known else None
    sized = isinstance(usual, tuple)
    if sized:
        if "fc_channels" in known:  # of layers beside the levels: wide as these are, as in the paper
            given["fc_channels"] = known["fc_channels"].default * base // usual[0]
        depth = len(strides) + 1 if "strides" in known else 1 + sum(min(stride) > 1 for stride in strides)
        depth, most = max(2, depth), len(usual)
        for number in (depth, *(range(depth + 1, most + 1) if depth < most else (most,))):  # some have so many or none
            doubled = [base * 2**level for level in range(number)]
            given["channels"] = [min(width, MOST_CHANNELS[axes]) for width in doubled]
            if "strides" in known:
                more = number - 1 - len(strides)
                given["strides"] = [list(stride) for stride in [*strides, *[strides[-1]] * more][: number - 1]]
            elif given["channels"] != doubled and not _takes(given):
                given["channels"] = [width for width in doubled if width <= MOST_CHANNELS[axes]]
            if number == most or _takes(given):
                break
    if "norm" in known and known["norm"].default == "batch" and axes == 3:
        given["norm"] = ["instance", {"affine": True}]
    return given, base if sized else 0


def _takes(network: Mapping[str, Any]) -> bool:
    """Return whether a network can be built so: some have twice the channels at each level, without a most."""
    try:
        _shapes_alone(network)
    except ValueError:
        return False
    return True


def _shapes_alone(network: Mapping[str, Any]) -> torch.nn.Module:
    """Return a network in training whose weights have shapes alone."""
    with torch.device("meta"):
        return networks.create(in_channels=1, out_channels=2, **network).train()


def with_room(patch: Sequence[int], network: Mapping[str, Any]) -> list[int]:
    """Return a patch whose edges are as long as a network's levels need: of small images the rest is padding.

    Args:
        patch: edges in pixels.
        network: ``name`` and arguments.
    """
    try:
        built = _shapes_alone(network)
    except ValueError:
        return list(patch)  # which has its own reason
    for least in ROOM:
        tried = [max(edge, least) for edge in patch]
        try:
            built(torch.empty((VOLUMES_A_BATCH, 1, *tried), device="meta"))
        except (RuntimeError, ValueError, AssertionError):
            continue
        return tried
    return list(patch)


def beside_pred(network: Mapping[str, Any], patch: Sequence[int]) -> list[str]:
    """Return the outputs that a network gives beside ``pred`` in training.

    Args:
        network: ``name`` and arguments.
        patch: edges in pixels.
    """
    try:
        built = _shapes_alone(network)
        with torch.device("meta"):
            outputs = built(torch.empty((VOLUMES_A_BATCH, 1, *patch)))
    except (RuntimeError, ValueError, AssertionError):
        return []  # an operation without a meta kernel
    return [name for name in outputs if name != "pred"] if isinstance(outputs, Mapping) else []
