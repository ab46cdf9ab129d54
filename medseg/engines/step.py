"""A training step: MONAI's, without what it asks of the processor each time.

MONAI's `SupervisedTrainer` makes every module of the network a training one in each step, which takes a U-Net of 100
modules 0.7 ms, and averages a loss that is one number. On a GPU, whose steps of small patches take 22 ms, the processor
is what is waited for. Events, their order and what they find in ``state.output`` are MONAI's.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor

from medseg.runs.checkpoint import unwrap

__all__ = ["steps_now", "steps_taken", "train_step"]


def steps_now(engine: SupervisedTrainer) -> bool:
    """Return whether the optimiser takes a step after the batch at hand: after so many of them, and an epoch's last.

    Args:
        engine: in an iteration.
    """
    done = (engine.state.iteration - 1) % engine.state.epoch_length + 1
    return bool(done % engine.accumulation_steps == 0 or done == engine.state.epoch_length)


def _batches_of_step(engine: SupervisedTrainer) -> int:
    """Return over how many batches the gradients of the step at hand are averaged: an epoch's last may have fewer."""
    length, each = int(engine.state.epoch_length), int(engine.accumulation_steps)
    begun = (engine.state.iteration - 1) % length // each * each
    return int(min(each, length - begun))


def steps_taken(engine: SupervisedTrainer) -> int:
    """Return how many steps the optimiser has taken: fewer than batches, where it takes one after several.

    Args:
        engine: after an iteration.
    """
    length, each = int(engine.state.epoch_length or 1), int(engine.accumulation_steps)
    whole, batches = divmod(int(engine.state.iteration), length)
    return whole * math.ceil(length / each) + batches // each


def train_step(engine: SupervisedTrainer, batch: Any) -> dict[str, Any]:
    """Take a step, and return the images, targets, predictions and the loss of it.

    Args:
        engine: at the beginning of an iteration.
        batch: of its loader.
    """
    image, targets = engine.prepare_batch(batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)
    output: dict[str, Any] = {CommonKeys.IMAGE: image, CommonKeys.LABEL: targets}
    engine.state.output = output
    if not unwrap(engine.network).training:  # as a validation may leave it; what is around it is never told
        engine.network.train()
    if (engine.state.iteration - 1) % engine.state.epoch_length % engine.accumulation_steps == 0:
        engine.optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
    scaler = engine.scaler if engine.amp else None
    with nullcontext() if scaler is None else torch.autocast("cuda", **engine.amp_kwargs):
        output[CommonKeys.PRED] = engine.inferer(image, engine.network)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        loss: Tensor = engine.loss_function(output[CommonKeys.PRED], targets)
        output[CommonKeys.LOSS] = loss if loss.ndim == 0 else loss.mean()
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
    loss = output[CommonKeys.LOSS]
    together = _batches_of_step(engine)
    if together > 1:
        loss = loss / together
    (loss if scaler is None else scaler.scale(loss)).backward()
    engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
    if steps_now(engine):
        if scaler is None:
            engine.optimizer.step()
        else:
            scaler.step(engine.optimizer)
            scaler.update()
    engine.fire_event(IterationEvents.MODEL_COMPLETED)
    return output
