"""A model as MONAI's parts (before the network, after it), for programs that run a bundle by them, such as MONAI Label.

They call ``preprocessing``, network, ``inferer`` and ``postprocessing`` of ``inference.yaml`` themselves, with a
dictionary of ``image``, a path, and ``pred``, the logits. What `medseg.prediction` does around the network is done here
for them: an image that the model does not take is refused, and the mask lies on the grid of the image's file.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform
from torch import Tensor

from medseg.bundle import feeding
from medseg.bundle.description import Description
from medseg.bundle.record import agreed, read_weights
from medseg.errors import MedsegError
from medseg.inferers.blocks import class_indices, finite, whole
from medseg.inferers.way_back import WayBack
from medseg.io.load import is_stack
from medseg.transforms.postprocess import Postprocess

__all__ = ["CheckFedd", "ToMaskd", "postprocessing", "preprocessing", "trained"]

_KEPT = ("filename_or_obj", "spatial_shape", "original_affine", "space")  # of the image's meta data, for the mask's


def trained(description: Description, ckpt: str | Path) -> Description:
    """Return the model as its weights describe it, whose classes and steps of postprocessing a configuration may lack.

    Args:
        description: of the configuration.
        ckpt: weights that the configuration names; where there are none, or they say nothing, the configuration's word
            is all there is.

    Raises:
        DescriptionError: if they were trained otherwise.
        CheckpointError: if they cannot be read.
    """
    return agreed(read_weights(ckpt), description) if Path(ckpt).is_file() else description


def preprocessing(description: Description) -> Compose:
    """Return the transforms of an image to predict; one that the model does not take is refused."""
    return Compose([*feeding.prediction(description).transforms, CheckFedd("image", description)])


def postprocessing(description: Description) -> Compose:
    """Return the transforms of the logits: to the mask that a prediction of medseg's would write."""
    return Compose([ToMaskd("pred", description)])


class CheckFedd(MapTransform):
    """Dictionary transform: images as they are, if the network can take them.

    Args:
        keys: of images, as they are fed.
        description: the model.

    Raises:
        MedsegError: if it cannot, or a value is not finite.
    """

    def __init__(self, keys: Sequence[Hashable] | Hashable, description: Description) -> None:
        super().__init__(keys)
        self.description = description

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check the images."""
        for key in self.key_iterator(dict(data)):
            why = feeding.not_finite(data[key]) or feeding.unfit(data[key], self.description)
            if why is not None:
                raise MedsegError(why)
        return dict(data)


class ToMaskd(MapTransform):
    """Dictionary transform: logits on the grid of the fed image to the mask on the grid of the image's file.

    Logits are interpolated where the model resamples, as `medseg.inferers.way_back` says; then each voxel gets its
    class, and the classes the model's own steps of postprocessing.

    Args:
        keys: of logits.
        description: the model.
        image_key: of the image that they are of, as `preprocessing` fed it.

    Raises:
        MedsegError: if the image does not say where its file's voxels lie, or a logit is not finite.

    Shape:
        ``(classes, *S)`` to ``(1, *T)``, uint8, or int32 of more than 256 classes; T is the file's.
    """

    def __init__(
        self, keys: Sequence[Hashable] | Hashable, description: Description, image_key: Hashable = "image"
    ) -> None:
        super().__init__(keys)
        self.image_key = image_key
        self.steps = Postprocess(description.postprocess, description.classes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Make the masks."""
        made = dict(data)
        for key in self.key_iterator(made):
            made[key] = self._mask(made[key], made.get(self.image_key))
        return made

    def _mask(self, logits: Tensor, image: Any) -> MetaTensor:
        if not isinstance(image, MetaTensor) or "spatial_shape" not in image.meta:
            raise MedsegError(
                f"{self.image_key!r} does not say of what size its file is, without which there is no way back to it; "
                "load it by the bundle's own preprocessing"
            )
        shape = tuple(int(edge) for edge in image.meta["spatial_shape"])
        volume = image.ndim == 4 and not is_stack(image)
        lies = image.meta["original_affine"] if volume else torch.eye(4, dtype=torch.float64)
        way = WayBack(image.shape[1:], image.affine if image.ndim == 4 else None, shape, lies)
        plain = logits.as_tensor() if isinstance(logits, MetaTensor) else logits
        found = class_indices(way.blocks(finite([whole(image[None], plain[None])])), (1, *shape))[0].cpu()
        affine = np.asarray(lies, np.float64) if volume else None
        mask = torch.from_numpy(self.steps(found.numpy(), affine))[None]
        return MetaTensor(mask, affine=lies, meta={key: image.meta[key] for key in _KEPT if key in image.meta})
