"""What the losses over class indices share: the label, checked and as indices, class weights, the number format."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.errors import MedsegError


def class_indices(
    logits: Tensor, label: Tensor, ignore_index: int | None, classes: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Check a label against logits and return it as class indices.

    Values are looked at on a CPU alone, where that is cheap; on a GPU the loss's own indexing stops at a value that has
    no class.

    Args:
        logits: the network's output.
        label: class indices of any type.
        ignore_index: label value that counts for nothing.
        classes: number of classes; by default one for each channel of the logits.

    Returns:
        The indices, 0 where the pixel is ignored, and where it is not ignored (``None`` without an ignore label).

    Raises:
        ValueError: if the shapes do not fit, there are fewer than two classes, or (on a CPU) a label value is no class.

    Shape:
        logits ``(B, C, *S)``, label ``(B, 1, *S)`` or ``(B, *S)`` to twice ``(B, *S)``.
    """
    if label.ndim == logits.ndim and label.shape[1] == 1:
        label = label[:, 0]
    if label.shape != (logits.shape[0], *logits.shape[2:]):
        raise MedsegError(
            f"logits have shape {tuple(logits.shape)} and the label {tuple(label.shape)}; "
            "the label needs the same batch and spatial size"
        )
    classes = logits.shape[1] if classes is None else classes
    if classes < 2:
        raise MedsegError(
            f"logits of shape {tuple(logits.shape)} hold {classes} class, whose softmax is 1 everywhere; "
            "let the network give a logit for each class, background included"
        )
    index = label.long()
    valid = None if ignore_index is None else index != ignore_index
    if valid is not None:
        index = index.where(valid, 0)
    if index.device.type == "cpu" and index.numel():
        _check_values(label, index, valid, classes)
    return index, valid


def _check_values(label: Tensor, index: Tensor, valid: Tensor | None, classes: int) -> None:
    low, high = (int(end) for end in index.aminmax())
    if low < 0 or high >= classes:
        wrong = sorted(value for value in set(index.flatten().tolist()) if not 0 <= value < classes)
        raise MedsegError(
            f"label values {wrong[:10]} have no logit: the network gives {classes} classes "
            f"(0 to {classes - 1}); map the values, or set ignore_index"
        )
    if label.is_floating_point():
        between = label != index if valid is None else (label != index) & valid
        if between.any():
            wrong = sorted(set(label[between].tolist()))
            raise MedsegError(
                f"label values {wrong[:10]} are no class indices; resample labels by nearest neighbour, not linearly"
            )


def class_factors(weight: Sequence[float] | None) -> Tensor | None:
    """Check class weights and return them in float32.

    Args:
        weight: a factor for each class, or ``None``.

    Raises:
        ValueError: if there are none, or one is negative, infinite or NaN.
    """
    if weight is None:
        return None
    if len(weight) == 0 or not all(0 <= value < math.inf for value in weight):
        raise MedsegError(f"weight is {list(weight)}; give one factor a class, none negative, none infinite")
    return torch.tensor(weight, dtype=torch.float32)


def prepared(
    logits: Tensor, label: Tensor, weight: Tensor | None, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Check what a loss with class weights gets.

    Args:
        logits: the network's output.
        label: class indices of any type.
        weight: of `class_factors`.
        ignore_index: label value that counts for nothing.

    Returns:
        Logits of `full_precision`, indices and valid pixels of `class_indices`, and the weight beside the logits.

    Raises:
        ValueError: if there is not one weight a class, or as `class_indices`.

    Shape:
        logits ``(B, C, *S)``, label ``(B, 1, *S)`` or ``(B, *S)`` to ``(B, C, *S)``, twice ``(B, *S)``, and ``(C,)``.
    """
    index, valid = class_indices(logits, label, ignore_index)
    classes = logits.shape[1]
    if weight is not None and len(weight) != classes:
        raise MedsegError(f"{len(weight)} class weights for {classes} classes; give one a class")
    logits = full_precision(logits)
    return logits, index, valid, None if weight is None else weight.to(logits)


def full_precision(logits: Tensor) -> Tensor:
    """Return logits in float32, those in float64 as they are.

    Args:
        logits: of any floating-point type.

    Shape:
        any, kept.
    """
    return logits if logits.dtype == torch.float64 else logits.float()
