"""What a model is and how it is fed, as plain data: written once a bundle, carried by its weights, compared.

Nothing here builds anything: `medseg.bundle.feeding` makes transforms and inferers of it, `medseg.bundle.networks` the
network. Plain data go through YAML, JSON and a checkpoint's header alike.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from medseg.data.schema import validate_codes
from medseg.errors import MedsegError, counted
from medseg.transforms.postprocess import Postprocess

__all__ = [
    "BESIDE_PAPER", "SCHEMES", "Description", "DescriptionError", "Inference", "Input", "changes", "differences",
    "misplaced",
]  # fmt: skip

SCHEMES: dict[str, dict[str, Any]] = {
    "none": {},
    "range": {"low": 0.0, "high": 255.0, "clip": False},
    "image": {},
    "percentiles": {"low": 1.0, "high": 99.8},
    "zscore": {"nonzero": False},
    "imagenet": {},
}
"""Intensity schemes and the defaults of their parameters: ``range`` brings ``low`` to 0, ``high`` to 1 (``clip`` cuts
beyond), ``image`` brings each image's least and greatest value to 0 and 1, ``percentiles`` two percentiles of each
channel of an image (beyond stays), ``zscore`` each channel of an image to mean 0 and standard deviation 1 (``nonzero``
counts and changes values above or below 0 alone), ``imagenet`` is RGB of 8 bit by ImageNet's mean and standard
deviation, on the device."""

BESIDE_PAPER = ("pooled", "per_case")
"""Which means stand beside a paper's: over all pixels, or over cases."""
PLANES = ("axial", "coronal", "sagittal")
COLOURS = ("grey", "rgb")
POLARITIES = ("bright", "dark")
_NOT_COMPARED = ("weights",)  # arguments of a network that say where first weights came from, not what it is

Part = TypeVar("Part", "Input", "Inference")


class DescriptionError(MedsegError):
    """A model that is not described soundly, or weights that were made for another one."""


@dataclass(frozen=True)
class Input:
    """How an image is brought to the network, the same in training, evaluation and prediction.

    Args:
        intensity: ``{"scheme": ..., **parameters}``, see `SCHEMES`.
        polarity: ``"bright"`` turns images whose median is above half of their range into negatives, so that objects
            are bright in all of them; ``"dark"`` the reverse; ``None`` leaves them.
        colour: ``"rgb"`` makes three channels of grey pictures and leaves an alpha channel out, ``"grey"`` one
            channel of colour (ITU-R 601 luma); ``None`` takes files as they are.
        size: pixels that every image is resized to, one edge an axis; ``None`` for none.
        orientation: axis codes that volumes are brought to, ``"RAS"`` by default: however a volume is stored, the
            network sees the same; ``None`` keeps the file's.
        spacing: voxel size in mm that volumes are resampled to, along the axes of ``orientation``; ``None`` keeps the
            file's, and so does a ``None`` in place of a number along its axis (between the slices of a 2D network).
        plane: in which a 2D network looks at volumes: ``"axial"``, ``"coronal"`` or ``"sagittal"``.
    """

    intensity: Mapping[str, Any] = field(default_factory=lambda: {"scheme": "none"})
    polarity: str | None = None
    colour: str | None = None
    size: Sequence[int] | None = None
    orientation: str | None = "RAS"
    spacing: Sequence[float | None] | None = None
    plane: str = "axial"

    def __post_init__(self) -> None:
        """Check the values and fill in the scheme's defaults."""
        scheme = self.intensity.get("scheme")
        if scheme not in SCHEMES:
            raise DescriptionError(f"intensity scheme is {scheme!r}; choose one of {', '.join(SCHEMES)}")
        given = {key: value for key, value in self.intensity.items() if key != "scheme"}
        for key in given:
            if key not in SCHEMES[scheme]:
                takes = ", ".join(SCHEMES[scheme]) or "no parameter"
                raise DescriptionError(f"intensity scheme {scheme!r} has no parameter {key!r}; it takes {takes}")
        object.__setattr__(self, "intensity", {"scheme": scheme, **SCHEMES[scheme], **given})
        if scheme == "range" and not self.intensity["high"] > self.intensity["low"]:
            low, high = self.intensity["low"], self.intensity["high"]
            raise DescriptionError(f"intensity range is {low} to {high}; high must be above low")
        _one_of("polarity", self.polarity, POLARITIES)
        _one_of("colour", self.colour, COLOURS)
        _one_of("plane", self.plane, PLANES, optional=False)
        for name in ("size", "spacing"):
            value = getattr(self, name)
            if value is not None:
                _edges(name, value)
                kind = int if name == "size" else float
                object.__setattr__(self, name, [None if edge is None else kind(edge) for edge in value])
        if self.spacing is not None and len(self.spacing) != 3:
            raise DescriptionError(f"spacing {list(self.spacing)} is that of volumes; give three numbers, or null")
        if self.orientation is not None:
            pairs = {"L": 0, "R": 0, "A": 1, "P": 1, "S": 2, "I": 2}
            if sorted(pairs.get(code, 9) for code in str(self.orientation)) != [0, 1, 2]:
                raise DescriptionError(f"orientation is {self.orientation!r}; give three axis codes such as RAS")

    @property
    def window(self) -> tuple[float, float] | None:
        """What it sees of values, where a range cuts off the others and is not all that 8 bits hold."""
        scheme = self.intensity
        if scheme["scheme"] != "range" or not scheme["clip"] or (scheme["low"], scheme["high"]) == (0, 255):
            return None
        return float(scheme["low"]), float(scheme["high"])


