"""A trained model in Python: load it, predict arrays and files, save masks that lie where their images lie.

model = medseg.load("runs/hippocampus")
prediction = model.predict("t1.nii.gz")
prediction.save("mask.nii.gz")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medseg.bundle import feeding, networks
from medseg.bundle.description import Description
from medseg.bundle.library import weights_file
from medseg.bundle.record import load_described, read_weights
from medseg.bundle.source import read_source
from medseg.engines.precision import network_to_channels_last, resolve_precision
from medseg.errors import MedsegError, counted
from medseg.io.masks import write_mask
from medseg.io.placement import Grid
from medseg.prediction.backends import BACKENDS, SUFFIXES, Exported, exported_of, load_exported
from medseg.prediction.case import Fed, Feeder, check_fits, mask_of
from medseg.resources import BUNDLE_FILE
from medseg.runs.processes import pick_device

__all__ = ["Model", "ModelError", "Prediction", "load"]


class ModelError(MedsegError):
    """A model that is not there, or an input that it does not take."""


@dataclass(frozen=True)
class Prediction:
    """Class indices of one image, on its own grid.

    Args:
        mask: ``(*S)`` as the image was read: ``(H, W)`` of pictures, the file's axis order of volumes.
        description: the model.
        source: the image's file, ``None`` where an array was given.
        affine: ``(4, 4)`` voxel to patient mm; ``None`` where nothing is known.
    """

    mask: npt.NDArray[Any]
    description: Description
    source: Path | None = None
    affine: npt.NDArray[np.float64] | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by index."""
        return list(self.description.classes)

    def save(self, path: str | Path, *, keep_header: bool = False) -> Path:
        """Write the mask where the image lies, in the format that the path's suffix names.

        Args:
            path: of the mask.
            keep_header: keep what the image's header says beside its geometry.

        Raises:
            ModelError: if an array was given, whose place is not known: save it with a format's own library.
        """
        if self.source is None:
            raise ModelError(
                f"{path}: the prediction is of an array, which lies nowhere; predict a file to save its mask"
            )
        target = Path(path).expanduser().absolute()
        names, colours = self.class_names, self.description.colours
        place = self.source if self.affine is None else Grid(self.mask.shape, self.affine)
        write_mask(
            self.mask, place, target, source=self.source, class_names=names, colours=colours, keep_header=keep_header
        )
        return target


