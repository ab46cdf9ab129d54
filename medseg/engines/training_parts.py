"""Parts of the training engine: how a batch gets to the network, in which precision, and what is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from medseg.engines.loading import SEED
from medseg.engines.packing import PackedBatch
from medseg.engines.precision import autocast
from medseg.errors import MedsegError
from medseg.inferers.memory_format import to_memory_format
from medseg.runs.processes import world_size


class PrepareBatch:
    """Bring a batch to the device in the memory format of the network.

    Args:
        channels_last: whether that is channels-last.
        augment: of samples that the loader left to the device: takes tensors ``(B, C, *S)`` and seeds ``(B,)``.
    """

    def __init__(self, channels_last: bool, augment: Callable[[dict[str, Tensor], Tensor], dict[str, Tensor]]) -> None:
        self.channels_last = channels_last
        self.augment = augment

    def __call__(
        self, batch: Mapping[str, Tensor], device: torch.device, non_blocking: bool, **_: Any
    ) -> tuple[Tensor, Tensor | dict[str, Tensor]]:
        """Return the image and what the loss needs: the label, or all targets where there are more."""
        tensors = {k: v for k, v in batch.items() if isinstance(v, Tensor) and k != "affine"}  # where a volume lies
        seeds = tensors.pop(SEED, None)
        if isinstance(batch, PackedBatch):
            there = batch.to(device, non_blocking=non_blocking)
            moved = {k: there[k] for k in tensors}
        else:
            moved = {k: v.to(device, non_blocking=non_blocking) for k, v in tensors.items()}
        if seeds is not None:
            moved = self.augment(moved, seeds)
        image = moved.pop("image").float()
        if self.channels_last:
            image = to_memory_format(image)
        targets: Tensor | dict[str, Tensor] = moved["label"] if len(moved) == 1 else moved
        return image, targets


class AutocastInferer(Inferer):
    """Run an inferer in lower precision, and leave the loss to full precision."""

    def __init__(self, inferer: Inferer, precision: str, device: torch.device) -> None:
        super().__init__()
        self.inferer = inferer
        self.precision = precision
        self.device = device

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the wrapped inferer."""
        context = autocast(self.precision, self.device) if self.precision == "bf16" else nullcontext()
        with context:
            output = self.inferer(inputs, network, *args, **kwargs)
        if isinstance(output, Mapping):
            return {name: _full(value) for name, value in output.items()}
        return _full(output)


def _full(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


class EpochMeter:
    """Loss and its terms, throughput and waiting of one epoch; the losses stay on the device until asked for."""

    def __init__(self) -> None:
        self.validation_seconds = 0.0
        self.image_shape: tuple[int, ...] = ()

    def start(self, device: torch.device) -> None:
        """Begin an epoch."""
        self.total = torch.zeros((), device=device)
        self.terms: dict[str, Tensor] = {}
        self.count = 0
        self.images = 0
        self.waited = 0.0
        self.started = time.monotonic()

    def wait_started(self) -> None:
        """Note that the loop asks for a batch."""
        self._wait_from = time.monotonic()

    def wait_completed(self) -> None:
        """Note that the batch has come."""
        self.waited += time.monotonic() - self._wait_from

    def add(self, loss: Tensor, images: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Count one iteration.

        Args:
            loss: of the batch.
            images: ``(B, C, *S)``.
            terms: of the loss, by name.
        """
        self.total += loss
        for name, value in terms.items():
            self.terms[name] = self.terms[name] + value if name in self.terms else value.clone()
        self.count += 1
        self.images += images.shape[0]
        self.image_shape = tuple(images.shape[1:])

    def mean_loss(self) -> float:
        """Return the mean loss so far; waits for the device."""
        return float(self.total) / max(1, self.count)

    def seconds_per_image(self) -> float:
        """Return the time of this process's training so far, by image."""
        return (time.monotonic() - self.started) / max(1, self.images)

    def summary(self, loss: float, rates: Mapping[str, float], processes: int) -> dict[str, float]:
        """Return the epoch's values over all processes: ``loss``, ``loss_<term>``, rates, throughput.

        Args:
            loss: of this process, its mean.
            rates: learning rates by name.
            processes: how many train.
        """
        means = {"loss": loss} | {f"loss_{name}": float(v) / max(1, self.count) for name, v in self.terms.items()}
        if processes > 1:
            total = torch.tensor(list(means.values()), dtype=torch.float64, device=self.total.device)
            torch.distributed.all_reduce(total)
            means = dict(zip(means, (total / processes).tolist(), strict=True))
        seconds = time.monotonic() - self.started
        return {
            **means,
            **rates,
            "images_per_second": self.images * processes / seconds,
            "data_wait_share": self.waited / seconds,
        }


def agreed(values: Sequence[float], device: torch.device) -> list[float]:
    """Return the greatest of each value over all processes, so that all decide alike.

    Args:
        values: of this process.
        device: of this process, through which they are exchanged.
    """
    if world_size() == 1:
        return [float(value) for value in values]
    found = torch.tensor([float(value) for value in values], device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return [float(value) for value in found]


def finite(network: nn.Module) -> bool:
    """Return whether all parameters are finite; waits for the device."""
    with torch.no_grad():
        norms = torch._foreach_norm(list(network.parameters()))
        return bool(torch.stack([norm.float() for norm in norms]).isfinite().all())


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return ``learning_rate`` of the first parameter group and ``learning_rate_<name or number>`` of the others."""
    first, *others = optimizer.param_groups
    named = {f"learning_rate_{group.get('name', number)}": group["lr"] for number, group in enumerate(others, start=1)}
    return {name: float(rate) for name, rate in {"learning_rate": first["lr"], **named}.items()}


def at_least(least: int, **values: int | None) -> None:
    """Refuse options that are too small.

    Args:
        least: value that is large enough.
        values: by name; ``None`` is one that was not given.

    Raises:
        MedsegError: naming the first.
    """
    for name, value in values.items():
        if value is not None and value < least:
            raise MedsegError(f"{name} is {value}; it must be at least {least}")