@dataclass(frozen=True)
class Inference:
    """How a whole image is predicted; may differ from what the weights were validated with.

    Args:
        window: sliding window in pixels, one edge an axis; ``None`` gives the network the whole image.
        overlap: share of a window that the next one covers.
        batch: windows a forward.
        scales: of the image's edges, whose probabilities are averaged.
        flip_axes: axes flipped and averaged over, -1 being left and right of a picture.
        mirror_axes: axes along which the training mirrors images, which `medseg predict --tta` then averages over;
            ``None`` where that is not said.
    """

    window: Sequence[int] | None = None
    overlap: float = 0.25
    batch: int = 4
    scales: Sequence[float] = (1.0,)
    flip_axes: Sequence[int] = ()
    mirror_axes: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("window", "scales", "flip_axes", "mirror_axes"):
            value = getattr(self, name)
            if value is not None:
                if isinstance(value, str) or not isinstance(value, Sequence):
                    raise DescriptionError(f"inference {name} is {value!r}; give a list of numbers")
                object.__setattr__(self, name, list(value))
        if self.window is not None and (not self.window or min(self.window) < 1):
            raise DescriptionError(f"inference window is {self.window}; give edges of at least 1 pixel, or null")
        if not 0 <= self.overlap < 1:
            raise DescriptionError(f"inference overlap is {self.overlap}; it must be in [0, 1)")
        if not self.scales or min(self.scales) <= 0:
            raise DescriptionError(f"inference scales are {list(self.scales)}; give at least one, each above 0")


