"""Models that predict together: what they must share, what holds where they differ, and a folder that names all."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.atomic import atomic_folder, atomic_write
from medseg.bundle.description import Description, DescriptionError, differences
from medseg.bundle.library import ENSEMBLE
from medseg.errors import MedsegError, shown
from medseg.transforms.postprocess import Steps

if TYPE_CHECKING:
    from medseg.bundle.pack import About

__all__ = ["Joined", "Unlike", "joined", "members", "refuse_twice", "warn", "write"]

logger = logging.getLogger(__name__)

_FORMAT = 1
_INFERENCE = ("window", "overlap", "scales", "flip_axes")  # batch makes no other mask


def members(where: str | Path) -> list[str | Path]:
    """Return the models that a name means: those of an ensemble's folder, else the name itself.

    Args:
        where: what a model is loaded from.

    Raises:
        MedsegError: if the folder's record cannot be read, or a model that it names is missing.
    """
    folder = Path(where).expanduser()
    if not (folder / ENSEMBLE).is_file():
        return [where]
    try:
        held = json.loads((folder / ENSEMBLE).read_text(encoding="utf-8"))
        names = [str(name) for name in held["members"]] if held["format"] == _FORMAT else []
    except (OSError, ValueError, KeyError, TypeError):
        names = []
    if not names or any(Path(name).name != name for name in names):
        raise MedsegError(f"{shown(folder / ENSEMBLE)} does not name the models of an ensemble; write the folder anew")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise MedsegError(
            f"{shown(folder)} is an ensemble of {len(names)} models, but {shown(missing[0])} is missing: fewer of them "
            "are another model; restore it, or name those that shall predict"
        )
    return [folder / name for name in names]


@dataclass(frozen=True)
class Unlike:
    """A setting in which members differ, and what the ensemble does.

    Args:
        setting: such as ``inference overlap``.
        members: the value of each, in their order; ``None`` where one has none.
        taken: what holds for the ensemble.
    """

    setting: str
    members: tuple[Any, ...]
    taken: Any

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.setting} {' | '.join(map(_said, self.members))} (taken: {_said(self.taken)})"

    def plain(self) -> dict[str, Any]:
        """Return plain values."""
        return {"setting": self.setting, "members": list(self.members), "taken": self.taken}


@dataclass(frozen=True)
class Joined:
    """How models predict together.

    Args:
        description: of the ensemble: of what is fed and how, all say the same; of the rest see `joined`.
        unlike: settings in which they differ, so that one had to be taken.
    """

    description: Description
    unlike: tuple[Unlike, ...] = ()

    def settled(self, keys: Iterable[str]) -> tuple[Unlike, ...]:
        """Return what is left of `unlike`, where some settings are given for the ensemble itself.

        Args:
            keys: ``postprocess``, ``inference#overlap`` and the like.
        """
        given = [key.replace("#", " ") for key in keys]
        return tuple(
            each
            for each in self.unlike
            if not any(each.setting == key or each.setting.startswith(f"{key} ") for key in given)
        )


def joined(models: Mapping[str, Description]) -> Joined:
    """Return how models predict as an ensemble, the mean of their probabilities.

    Refused is what makes a mean meaningless: another feeding, other classes or another order of them, other channels,
    a 2D network beside a 3D one. Of windows, overlap, scales and flips, of colours and codes that contradict each other
    the first's are taken; of postprocessing what all do to a class: the smallest ``min_size``, ``largest`` and
    ``fill_holes`` where each has it. Mirrored (``--tta``) are the axes along which all were trained so. Each keeps its
    own network and temperature. What they were trained on is as wide as any says, and not known where one says nothing.

    Args:
        models: by where each was loaded from; the first goes before the others.

    Raises:
        DescriptionError: naming two of them and what differs.
    """
    (start, first), *others = models.items()
    first = replace(first, channels=next((each.channels for each in models.values() if each.channels), ()))
    for place, other in others:
        if apart := _apart(other, first):
            raise DescriptionError(
                f"{place} and {start} are no ensemble: {'; '.join(apart)}; name runs of one recipe, or predict with "
                "each alone"
            )
    held = list(models.values())
    if not others:
        return Joined(first)
    from medseg.bundle import intensities, usual  # which imports PyTorch, and is late enough here

    unlike = [
        Unlike(f"inference {name}", values, values[0])
        for name in _INFERENCE
        if _differ(values := tuple(getattr(each.inference, name) for each in held))
    ]
    every = [each.inference.mirror_axes for each in held]
    axes = None if None in every else [axis for axis in every[0] or () if all(axis in (some or ()) for some in every)]
    description = replace(
        first,
        inference=replace(first.inference, mirror_axes=axes),
        postprocess=_agreed([each.postprocess for each in held], unlike),
        beside_paper=None if _differ([each.beside_paper for each in held]) else first.beside_paper,
        colours=_union([each.colours for each in held], "colours", unlike),
        codes=_union([each.codes for each in held], "codes", unlike),
        usual=usual.widest([each.usual for each in held]),
        intensities=intensities.widest([each.intensities for each in held]),
    )
    return Joined(description, tuple(unlike))


def refuse_twice(files: Sequence[Path]) -> None:
    """Refuse weights that are named twice, and would count twice.

    Args:
        files: of the members.

    Raises:
        MedsegError: naming them.
    """
    real = [file.resolve() for file in files]
    for file, place in zip(files, real, strict=True):
        if real.count(place) > 1:
            raise MedsegError(
                f"{shown(file)} is named twice, and would count twice in the ensemble; name each run once"
            )


def warn(unlike: Sequence[Unlike]) -> None:
    """Say in one line in what members differ, and what is taken.

    Args:
        unlike: see `Joined.settled`.
    """
    if unlike:
        logger.warning(
            "the models of this ensemble differ, in their order: %s; give postprocess={...} or inference#... for all, "
            "if that is not meant",
            "; ".join(map(str, unlike)),
        )


def _apart(model: Description, first: Description, called: str = "the latter has") -> list[str]:
    """Return for what a model and the first are no ensemble, a phrase each."""
    apart = differences(model, replace(first, network=model.network, classes=model.classes), called)
    if list(model.classes) != list(first.classes):
        apart.append(f"classes {', '.join(model.classes)} ({called} {', '.join(first.classes)})")
    for key, default in (("spatial_dims", 2), ("in_channels", 1), ("out_channels", len(first.classes))):
        ours, theirs = (int(each.network.get(key) or default) for each in (model, first))
        if ours != theirs:
            apart.append(f"network {key} {ours} ({called} {theirs})")
    return apart


def _agreed(steps: Sequence[Mapping[str, Any]], unlike: list[Unlike]) -> dict[str, Any]:
    """Return what all models do to a class's mask, and add classes of which they do not do the same."""
    agreed = {}
    for name in dict.fromkeys(name for each in steps for name in each):
        of_class = [Steps(**each.get(name, {})) for each in steps]
        taken = Steps(
            min_size=min(each.min_size for each in of_class),
            largest=all(each.largest for each in of_class),
            fill_holes=all(each.fill_holes for each in of_class),
        )
        if taken.plain():
            agreed[name] = taken.plain()
        if _differ(of_class):
            values = tuple(each.plain() or None for each in of_class)
            unlike.append(Unlike(f"postprocess {name}", values, taken.plain() or None))
    return agreed


