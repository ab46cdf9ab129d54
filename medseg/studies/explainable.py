"""What `medseg explain` needs of a trained model: its network, fed as ever, but on the whole image without windows."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from monai.inferers import Inferer, SimpleInferer, SlidingWindowInferer
from torch import nn

from medseg.bundle import discovery
from medseg.bundle.description import Description
from medseg.errors import MedsegError
from medseg.inferers.sliding_window import SlidingWindow
from medseg.inferers.whole_image import WholeImage
from medseg.prediction.model import Model


class ExplainError(MedsegError):
    """A model, image or map that cannot be explained."""


@dataclass(frozen=True)
class Explainable:
    """What is needed of a model.

    Attributes:
        name: of its bundle.
        network: in evaluation mode, with weights, on its device.
        checkpoint: file of the weights.
        inferer: the model's, without windows.
        description: the model.
    """

    name: str
    network: nn.Module
    checkpoint: Path
    inferer: Inferer
    description: Description

    @property
    def spatial_dims(self) -> int:
        """Dimensions of the network."""
        return self.description.spatial_dims

    @property
    def in_channels(self) -> int:
        """Channels of the network."""
        return int(self.description.network["in_channels"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by index; one output channel has two classes, above and below 0.5."""
        names = tuple(self.description.classes)
        return names if len(names) > 1 else (f"not {names[0]}", names[0])

    @property
    def colours(self) -> dict[int, str]:
        """Colours that classes name, by index in `class_names`."""
        shift = len(self.class_names) - len(self.description.classes)
        return {int(index) + shift: colour for index, colour in self.description.colours.items()}

    @property
    def resized_to(self) -> tuple[int, ...] | None:
        """Size in pixels that every image is brought to, if so."""
        size = self.description.input.size
        return None if size is None else tuple(size)


def explainable(model: Model, checkpoint: Path) -> Explainable:
    """Return a trained model as `medseg explain` looks at it.

    Args:
        model: loaded.
        checkpoint: file of its weights.

    Raises:
        ExplainError: if the network has no attention to show.
    """
    network = model.networks[0]
    if not has_attention(type(network)):
        raise ExplainError(
            f"{type(network).__name__} has no attention to show; these networks have: "
            f"{', '.join(networks_with_attention())}"
        )
    return Explainable(
        name=model.description.name,
        network=network,
        checkpoint=checkpoint,
        inferer=without_windows(model.inferer),
        description=model.description,
    )


def has_attention(network: type) -> bool:
    """Return whether a class of networks has the method; a layer of that name is none."""
    return callable(getattr(network, "attention", None))


def networks_with_attention(package: str = discovery.PACKAGE) -> list[str]:
    """Return the names of the networks whose attention can be shown.

    Args:
        package: dotted path.
    """
    names = []
    for network in discovery.networks(package):
        try:
            found = discovery.load(network.target)
        except Exception:  # one that cannot be imported has nothing to show
            continue
        names += [network.name] if has_attention(found) else []
    return names


def without_windows(inferer: Inferer) -> Inferer:
    """Return an inferer that gives the network the whole image, normalised and resized as before.

    Windows, and views of several scales and flips, are left out.

    Args:
        inferer: of a bundle.

    Raises:
        ExplainError: if it is none of those known here.
    """
    if isinstance(inferer, SlidingWindow | WholeImage | SlidingWindowInferer | SimpleInferer):
        return SimpleInferer()
    inner = getattr(inferer, "inferer", None)
    if isinstance(inner, Inferer):
        if hasattr(inferer, "scales"):
            return without_windows(inner)
        if hasattr(inferer, "normalise") or hasattr(inferer, "spatial_size"):
            whole: Any = copy.copy(inferer)
            whole.inferer = without_windows(inner)
            return cast(Inferer, whole)
    raise ExplainError(f"the model's inferer {type(inferer).__name__} is not known to give the network a whole image")


def first_line(error: BaseException) -> str:
    """Return the first line of what is wrong, not of MONAI's error around it."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
