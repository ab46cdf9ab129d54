"""What a comparison of networks may see of a data set: what has folds, and never the test list."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from medseg.data.datalist import Datalist, Entry, path_from
from medseg.data.fingerprint import fingerprint
from medseg.data.folds import FOLDS, propose_folds
from medseg.data.schema import PATH_KEYS
from medseg.errors import MedsegError, counted, shown
from medseg.studies.network_record import Asked
from medseg.studies.plan_and_train import data_of

__all__ = ["own_data"]

MADE = Path("data") / "datalist.json"


def own_data(
    where: str | os.PathLike[str], folder: Path, asked: Asked, say: Callable[[str], None] = lambda line: None
) -> Datalist:
    """Return data with folds: the data themselves, else a list of what may be trained on, in the comparison's folder.

    Where entries carry folds, a fold is what it is there, and the test list is never among them. Where they carry none,
    the training and the validation list are divided, whole groups together, and the test list is left out.

    Args:
        where: folder of the datalist, the datalist, or a folder in another layout.
        folder: of the comparison.
        asked: what is asked.
        say: called with a line of news.

    Raises:
        MedsegError: if they have too few groups, or no such folds.
    """
    made = folder / MADE
    if made.is_file():
        data = Datalist.load(made)
        images = counted(len(data.entries()), "image")
        say(f"{shown(made)}: {images}, as when it was made; what came to {shown(where)} since needs a new folder")
    else:
        data = data_of(where, folder, say)
    if data.fold_keys:
        number = len(data.folds(asked.fold_key))
        if asked.folds is not None and not 2 <= asked.folds <= number:
            raise MedsegError(
                f"{shown(data.path)}: its scheme {asked.fold_key} has {counted(number, 'fold')}, {asked.folds} are "
                f"asked for; give --folds 2 to {number}"
            )
        if number < 2:
            raise MedsegError(f"{shown(data.path)}: its scheme {asked.fold_key} has one fold; make two or more")
        return data
    return _divided(data, made, asked)


def _divided(data: Datalist, target: Path, asked: Asked) -> Datalist:
    """Return the training and validation lists with folds, written to a file."""
    wanted = FOLDS if asked.folds is None else asked.folds
    entries = [entry for entry in (*data.training, *data.validation) if "label" in entry]
    groups = [str(entry.get("group") or entry["image"]) for entry in entries]
    number = len(set(groups))
    if wanted < 2 or number < (2 if asked.folds is None else wanted):
        raise MedsegError(
            f"{shown(data.path)}: {counted(number, 'group')} of labelled images cannot be divided into "
            f"{counted(wanted, 'fold')}; give --folds 2 to {number}, or more images"
        )
    held = [{index for index, voxels in enumerate(case.voxels) if voxels} for case in fingerprint(data).cases]
    folds = propose_folds(groups, held, wanted) or []
    placed = [_relative(data.absolute(entry), entry, target.parent) for entry in entries]
    training = [{**entry, asked.fold_key: fold} for entry, fold in zip(placed, folds, strict=True)]
    made = replace(data, training=training, validation=[], test=[], path=target)
    made.save()
    return made


def _relative(absolute: Entry, entry: Entry, folder: Path) -> Entry:
    """Return an entry with paths from another folder."""
    found = dict(entry)
    for key in PATH_KEYS:
        if key in entry:
            named = absolute[key]
            found[key] = [path_from(p, folder) for p in named] if isinstance(named, list) else path_from(named, folder)
    return found
