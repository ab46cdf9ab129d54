"""Warm-up of a factorised network: the factorisation counts from a share of the schedule on.

N. R. Gurram, "Learning context with factorization techniques in semantic segmentation" (MFNet), section 4.1: the first
10 of 50 epochs. Here a fifth of the schedule, as a budget in minutes may end it after any number of epochs.
"""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from medseg.errors import MedsegError
from medseg.runs.checkpoint import unwrap


class FactorisationWarmUp:
    """Set the network's `factorise` before each step: off in the first part of the schedule, on from then on.

    The schedule's progress decides alone, by steps or by the clock, so a resumed run goes on right; the buffer is saved
    with the weights, so that weights of the warm-up are evaluated as they were trained. In warm-up the factorisation's
    parameters, whose gradient is zero, are kept from the optimiser: weight decay and momentum do not move them.

    Args:
        share: of the schedule that is warm-up; 0 for none, 1 for all of it.

    Raises:
        MedsegError: if ``share`` is not between 0 and 1.
    """

    def __init__(self, share: float = 0.2) -> None:
        if not 0 <= share <= 1:
            raise MedsegError(f"warm-up is {share} of the schedule; give a share between 0 and 1")
        self.share = share
        self.over = False

    def attach(self, engine: Engine) -> None:
        """Hang the warm-up on a trainer, before it runs.

        Args:
            engine: a `Trainer` of a network with a boolean buffer ``factorise`` and a module ``factorisation``.

        Raises:
            MedsegError: if the network has no such buffer and module.
        """
        _parts(engine)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._start_iteration)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._keep_from_optimizer)

    def _start(self, engine: Engine) -> None:
        self.over = False
        factorise, _ = _parts(engine)
        factorise.fill_(False)

    def _start_iteration(self, engine: Engine) -> None:
        if self.over or self.share == 1:
            return
        if engine.schedule.progress(engine.state.iteration - 1, engine.clock) >= self.share:
            self.over = True
            factorise, _ = _parts(engine)
            factorise.fill_(True)

    def _keep_from_optimizer(self, engine: Engine) -> None:
        if not self.over:
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