class Model:
    """A network with its weights and everything that its images need.

    Args:
        network: with weights.
        description: as the weights carry it.
        device: ``"cpu"``, ``"cuda:0"``; ``None`` picks.
        precision: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    """

    def __init__(
        self,
        network: nn.Module,
        description: Description,
        *,
        device: torch.device | str | None = None,
        precision: str = "auto",
    ) -> None:
        self.device = pick_device(device)
        self.description = description
        self.precision = resolve_precision(precision, self.device)
        self.network = network.to(self.device).eval()
        network_to_channels_last(self.network)
        self.inferer = feeding.inferer(description)
        self._feeder = Feeder(description)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by index."""
        return list(self.description.classes)

    def predict(
        self, image: npt.NDArray[Any] | Tensor | str | Path, *, affine: npt.ArrayLike | None = None
    ) -> Prediction:
        """Predict an image.

        Args:
            image: a file; or an array ``(H, W)``, ``(H, W, C)``, ``(X, Y, Z)`` or ``(X, Y, Z, C)``.
            affine: of an array that is a volume, ``(4, 4)`` voxel to patient mm, RAS+.

        Raises:
            ImageError: if a file cannot be read.
            ModelError: if an array has not the model's axes or channels.
            MedsegError: if the image does not fit the model, or it or the logits are not finite.
        """
        if isinstance(image, str | Path):
            return self._predict_file(Path(image).expanduser().absolute())
        if not isinstance(image, np.ndarray | Tensor):
            raise ModelError(f"a {type(image).__name__} is no image; give a path or an array, of several predict_all")
        fed = self._feeder.feed(self._as_loaded(np.asarray(image), affine))
        return Prediction(self._mask(fed), self.description, None, fed.affine)

    def predict_all(self, paths: Iterable[str | Path]) -> Iterator[Prediction]:
        """Predict files one after the other, each when it is asked for.

        Args:
            paths: of images.
        """
        return (self._predict_file(Path(path).expanduser().absolute()) for path in paths)

    def _predict_file(self, path: Path) -> Prediction:
        try:
            fed = self._feeder.read(path)
            return Prediction(self._mask(fed), self.description, path, fed.affine)
        except MedsegError as error:
            if str(path) in str(error):
                raise
            raise ModelError(f"{path}: {error}") from error

    def _mask(self, fed: Fed) -> npt.NDArray[Any]:
        check_fits(fed, self.description)
        mask = mask_of(fed, self.description, self.network, self.inferer, precision=self.precision, device=self.device)
        return mask.astype(np.uint8 if len(self.class_names) <= 256 else np.uint16)

    def _as_loaded(self, array: npt.NDArray[Any], affine: npt.ArrayLike | None) -> Tensor:
        dims, shape = self.description.spatial_dims, array.shape
        wanted = int(self.description.network.get("in_channels", 1))
        volume = affine is not None or dims == 3
        spatial = 3 if volume else 2
        if array.ndim == spatial + 1:
            array = np.moveaxis(array, -1, 0)
        elif array.ndim == spatial:
            array = array[None]
        else:
            axes = "(X, Y, Z) or (X, Y, Z, C)" if volume else "(H, W) or (H, W, C)"
            raise ModelError(
                f"the array has the shape {shape}; the model takes {axes} with {counted(wanted, 'channel')}"
            )
        if array.dtype.kind not in "buif":
            raise ModelError(f"the array holds values of type {array.dtype}; give integers or real numbers")
        tensor = torch.from_numpy(np.ascontiguousarray(array.astype(np.float32)))
        if not volume:
            return tensor
        placed = np.eye(4) if affine is None else np.asarray(affine, dtype=np.float64)
        if placed.shape != (4, 4):
            raise ModelError(f"affine has the shape {placed.shape}; give (4, 4), voxel to patient mm")
        meta: Tensor = MetaTensor(tensor, affine=torch.from_numpy(placed))
        return meta


def load(
    where: str | Path,
    *,
    device: torch.device | str | None = None,
    precision: str = "auto",
    trust: bool = False,
    backend: str = "torch",
) -> Model:
    """Load a trained model.

    Args:
        where: weights; a packed model; the folder of a run or bundle; a bundle's name; see
            `medseg.bundle.library.weights_file`.
        device: ``"cpu"``, ``"cuda:0"``; ``None`` picks.
        precision: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        trust: also build a network that is not medseg's or MONAI's, which runs the code of the package it names.
        backend: ``"torch"``, or ``"onnx"`` or ``"openvino"`` for what `medseg export` wrote beside the weights; an
            export that is named itself needs no word.

    Raises:
        BundleError: if there are no weights.
        NetworkError: if their network is of another package, and that is not trusted.
        ModelError: if nothing says how they are fed.
        CheckpointError: if they cannot be read or do not fit.
    """
    network, description = _load(where, trust, backend)
    if isinstance(network, Exported) and precision not in ("auto", "fp32"):
        raise ModelError(f"precision is {precision!r}, but an export computes as it was exported; leave it out")
    return Model(network, description, device=device, precision=precision)


def _load(where: str | Path, trust: bool, backend: str) -> tuple[nn.Module, Description]:
    file = weights_file(where)
    if backend not in BACKENDS:
        raise ModelError(f"there is no backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    if file.suffix in SUFFIXES.values():
        return load_exported(file)
    weights = read_weights(file)
    if backend != "torch":
        return exported_of(file, weights.content, backend)
    description = weights.description or _of_bundle(weights.path)
    network = networks.rebuild(description.network, trust=trust)
    load_described(network, weights, description)
    return network, description


def _of_bundle(path: Path) -> Description:
    """Return the description of the bundle whose ``models`` folder holds weights that carry none."""
    folder = path.parent.parent
    if not (folder / BUNDLE_FILE).is_file():
        raise ModelError(
            f"{path} carries no record of its network and of how it is fed; lay it into a copy of its bundle (medseg "
            "bundle copy NAME -o FOLDER) as models/model.pt and predict with that: medseg predict FOLDER IMAGES MASKS"
        )
    return read_source(folder).description
