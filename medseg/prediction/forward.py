"""From fed images to results: networks run, and what they give goes block by block to the grid of the image's file.

Logits are interpolated where the model resamples, and become classes at once, so that those of a whole image are never
held. Of an ensemble all members go through the image side by side, a block at a time, and the mean of their
probabilities decides. What sinks want beside the mask is made of the same blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import AsDiscreted, Compose
from torch import Tensor, nn

from medseg.bundle.description import Description
from medseg.engines.failures import out_of_memory
from medseg.engines.memory import device_memory
from medseg.engines.precision import autocast
from medseg.inferers.blocks import Block, BlockInferer, finite, several_of
from medseg.inferers.memory_format import to_memory_format
from medseg.prediction.case import Fed, PredictionError
from medseg.prediction.collected import Collected
from medseg.prediction.sinks import Result

__all__ = ["Forward"]

logger = logging.getLogger(__name__)

_CPU = torch.device("cpu")
_MAY_TAKE = 0.8  # of what is free on the device: forwards need some of it, too
_GIB = 2**30


class Forward:
    """Predicts fed images.

    Where the device's memory does not hold what windows leave to each other, they are put together in the computer's,
    and the device gets window by window.

    Args:
        networks: in evaluation mode, on ``device``; several are an ensemble.
        description: of the model, the same of all.
        inferer: of the model.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        device: where networks run.
        finish: dictionary transforms from ``pred`` logits ``(classes, *S)`` to indices ``(1, *S)``; by default the
            largest logit's, or of one channel whether its logit is above 0. One that begins with anything else gets
            the logits of the whole image.
        wants: what is made beside the mask, see `medseg.prediction.sinks`.
        scratch: folder for what is too large for memory; by default the system's.
        temperatures: that each network's logits are divided by; by default the model's.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        description: Description,
        inferer: Inferer,
        *,
        precision: str,
        device: torch.device,
        finish: Callable[..., Any] | None = None,
        wants: Iterable[str] = (),
        scratch: Path | None = None,
        temperatures: Sequence[float] | None = None,
    ) -> None:
        self.temperatures = [description.temperature] * len(networks) if temperatures is None else list(temperatures)
        self.networks, self.description, self.inferer = list(networks), description, inferer
        self.precision, self.device = precision, device
        self.wants, self.scratch = frozenset(wants), scratch
        self._at_once, self._finish = _without_argmax(finish)
        self._said = False

    def one_forward(self, fed: Fed) -> bool:
        """Return whether an image goes into one forward with others like it."""
        return isinstance(self.inferer, BlockInferer) and self.inferer.one_forward(fed.image.shape[1:])

    def voxels(self, fed: Fed) -> int:
        """Return how many voxels' logits are held at once: of a forward's windows, and what they leave to others."""
        size = fed.image.shape[1:]
        return self.inferer.held(size) if isinstance(self.inferer, BlockInferer) else size.numel()

    def __call__(self, feds: Sequence[Fed]) -> list[Result]:
        """Predict images, see `collect`."""
        return [each.result() for each in self.collect(feds)]

    def collect(self, feds: Sequence[Fed]) -> list[Collected]:
        """Run the networks; what is left to do needs no device, and can be done elsewhere.

        Args:
            feds: the images; of several that take one forward each, one is made of them.

        Raises:
            MedsegError: if a logit is not finite, there is no way back to an image's grid, or the device's memory does
                not hold a forward.
        """
        home = self._home(feds)
        if (found := self._tried(feds, home)) is not None:
            return found
        if home != _CPU:
            self._say("did not hold it")
            if (found := self._tried(feds, _CPU)) is not None:
                return found
        elsewhere = "" if self.device == _CPU else ", or device=cpu"
        raise PredictionError(
            f"the memory of {self.device} does not hold a forward of {self.description.inference.batch} windows; "
            f"predict with inference#batch=1, or a smaller inference#window{elsewhere}"
        )

    def _home(self, feds: Sequence[Fed]) -> torch.device:
        """Return where images lie and windows are put together: on the device, if its free memory holds that."""
        memory = device_memory(self.device)
        if memory is None:
            return self.device
        free, _ = memory
        needed = sum(self._held(fed) for fed in feds)
        if needed <= _MAY_TAKE * free:
            return self.device
        self._say(f"has {free / _GIB:.2f} GiB free, and about {needed / _GIB:.2f} are needed")
        return _CPU

    def _held(self, fed: Fed) -> int:
        """Return about how many bytes an image takes on the device beside the forwards."""
        held = self.voxels(fed)
        classes = max(2, len(self.description.classes)) + 1
        voxels = 1
        for edge in fed.grid.shape:
            voxels *= edge
        return 8 * fed.image.numel() + 2 * 4 * held * classes * len(self.networks) + 3 * voxels

    def _say(self, why: str) -> None:
        level = logging.DEBUG if self._said else logging.WARNING
        logger.log(level, "the memory of %s %s: windows are put together in the computer's memory", self.device, why)
        self._said = True

    def _network(self, network: nn.Module, home: torch.device) -> Callable[[Tensor], Any]:
        """Return a network that takes and gives what lies where windows are put together."""
        if home == self.device:
            return network

        def moved(windows: Tensor) -> Any:
            logits = network(to_memory_format(windows.to(self.device)))
            return logits.to(home) if isinstance(logits, Tensor) else logits

        return moved

    def _tried(self, feds: Sequence[Fed], home: torch.device) -> list[Collected] | None:
        """Return what `_predict` does; ``None`` where memory is short, and what was taken is free then."""
        try:
            return self._predict(feds, home)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        if self.device.type == "cuda":  # what the frames of the error held is free now
            torch.cuda.empty_cache()
        return None

    def _predict(self, feds: Sequence[Fed], home: torch.device) -> list[Collected]:
        collected = [
            Collected(
                fed.grid,
                self.description,
                self.wants,
                at_once=self._at_once,
                finish=self._finish,
                values=fed.values,
                scratch=self.scratch,
            )
            for fed in feds
        ]
        ways = [fed.way_back() for fed in feds]
        with torch.inference_mode(), autocast(self.precision, self.device):
            images = [_plain(fed.image)[None].to(home).float() for fed in feds]
            streams = [
                groupby(several_of(self.inferer, images, self._network(network, home)), key=lambda found: found[0])
                for network in self.networks
            ]
            for way, into in zip(ways, collected, strict=True):
                members = [
                    finite(_blocks(next(stream)[1], temperature))
                    for stream, temperature in zip(streams, self.temperatures, strict=True)
                ]
                if len(members) == 1 and into.classes_alone:
                    for at, found in way.classes(members[0]):
                        into.put(at, found)
                else:
                    for blocks in zip(*map(way.blocks, members), strict=True):
                        into.add(blocks)
                into.land()
        return collected


def _plain(image: Tensor) -> Tensor:
    return image.as_tensor() if isinstance(image, MetaTensor) else image


def _blocks(found: Iterator[tuple[int, Block]], temperature: float) -> Iterator[Block]:
    for _, block in found:
        yield block if temperature == 1 else Block(block.at, block.logits / temperature)


def _without_argmax(finish: Callable[..., Any] | None) -> tuple[bool, Callable[..., Any] | None]:
    """Return whether transforms begin with taking the largest logit's index alone, and the others."""
    if finish is None:
        return True, None
    transforms = finish.transforms if isinstance(finish, Compose) else (finish,)
    first = transforms[0] if transforms else None
    if not isinstance(first, AsDiscreted) or first.keys != ("pred",) or first.argmax != (True,):
        return False, finish
    if any(option != (None,) for option in (first.to_onehot, first.threshold, first.rounding)) or first.kwargs:
        return False, finish
    return True, Compose(transforms[1:]) if len(transforms) > 1 else None
