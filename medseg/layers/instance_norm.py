"""Instance normalisation on a CPU without the detour through another memory layout.

D. Ulyanov et al., "Instance Normalization", https://arxiv.org/abs/1607.08022. PyTorch's takes a channels-last map to
the plain layout, normalises there, and the next convolution takes it back: a fifth of a training step of a 3D U-Net.
Here a channels-last map is normalised sample by sample as a batch of one, which PyTorch does in that layout, and a
plain one as groups of one channel, which is the faster of its two ways (``python -m benchmarks.quick_layers``). Values
differ from PyTorch's by rounding. What is not fp32 on a CPU, compiled or exported goes PyTorch's way; on a CPU the
gradient of a single sample is laid out plainly there, since of a channels-last one PyTorch 2.15 gives wrong numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.jit import is_scripting, is_tracing  # type: ignore[attr-defined]
from torch.nn.functional import group_norm, instance_norm

__all__ = ["InstanceNorm2d", "InstanceNorm3d"]


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
        return _normalised(self, input) if _known(self, input) else _mended(super().forward(input))


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
        return _normalised(self, input) if _known(self, input) else _mended(super().forward(input))


_FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


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
        # batch normalisation that is told where to write takes the one layout as it lies, and mixes up any other
        and (image.is_contiguous() or image.is_contiguous(memory_format=_FORMATS[dims]))
    )


def _normalised(module: nn.InstanceNorm2d | nn.InstanceNorm3d, image: Tensor) -> Tensor:
    weight, bias, eps = module.weight, module.bias, module.eps
    if image.is_contiguous():
        return group_norm(image, module.num_features, weight, bias, eps)
    result: Tensor = _SampleBySample.apply(image, weight, bias, eps)[0]
    return result


def _mended(result: Tensor) -> Tensor:
    if result.device.type == "cpu" and len(result) == 1 and result.requires_grad:
        result.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
    return result


class _SampleBySample(torch.autograd.Function):
    """Batch normalisation of each sample by itself, written where it belongs: joining samples costs as much again."""

    @staticmethod
    def forward(image: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        result = torch.empty_like(image)
        mean = image.new_empty(image.shape[:2])
        inverse = torch.empty_like(mean)
        for n in range(len(image)):
            torch.native_batch_norm(
                image[n : n + 1], weight, bias, None, None, True, 0.0, eps,
                out=(result[n : n + 1], mean[n], inverse[n]),
            )  # fmt: skip
        return result, mean, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        image, weight, _, ctx.eps = inputs
        _, mean, inverse = output
        ctx.mark_non_differentiable(mean, inverse)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(image, weight, mean, inverse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        image, weight, mean, inverse = ctx.saved_tensors
        if gradients[0] is None:
            return None, None, None, None
        gradient = gradients[0].contiguous(memory_format=_FORMATS[image.ndim - 2])
        wanted = list(ctx.needs_input_grad[:3])
        parts = []
        for n in range(len(image)):
            grad, one = gradient[n : n + 1], image[n : n + 1]
            kept = (weight, None, None, mean[n], inverse[n])
            parts.append(torch.ops.aten.native_batch_norm_backward(grad, one, *kept, True, ctx.eps, wanted))
        of_image, of_weight, of_bias = zip(*parts, strict=True)
        return torch.cat(of_image) if wanted[0] else None, _total(of_weight), _total(of_bias), None


def _total(parts: Sequence[Tensor | None]) -> Tensor | None:
    return torch.stack(cast(list[Tensor], parts)).sum(0) if parts[0] is not None else None
