"""A trained model in Python: load it, predict arrays and files, save masks that lie where their images lie.

model = medseg.load("runs/hippocampus")
prediction = model.predict("t1.nii.gz")
prediction.save("mask.nii.gz")
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medseg.bundle import feeding, networks
from medseg.bundle.description import Description
from medseg.bundle.ensemble import Unlike, joined, members, refuse_twice, warn
from medseg.bundle.library import weights_file
from medseg.bundle.record import load_described, read_weights, verified_hash
from medseg.bundle.source import read_source
from medseg.bundle.usual import unlike_mask
from medseg.engines.memory import keep_feature_maps
from medseg.engines.precision import network_to_channels_last, resolve_precision
from medseg.errors import MedsegError, counted
from medseg.io.masks import write_mask
from medseg.io.placement import Grid
from medseg.prediction.backends import BACKENDS, SUFFIXES, Exported, exported_alone, exported_of
from medseg.prediction.case import Fed, Feeder, check_fits
from medseg.prediction.collected import counts_of
from medseg.prediction.doubts import told
from medseg.prediction.forward import Forward
from medseg.prediction.sinks import PROBABILITIES, UNCERTAINTY
from medseg.resources import BUNDLE_FILE
from medseg.runs.processes import pick_device

__all__ = ["Model", "ModelError", "Prediction", "load"]

logger = logging.getLogger(__name__)


class ModelError(MedsegError):
    """A model that is not there, or an input that it does not take."""


@dataclass(frozen=True)
class Prediction:
    """Class indices of one image, on its own grid.

    Args:
        mask: ``(*S)`` as the image was read: ``(H, W)`` of pictures, the file's axis order of volumes.
        description: the model.
        grid: where the voxels lie: shape and affine, ``None`` where nothing is known.
        source: the image's file, ``None`` where an array was given.
        probabilities: ``(classes, *S)`` float16, where asked for.
        numbers: ``uncertainty`` and, of an ensemble, ``disagreement``, where asked for; see
            `medseg.prediction.uncertainty`.
        entropy: ``(*S)`` float16, 0 to 1, where asked for.
    """

    mask: npt.NDArray[Any]
    description: Description
    grid: Grid
    source: Path | None = None
    probabilities: npt.NDArray[Any] | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    entropy: npt.NDArray[Any] | None = None

    @property
    def affine(self) -> npt.NDArray[np.float64] | None:
        """``(4, 4)`` voxel to patient mm; ``None`` where nothing is known."""
        return self.grid.affine

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
        write_mask(
            self.mask,
            self.grid,
            target,
            source=self.source,
            class_names=names,
            colours=colours,
            keep_header=keep_header,
        )
        return target


class Model:
    """A network with its weights, or an ensemble, and everything that its images need.

    Args:
        networks: with weights; of several the mean probability decides.
        description: as the weights carry it.
        device: ``"cpu"``, ``"cuda:0"``; ``None`` picks.
        precision: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        hashes: of each network's weights, where known; see `medseg.bundle.record.verified_hash`.
        temperatures: that each network's logits are divided by; by default the description's.
        unlike: settings in which the members of an ensemble differ, see `medseg.bundle.ensemble.joined`.
    """

    def __init__(
        self,
        networks: nn.Module | Sequence[nn.Module],
        description: Description,
        *,
        device: torch.device | str | None = None,
        precision: str = "auto",
        hashes: Sequence[str | None] | None = None,
        temperatures: Sequence[float] | None = None,
        unlike: Sequence[Unlike] = (),
    ) -> None:
        self.device = pick_device(device)
        self.description, self.unlike = description, tuple(unlike)
        self.precision = resolve_precision(precision, self.device)
        keep_feature_maps(self.device)
        several = [networks] if isinstance(networks, nn.Module) else list(networks)
        self.networks = [network.to(self.device).eval() for network in several]
        self.hashes = [None] * len(several) if hashes is None else list(hashes)
        self.temperatures = [description.temperature] * len(several) if temperatures is None else list(temperatures)
        for network in self.networks:
            network_to_channels_last(network)
        self.inferer = feeding.inferer(description)
        self._feeder = Feeder(description)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by index."""
        return list(self.description.classes)

    def predict(
        self,
        image: npt.NDArray[Any] | Tensor | str | Path,
        *,
        affine: npt.ArrayLike | None = None,
        probabilities: bool = False,
        uncertainty: bool = False,
    ) -> Prediction:
        """Predict an image.

        Args:
            image: a file, or a folder of one DICOM series; or an array ``(H, W)``, ``(H, W, C)``, ``(X, Y, Z)`` or
                ``(X, Y, Z, C)``.
            affine: of an array that is a volume, ``(4, 4)`` voxel to patient mm, RAS+. A model that resamples must have
                it; without it any other takes the array's axes for right, anterior, superior, and says so.
            probabilities: also return the probability of every class.
            uncertainty: also return the entropy, and the numbers that are made of it.

        Raises:
            ImageError: if a file cannot be read.
            ModelError: if an array has not the model's axes or channels, or lacks the affine that the model needs.
            MedsegError: if the image does not fit the model, or it or the logits are not finite.
        """
        wants = {name for name, asked in ((PROBABILITIES, probabilities), (UNCERTAINTY, uncertainty)) if asked}
        if isinstance(image, str | Path):
            return self._predict_file(Path(image).expanduser().absolute(), wants)
        if not isinstance(image, np.ndarray | Tensor):
            raise ModelError(f"a {type(image).__name__} is no image; give a path or an array, of several predict_all")
        return self._predict_fed(self._feeder.feed(self._as_loaded(np.asarray(image), affine)), None, wants)

    def predict_all(self, images: Iterable[npt.NDArray[Any] | Tensor | str | Path]) -> Iterator[Prediction]:
        """Predict images one after the other, each when it is asked for.

        Args:
            images: files, or arrays that lie nowhere.
        """
        return (self.predict(image) for image in images)

    def _predict_file(self, path: Path, wants: Iterable[str]) -> Prediction:
        try:
            return self._predict_fed(self._feeder.read(path), path, wants)
        except MedsegError as error:
            if str(path) in str(error):
                raise
            raise ModelError(f"{path}: {error}") from error

    def _predict_fed(self, fed: Fed, source: Path | None, wants: Iterable[str]) -> Prediction:
        check_fits(fed, self.description)
        forward = Forward(
            self.networks,
            self.description,
            self.inferer,
            precision=self.precision,
            device=self.device,
            wants=wants,
            temperatures=self.temperatures,
        )
        (result,) = forward([fed])
        grid = result.grid
        doubts = [*fed.unlike, *unlike_mask(counts_of(result.mask), grid.shape, grid.affine, self.description)]
        if doubts:
            logger.warning("%s", told(source.name if source else "an array", doubts))
        return Prediction(
            result.mask, self.description, result.grid, source, result.probabilities, result.numbers, result.entropy
        )

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
        placed = self._unplaced() if affine is None else np.asarray(affine, dtype=np.float64)
        if placed.shape != (4, 4):
            raise ModelError(f"affine has the shape {placed.shape}; give (4, 4), voxel to patient mm")
        meta: Tensor = MetaTensor(tensor, affine=torch.from_numpy(placed))
        return meta

    def _unplaced(self) -> npt.NDArray[np.float64]:
        """Return the affine of a volume of which none is given.

        Raises:
            ModelError: if the model needs to know how large voxels are.
        """
        fed = self.description.input
        if fed.spacing is not None and any(fed.spacing):
            edges = " x ".join("any" if edge is None else f"{edge:g}" for edge in fed.spacing)
            raise ModelError(
                f"the array has no affine, and the model takes voxels of {edges} mm; give affine=, (4, 4), voxel to "
                "patient in mm, such as that of nibabel.load(FILE)"
            )
        if fed.orientation is not None:
            logger.warning(
                "the array has no affine: its axes are taken to point right, anterior and superior; give affine= where "
                "they do not"
            )
        return np.eye(4)


