"""Focal loss plus soft IoU loss, as LFA U-Net is trained with on the Drosophila sections.

T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017; D. Zhou et al., "IoU Loss for 2D/3D Object
Detection", 3DV 2019. The LFA paper (section IV-B) names both and gives no constants: gamma 2, no class weights, equal
shares here. MONAI's `FocalLoss` has no correct ignore label (too large by the number of classes), and its IoU term
(`DiceLoss(jaccard=True)`) builds a one-hot label; both are written here over class indices.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn


class FocalIoULoss(nn.Module):
    """``focal + iou_weight * (1 - IoU)`` of logits and class indices, in float32 whatever the logits' type.

    The focal term is the mean of ``-(1 - p_t)^gamma log p_t`` over all pixels that are not ignored. The IoU term is the
    mean of ``1 - I / U`` over the classes present in the label, with soft intersections and unions over the batch, or
    an image at a time. Over a batch it sees rare classes that most images miss. In several processes the sums go over
    all of them, so that the loss is that of one process with the whole batch.

    Args:
        gamma: how much well-predicted pixels count less.
        weight: factor of each class in the focal term.
        iou_weight: factor of the IoU term.
        ignore_index: label value that counts for nothing.
        batch: sum intersections and unions over the batch (true) or each image (false).

    Raises:
        ValueError: if logits and label do not fit, or a label value has no logit.

    Shape:
        logits ``(B, C, *S)``, label ``(B, 1, *S)`` or ``(B, *S)`` to a scalar.
    """

    weight: Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        weight: list[float] | None = None,
        iou_weight: float = 1.0,
        ignore_index: int | None = None,
        batch: bool = True,
    ) -> None:
        super().__init__()
        if gamma < 0 or iou_weight < 0:
            raise ValueError(f"gamma is {gamma}, iou_weight is {iou_weight}; neither may be negative")
        self.gamma = gamma
        self.iou_weight = iou_weight
        self.ignore_index = ignore_index
        self.batch = batch
        self.register_buffer("weight", None if weight is None else torch.tensor(weight, dtype=torch.float32))

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss."""
        index, valid = self._indices(logits, label)
        log_p = logits.float().log_softmax(dim=1)
        log_pt = log_p.gather(1, index[:, None])[:, 0]  # (B, *S)
        pt = log_pt.exp()
        focal = -((1 - pt) ** self.gamma) * log_pt
        if self.weight is not None:
            focal = focal * self.weight.to(focal.device)[index]
        if valid is not None:
            focal = focal * valid
        count = focal.new_tensor(float(index.numel())) if valid is None else valid.sum()
        focal_sum, count = _over_processes(torch.stack([focal.sum(), count])).unbind()
        loss = focal_sum / count.clamp(min=1)
        if self.iou_weight:
            loss = loss + self.iou_weight * self._iou(log_p, pt, index, valid)
        return loss

    def _indices(self, logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor | None]:
        if label.ndim == logits.ndim and label.shape[1] == 1:
            label = label[:, 0]
        if label.shape != (logits.shape[0], *logits.shape[2:]):
            raise ValueError(
                f"logits have shape {tuple(logits.shape)} and the label {tuple(label.shape)}; "
                "the label needs the same batch and spatial size"
            )
        index = label.long()
        if self.ignore_index is None:
            return index, None
        valid = index != self.ignore_index
        return index.masked_fill(~valid, 0), valid.float()

    def _iou(self, log_p: Tensor, pt: Tensor, index: Tensor, valid: Tensor | None) -> Tensor:
        classes = log_p.shape[1]
        groups = 1 if self.batch else log_p.shape[0]
        p = log_p.exp() if valid is None else log_p.exp() * valid[:, None]
        predicted = p.flatten(2).sum(-1)  # (B, C)
        # class c of group g is slot g * C + c
        offset = torch.arange(groups, device=index.device) * classes if groups > 1 else index.new_zeros(1)
        slot = (index.flatten(1) + offset[:, None]).flatten()
        counted = torch.ones_like(pt) if valid is None else valid
        sums = torch.stack([(pt * counted).flatten(), counted.flatten()], dim=1)  # (pixels, 2)
        totals = sums.new_zeros(groups * classes, 2).index_add(0, slot, sums)
        intersection, present = totals.unflatten(0, (groups, classes)).unbind(-1)  # (groups, C)
        if self.batch:
            merged = torch.stack([intersection[0], present[0], predicted.sum(0)])
            intersection, present, predicted = _over_processes(merged)[:, None].unbind()
        union = predicted + present - intersection
        seen = (present > 0).float()
        lost = (1 - intersection / union.clamp(min=1e-6)) * seen
        return lost.sum() / seen.sum().clamp(min=1)


class _SumOverProcesses(torch.autograd.Function):
    """Sum over all processes; the gradient is summed too, which DistributedDataParallel's mean then brings to scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _over_processes(x: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return cast(Tensor, _SumOverProcesses.apply(x))
    return x
