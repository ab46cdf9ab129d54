"""A weighted sum of losses over the named outputs of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


from torch import Tensor, nn


class MultiOutputLoss(nn.Module):
    """Sum ``weight * loss(outputs[output], targets[target])`` over terms.

    An output whose spatial size differs from the target's is resized to it (linear interpolation), as auxiliary heads
    at lower resolution need.

    Args:
        terms: mappings with ``output`` (name), ``loss`` (callable), and optionally ``weight`` (1.0), ``target``
            (``"label"``), ``resize`` (true).

    Raises:
        ValueError: if a term is incomplete, or names an output or a target that is not there.

    Shape:
        outputs: a tensor (it is ``pred``) or a flat dict of tensors; targets: the label, or a dict of targets.
    """

    def __init__(self, terms: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.terms: list[tuple[str, str, float, bool, Callable[[Tensor, Tensor], Tensor]]] = []
        for term in terms:
            unknown = set(term) - {"output", "loss", "weight", "target", "resize"}
            if unknown or "output" not in term or not callable(term.get("loss")):
                raise ValueError(f"loss term {dict(term)} needs `output` and a callable `loss`, and knows no {unknown}")
            self.terms.append(
                (
                    term["output"],
                    term.get("target", "label"),
                    float(term.get("weight", 1.0)),
                    bool(term.get("resize", True)),
                    term["loss"],
                )
            )
        if not self.terms:
            raise ValueError("MultiOutputLoss needs at least one term")
        self.losses = nn.ModuleList(term[-1] for term in self.terms if isinstance(term[-1], nn.Module))
        self.last_terms: dict[str, Tensor] = {}

    def forward(self, outputs: Tensor | Mapping[str, Tensor], targets: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Return the sum; the unweighted terms of this call are in ``last_terms``."""
        named = outputs if isinstance(outputs, Mapping) else {"pred": outputs}
        wanted = targets if isinstance(targets, Mapping) else {"label": targets}
        total: Tensor | None = None
        for output, target, weight, resize, loss in self.terms:
            for name, there, kind in ((output, named, "the network gives"), (target, wanted, "the batch has")):
                if name not in there:
                    raise ValueError(f"the loss wants {name!r}, but {kind} {', '.join(sorted(there))}")
            prediction = named[output]
            size = wanted[target].shape[2:]
            if resize and prediction.shape[2:] != size:
                mode = "bilinear" if prediction.ndim == 4 else "trilinear"
                prediction = nn.functional.interpolate(prediction, size=size, mode=mode, align_corners=False)
            term = loss(prediction, wanted[target])
            self.last_terms[output] = term.detach()
            total = weight * term if total is None else total + weight * term
        assert total is not None
        return total