def load(
    where: str | Path | Sequence[str | Path],
    *,
    device: torch.device | str | None = None,
    precision: str = "auto",
    trust: bool = False,
    backend: str = "torch",
    signed_by: str | Path | None = None,
    given: Iterable[str] = (),
) -> Model:
    """Load a trained model, or several as an ensemble.

    Args:
        where: weights; a packed model; the folder of a run, bundle or ensemble; a bundle's name; see
            `medseg.bundle.library.weights_file` and `medseg.bundle.ensemble.members`. Several are an ensemble: fed
            alike and with the same classes; for the rest see `medseg.bundle.ensemble.joined`.
        device: ``"cpu"``, ``"cuda:0"``; ``None`` picks.
        precision: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        trust: also build a network that is not medseg's or MONAI's, which runs the code of the package it names.
        backend: ``"torch"``, or ``"onnx"`` or ``"openvino"`` for what `medseg export` wrote beside the weights; an
            export that is named itself needs no word.
        signed_by: public key that must have signed the packed model, each of an ensemble; nothing else is taken then.
        given: settings that the caller gives the ensemble itself, in which its members may differ without a word.

    Raises:
        BundleError: if there are no weights.
        NetworkError: if their network is of another package, and that is not trusted.
        ModelError: if nothing says how they are fed.
        DescriptionError: if members of an ensemble are fed otherwise.
        CheckpointError: if they cannot be read or do not fit.
        SignatureError: if they are not signed by the key.
    """
    places = [each for named in ([where] if isinstance(where, str | Path) else where) for each in members(named)]
    if not places:
        raise ModelError("no model is named; give a run's folder, weights, or a bundle with weights")
    refuse_twice([weights_file(place) for place in places])
    found = [_load(place, trust, backend, signed_by) for place in places]
    if precision not in ("auto", "fp32") and any(isinstance(network, Exported) for network, *_ in found):
        raise ModelError(f"precision is {precision!r}, but an export computes as it was exported; leave it out")
    together = joined({str(place): description for place, (_, description, _) in zip(places, found, strict=True)})
    warn(unlike := together.settled(given))
    loaded, _, hashes = zip(*found, strict=True)
    return Model(
        loaded,
        together.description,
        device=device,
        precision=precision,
        hashes=hashes,
        temperatures=[description.temperature for _, description, _ in found],
        unlike=unlike,
    )


