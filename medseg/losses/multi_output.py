"""A weighted sum of losses over the named outputs of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medseg.errors import MedsegError

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class _Term:
    name: str
    output: str
    target: str
    weight: float
    resize: bool
    loss: Callable[[Tensor, Tensor], Tensor]


class MultiOutputLoss(nn.Module):
    """Sum ``weight * loss(outputs[output], targets[target])`` over terms.

    An output whose spatial size differs from its target's is resized to it, as auxiliary heads at lower resolution
    need: by linear interpolation of logits, the corners staying on one another, which is how networks with strided
    encoders bring their own logits to the image (`medseg.layers.resize.resize`).

    Args:
        terms: mappings with ``output`` (a name) and ``loss`` (callable), and if wanted ``target`` (``"label"``),
            ``weight`` (1.0) and ``resize`` (true).

    Raises:
        ValueError: if a term is incomplete or has an unknown key, or names an output or a target that is not there.

    Shape:
        outputs: a tensor (it is ``pred``) or a flat dict of tensors ``(B, C, *S)``; targets: the label, or a dict of
        targets; to a scalar.
    """

    def __init__(self, terms: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        if not terms:
            raise MedsegError("MultiOutputLoss has no terms; give at least one term, such as {output: pred, loss: ...}")
        repeated = Counter(str(term.get("output")) for term in terms)
        self.terms = [_term(term, position, repeated) for position, term in enumerate(terms)]
        self.losses = nn.ModuleList(term.loss for term in self.terms if isinstance(term.loss, nn.Module))
        self.last_terms: dict[str, Tensor] = {}
        """The terms of the last call, without weight or graph, by output (``pred.0``, ``pred.1`` where one has two)."""

    def forward(self, outputs: Tensor | Mapping[str, Tensor], targets: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Return the sum."""
        named = outputs if isinstance(outputs, Mapping) else {"pred": outputs}
        wanted = targets if isinstance(targets, Mapping) else {"label": targets}
        values: list[Tensor] = []
        self.last_terms = {}
        for term in self.terms:
            prediction = _named(named, term.output, "the network gives")
            target = _named(wanted, term.target, "the batch has")
            dims = prediction.ndim - 2
            size = target.shape[target.ndim - dims :]
            if term.resize and prediction.shape[2:] != size:
                prediction = nn.functional.interpolate(prediction, size=size, mode=_MODES[dims], align_corners=True)
            value = term.loss(prediction, target)
            self.last_terms[term.name] = value.detach()
            values.append(term.weight * value)
        return torch.stack(values).sum()


def _term(term: Mapping[str, Any], position: int, repeated: Counter[str]) -> _Term:
    known = {"output", "loss", "target", "weight", "resize"}
    unknown = sorted(set(term) - known)
    if unknown:
        raise MedsegError(f"loss term {position} has unknown keys {unknown}; choose among {sorted(known)}")
    output = term.get("output")
    if not isinstance(output, str) or not callable(term.get("loss")):
        raise MedsegError(f"loss term {position} is {dict(term)}; it needs `output`, a name, and `loss`, a callable")
    return _Term(
        name=output if repeated[output] == 1 else f"{output}.{position}",
        output=output,
        target=str(term.get("target", "label")),
        weight=float(term.get("weight", 1.0)),
        resize=bool(term.get("resize", True)),
        loss=term["loss"],
    )


def _named(tensors: Mapping[str, Tensor], name: str, source: str) -> Tensor:
    if name not in tensors:
        raise MedsegError(f"the loss wants {name!r}, but {source} {', '.join(sorted(tensors)) or 'nothing'}")
    return tensors[name]
