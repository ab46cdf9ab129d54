"""Transforms and inferers of a model's description: the one place that says how an image gets to a network and back.

Training, validation, evaluation, prediction and `medseg check` call these, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from monai.transforms import (
    Compose,
    MapTransform,
    ScaleIntensityd,
    ScaleIntensityRanged,
)
from torch import Tensor

from medseg.bundle.description import Description, DescriptionError, Inference, Input
from medseg.bundle.intensities import beyond_range
from medseg.bundle.model_grid import ToModelGridd
from medseg.errors import counted
from medseg.inferers.multi_scale_flip import MultiScaleFlipInferer
from medseg.inferers.normalise import NormalisingInferer
from medseg.inferers.resize import ResizeInferer
from medseg.inferers.sliding_window import SlidingWindow
from medseg.inferers.way_back import FILE_AFFINE, IMAGE_AFFINE
from medseg.inferers.whole_image import WholeImage
from medseg.io.load import ALPHA, LoadImagesd, is_stack
from medseg.reports.windows import Window, window_of
from medseg.transforms.normalise import ImageNormalisation
from medseg.transforms.resize import ResizeImagesd
from medseg.transforms.scales import Percentilesd, Polarityd, ZScored

__all__ = [
    "evaluation",
    "inferer",
    "not_finite",
    "picture",
    "prediction",
    "training",
    "training_inferer",
    "unfit",
]

_LUMA = (0.299, 0.587, 0.114)


def training(description: Description) -> Compose:
    """Return the fixed transforms of a training sample: ``image`` ``(C, *S)`` and ``label`` ``(1, *S)`` of one grid."""
    resizing: list[Callable[..., Any]] = []
    if description.input.size is not None:
        from monai.transforms import Resized

        size = tuple(description.input.size)
        resizing = [ResizeImagesd("image", size), Resized("label", spatial_size=size, mode="nearest-exact")]
    return Compose([*_loading(description, labelled=True), *resizing])


def evaluation(description: Description, *, native: bool = False) -> Compose:
    """Return the transforms of a sample to score: as in training, but for the size, which the inferer brings back.

    Args:
        description: the model.
        native: leave the label as it lies in its file, and say where the image lies on the model's grid
            (`medseg.inferers.way_back.IMAGE_AFFINE`), so that predictions are brought back to the label; else both are
            on the model's grid.
    """
    return Compose(_loading(description, labelled=True, native=native))


def prediction(description: Description) -> Compose:
    """Return the transforms of an image to predict, the first of which reads it.

    `medseg.inferers.way_back` brings its prediction back.

    Args:
        description: the model.
    """
    return Compose(_loading(description, labelled=False))


def picture(description: Description, *, native: bool = False) -> Compose:
    """Return the transforms of an image as people are shown it: with the values and colours of its file.

    What is done for the network's sake is left out, such as the negative of ``polarity``, scales of intensity, or
    colours made grey. ``window`` is what is to be shown black and white, where that is not the image's own matter.

    Args:
        description: the model.
        native: on the grid of the file, and say where that lies, as of `evaluation`; else on the model's grid.
    """
    fed = description.input
    steps: list[Callable[..., Any]] = [LoadImagesd(["image"]), partial(_say_window, fed.window)]
    if fed.colour is not None:
        steps.append(Colourd("image", "rgb"))  # of an alpha channel, no fourth image
    steps.append(_say_where if native else ToModelGridd(["image"], description))
    return Compose(steps)


def inferer(description: Description) -> Inferer:
    """Return what runs the network on an image of any size, in evaluation and prediction."""
    wanted, fed = description.inference, description.input
    inner: Inferer
    if fed.size is not None:
        inner = ResizeInferer(fed.size)
    elif wanted.window is not None:
        inner = SlidingWindow(wanted.window, wanted.batch, wanted.overlap)
    else:
        inner = WholeImage(description.spatial_dims)
    if _several_views(wanted):
        dims = description.spatial_dims
        inner = MultiScaleFlipInferer(wanted.scales, wanted.flip_axes, inferer=inner, spatial_dims=dims)
    return _on_device(fed, inner)


def training_inferer(description: Description) -> Inferer:
    """Return how a training forward is called: on samples as they are, or normalised on the device."""
    return _on_device(description.input, SimpleInferer())


def _several_views(wanted: Inference) -> bool:
    return list(wanted.scales) != [1.0] or bool(wanted.flip_axes)


def _on_device(fed: Input, inner: Inferer) -> Inferer:
    return NormalisingInferer(ImageNormalisation(), inner) if fed.intensity["scheme"] == "imagenet" else inner


def _loading(description: Description, *, labelled: bool, native: bool = False) -> list[Callable[..., Any]]:
    fed = description.input
    keys = ["image", "label"] if labelled else ["image"]
    steps: list[Callable[..., Any]] = [
        LoadImagesd(keys, allow_missing_keys=True, keep_uint8=fed.intensity["scheme"] == "imagenet")
    ]
    if fed.colour is not None:
        steps.append(Colourd("image", fed.colour))
    steps.append(ToModelGridd(["image"] if native else keys, description))
    if native:
        steps.append(_say_where)
    if fed.polarity is not None:  # first, so that a negative is scaled as what it shows
        steps.append(Polarityd("image", fed.polarity, nonzero=bool(fed.intensity.get("nonzero"))))
    return steps + _intensity(fed.intensity)


def _say_window(own: Window | None, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    image = data["image"]
    window = window_of(image.as_tensor().numpy() if isinstance(image, MetaTensor) else image.numpy(), own)
    return {**data} if window is None else {**data, "window": np.array(window)}


def _say_where(data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    image, label = data["image"], data.get("label")
    stack = is_stack(image)
    if stack and isinstance(label, Tensor) and not is_stack(label):
        raise DescriptionError("the image is a stack of pages, its label is none; store both in one format")
    placed = isinstance(image, MetaTensor) and image.ndim == 4 and "original_affine" in image.meta
    found: dict[Hashable, Any] = {IMAGE_AFFINE: image.affine.clone()} if placed or stack else {}
    return {**data, **found, **({FILE_AFFINE: torch.eye(4, dtype=torch.float64)} if stack else {})}


def _intensity(intensity: Mapping[str, Any]) -> list[Callable[..., Any]]:
    scheme = intensity["scheme"]
    if scheme == "range":
        low, high = float(intensity["low"]), float(intensity["high"])
        return [ScaleIntensityRanged("image", low, high, 0.0, 1.0, clip=bool(intensity["clip"]))]
    if scheme == "image":
        return [ScaleIntensityd("image", minv=0.0, maxv=1.0)]
    if scheme == "percentiles":
        return [Percentilesd("image", float(intensity["low"]), float(intensity["high"]))]
    if scheme == "zscore":
        return [ZScored("image", nonzero=bool(intensity["nonzero"]))]
    return []  # "none", and "imagenet", which is on the device


def not_finite(image: Tensor) -> str | None:
    """Return what is wrong with an image that holds NaN or infinity, or ``None``."""
    plain = image.as_tensor() if isinstance(image, MetaTensor) else image
    good = bool(torch.isfinite(torch.stack(plain.aminmax())).all())  # both are NaN if a value is; no copies
    return None if good else "it holds NaN or infinite values; replace them, such as by the value of the background"


def unfit(image: Tensor, description: Description) -> str | None:
    """Return why the network cannot take an image, or ``None``: too few axes, or another number of channels.

    Args:
        image: as fed.
        description: the model.
    """
    wanted = description.network.get("in_channels")
    if image.ndim - 1 < description.spatial_dims:
        return "it is a picture, but the model takes volumes; give it volumes, or a 2D model"
    if wanted is not None and image.shape[0] != wanted:
        return f"it has {counted(image.shape[0], 'channel')}, but the model takes {wanted}; convert it"
    return beyond_range(image, description)


class Colourd(MapTransform):
    """Dictionary transform: pictures to three channels, or to one.

    Grey becomes three equal channels; an alpha channel is left out, where the image's reader says that it is one;
    three channels become one by ITU-R 601's luma.

    Args:
        keys: of pictures.
        colour: ``"rgb"`` or ``"grey"``.

    Raises:
        DescriptionError: if the picture has another number of channels than 1 or 3, beside alpha.

    Shape:
        ``(C, *S)`` to ``(3, *S)`` or ``(1, *S)``, of the same type.
    """

    def __init__(self, keys: Sequence[Hashable] | Hashable, colour: str) -> None:
        super().__init__(keys)
        self.colour = colour

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Convert the pictures."""
        converted = dict(data)
        for key in self.key_iterator(converted):
            converted[key] = self._convert(converted[key])
        return converted

    def _convert(self, image: Tensor) -> Tensor:
        if isinstance(image, MetaTensor) and image.meta.get(ALPHA):
            image = image[:-1]
        if image.shape[0] not in (1, 3):
            raise DescriptionError(
                f"the image has {image.shape[0]} channels and does not say that one is alpha, but the model takes "
                f"{self.colour} pictures of 1 channel or of 3 (red, green, blue); convert it"
            )
        if self.colour == "rgb":
            return image if image.shape[0] == 3 else image.expand(3, *image.shape[1:]).contiguous()
        if image.shape[0] == 1:
            return image
        weights = torch.tensor(_LUMA).view(3, *[1] * (image.ndim - 1))
        grey = (image.float() * weights).sum(0, keepdim=True)
        return grey if image.is_floating_point() else grey.round().to(image.dtype)
