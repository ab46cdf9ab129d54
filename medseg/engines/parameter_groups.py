"""Parameter groups for an optimiser: a learning rate for the pretrained encoder, another for the rest."""

from __future__ import annotations

from typing import Any

from torch import nn

from medseg.errors import MedsegError

ENCODER = "encoder"


def parameter_groups(
    network: nn.Module,
    lr: float,
    decoder_factor: float = 10.0,
    *,
    weight_decay: float | None = None,
    no_decay_for_norm_and_bias: bool = False,
) -> list[dict[str, Any]]:
    """Divide a network's parameters into encoder and decoder, each with its learning rate.

    The encoder is every module that is called ``encoder``, at any depth; the decoder is all the rest. Each parameter is
    in one group (one that both share: in the encoder's); frozen ones are in none. Groups without parameters are left
    out. Schedules scale each group's own rate, and training records each by its name.

    Args:
        network: the network, wrapped (``DistributedDataParallel``, ``torch.compile``) or not.
        lr: learning rate of the encoder.
        decoder_factor: learning rate of the decoder in multiples of ``lr``.
        weight_decay: of all groups; ``None`` leaves it to the optimiser's own argument.
        no_decay_for_norm_and_bias: no weight decay for parameters of one dimension, which are biases and the scales and
            shifts of normalisations; they get groups of their own, ``encoder_no_decay`` and ``decoder_no_decay``.

    Returns:
        Dicts with ``name``, ``params``, ``lr`` and, where it is set, ``weight_decay``, for a torch optimiser's
        ``params``.

    Raises:
        ValueError: if a number is out of range, the network has no encoder, or every parameter is frozen.
    """
    if lr <= 0 or decoder_factor <= 0:
        raise MedsegError(f"lr is {lr} and decoder_factor {decoder_factor}; both must be above 0")
    if weight_decay is not None and weight_decay < 0:
        raise MedsegError(f"weight_decay is {weight_decay}; it must not be negative")
    encoders = [module for name, module in network.named_modules() if name.rpartition(".")[2] == ENCODER]
    if not encoders:
        raise MedsegError(
            f"{type(network).__name__} has no module called {ENCODER!r}, so that one learning rate fits all: pass "
            "network.parameters() to the optimiser"
        )
    in_encoder = {id(parameter) for encoder in encoders for parameter in encoder.parameters()}
    groups: dict[str, dict[str, Any]] = {}
    for part, rate in ((ENCODER, lr), ("decoder", lr * decoder_factor)):
        groups[part] = {"name": part, "params": [], "lr": rate}
        if weight_decay is not None:
            groups[part]["weight_decay"] = weight_decay
        groups[f"{part}_no_decay"] = {"name": f"{part}_no_decay", "params": [], "lr": rate, "weight_decay": 0.0}
    for parameter in network.parameters():
        if parameter.requires_grad:
            part = ENCODER if id(parameter) in in_encoder else "decoder"
            spared = no_decay_for_norm_and_bias and parameter.ndim <= 1
            groups[f"{part}_no_decay" if spared else part]["params"].append(parameter)
    filled = [group for group in groups.values() if group["params"]]
    if not filled:
        raise MedsegError(f"every parameter of {type(network).__name__} is frozen; there is nothing to train")
    return filled
