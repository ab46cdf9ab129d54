"""Hybrid adaptive logarithmic loss ALL(HL): balanced cross-entropy plus Tversky loss, steep near the minimum.

C. Kaul, N. Pears, H. Dai, R. Murray-Smith, S. Manandhar, "FocusNet++: Attentive Aggregated Transformations for
Efficient and Accurate Medical Image Segmentation", ISBI 2021, section 2.2, https://arxiv.org/abs/1912.02079.
Deviations: the balanced cross-entropy has the minus sign that the paper's print lacks; the absolute value of eq. 2 is
left out, as no term is negative. Where the paper is silent: the cross-entropy is a mean over pixels and, like the
paper's Tversky loss, a sum over classes (one class is printed); with softmax each class stands against all others
together; Tversky sums go over the batch and get a smoothing constant; the logarithm is taken of the batch's loss.
MONAI's `TverskyLoss` divides before its sums can be summed over processes, so the few sums are taken here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from medseg.errors import MedsegError
from medseg.losses.processes import sum_over_processes
from medseg.losses.targets import class_indices, full_precision


class ALLHLLoss(nn.Module):
    """``ALL(k C_b + (1 - k) TL)`` of logits and class indices, in float32 whatever the logits' type (eq. 1-2).

    With g 1 on a class's own pixels, else 0, and p its probability, ``C_b`` is the mean of ``-(omega_bce g log p
    + (1 - omega_bce) (1 - g) log(1 - p))`` over pixels that are not ignored, and ``TL = 1 - TP / (TP + alpha FP + beta
    FN)`` of ``TP = sum g p``, ``FP = sum (1 - g) p`` and ``FN = sum g (1 - p)``; both are summed over classes. With two
    classes and without background, softmax makes this the paper's binary loss of ``sigmoid(z1 - z0)``. In several
    processes the sums go over all of them, so that with `DistributedDataParallel` loss and gradients are those of one
    process with the whole batch; every process must then call the loss.

    Args:
        k: share of the cross-entropy, that of the Tversky loss being ``1 - k``.
        omega_bce: share of a class's own pixels in its cross-entropy (the paper's capital omega).
        alpha: weight of false positives.
        beta: weight of false negatives.
        gamma: value of the hybrid loss below which the logarithm is taken, see `adaptive_logarithm`.
        omega: height of the logarithm.
        epsilon: how sharply the logarithm bends.
        activation: ``"softmax"``, or ``"sigmoid"`` for logits that each judge one class by itself. A single logit (with
            sigmoid) is that of class 1, its negative that of class 0.
        include_background: whether class 0 is among the classes summed over; false as in the paper's binary networks.
        ignore_index: label value that counts for nothing.
        batch: sum the Tversky index over the batch (true), or average the Tversky loss over images (false).
        smooth: pixels added to numerator and denominator of the Tversky index. A class that is not in the label costs
            nearly 1 as soon as it is predicted while this is much smaller than a pixel, and less the larger it is.

    Raises:
        ValueError: if an option is out of range, logits and label do not fit, softmax gets a single logit, or (on a
            CPU, where looking is cheap) a label value has no logit.

    Shape:
        logits ``(B, C, *S)``, label ``(B, 1, *S)`` or ``(B, *S)`` to a scalar.
    """

    def __init__(
        self,
        k: float = 0.5,
        omega_bce: float = 0.7,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 0.1,
        omega: float = 10.0,
        epsilon: float = 0.5,
        activation: str = "softmax",
        include_background: bool = False,
        ignore_index: int | None = None,
        batch: bool = True,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        for name, value in (("k", k), ("omega_bce", omega_bce)):
            if not 0 <= value <= 1:
                raise MedsegError(f"{name} is {value}; it must be between 0 and 1")
        for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma), ("smooth", smooth)):
            if not 0 <= value < math.inf:
                raise MedsegError(f"{name} is {value}; it must be at least 0")
        for name, value in (("omega", omega), ("epsilon", epsilon)):
            if not 0 < value < math.inf:
                raise MedsegError(f"{name} is {value}; it must be above 0")
        if activation not in ("softmax", "sigmoid"):
            raise MedsegError(f"activation is {activation!r}; choose one of softmax, sigmoid")
        self.k = k
        self.omega_bce = omega_bce
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.omega = omega
        self.epsilon = epsilon
        self.activation = activation
        self.include_background = include_background
        self.ignore_index = ignore_index
        self.batch = batch
        self.smooth = smooth

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss."""
        channels = logits.shape[1]
        classes = 2 if self.activation == "sigmoid" and channels == 1 else channels
        index, valid = class_indices(logits, label, self.ignore_index, classes)
        odds = self._log_odds(full_precision(logits))
        truth = odds.new_zeros(len(index), classes, *index.shape[1:]).scatter_(1, index[:, None], 1.0)
        odds, truth = (maps if self.include_background else maps[:, 1:] for maps in (odds, truth))
        against = odds.where(truth == 0, -odds)  # log odds of the wrong answer
        if valid is not None:
            truth = truth * valid[:, None]
            against = against.masked_fill(~valid[:, None], -math.inf)
        cross = -nn.functional.logsigmoid(-against)
        wrong = against.sigmoid()
        missed = truth * wrong
        cross_entropy = (cross * ((1 - self.omega_bce) + (2 * self.omega_bce - 1) * truth)).sum()
        found = (truth - missed).flatten(2).sum(-1)  # (B, C)
        lost = (self.alpha * (wrong - missed) + self.beta * missed).flatten(2).sum(-1)
        counted = torch.ones_like(index) if valid is None else valid
        pixels = counted.flatten(1).sum(1).to(odds)  # (B,)
        hybrid = self._hybrid(cross_entropy, pixels, found, lost)
        return adaptive_logarithm(hybrid, self.gamma, self.omega, self.epsilon)

    def _hybrid(self, cross_entropy: Tensor, pixels: Tensor, found: Tensor, lost: Tensor) -> Tensor:
        """Return eq. 1 out of sums over pixels, (images, classes) for the Tversky index."""
        count = pixels.sum()
        if self.batch:
            merged = sum_over_processes(torch.cat([cross_entropy[None], count[None], found.sum(0), lost.sum(0)]))
            tversky = self._tversky(*merged[2:].view(2, -1).unbind())
        else:
            terms = [cross_entropy, count, self._tversky(found, lost), (pixels > 0).sum().to(count)]
            merged = sum_over_processes(torch.stack(terms))
            tversky = merged[2] / merged[3].clamp(min=1)  # an image without counted pixels has lost nothing
        return self.k * merged[0] / merged[1].clamp(min=1) + (1 - self.k) * tversky

    def _tversky(self, found: Tensor, lost: Tensor) -> Tensor:
        """Sum 1 - TI, written so that it keeps its digits near 0."""
        return (lost / (found + lost + self.smooth).clamp(min=1e-12)).sum()

    def _log_odds(self, logits: Tensor) -> Tensor:
        """Return ``log(p / (1 - p))`` of every class, ``(B, C, *S)`` with C at least 2."""
        if self.activation == "softmax":
            return _log_odds_of_softmax(logits)
        return torch.cat([-logits, logits], dim=1) if logits.shape[1] == 1 else logits


