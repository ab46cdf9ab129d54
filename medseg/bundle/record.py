"""What a run and its weights say of themselves: configuration, header; and weights loaded only where they belong."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from medseg.bundle.command import Command
from medseg.bundle.description import Description, DescriptionError, differences, misplaced
from medseg.bundle.library import EXPORTED, PACKED
from medseg.bundle.signature import SignatureError
from medseg.data.datalist import Datalist
from medseg.runs.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_weights,
    network_weights,
    save_checkpoint,
    unwrap,
)
from medseg.runs.header import read_header, write_header
from medseg.runs.metadata import stated_hash

__all__ = [
    "Weights",
    "agreed",
    "config_of",
    "described",
    "header_of",
    "load_described",
    "read_weights",
    "refuse_other_channels",
    "refuse_other_data",
    "rewrite",
    "verified_hash",
]

logger = logging.getLogger(__name__)

FORMAT = 1
_NOT_RECORDED = ("imports", "initialize", "run", "finalize", "_meta_", "overlays", "options")


def header_of(description: Description) -> dict[str, Any]:
    """Return what weights carry: the model's description. The run adds what it knows (data, versions, hash)."""
    return {"format": FORMAT, "model": description.to_dict()}


def config_of(command: Command, options: Mapping[str, Any], description: Description) -> dict[str, Any]:
    """Return a run's configuration as plain data.

    Args:
        command: what was typed; where it is not known, the configuration's expressions are not either.
        options: evaluated.
        description: the model.
    """
    merged = {key: value for key, value in command.config().items() if key not in _NOT_RECORDED}
    return {**merged, **dict(options), "model": description.to_dict(), "overlays": command.overlays()}


@dataclass(frozen=True)
class Weights:
    """Weights, read once.

    Args:
        path: of the file.
        content: what `load_checkpoint` returned.
        description: the model that they describe; ``None`` where they carry no description.
    """

    path: Path
    content: Mapping[str, Any]
    description: Description | None


def read_weights(path: str | Path, *, signed_by: str | Path | None = None) -> Weights:
    """Read weights and what they say of their model.

    Args:
        path: of the file, or of a packed model.
        signed_by: public key that must have signed the packed model.

    Raises:
        MedsegError: if a packed model is not as its record says, see `medseg.bundle.unpack.opened`.
        SignatureError: if it is not signed by the key, or is no packed model.
        CheckpointError: if the file cannot be read.
        DescriptionError: if the description is of a format of the future, or unsound.
    """
    if signed_by is not None and Path(path).suffix != PACKED:
        raise SignatureError(f"{path} is no packed model, which alone can be signed; medseg pack --sign KEY makes one")
    if Path(path).suffix in EXPORTED:
        raise CheckpointError(f"{path} is an export, which holds no weights for this; name the run that it was made of")
    if Path(path).suffix == PACKED:
        from medseg.bundle.unpack import read_packed

        return Weights(Path(path), *read_packed(path, signed_by=signed_by))
    content = load_checkpoint(path)
    return Weights(Path(path), content, described(content, path))


def described(content: Mapping[str, Any], path: str | Path) -> Description | None:
    """Return the model that weights describe; ``None`` where they carry no description.

    Args:
        content: what `load_checkpoint` returned.
        path: of the file, for errors.

    Raises:
        DescriptionError: if the description is of a format of the future, or unsound.
    """
    header = read_header(content)
    if header is None or "model" not in header:
        return None
    if header.get("format") != FORMAT:
        raise DescriptionError(
            f"{path}: its description has format {header.get('format')!r}, this medseg reads {FORMAT}; update medseg"
        )
    return Description.of(header["model"], where=f"{path}, description")


def rewrite(path: Path, description: Description) -> None:
    """Write another description into what weights say of themselves; their values stay as they are.

    Args:
        path: a file of weights with a header.
        description: of the model.
    """
    held = load_checkpoint(path)
    header = read_header(held) or {}
    save_checkpoint(write_header(held, {**header, "model": description.to_dict()}), path)


def load_described(network: nn.Module, weights: Weights, here: Description) -> Description:
    """Load weights into a network, if they were trained as the configuration feeds them.

    Args:
        network: the network, wrapped or not.
        weights: as they were read.
        here: the model as the configuration describes it.

    Returns:
        The description that the weights carry, with their classes' names, but for how a whole image is predicted, which
        the configuration says; ``here`` where they carry none.

    Raises:
        DescriptionError: if the weights were trained otherwise, naming what differs and the way out.
        CheckpointError: if they do not fit.
    """
    found = agreed(weights, here)
    load_weights(network, weights.content, origin=f"checkpoint {weights.path}")
    return replace(found, inference=here.inference)


def verified_hash(network: nn.Module, weights: Weights) -> str | None:
    """Return the hash of a network's weights, where loading them has computed it; else ``None``.

    Args:
        network: that `load_described` has just loaded them into.
        weights: as they were read.
    """
    given = network_weights(weights.content)
    held = unwrap(network).state_dict()  # which has the types of the network, not of the file
    same = all(held[name].dtype == value.dtype for name, value in given.items())
    return stated_hash(given) if same else None


def refuse_other_data(path: Path, trained: Description, data: Datalist) -> None:
    """Refuse to score a model on labels of other classes, or on images whose channels stand in another order.

    Args:
        path: of the weights, for the message.
        trained: the model as they describe it.
        data: the datalist.

    Raises:
        DescriptionError: naming what differs.
    """
    if list(trained.classes) != data.class_names:
        raise DescriptionError(
            f"weights {path} give the classes {', '.join(trained.classes)}, but {data.path} names "
            f"{', '.join(data.class_names)}; score them on labels of the same classes in the same order"
        )
    refuse_other_channels(f"weights {path} were", trained, data)


def refuse_other_channels(whose: str, trained: Description, data: Datalist) -> None:
    """Refuse images whose channels are those that a model was trained on, in another order.

    Args:
        whose: training it was, with its verb.
        trained: the model.
        data: the datalist of the images.

    Raises:
        DescriptionError: naming both orders.
    """
    if misplaced(trained.channels, data.modality):
        raise DescriptionError(
            f"{whose} trained on images of the channels {', '.join(trained.channels)}, but the modality of "
            f"{data.path} is {', '.join(data.modality)}; list the files of each image, and their names, in that order"
        )


def agreed(weights: Weights, here: Description) -> Description:
    """Return the model that weights describe, if they were trained as the configuration feeds them.

    Args:
        weights: as they were read.
        here: the model as the configuration describes it, which is returned where the weights say nothing.

    Raises:
        DescriptionError: as `load_described`.
    """
    path, trained = weights.path, weights.description
    if trained is None:
        logger.warning(
            "weights %s carry no record of how they are fed (another program's, or a training state); "
            "whether this configuration feeds them rightly is not known",
            path.name,
        )
        return here
    found = differences(trained, here)
    if found:
        raise DescriptionError(
            f"weights {path} were trained otherwise: {'; '.join(found)}. Predict with `medseg predict {path} "
            "IMAGES MASKS`, which feeds them as they were trained, or put the training's overlays on it here too"
        )
    return trained
