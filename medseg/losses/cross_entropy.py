"""Cross-entropy with class weights and an ignore label, as LFA U-Net is trained with on the COVID-19 CT slices.

R. Furukawa, K. Hotta, "Localized Feature Aggregation Module for Semantic Segmentation", SMC 2021, section IV-B,
https://arxiv.org/abs/2112.01702. The paper says neither what the weights are (`medseg.data.class_weights` counts them)
nor what the mean is over (PyTorch's here, over the pixels' weights). PyTorch's `cross_entropy` does the work; added are
labels with a channel and of any type, float32 for any logits, 0 instead of NaN where every pixel is ignored, a check
of the label values, and sums over all processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.losses.processes import sum_over_processes
from medseg.losses.targets import class_factors, prepared

_IGNORED = -100


class CrossEntropyLoss(nn.Module):
    """Softmax cross-entropy of logits and class indices, in float32 whatever the logits' type.

    It is ``sum(w_t * -log p_t) / sum(w_t)`` over all pixels that are not ignored, w being the weight of the pixel's
    class. In several processes both sums go over all of them, so that with `DistributedDataParallel` loss and gradients
    are those of one process with the whole batch; every process must then call the loss.

    Args:
        weight: factor of each class; ``None`` for 1. A common factor of all changes nothing.
        ignore_index: label value that counts for nothing.

    Raises:
        ValueError: if a weight is negative or infinite, logits and label do not fit, or (on a CPU, where looking is
            cheap) a label value has no logit.

    Shape:
        logits ``(B, C, *S)``, label ``(B, 1, *S)`` or ``(B, *S)`` to a scalar.
    """

    weight: Tensor | None

    def __init__(self, weight: Sequence[float] | None = None, ignore_index: int | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.register_buffer("weight", class_factors(weight))

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss."""
        logits, index, valid, weight = prepared(logits, label, self.weight, self.ignore_index)
        target = index if valid is None else index.masked_fill(~valid, _IGNORED)
        total = nn.functional.cross_entropy(logits, target, weight, ignore_index=_IGNORED, reduction="sum")
        factors = torch.ones_like(index) if weight is None else weight[index]
        norm = (factors if valid is None else factors * valid).sum().to(total)
        total, norm = sum_over_processes(torch.stack([total, norm])).unbind()
        return total / norm.where(norm > 0, torch.ones_like(norm))
