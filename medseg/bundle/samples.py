"""The data of a configuration: its datalist, its split, the samples that are trained on or scored."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.bundle import feeding
from medseg.bundle.command import Command
from medseg.bundle.description import Description
from medseg.bundle.options import Options
from medseg.bundle.start import folder as folder_of
from medseg.data.datalist import Datalist, DatalistError, Entry, datalist_file
from medseg.engines.case_files import CaseFiles
from medseg.engines.loading import SegmentationDataset
from medseg.engines.patches import PatchDataset
from medseg.errors import MedsegError, shown
from medseg.reports.palette import background_index

__all__ = ["channels", "datalist", "samples", "scored", "scored_samples", "split"]

_TRIED = 8  # images that may be unreadable before their channels are not known


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
    fold: Any = wanted.fold
    if command is not None and "fold" in command.overrides and not data.fold_keys and fold not in (None, "all"):
        raise DatalistError(
            f"{shown(data.path)}: fold {fold} was asked for, but its entries carry no folds; leave the fold out to "
            "take its lists as they are, or write folds into it"
        )
    return data.split(fold, fold_key=wanted.fold_key, validation_fold=wanted.validation_fold)


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


def samples(
    entries: Sequence[Entry],
    description: Description,
    augmentation: Sequence[Callable[..., Any]],
    patch: Sequence[int] | None,
    data: Datalist,
    seed: int = 0,
    foreground: float = 0.0,
    slices: bool = False,
) -> SegmentationDataset:
    """Return training samples: whole images, or patches.

    Args:
        entries: of the training part.
        description: the model, which says how they are fed.
        augmentation: random transforms.
        patch: edges of the patches that are cut before them; ``None`` for none.
        data: the datalist, for its ignore label and its background, which is no structure and lies around the cases.
        seed: of places and augmentation.
        foreground: share of patches that is centred on a voxel of a class.
        slices: cut patches of two edges from slices of volumes.

    Raises:
        MedsegError: if ``foreground`` or ``slices`` is asked for without patches.
    """
    background = background_index(data.class_names)
    without = sorted({index for index in (background, data.ignore_index) if index is not None})
    fixed = feeding.training(description)
    files = _files(description, size=description.input.size, without=without if foreground else None, slices=slices)
    if patch is None:
        if foreground:
            raise MedsegError(
                f"foreground is {foreground}, but no patches are cut whose place it could decide; give patch"
            )
        if slices:
            raise MedsegError(
                "slices is true, but no patches are cut from them; give patch two edges (a bundle whose augmentation "
                "cuts them takes pictures alone)"
            )
        return SegmentationDataset(entries, fixed, augmentation, seed, files=files)
    if slices and description.input.size is not None:
        raise MedsegError(
            f"slices is true, but images are resized to {list(description.input.size)}; set model#input#size to null"
        )
    fill = background if data.ignore_index is None else data.ignore_index
    return PatchDataset(
        entries, fixed, patch, augmentation, foreground=foreground, without=without, fill=fill, slices=slices,
        seed=seed, files=files,
    )  # fmt: skip


def scored_samples(
    entries: Sequence[Entry], description: Description, cache: bool = True, native: bool = False
) -> SegmentationDataset:
    """Return samples to validate or score, each at its own size.

    Args:
        entries: of the part.
        description: the model, which says how they are fed.
        cache: keep them in memory where they fit.
        native: leave labels as they lie in their files: what is scored is then what a prediction writes.
    """
    fed, shown = (make(description, native=native) for make in (feeding.evaluation, feeding.picture))
    files = _files(description, size=None, native=native)
    return SegmentationDataset(entries, fed, cache=cache, files=files, picture=shown)


def _files(description: Description, **further: Any) -> CaseFiles:
    """Return where prepared cases are kept, by all that decides how they are prepared."""
    fed = {**dataclasses.asdict(description.input), "dims": description.spatial_dims, **further}
    return CaseFiles(json.dumps(fed, sort_keys=True, default=list))
