"""Focal loss plus soft IoU loss, as LFA U-Net is trained with on the Drosophila sections.

T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017; D. Zhou et al., "IoU Loss for 2D/3D Object
Detection", 3DV 2019. The LFA paper (section IV-B) names both and gives no constants: gamma 2, no class weights, equal
shares here. MONAI's `FocalLoss` has no correct ignore label (too large by the number of classes), and its IoU term
(`DiceLoss(jaccard=True)`) builds a one-hot label; both are written here over class indices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medseg.errors import MedsegError
from medseg.losses.processes import several, sum_over_processes
from medseg.losses.targets import class_factors, prepared

_FEW = 32  # classes that are summed by masks on a GPU
_SMALLEST = 1e-12  # union of a class that is nowhere, by which is divided


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
            tuple[Tensor, Tensor, Tensor, Tensor],
            _PixelSums.apply(logits, index, valid, weight, self.gamma, self.batch),
        )
        count = present.sum()
        if self.batch:
            focal, count, intersection, predicted, present = _over_processes(
                focal, count, intersection, predicted, present
            )
            lost, terms = self._lost(intersection, predicted, present)
        else:
            focal, count, lost, terms = _over_processes(focal, count, *self._lost(intersection, predicted, present))
        return torch.add(focal / count.clamp(min=1), lost / terms.clamp(min=1), alpha=self.iou_weight)

    def _lost(self, intersection: Tensor, predicted: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Sum ``1 - IoU`` over images and counted classes: three times (images, C) to the sum and what it is over."""
        pixels = present if self.classes == "present" else present.sum(1, keepdim=True).expand_as(present)
        counted = pixels.clamp(max=1)
        lost = cast(Tensor, _Lost.apply(intersection, predicted, present, counted, self.smooth))
        return lost, counted.sum()


def _over_processes(*sums: Tensor) -> Iterable[Tensor]:
    """Sum some sums over all processes, by one exchange; in one process there is nothing to put together."""
    if not several():
        return sums
    joined = sum_over_processes(torch.cat([each.flatten() for each in sums]))
    parts = joined.split([each.numel() for each in sums])  # type: ignore[no-untyped-call]
    return [part.view_as(each) for part, each in zip(parts, sums, strict=True)]


class _Lost(torch.autograd.Function):
    """``1 - IoU`` of images and classes, summed over those that are counted, with its gradient written out.

    With U the union and V = U + smooth, it is L = (U - I) / V; as U holds the predicted pixels P and not the
    intersection I twice, dL/dP = (1 - L) / V and dL/dI = -(1 - L) / V - 1 / V. Operations on a few numbers take a GPU's
    processor as long as those on maps; autograd would have twice as many.
    """

    @staticmethod
    def forward(
        ctx: Any, intersection: Tensor, predicted: Tensor, present: Tensor, counted: Tensor, smooth: float
    ) -> Tensor:
        union = (predicted + present).sub_(intersection)
        whole = union + smooth
        if smooth < _SMALLEST:
            whole.clamp_(min=_SMALLEST)
        lost = union.sub_(intersection).div_(whole)  # 0, not 1, where a class is nowhere
        ctx.save_for_backward(lost, whole, counted)
        return (lost * counted).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        lost, whole, counted = ctx.saved_tensors
        scale = (counted / whole).mul_(gradients[0])
        of_predicted = torch.addcmul(scale, lost, scale, value=-1)
        return of_predicted.neg().sub_(scale), of_predicted, None, None, None


class _PixelSums(torch.autograd.Function):
    """All sums over pixels that the loss needs, in one pass with its gradient written out.

    Returns the summed focal terms (a scalar), then soft intersections, predicted and present pixels of
    each class, ``(1, C)`` over the batch or ``(B, C)`` by image. With z logits, p = softmax(z), t the label, q = 1 -
    p_t, and upstream gradients F, I, P: dz_c = g_c - p_c sum_k g_k of g_c = p_c P_c + [c = t] r, r = p_t I_t - F w_t
    (q^gamma - gamma q^(gamma-1) p_t log p_t). Left to autograd this is five times as many passes over the maps.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, index: Tensor, valid: Tensor | None, weight: Tensor | None, gamma: float, batch: bool
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
        slope = None  # 1 everywhere
        focal = log_pt
        if gamma:
            q = torch.expm1(log_pt).neg_().clamp_(min=1e-12)  # a bound away from 0 keeps gamma < 1 finite
            power = q if gamma == 2 else q.pow(gamma - 1)
            slope = power * pt * log_pt * -gamma
            power = power * q  # q^gamma
            focal = power * log_pt
            slope += power
        if factor is not None:
            focal *= factor
            slope = factor if slope is None else slope.mul_(factor)
        images, classes = p.shape[:2]
        flat = index.flatten()
        if not batch and images > 1:  # class c of image b is slot b * C + c
            first = torch.arange(0, images * classes, classes, device=index.device)
            flat = (index.flatten(1) + first[:, None]).flatten()
        groups = 1 if batch else images
        pixels = (0, *range(2, p.ndim)) if batch else tuple(range(2, p.ndim))
        predicted = p.sum(pixels)
        if p.device.type == "cpu" or classes > _FEW:
            intersection, present = _sums_by_slot(pt, valid, flat, groups * classes)
        else:
            intersection, present = _sums_by_class(p, index, valid, pixels)
        ctx.save_for_backward(p, pt, slope, index, flat)
        intersection, predicted, present = (s.view(groups, classes) for s in (intersection, predicted, present))
        ctx.mark_non_differentiable(present)
        return focal.sum().neg_(), intersection, predicted, present

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        focal, intersection, predicted = gradients[:3]
        p, pt, slope, index, flat = ctx.saved_tensors
        at_label = pt * intersection.flatten().index_select(0, flat).view_as(pt)
        at_label -= focal if slope is None else slope * focal
        gradient = p * predicted.view(*predicted.shape, *[1] * (p.ndim - 2))
        gradient.scatter_add_(1, index[:, None], at_label[:, None])
        gradient.addcmul_(p, gradient.sum(1, keepdim=True), value=-1)
        return gradient, None, None, None, None, None


def _sums_by_slot(pt: Tensor, valid: Tensor | None, flat: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Return the soft intersection and the pixels of each slot, ``(slots,)``, pixel by pixel.

    In float64: one after the other, probabilities are rounded to quarters from two million in float32 on, and to
    nothing from 16 million on.
    """
    intersection = pt.new_zeros(slots, dtype=torch.float64).index_add_(0, flat, pt.flatten().double()).to(pt.dtype)
    if pt.device.type == "cpu":
        present = torch.bincount(flat if valid is None else flat[valid.flatten()], minlength=slots)
    else:  # where either would wait for the device
        counts = torch.ones_like(flat) if valid is None else valid.flatten().long()
        present = torch.zeros(slots, dtype=torch.long, device=flat.device).index_add_(0, flat, counts)
    return intersection, present.to(pt.dtype)


def _sums_by_class(p: Tensor, index: Tensor, valid: Tensor | None, pixels: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the same by masks: a GPU adds millions of pixels to a few numbers one after the other.

    Args:
        p: probabilities ``(B, C, *S)``, 0 where a pixel is ignored.
        index: of classes, ``(B, *S)``.
        valid: pixels that are not ignored.
        pixels: axes to sum over.
    """
    classes = torch.arange(p.shape[1], device=p.device).view(-1, *[1] * (index.ndim - 1))
    there = index[:, None] == classes
    if valid is not None:
        there &= valid[:, None]
    return (p * there).sum(pixels), there.sum(pixels, dtype=p.dtype)
