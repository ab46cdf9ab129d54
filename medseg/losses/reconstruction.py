"""Mean squared reconstruction error of features, as MFNet is trained with.

N. R. Gurram, "Learning context with factorization techniques in semantic segmentation", section 3: the second term of
L = L_ce + 0.1 L_mse. In a bundle::

    - {output: recon, loss: {_target_: medseg.losses.reconstruction.ReconstructionLoss}, weight: 0.1, resize: false}

Deviation: mean over all processes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.errors import MedsegError
from medseg.losses.processes import sum_over_processes
from medseg.losses.targets import full_precision


class ReconstructionLoss(nn.Module):
    """Mean square of the difference between features and their reconstruction; its target is zero.

    In several processes the mean is over all of them, as of `CrossEntropyLoss`; every process must call the loss.

    Raises:
        ValueError: if the difference has the label's size, as it gets by being resized to it.

    Shape:
        difference ``(B, C, *S)`` of features coarser than the label, label ``(B, 1, *T)`` or ``(B, *T)``, of which
        the size alone is looked at, to a scalar.
    """

    def forward(self, difference: Tensor, label: Tensor) -> Tensor:
        """Return the loss."""
        size = difference.shape[2:]
        if label.shape[label.ndim - len(size) :] == size:
            raise MedsegError(
                f"the difference has the label's size {tuple(size)}: it was resized to it, which changes its mean "
                "square; set `resize: false` in its term of the loss"
            )
        total = full_precision(difference).square().sum()
        total, values = sum_over_processes(torch.stack([total, total.new_tensor(difference.numel())])).unbind()
        return total / values
