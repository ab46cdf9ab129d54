"""PyTorch's normalisations, right and without a detour where a CPU's memory is channels-last or numbers are short.

Instance normalisation (D. Ulyanov et al., https://arxiv.org/abs/1607.08022) takes a channels-last map to the plain
layout in PyTorch, and the next convolution takes it back: a fifth of a training step of a 3D U-Net. Batch and group
normalisation (https://arxiv.org/abs/1502.03167, https://arxiv.org/abs/1803.08494) lose digits there, the latter the
result. All go by `medseg.layers.normalised` where a map lies so. A plain map of instance normalisation is normalised as
groups of one channel, which is the faster of PyTorch's two ways (``python -m benchmarks.quick_layers``). Of layer
normalisation (https://arxiv.org/abs/1607.06450) in bfloat16 or float16 PyTorch 2.15 adds up the gradients of weight
and bias in those: at 65,000 pixels they are a third off, and worse with more. Values differ from PyTorch's by rounding
otherwise. What is compiled or exported goes PyTorch's way, group normalisation from the plain layout; on a CPU the
gradient of a single sample of instance normalisation is laid out plainly there, since of a channels-last one PyTorch
2.15 gives wrong numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.jit import is_scripting, is_tracing  # type: ignore[attr-defined]
from torch.nn.functional import batch_norm, group_norm, instance_norm, layer_norm
from torch.nn.modules import batchnorm, instancenorm

from medseg.layers.normalised import lies_channels_last, normalised

__all__ = [
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAct",
    "GroupNorm",
    "GroupNormAct",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LayerNorm2d",
]

_FEW = 2**12  # values of a channel that PyTorch's batch normalisation adds up well, and faster


class _InstanceNorm(instancenorm._InstanceNorm):
    def forward(self, input: Tensor) -> Tensor:
        """Normalise."""
        if is_scripting() or is_tracing() or torch.compiler.is_compiling():  # type: ignore[no-untyped-call]
            alone = self.training or not self.track_running_stats
            mean, variance = self.running_mean, self.running_var
            return instance_norm(input, mean, variance, self.weight, self.bias, alone, self.momentum, self.eps)  # type: ignore[arg-type]
        return _each(self, input) if _known(self, input) else _mended(super().forward(input))


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    """Of pictures; arguments, parameters and result as PyTorch's.

    Shape:
        ``(B, C, H, W)``, kept, memory layout too.
    """


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    """Of volumes; arguments, parameters and result as PyTorch's.

    Shape:
        ``(B, C, H, W, D)``, kept, memory layout too.
    """


class GroupNorm(nn.GroupNorm):
    """Of pictures and volumes; arguments, parameters and result as PyTorch's.

    Shape:
        ``(B, C, *S)``, kept; a channels-last layout too, but of short numbers.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise."""
        if is_scripting() or is_tracing() or torch.compiler.is_compiling():  # type: ignore[no-untyped-call]
            return group_norm(input.contiguous(), self.num_groups, self.weight, self.bias, self.eps)
        if lies_channels_last(input) and input.shape[1] == self.num_channels and input[0].numel() > self.num_groups:
            return normalised(input, self.weight, self.bias, self.eps, self.num_groups).result
        return group_norm(_plain(input), self.num_groups, self.weight, self.bias, self.eps)


class GroupNormAct(GroupNorm):
    """The same for timm's layer that drops and activates after it."""

    if TYPE_CHECKING:  # torch.jit.script takes an annotation for a type of its own
        act: nn.Module
        drop: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, drop and activate."""
        if is_scripting():
            result = group_norm(input.contiguous(), self.num_groups, self.weight, self.bias, self.eps)
        else:
            result = super().forward(input)
        activated: Tensor = self.act(self.drop(result))
        return activated


class _BatchNorm(batchnorm._BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        """Normalise."""
        if is_scripting():
            kept = (self.running_mean, self.running_var, self.num_batches_tracked)
            return _scripted(input, kept, self.weight, self.bias, self.training, self.momentum, self.eps)
        return _all(self, input) if _counts(self, input) else super().forward(input)


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """Of pictures; arguments, parameters, statistics and result as PyTorch's.

    Shape:
        ``(B, C, H, W)``, kept, memory layout too.
    """


class BatchNormAct(BatchNorm2d):
    """The same for timm's layer that drops and activates after it."""

    if TYPE_CHECKING:  # torch.jit.script takes an annotation for a type of its own
        act: nn.Module
        drop: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, drop and activate."""
        if is_scripting():
            kept = (self.running_mean, self.running_var, self.num_batches_tracked)
            result = _scripted(input, kept, self.weight, self.bias, self.training, self.momentum, self.eps)
        else:
            result = super().forward(input)
        activated: Tensor = self.act(self.drop(result))
        return activated


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """Of volumes; arguments, parameters, statistics and result as PyTorch's.

    Shape:
        ``(B, C, H, W, D)``, kept, memory layout too.
    """


class LayerNorm(nn.LayerNorm):
    """Arguments, parameters and result as PyTorch's.

    Shape:
        ``(..., *normalized_shape)``, kept.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise."""
        if is_scripting() or is_tracing() or torch.compiler.is_compiling():  # type: ignore[no-untyped-call]
            return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)
        return _layer(self, input)


class LayerNorm2d(nn.LayerNorm):
    """The same for timm's layer over the channels of pictures.

    Shape:
        ``(B, C, H, W)``, kept.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise."""
        rows = input.permute(0, 2, 3, 1)
        if is_scripting() or is_tracing() or torch.compiler.is_compiling():  # type: ignore[no-untyped-call]
            return layer_norm(rows, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)
        return _layer(self, rows).permute(0, 3, 1, 2)


def _known(module: _InstanceNorm, image: Tensor) -> bool:
    return (
        image.device.type == "cpu"
        and image.dtype == torch.float32
        and image.ndim == (4 if isinstance(module, nn.InstanceNorm2d) else 5)
        and image.shape[1] == module.num_features
        and image[0, 0].numel() > 1  # of one pixel PyTorch says that it has no deviation
        and not module.track_running_stats
        and not torch.is_autocast_enabled("cpu")
        and (lies_channels_last(image) or image.is_contiguous())
    )


def _each(module: _InstanceNorm, image: Tensor) -> Tensor:
    if lies_channels_last(image):
        return normalised(image, module.weight, module.bias, module.eps, module.num_features).result
    return group_norm(image, module.num_features, module.weight, module.bias, module.eps)


def _mended(result: Tensor) -> Tensor:
    if result.device.type == "cpu" and len(result) == 1 and result.requires_grad:
        result.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
    return result


def _plain(image: Tensor) -> Tensor:
    # of one channel PyTorch takes a map that is both plain and channels-last for the latter
    return image.flatten(2).contiguous().view(image.shape) if image.ndim > 3 else image


def _scripted(
    image: Tensor,
    kept: tuple[Tensor | None, Tensor | None, Tensor | None],
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
) -> Tensor:
    mean, variance, count = kept
    share = 0.0 if momentum is None else momentum
    if training and count is not None:
        count.add_(1)
        if momentum is None:
            share = 1.0 / float(count)
    return batch_norm(image, mean, variance, weight, bias, training or mean is None, share, eps)


def _counts(module: _BatchNorm, image: Tensor) -> bool:
    """Tell whether the batch's own mean is taken, of a map that `normalised` takes."""
    return (
        (module.training or module.running_mean is None)
        and image.ndim == (4 if isinstance(module, nn.BatchNorm2d) else 5)
        and not (is_tracing() or torch.compiler.is_compiling())  # type: ignore[no-untyped-call]
        and lies_channels_last(image)
        and image.shape[1] == module.num_features
        and image.numel() > image.shape[1] * _FEW
    )


def _all(module: _BatchNorm, image: Tensor) -> Tensor:
    result, mean, variance = normalised(image, module.weight, module.bias, module.eps, image.shape[1], joined=True)
    if module.training and module.running_mean is not None and module.running_var is not None:
        number = image.numel() // image.shape[1]
        share = 0.0 if module.momentum is None else module.momentum
        with torch.no_grad():
            if module.num_batches_tracked is not None:
                module.num_batches_tracked.add_(1)
                share = 1 / float(module.num_batches_tracked) if module.momentum is None else share
            module.running_mean.lerp_(mean[0].to(module.running_mean), share)
            module.running_var.lerp_((variance[0] * (number / (number - 1))).to(module.running_var), share)
    return result


def _layer(module: nn.LayerNorm, image: Tensor) -> Tensor:
    if image.device.type != "cpu" or image.dtype not in (torch.bfloat16, torch.float16) or not torch.is_grad_enabled():
        return layer_norm(image, module.normalized_shape, module.weight, module.bias, module.eps)
    weight, bias = (None if one is None else one.float() for one in (module.weight, module.bias))
    return layer_norm(image.float(), module.normalized_shape, weight, bias, module.eps).to(image.dtype)