@dataclass(frozen=True)
class Description:
    """A model: network, feeding, classes.

    Args:
        name: of the bundle.
        network: ``{"name": ..., **arguments}`` as `medseg.bundle.networks.create` takes them.
        input: how it is fed.
        inference: how it predicts.
        classes: names by index.
        colours: colour of a class by its index, ``"#rrggbb"``, where one is named.
        codes: coded concept of a class by its index, as a datalist has it, where one is known.
        scores: further scores of its evaluations, by name with their options.
        postprocess: what is done to a predicted mask, by class; see `medseg.transforms.postprocess.Steps`.
        beside_paper: which means stand beside those of the network's paper: ``"pooled"`` over all pixels or
            ``"per_case"``; ``None`` where that is not known.
        intensities: of the images that weights were trained on, see `medseg.bundle.intensities`; a training sets them.
        usual: ranges of the cases that weights were trained on, see `medseg.bundle.usual`; a training sets them.
        temperature: that logits are divided by before they become probabilities, see `medseg.bundle.temperature`.
        channels: names of its images' channels, as the datalist that it was trained on has them; none of one channel.
    """

    name: str
    network: Mapping[str, Any]
    input: Input
    inference: Inference
    classes: Sequence[str]
    colours: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    postprocess: Mapping[str, Any] = field(default_factory=dict)
    beside_paper: Any = None
    intensities: Mapping[str, Any] = field(default_factory=dict)
    usual: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    channels: Sequence[str] = ()

    @classmethod
    def of(cls, content: Mapping[str, Any], *, where: str = "the model's description") -> Description:
        """Build from plain data, such as a bundle's ``model`` or a header.

        Raises:
            DescriptionError: if a key is missing, unknown, or holds what it must not.
        """
        content = _known(cls, content, where)
        parts: dict[str, Any] = {"input": part(Input, content.get("input") or {}, f"{where}, input")}
        parts["inference"] = part(Inference, content.get("inference") or {}, f"{where}, inference")
        missing = [name for name in ("name", "network", "classes") if name not in content]
        if missing:
            raise DescriptionError(f"{where} lacks {', '.join(missing)}; add what docs/reference/bundle_yaml.md says")
        described = cls(**{**content, **parts})
        described._check(where)
        return described

    def _check_axes(self, where: str) -> None:
        dims = self.spatial_dims
        for name, value in (("input size", self.input.size), ("inference window", self.inference.window)):
            if value is not None and len(value) != dims:
                key = f"model#{name.replace(' ', '#')}"
                raise DescriptionError(
                    f"{where}: {name} {list(value)} has {counted(len(value), 'edge')}, the network {dims} axes; "
                    f"give {key} {dims} edges, or null"
                )
        for name in ("flip_axes", "mirror_axes"):
            if wrong := [axis for axis in getattr(self.inference, name) or () if not -dims <= axis < dims]:
                raise DescriptionError(
                    f"{where}: inference {name} names the axis {wrong[0]}, the network has {dims}; give 0 to {dims - 1}"
                )

    def _check(self, where: str) -> None:
        self._check_axes(where)
        if len(set(self.classes)) != len(self.classes):
            raise DescriptionError(f"{where}: classes {list(self.classes)} name one twice; rename it")
        if not isinstance(self.temperature, int | float) or not 0 < self.temperature < math.inf:
            raise DescriptionError(f"{where}: temperature is {self.temperature!r}; give a number above 0")
        if isinstance(self.channels, str) or not all(isinstance(name, str) for name in self.channels):
            raise DescriptionError(f"{where}: channels are {self.channels!r}; give a list of names")
        if self.intensities and not _are_intensities(self.intensities):
            raise DescriptionError(f"{where}: intensities are not what a training writes; leave them out")
        if self.usual and not _is_usual(self.usual, len(self.classes)):
            raise DescriptionError(f"{where}: usual is not what a training writes; leave it out")
        try:
            named = {str(index): name for index, name in enumerate(self.classes)}
            validate_codes({str(key): code for key, code in self.codes.items()}, named, where)
        except MedsegError as error:
            raise DescriptionError(str(error)) from error
        try:
            Postprocess(self.postprocess, self.classes)
        except MedsegError as error:
            raise DescriptionError(f"{where}: {error}") from error

    @property
    def spatial_dims(self) -> int:
        """Dimensions of the network: 2 or 3."""
        return int(self.network.get("spatial_dims", 2))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: dicts, lists, strings, numbers, booleans and ``None``."""
        held = dict(_plain(dataclasses.asdict(self)))
        unsaid = {"codes": {}, "intensities": {}, "usual": {}, "temperature": 1.0, "channels": []}
        return {key: value for key, value in held.items() if key not in unsaid or value != unsaid[key]}


def _are_intensities(seen: Any) -> bool:
    """Return whether values are what `medseg.bundle.intensities.trained_on` gives."""
    try:
        rows = [*zip(seen["low"], seen["high"], strict=True), *[[[edge] for edge in seen["values"]]]]
        pairs = [pair for low, high in rows for pair in zip(low, high, strict=True)]
        return len(pairs) > 1 and seen["images"] > 0 and all(low <= high for low, high in pairs)
    except (KeyError, TypeError, ValueError):
        return False


def _is_usual(seen: Any, classes: int) -> bool:
    """Return whether values are what `medseg.bundle.usual.trained_on` gives."""
    try:
        axes = {"mm": 3, "px": 2}[seen["unit"]]
        ranges = [seen[name] for name in ("extent", "spacing")[: axes - 1]]  # pictures have no voxel size
        pairs = [pair for low, high in ranges for pair in zip(low, high, strict=True)]
        found = [tuple(pair) for index, pair in seen["found"].items() if 0 <= int(index) < classes]
        whole = len(pairs) == axes * len(ranges) and len(found) == len(seen["found"]) and seen["cases"] > 0
        return whole and all(0 <= low <= high for low, high in [*pairs, *found])
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def part(kind: type[Part], content: Mapping[str, Any], where: str) -> Part:
    """Build one part of a description from plain data.

    Raises:
        DescriptionError: if a key is unknown or a value out of range.
    """
    try:
        return kind(**_known(kind, content, where))
    except DescriptionError as error:
        raise DescriptionError(f"{where}: {error}") from error


def differences(trained: Description, here: Description, called: str = "here") -> list[str]:
    """Return what weights were trained with and is not so here, a phrase each; what may differ is left out.

    Compared are the network and its arguments, the input's whole feeding and the classes; how a whole image is
    predicted (windows, scales, flips) is free, postprocessing and temperature are those of the weights.

    Args:
        trained: of the weights.
        here: of the configuration that loads them.
        called: how a phrase names the latter.
    """
    found = _changes("network", _compared(trained.network), _compared(here.network), called)
    found += _changes("input", dataclasses.asdict(trained.input), dataclasses.asdict(here.input), called)
    if list(trained.classes) != list(here.classes) and len(trained.classes) != len(here.classes):
        found.append(f"classes {len(trained.classes)} ({called} {len(here.classes)})")
    if misplaced(trained.channels, here.channels):
        found.append(f"channels {', '.join(trained.channels)} ({called} {', '.join(here.channels)})")
    return found


def misplaced(trained: Sequence[str], here: Sequence[str]) -> bool:
    """Return whether a channel of images has the name of another one that a model was trained on.

    Of names that only one of them has, such as MRI and MR, nothing is known.

    Args:
        trained: names of the model's channels.
        here: those of the images; either may have none.
    """
    names, others = ([_bare(name) for name in each] for each in (trained, here))
    told = all(len(set(each)) == len(each) for each in (names, others)) and len(names) == len(others)
    return told and any(name != other and other in names for name, other in zip(names, others, strict=True))


def _bare(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def changes(before: Description, now: Description) -> list[str]:
    """Return everything that was changed in a model, a phrase each.

    Args:
        before: the model as it was.
        now: as it is.
    """
    return _changes("", dataclasses.asdict(before), dataclasses.asdict(now), "now")


def _compared(network: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in network.items() if key not in _NOT_COMPARED}


def _changes(what: str, trained: Mapping[str, Any], here: Mapping[str, Any], called: str = "here") -> list[str]:
    trained, here = _plain(trained), _plain(here)
    found = []
    for key in sorted(trained.keys() | here.keys()):
        theirs, ours = trained.get(key), here.get(key)
        if isinstance(theirs, dict) and isinstance(ours, dict):
            found += _changes(f"{what} {key}".strip(), theirs, ours, called)
        elif theirs != ours:
            found.append(f"{what} {key} {_shown(theirs)} ({called} {_shown(ours)})".strip())
    return found


def _shown(value: Any) -> str:
    return "unset" if value is None else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _known(kind: type[Any], content: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise DescriptionError(f"{where} is {content!r}; it must be a mapping")
    names = [item.name for item in dataclasses.fields(kind)]
    for key in content:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
            raise DescriptionError(f"{where} has no {key!r}; {hint}")
    return dict(content)


def _edges(name: str, value: Any) -> None:
    listed = isinstance(value, Sequence) and not isinstance(value, str) and bool(value)
    given = [edge for edge in value if edge is not None or name == "size"] if listed else [None]
    if not all(isinstance(edge, int | float) and edge > 0 for edge in given):
        raise DescriptionError(f"{name} is {value!r}; give one number above 0 for each axis, or null")


def _one_of(name: str, value: Any, allowed: Sequence[str], *, optional: bool = True) -> None:
    if value not in allowed and not (optional and value is None):
        raise DescriptionError(f"{name} is {value!r}; choose one of {', '.join(allowed)}{' or null' * optional}")
