"""A folder that is an ensemble: packed models of folds, and a file that names all of them, so that none is missed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.atomic import atomic_folder, atomic_write
from medseg.bundle.description import Description, DescriptionError, differences
from medseg.bundle.library import ENSEMBLE
from medseg.errors import MedsegError, shown

if TYPE_CHECKING:
    from medseg.bundle.pack import About

__all__ = ["members", "refuse_unlike", "write"]

_FORMAT = 1


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


def refuse_unlike(models: Mapping[str, Description]) -> None:
    """Refuse models that are fed otherwise than the first, or have other classes.

    Args:
        models: by where each was loaded from.

    Raises:
        DescriptionError: naming what differs.
    """
    (start, first), *others = models.items()
    for place, other in others:
        apart = differences(first, replace(other, network=first.network))
        if list(other.classes) != list(first.classes):
            apart.append(f"classes {', '.join(first.classes)} (here {', '.join(other.classes)})")
        if apart:
            raise DescriptionError(f"{place} and {start} are no ensemble: {'; '.join(apart)}; name runs of one recipe")


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