def _load(
    where: str | Path, trust: bool, backend: str, signed_by: str | Path | None
) -> tuple[nn.Module, Description, str | None]:
    """Return a network, its model, and the hash of its weights where it is known."""
    file = weights_file(where)
    if backend not in BACKENDS:
        raise ModelError(f"there is no backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    if file.suffix in SUFFIXES.values() and signed_by is None:
        return *exported_alone(file), None
    if backend != "torch" and signed_by is not None:
        raise ModelError(f"backend is {backend!r}, but the export beside a packed model is not signed; use torch")
    weights = read_weights(file, signed_by=signed_by)
    if backend != "torch":
        return *exported_of(file, weights.content, backend), None
    description = weights.description or _of_bundle(weights.path)
    network = networks.rebuild(description.network, trust=trust)
    load_described(network, weights, description)
    return network, description, verified_hash(network, weights)


def _of_bundle(path: Path) -> Description:
    """Return the description of the bundle whose ``models`` folder holds weights that carry none."""
    folder = path.parent.parent
    if not (folder / BUNDLE_FILE).is_file():
        raise ModelError(
            f"{path} carries no record of its network and of how it is fed, as weights that medseg trained do; if a "
            "bundle's network has them, lay it into a copy of that (medseg bundle copy NAME -o FOLDER) as "
            "models/model.pt and predict with that: medseg predict FOLDER IMAGES MASKS"
        )
    return read_source(folder).description
