"""One image through a network: read, fed as in training, predicted, brought back to its own grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn

from medseg.bundle import feeding
from medseg.bundle.description import Description
from medseg.engines.precision import autocast
from medseg.errors import MedsegError
from medseg.transforms.postprocess import Postprocess

__all__ = ["Fed", "PredictionError", "check_fits", "feed", "logits_of", "mask_of"]


class PredictionError(MedsegError):
    """An image that cannot be predicted."""


@dataclass(frozen=True)
class Fed:
    """An image as the network gets it, and where it came from.

    Args:
        image: ``(C, *S)`` on the model's grid.
        shape: spatial shape as it was read.
        affine: of the image as it was read, ``(4, 4)``; ``None`` for pictures.
    """

    image: Tensor
    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64] | None


def feed(loaded: Tensor, transform: Callable[..., Mapping[Any, Any]]) -> Fed:
    """Bring an image to the network's input.

    Args:
        loaded: as `LoadImagesd` reads it, ``(C, *S)``.
        transform: of `medseg.bundle.feeding.prediction` with ``loaded=True``.

    Raises:
        PredictionError: if it holds values that are not finite.
    """
    affine = None
    if isinstance(loaded, MetaTensor) and loaded.ndim == 4 and "affine" in loaded.meta:
        affine = np.asarray(loaded.affine, dtype=np.float64)
    shape = tuple(loaded.shape[1:])
    image = transform({"image": loaded})["image"]
    if not bool(torch.isfinite(image).all()):
        raise PredictionError("it holds NaN or infinite values")
    return Fed(image, shape, affine)


def check_fits(fed: Fed, description: Description) -> None:
    """Refuse an image that the network cannot take.

    Args:
        fed: the image.
        description: the model.

    Raises:
        PredictionError: if it has too few axes, or another number of channels.
    """
    dims, wanted = description.spatial_dims, description.network.get("in_channels")
    if fed.image.ndim - 1 < dims:
        size = "x".join(map(str, fed.shape))
        raise PredictionError(f"it is a picture ({size}), but the model takes volumes; give it volumes, or a 2D model")
    if wanted is not None and fed.image.shape[0] != wanted:
        raise PredictionError(f"it has {fed.image.shape[0]} channels, but the model takes {wanted}; convert it")
    beyond = feeding.beyond_range(fed.image, description)
    if beyond is not None:
        raise PredictionError(beyond)


def logits_of(fed: Fed, network: nn.Module, inferer: Inferer, precision: str, device: torch.device) -> Tensor:
    """Run the network on an image.

    Args:
        fed: the image.
        network: in evaluation mode, on ``device``.
        inferer: of the model.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        device: where to run.

    Raises:
        PredictionError: if a logit is not finite: no class can be told from it.

    Shape:
        ``(classes, *S)`` on the model's grid, float32, on the CPU.
    """
    plain = fed.image.as_tensor() if isinstance(fed.image, MetaTensor) else fed.image
    with torch.inference_mode(), autocast(precision, device):
        batch = plain[None].to(device).float()
        logits: Tensor = inferer(batch, network)[0].float().cpu()
    if not bool(torch.isfinite(logits).all()):
        raise PredictionError(
            "the network's logits are not finite, no class can be told; check the weights, or use --precision fp32"
        )
    return logits


def mask_of(
    logits: Tensor, fed: Fed, description: Description, finish: Callable[..., Any] | None = None
) -> npt.NDArray[Any]:
    """Return class indices on the grid of the image that was read, after the model's postprocessing.

    Args:
        logits: ``(classes, *S)`` on the model's grid.
        fed: the image.
        description: the model.
        finish: dictionary transforms from ``pred`` logits to indices ``(1, *S)``; by default the largest logit's.

    Raises:
        DescriptionError: if there is no way back to the image's grid.

    Shape:
        ``(*S)`` as the image was read.
    """
    if description.input.spacing is not None:  # interpolate what can be interpolated
        logits = feeding.unfeed(logits, fed.image, fed.shape, fed.affine)
        mask = _whole(_indices(logits, finish)[0])
    else:
        indices = _indices(logits, finish)
        mask = _whole(feeding.unfeed(indices, fed.image, fed.shape, fed.affine)[0])
    return Postprocess(description.postprocess, description.classes)(mask, fed.affine)


def _whole(indices: Tensor) -> npt.NDArray[Any]:
    """Return indices as integers: MONAI's postprocessing gives them as floating point."""
    array = np.asarray(indices)
    return array if array.dtype.kind in "ui" else array.astype(np.uint16 if array.max(initial=0) > 255 else np.uint8)


def _indices(logits: Tensor, finish: Callable[..., Any] | None) -> Tensor:
    if finish is None:
        return logits.max(dim=0, keepdim=True).indices
    done = finish({"pred": logits})["pred"]
    return done.as_tensor() if isinstance(done, MetaTensor) else torch.as_tensor(done)
