"""Put the layers here that are faster than PyTorch's, or right where it is not, into a network, whoever wrote it."""

from __future__ import annotations

from torch import nn

from medseg.layers import norms
from medseg.layers.direct_conv import DirectConv2d, DirectConv3d, Layer, is_direct
from medseg.layers.pointwise import PointConv2d, PointConv3d, SplitConv2d, SplitConv3d, is_pointwise
from medseg.layers.window_conv import WindowConv2d, WindowConv3d, is_window

__all__ = ["quicken"]

_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.InstanceNorm2d: norms.InstanceNorm2d,
    nn.InstanceNorm3d: norms.InstanceNorm3d,
    nn.GroupNorm: norms.GroupNorm,
    nn.BatchNorm2d: norms.BatchNorm2d,
    nn.BatchNorm3d: norms.BatchNorm3d,
    nn.LayerNorm: norms.LayerNorm,
}
_TIMMS: dict[str, type[nn.Module]] = {  # by name: timm takes a second to import
    "GroupNorm": norms.GroupNorm,
    "GroupNorm1": norms.GroupNorm,
    "GroupNormAct": norms.GroupNormAct,
    "BatchNormAct2d": norms.BatchNormAct,
    "LayerNorm": norms.LayerNorm,
    "LayerNorm2d": norms.LayerNorm2d,
}
_POINTWISE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: PointConv2d,
    nn.Conv3d: PointConv3d,
    nn.ConvTranspose2d: SplitConv2d,
    nn.ConvTranspose3d: SplitConv3d,
}
_WINDOWS: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: WindowConv2d, nn.Conv3d: WindowConv3d}
_DIRECT: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: DirectConv2d, nn.Conv3d: DirectConv3d}


def quicken(network: nn.Module) -> None:
    """Make layers of PyTorch's the subclass of theirs that does the same faster, or rightly, on a CPU.

    Parameters, names, hooks and settings stay, and so does whoever holds a layer. Normalisations of timm's are such
    layers too; others of other classes, derived ones too, are left, as are transposed convolutions that are no faster.

    Args:
        network: changed in place.
    """
    for layer in network.modules():
        kind = _quick(layer)
        if kind is not None:
            layer.__class__ = kind


def _quick(layer: nn.Module) -> type[nn.Module] | None:
    if not isinstance(layer, Layer):
        kind = type(layer)
        return _TIMMS.get(kind.__name__) if kind.__module__.startswith("timm.layers.") else _NORMS.get(kind)
    if is_pointwise(layer):
        return _POINTWISE.get(type(layer))
    if is_window(layer):
        return _WINDOWS.get(type(layer))
    return _DIRECT.get(type(layer)) if is_direct(layer) else None
