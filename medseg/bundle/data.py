"""The data of a configuration: its datalist and its split. Nothing here needs PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.bundle.command import Command
from medseg.bundle.options import Options
from medseg.bundle.start import folder as folder_of
from medseg.caller import spelt
from medseg.data.datalist import Datalist, DatalistError, Entry, datalist_file
from medseg.errors import MedsegError, shown
from medseg.runs.paths import resolve_path

__all__ = ["channels", "datalist", "load_data", "refuse_fold", "scored", "split", "where"]

_TRIED = 8  # images that may be unreadable before their channels are not known


def load_data(place: str | os.PathLike[str]) -> Datalist:
    """Load the datalist of a folder, or a datalist.

    Args:
        place: folder that holds ``datalist.json`` or a decathlon's ``dataset.json``, or such a file.

    Raises:
        DatalistError: if there is none, or it cannot be used.
    """
    named = where(place)
    return datalist(named, named["dataset_dir"])


def where(place: str | os.PathLike[str]) -> dict[str, str]:
    """Return the keys of a configuration that name a data set.

    Args:
        place: folder of the datalist, or the datalist's file.
    """
    path = resolve_path(place)
    if path.is_file():
        return {"dataset_dir": str(path.parent), "datalist": str(path)}
    return {"dataset_dir": str(path)}


def datalist(options: Mapping[str, Any], dataset_dir: Any, command: Command | None = None) -> Datalist:
    """Load the datalist: the option of that name, else ``datalist.json`` or ``dataset.json`` of the folder.

    Args:
        options: of the configuration.
        dataset_dir: folder of the data set, as the configuration holds it.
        command: what was typed.
    """
    command = command or Command()
    named = options.get("datalist")
    if named:
        return Datalist.load(folder_of(named, "datalist", command))
    return Datalist.load(datalist_file(Path(folder_of(dataset_dir, "dataset_dir", command))))


def split(
    data: Datalist, options: Mapping[str, Any], command: Command | None = None
) -> tuple[list[Entry], list[Entry], list[Entry]]:
    """Return training, validation and test entries by ``fold_key``, ``fold`` and ``validation_fold``.

    Args:
        data: the datalist.
        options: of the configuration.
        command: what was typed: a fold that was asked for must be there, the default of 0 need not.

    Raises:
        DatalistError: if there is no such fold.
    """
    wanted = Options.of(options)
    refuse_fold(data, wanted, command)
    fold: Any = wanted.fold
    return data.split(fold, fold_key=wanted.fold_key, validation_fold=wanted.validation_fold)


def refuse_fold(data: Datalist, wanted: Options, command: Command | None = None) -> None:
    """Refuse a fold that the datalist does not have.

    Args:
        data: the datalist.
        wanted: options of the configuration.
        command: what was typed: a fold that was asked for must be there, the default of 0 need not.

    Raises:
        DatalistError: naming those that there are.
    """
    fold: Any = wanted.fold
    if fold in (None, "all"):
        return
    if data.fold_keys:
        data.refuse_fold(fold, wanted.fold_key)
    elif command is not None and "fold" in command.overrides:
        raise DatalistError(
            f"{shown(data.path)}: fold {fold} was asked for, but its entries carry no folds; leave {spelt('fold')} out "
            "to take its lists as they are, or write folds into it"
        )


def scored(parts: Sequence[list[Entry]], name: str) -> list[Entry]:
    """Return the part of a split that an evaluation scores: ``training``, ``validation`` or ``test``."""
    names = ("training", "validation", "test")
    if name not in names:
        raise MedsegError(f"scored is {name!r}; choose one of {', '.join(names)}")
    return parts[names.index(name)]


def channels(data: Datalist) -> int:
    """Return the channels of the data set's images, read from its first one; the check names any that cannot be read.

    Raises:
        ImageError: if none of the first few can be read.
    """
    from medseg.io.images import ImageError, read_image

    refused: ImageError | None = None
    for _, entry in data.entries()[:_TRIED]:
        try:
            return read_image(data.absolute(entry)["image"]).channels
        except ImageError as error:
            refused = refused or error
    raise refused or MedsegError(f"{data.path} names no image")
