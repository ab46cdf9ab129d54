"""Instance normalisation on a CPU without the detour through another memory layout.

D. Ulyanov et al., "Instance Normalization", https://arxiv.org/abs/1607.08022. PyTorch's takes a channels-last map to
the plain layout, normalises there, and the next convolution takes it back: a fifth of a training step of a 3D U-Net.
Here a channels-last map is normalised sample by sample as a batch of one, which PyTorch does in that layout, and a
plain one as groups of one channel, which is the faster of its two ways (``python -m benchmarks.instance_norm``). Values
differ from PyTorch's by rounding. What is not fp32 on a CPU, compiled or exported goes PyTorch's way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.jit import is_scripting, is_tracing  # type: ignore[attr-defined]
from torch.nn.functional import batch_norm, group_norm, instance_norm

__all__ = ["InstanceNorm2d", "InstanceNorm3d", "quicken"]

Kinds = type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]


class InstanceNorm2d(nn.InstanceNorm2d):
    """Of pictures; arguments, parameters and result as PyTorch's.

    Shape:
        ``(B, C, H, W)``, kept, memory layout too.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise."""
        if is_scripting() or is_tracing() or torch.compiler.is_compiling():  # type: ignore[no-untyped-call]
            alone = self.training or not self.track_running_stats
            mean, variance = self.running_mean, self.running_var
            return instance_norm(input, mean, variance, self.weight, self.bias, alone, self.momentum, self.eps)  # type: ignore[arg-type]
        return _normalised(self, input) if _known(self, input) else super().forward(input)


class InstanceNorm3d(nn.InstanceNorm3d):
    """Of volumes; arguments, parameters and result as PyTorch's.

    Shape:
        ``(B, C, H, W, D)``, kept, memory layout too.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise."""
        if is_scripting() or is_tracing() or torch.compiler.is_compiling():  # type: ignore[no-untyped-call]
            alone = self.training or not self.track_running_stats
            mean, variance = self.running_mean, self.running_var
            return instance_norm(input, mean, variance, self.weight, self.bias, alone, self.momentum, self.eps)  # type: ignore[arg-type]
        return _normalised(self, input) if _known(self, input) else super().forward(input)


def _known(module: nn.InstanceNorm2d | nn.InstanceNorm3d, image: Tensor) -> bool:
    dims = 2 if isinstance(module, nn.InstanceNorm2d) else 3
    return (
        image.device.type == "cpu"
        and image.dtype == torch.float32
        and image.ndim == dims + 2
        and image.shape[1] == module.num_features
        and image[0, 0].numel() > 1  # of one pixel PyTorch says that it has no deviation
        and not module.track_running_stats
        and not torch.is_autocast_enabled("cpu")
    )


def _normalised(module: nn.InstanceNorm2d | nn.InstanceNorm3d, image: Tensor) -> Tensor:
    weight, bias, eps = module.weight, module.bias, module.eps
    if image.is_contiguous():
        return group_norm(image, module.num_features, weight, bias, eps)
    samples = [batch_norm(sample, None, None, weight, bias, True, 0.0, eps) for sample in torch.split(image, 1)]
    return samples[0] if len(samples) == 1 else torch.cat(samples)


_QUICK: dict[type[nn.Module], Kinds] = {nn.InstanceNorm2d: InstanceNorm2d, nn.InstanceNorm3d: InstanceNorm3d}


def quicken(network: nn.Module) -> None:
    """Put these layers in the place of PyTorch's in a network, whoever wrote it; parameters and names stay.

    Args:
        network: changed in place.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            kind = _QUICK.get(type(child))
            if kind is None or getattr(child, "track_running_stats", True):
                continue
            assert isinstance(child, nn.InstanceNorm2d | nn.InstanceNorm3d)
            layer = kind(child.num_features, child.eps, affine=False)
            layer.affine, layer.weight, layer.bias = child.affine, child.weight, child.bias
            layer.train(child.training)
            setattr(parent, name, layer)
