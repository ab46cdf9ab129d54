"""Focal loss plus soft IoU loss, as LFA U-Net is trained with on the Drosophila sections.

T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017; D. Zhou et al., "IoU Loss for 2D/3D Object
Detection", 3DV 2019. The LFA paper (section IV-B) names both and gives no constants: gamma 2, no class weights, equal
shares here. MONAI's `FocalLoss` has no correct ignore label (too large by the number of classes), and its IoU term
(`DiceLoss(jaccard=True)`) builds a one-hot label; both are written here over class indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medseg.errors import MedsegError
from medseg.losses.processes import sum_over_processes
from medseg.losses.targets import class_factors, prepared

_FEW = 32  # classes that are summed one by one on a GPU


class FocalIoULoss(nn.Module):
    """``focal + iou_weight * (1 - IoU)`` of logits and class indices, in float32 whatever the logits' type.

    The focal term is the mean of ``-(1 - p_t)^gamma log p_t`` over all pixels that are not ignored. The IoU term is the
    mean over classes of ``1 - (I + smooth) / (U + smooth)``, with soft intersections and unions over the batch, or an
    image at a time. Over a batch it sees rare classes that most crops miss. In several processes the sums go over all
    of them, so that with `DistributedDataParallel` loss and gradients are those of one process with the whole batch;
    every process must then call the loss.

    Args:
        gamma: how much well-predicted pixels count less.
        weight: factor of each class in the focal term; ``None`` for 1.
        iou_weight: factor of the IoU term.
        ignore_index: label value that counts for nothing.
        batch: sum intersections and unions over the batch (true) or each image (false).
        classes: ``"present"`` averages the IoU term over the classes in the label, ``"all"`` over all of them (one that
            is not there then counts as lost as soon as it is predicted).
        smooth: pixels added to intersection and union.

    Raises:
        ValueError: if an option is out of range, logits and label do not fit, or (on a CPU, where looking is cheap) a
            label value has no logit.

    Shape:
        logits ``(B, C, *S)``, label ``(B, 1, *S)`` or ``(B, *S)`` to a scalar.
    """

    weight: Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        weight: Sequence[float] | None = None,
        iou_weight: float = 1.0,
        ignore_index: int | None = None,
        batch: bool = True,
        classes: str = "present",
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        for name, value in (("gamma", gamma), ("iou_weight", iou_weight), ("smooth", smooth)):
            if not value >= 0:
                raise MedsegError(f"{name} is {value}; it must be at least 0")
        if classes not in ("present", "all"):
            raise MedsegError(f"classes is {classes!r}; choose one of present, all")
        self.gamma = gamma
        self.iou_weight = iou_weight
        self.ignore_index = ignore_index
        self.batch = batch
        self.classes = classes
        self.smooth = smooth
        self.register_buffer("weight", class_factors(weight))

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss."""
        logits, index, valid, weight = prepared(logits, label, self.weight, self.ignore_index)
        focal, intersection, predicted, present = cast(
            tuple[Tensor, Tensor, Tensor, Tensor], _PixelSums.apply(logits, index, valid, weight, self.gamma)
        )
        count = present.sum()
        if self.batch:
            merged = torch.cat([focal[None], count[None], intersection.sum(0), predicted.sum(0), present.sum(0)])
            merged = sum_over_processes(merged)
            intersection, predicted, present = merged[2:].view(3, 1, -1).unbind()
            lost, terms = self._lost(intersection, predicted, present)
        else:
            merged = sum_over_processes(torch.stack([focal, count, *self._lost(intersection, predicted, present)]))
            lost, terms = merged[2], merged[3]
        return merged[0] / merged[1].clamp(min=1) + self.iou_weight * lost / terms.clamp(min=1)

    def _lost(self, intersection: Tensor, predicted: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Sum ``1 - IoU`` over images and counted classes: three times (images, C) to the sum and what it is over."""
        union = predicted + present - intersection
        counted = (present > 0) if self.classes == "present" else (present.sum(1, keepdim=True) > 0).expand_as(present)
        lost = (union - intersection) / (union + self.smooth).clamp(min=1e-12)  # 0, not 1, where a class is nowhere
        return lost.where(counted, 0.0).sum(), counted.to(lost.dtype).sum()


class _PixelSums(torch.autograd.Function):
    """All sums over pixels that the loss needs, in one pass with its gradient written out.

    Returns the summed focal terms (a scalar), then soft intersections, predicted and present pixels of each image and
    class, each ``(B, C)``. With z logits, p = softmax(z), t the label, q = 1 - p_t, and upstream gradients F, I, P:
    dz_c = p_c (P_c - sum_k p_k P_k - r) + [c = t] r, r = p_t I_t + F w_t (gamma q^(gamma-1) p_t log p_t - q^gamma).
    Left to autograd this is five times as many passes over the maps.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, index: Tensor, valid: Tensor | None, weight: Tensor | None, gamma: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        log_p = logits.log_softmax(dim=1)
        log_pt = log_p.gather(1, index[:, None])[:, 0]  # (B, *S)
        p = log_p.exp_()
        pt = log_pt.exp()
        factor = None if weight is None else weight[index]
        if valid is not None:
            p *= valid[:, None]
            pt *= valid
            factor = valid.to(p.dtype) if factor is None else factor * valid
        if gamma:
            q = torch.expm1(log_pt).neg_().clamp_(min=1e-12)  # a bound away from 0 keeps gamma < 1 finite
            power = q if gamma == 2 else q.pow(gamma - 1)
            slope = power * pt * log_pt * gamma
            power = power * q  # q^gamma
            focal = power * log_pt
            slope -= power
        else:  # cross-entropy
            focal, slope = log_pt, torch.full_like(log_pt, -1)
        if factor is not None:
            focal *= factor
            slope *= factor
        images, classes = p.shape[:2]
        slot = index.flatten(1)
        if images > 1:  # class c of image b is slot b * C + c
            slot = slot + torch.arange(0, images * classes, classes, device=slot.device)[:, None]
        flat = slot.flatten()
        sums = _sums_by_slot if pt.device.type == "cpu" or classes > _FEW else _sums_by_class
        intersection, present = sums(pt, index, valid, flat, classes)
        ctx.save_for_backward(p, pt, slope, index, flat)
        ctx.mark_non_differentiable(present)
        return -focal.sum(), intersection, p.flatten(2).sum(-1), present

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        focal, intersection, predicted = gradients[:3]
        p, pt, slope, index, flat = ctx.saved_tensors
        at_label = slope * focal + pt * intersection.flatten().index_select(0, flat).view_as(pt)
        gradient = p * predicted.view(*predicted.shape, *[1] * (p.ndim - 2))
        everywhere = gradient.sum(1, keepdim=True).add_(at_label[:, None])
        gradient.addcmul_(p, everywhere, value=-1)
        gradient.scatter_add_(1, index[:, None], at_label[:, None])
        return gradient, None, None, None, None


def _sums_by_slot(pt: Tensor, index: Tensor, valid: Tensor | None, flat: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the soft intersections and the pixels of each class, ``(B, C)``, pixel by pixel."""
    slots = len(pt) * classes
    intersection = pt.new_zeros(slots).index_add_(0, flat, pt.flatten())
    if pt.device.type == "cpu":
        present = torch.bincount(flat if valid is None else flat[valid.flatten()], minlength=slots)
    else:  # where either would wait for the device
        counts = torch.ones_like(flat) if valid is None else valid.flatten().long()
        present = torch.zeros(slots, dtype=torch.long, device=flat.device).index_add_(0, flat, counts)
    return intersection.view(-1, classes), present.to(pt.dtype).view(-1, classes)


def _sums_by_class(
    pt: Tensor, index: Tensor, valid: Tensor | None, flat: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """Return the same, class by class: a GPU adds millions of pixels to a few numbers one after the other."""
    intersections, presents = [], []
    for number in range(classes):
        there = index == number
        if valid is not None:
            there &= valid
        intersections.append(pt.where(there, 0).flatten(1).sum(1))
        presents.append(there.flatten(1).sum(1))
    return torch.stack(intersections, 1), torch.stack(presents, 1).to(pt.dtype)