def adaptive_logarithm(x: Tensor, gamma: float = 0.1, omega: float = 10.0, epsilon: float = 0.5) -> Tensor:
    """Return ``omega ln(1 + x / epsilon)`` below gamma and ``x - C`` from there on (eq. 2).

    ``C = gamma - omega ln(1 + gamma / epsilon)`` makes it continuous; its derivative falls at gamma from
    ``omega / (epsilon + gamma)`` to 1.

    Args:
        x: a loss, at least 0.
        gamma: where the logarithm ends.
        omega: height of the logarithm.
        epsilon: how sharply the logarithm bends.

    Shape:
        any, kept.
    """
    shift = gamma - omega * math.log1p(gamma / epsilon)
    return (omega * torch.log1p(x / epsilon)).where(x < gamma, x - shift)


def _log_odds_of_softmax(logits: Tensor) -> Tensor:
    """Return ``log p - log(1 - p)`` with p the softmax, in full precision however close p is to 0 or 1.

    The largest class, the only one where ``1 - p`` can cancel, is compared with the sum of the others.
    """
    if logits.shape[1] == 2:
        return logits - logits.flip(1)
    log_p = logits.log_softmax(dim=1)
    largest, where = log_p.max(dim=1, keepdim=True)
    others = log_p.scatter(1, where, -math.inf).logsumexp(dim=1, keepdim=True)
    p = log_p.exp().scatter(1, where, 0.0)
    return (log_p - torch.log1p(-p)).scatter(1, where, largest - others)