def _union(marks: Sequence[Mapping[str, Any]], name: str, unlike: list[Unlike]) -> dict[str, Any]:
    """Return what any model says of a class, of several the first, and add classes of which they say unlike things."""
    found: dict[str, Any] = {}
    for index in dict.fromkeys(str(index) for each in marks for index in each):
        values = tuple({str(key): value for key, value in each.items()}.get(index) for each in marks)
        known = [value for value in values if value is not None]
        found[index] = known[0] if known else None
        if _differ(known):
            unlike.append(Unlike(f"{name} {index}", values, known[0]))
    return found


def _differ(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values)


def _said(value: Any) -> str:
    return "none" if value is None else str(value)


def write(folder: Path, runs: Mapping[str, Path], about: About | None = None) -> Path:
    """Pack runs as the members of an ensemble, in a folder that is there whole or not at all.

    Args:
        folder: new folder.
        runs: folder of each run by the name that its pack gets.
        about: see `medseg.bundle.pack.pack`.

    Returns:
        The folder.

    Raises:
        MedsegError: if the folder is there, or a run cannot be packed.
    """
    from medseg.bundle.pack import pack

    if folder.exists():
        raise MedsegError(f"{shown(folder)} exists already; name a new folder for the ensemble")
    with atomic_folder(folder) as begun:
        packed = [pack(run, begun / f"{name}.zip", about).path.name for name, run in runs.items()]
        with atomic_write(begun / ENSEMBLE) as temporary:
            record = {"format": _FORMAT, "members": packed}
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return folder
