"""Warm-up of a factorised network: the factorisation counts from a given epoch on.

N. R. Gurram, "Learning context with factorization techniques in semantic segmentation" (MFNet), section 4.1: 10 epochs.
"""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from medseg.errors import MedsegError
from medseg.runs.checkpoint import unwrap


class FactorisationWarmUp:
    """Set the network's `factorise` at the start of each epoch: off in the first ones, on from then on.

    The epoch decides alone, so a resumed run goes on right; the buffer is saved with the weights, so that weights of
    the warm-up are evaluated as they were trained. In warm-up the factorisation's parameters, whose gradient is zero,
    are kept from the optimiser: weight decay and momentum do not move them.

    Args:
        epochs: of the warm-up; 0 for none.

    Raises:
        ValueError: if ``epochs`` is negative.
    """

    def __init__(self, epochs: int = 10) -> None:
        if epochs < 0:
            raise MedsegError(f"warm-up is {epochs} epochs; it must not be negative")
        self.epochs = epochs

    def attach(self, engine: Engine) -> None:
        """Hang the warm-up on a trainer, before it runs.

        Args:
            engine: a `Trainer` of a network with a boolean buffer ``factorise`` and a module ``factorisation``.

        Raises:
            ValueError: if the network has no such buffer and module.
        """
        _parts(engine)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._keep_from_optimizer)

    def _start_epoch(self, engine: Engine) -> None:
        factorise, _ = _parts(engine)
        factorise.fill_(engine.state.epoch > self.epochs)

    def _keep_from_optimizer(self, engine: Engine) -> None:
        if engine.state.epoch <= self.epochs:
            _, factorisation = _parts(engine)
            for parameter in factorisation.parameters():
                parameter.grad = None


def _parts(engine: Engine) -> tuple[Tensor, nn.Module]:
    network = unwrap(engine.network)
    factorise = dict(network.named_buffers()).get("factorise")
    factorisation = dict(network.named_children()).get("factorisation")
    if factorise is None or factorisation is None:
        raise MedsegError(
            f"{type(network).__name__} has no buffer `factorise` and module `factorisation`; the warm-up is for MFNet"
        )
    return factorise, factorisation
