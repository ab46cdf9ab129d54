"""One image through a network: read, fed as in training, predicted, brought back to its own grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import AsDiscreted, Compose
from torch import Tensor, nn

from medseg.bundle import feeding
from medseg.bundle.description import Description
from medseg.engines.precision import autocast
from medseg.errors import MedsegError, counted
from medseg.inferers.blocks import Block, blocks_of, class_indices, finite, gather
from medseg.inferers.way_back import WayBack
from medseg.io.channels import Named, paths_of
from medseg.io.load import is_stack
from medseg.io.placement import Grid
from medseg.transforms.postprocess import Postprocess

__all__ = ["Fed", "Feeder", "PredictionError", "check_fits", "mask_of"]


class PredictionError(MedsegError):
    """An image that cannot be predicted."""


@dataclass(frozen=True)
class Fed:
    """An image as the network gets it, and where it came from.

    Args:
        image: ``(C, *S)`` on the model's grid.
        shape: spatial shape as it was read.
        affine: of the image as it was read, ``(4, 4)``; ``None`` for pictures and stacks of them.
    """

    image: Tensor
    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64] | None

    @property
    def grid(self) -> Grid | None:
        """Where the image's file lies, so that a mask need not read it again; ``None`` for pictures."""
        return None if self.affine is None else Grid(self.shape, self.affine)

    def way_back(self) -> WayBack:
        """Return the way from the model's grid to the one that the image was read on.

        Raises:
            MedsegError: if there is none: a mask is never written by its shape alone.
        """
        if not isinstance(self.image, MetaTensor) or self.image.ndim != 4:
            return WayBack(self.image.shape[1:], None, self.shape, None)
        lies = np.eye(4) if self.affine is None else self.affine  # of a stack, to the indices that it was read with
        return WayBack(self.image.shape[1:], self.image.affine, self.shape, lies)


class Feeder:
    """Brings images to the network's input.

    Args:
        description: the model, which says how they are fed.
    """

    def __init__(self, description: Description) -> None:
        self._transform = feeding.prediction(description)
        self._picture = feeding.picture(description)

    def read(self, path: Named) -> Fed:
        """Feed a file.

        Args:
            path: of the image; a list of files of one channel each.

        Raises:
            ImageError: if it cannot be read.
            MedsegError: as `feed`.
        """
        try:
            loaded = self._transform({"image": _files(path)}, end=1)["image"]
        except RuntimeError as error:
            raise _bare(error) from error
        return self.feed(loaded)

    def picture(self, path: Named) -> Tensor:
        """Return the image of a file as people are shown it, ``(C, *S)`` on the grid of the fed one.

        Args:
            path: as `read` takes it.

        Raises:
            MedsegError: as `read`.
        """
        try:
            image: Tensor = self._picture({"image": _files(path)})["image"]
        except RuntimeError as error:
            raise _bare(error) from error
        return image

    def feed(self, loaded: Tensor) -> Fed:
        """Feed an image that was read.

        Args:
            loaded: as `LoadImagesd` reads it, ``(C, *S)``.

        Raises:
            DescriptionError: if the model has no way to feed it.
            PredictionError: if it holds values that are not finite.
        """
        affine = None
        if isinstance(loaded, MetaTensor) and loaded.ndim == 4 and not is_stack(loaded):
            affine = np.asarray(loaded.affine, dtype=np.float64)
        shape = tuple(loaded.shape[1:])
        try:
            image = self._transform({"image": loaded}, start=1)["image"]
        except RuntimeError as error:
            raise _bare(error) from error
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        if not bool(torch.isfinite(torch.stack(plain.aminmax())).all()):  # both are NaN if a value is; no copies
            raise PredictionError("it holds NaN or infinite values")
        return Fed(image, shape, affine)


def _files(path: Named) -> str | list[str]:
    files = [str(each) for each in paths_of(path)]
    return files if len(files) > 1 else files[0]


def _bare(error: RuntimeError) -> Exception:
    """Return the fault of an image that MONAI's "applying transform ..." is wrapped around; any other as it is."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, MedsegError):
        found = found.__cause__
    return found or error


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
        raise PredictionError("it is a picture, but the model takes volumes; give it volumes, or a 2D model")
    if wanted is not None and fed.image.shape[0] != wanted:
        raise PredictionError(
            f"it has {counted(fed.image.shape[0], 'channel')}, but the model takes {wanted}; convert it"
        )
    beyond = feeding.beyond_range(fed.image, description)
    if beyond is not None:
        raise PredictionError(beyond)


def mask_of(
    fed: Fed,
    description: Description,
    network: nn.Module,
    inferer: Inferer,
    *,
    precision: str,
    device: torch.device,
    finish: Callable[..., Any] | None = None,
) -> npt.NDArray[Any]:
    """Predict an image, and return class indices on the grid that it was read on, after the model's postprocessing.

    Logits go block by block back to that grid, interpolated where the model resamples, and become classes at once, so
    that those of the whole image are never held; a ``finish`` that begins with anything but the largest logit gets them
    all.

    Args:
        fed: the image.
        description: the model.
        network: in evaluation mode, on ``device``.
        inferer: of the model.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        device: where to run.
        finish: dictionary transforms from ``pred`` logits ``(classes, *S)`` to indices ``(1, *S)``; by default the
            largest logit's, or of one channel whether its logit is above 0.

    Raises:
        MedsegError: if a logit is not finite, or there is no way back to the image's grid.

    Shape:
        ``(*S)`` as the image was read.
    """
    plain = fed.image.as_tensor() if isinstance(fed.image, MetaTensor) else fed.image
    way, size = fed.way_back(), (1, *fed.shape)
    at_once, finish = _without_argmax(finish)
    with torch.inference_mode(), autocast(precision, device):
        blocks = way.blocks(finite(blocks_of(inferer, plain[None].to(device).float(), network)))
        if at_once:
            found = class_indices(blocks, size).cpu()
        else:
            found = gather((Block(at, logits.float().cpu()) for at, logits in blocks), size)[0]
    if finish is not None:
        done = finish({"pred": found.float()})["pred"]
        found = done.as_tensor() if isinstance(done, MetaTensor) else torch.as_tensor(done)
    return Postprocess(description.postprocess, description.classes)(_whole(found[0]), fed.affine)


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


def _whole(indices: Tensor) -> npt.NDArray[Any]:
    """Return indices as integers: MONAI's postprocessing gives them as floating point."""
    array = np.asarray(indices)
    return array if array.dtype.kind in "ui" else array.astype(np.uint16 if array.max(initial=0) > 255 else np.uint8)
