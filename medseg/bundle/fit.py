"""Whether data and a model fit each other: what `medseg check` asks, and every training first.

What passes here, the training accepts; what training refuses, this has said, in one line a fault.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from medseg.bundle import feeding
from medseg.bundle.description import Description
from medseg.bundle.options import Options
from medseg.data.check import Report, check_datalist
from medseg.data.datalist import Datalist
from medseg.engines.loading import SegmentationDataset
from medseg.errors import MedsegError
from medseg.runs.processes import rank

__all__ = ["FitError", "check", "check_files", "problems", "report"]

logger = logging.getLogger(__name__)

_SHOWN = 5  # warnings of the data check
_TRIED = 8  # samples whose shapes are compared
_AXES = {2: "pictures (2D)", 3: "volumes (3D)"}


class FitError(MedsegError):
    """Data that a model cannot be trained on as the configuration says."""


def check_files(data: Datalist) -> None:
    """Check every file of a datalist; fast where nothing changed since the last time.

    Args:
        data: the datalist.

    Raises:
        DatalistError: with what was found.
    """
    if rank() == 0:
        _refuse(check_datalist(data), ())


def _refuse(checked: Report, further: Sequence[str]) -> None:
    """Log what is doubtful and raise with all that is wrong."""
    for finding in checked.warnings[:_SHOWN]:
        logger.warning("%s: %s", finding.code, finding.message)
    if len(checked.warnings) > _SHOWN:
        logger.warning("and %d more; `medseg check` lists them", len(checked.warnings) - _SHOWN)
    checked.raise_for_errors(further)
    if further:
        raise FitError("\n".join(further))


def check(
    data: Datalist,
    options: Mapping[str, Any],
    description: Description,
    dataset: SegmentationDataset,
    network: nn.Module,
) -> None:
    """Check a data set, file by file, and that the configuration can train on it.

    Groups must not be split in the scheme ``fold``; another scheme, such as random crops, is a choice, and is only
    warned of.

    Args:
        data: the datalist.
        options: of the configuration.
        description: the model.
        dataset: training samples as the configuration makes them.
        network: as its definition gives it.

    Raises:
        DatalistError: with the errors in the files, and what does not fit besides.
        FitError: if they are sound, with all that does not fit, a line each.
    """
    if rank() != 0:
        return
    wanted = Options.of(options)
    if wanted.fold_key != "fold":
        logger.warning("folds by %s may split a group (patient, section) between training and test", wanted.fold_key)
    checked = report(data, wanted, description)
    _refuse(checked, problems(data, wanted, description, dataset, network, sound=checked.ok))


def report(data: Datalist, wanted: Options, description: Description) -> Report:
    """Check every file of a data set against what a configuration demands of it.

    Args:
        data: the datalist.
        wanted: options of the configuration.
        description: the model.
    """
    network = description.network
    return check_datalist(
        data,
        fold_keys=[wanted.fold_key] if wanted.fold_key == "fold" else [],
        in_channels=network.get("in_channels") if description.input.colour is None else None,
        num_classes=network.get("out_channels"),
        roi_size=wanted.crop_size if description.input.size is None else None,
    )


def problems(
    data: Datalist,
    wanted: Options,
    description: Description,
    dataset: SegmentationDataset,
    network: nn.Module,
    *,
    sound: bool = True,
) -> list[str]:
    """Return everything for which data cannot be trained on as the configuration says, one line each.

    Args:
        data: the datalist.
        wanted: options of the configuration.
        description: the model.
        dataset: training samples as the configuration makes them.
        network: as its definition gives it.
        sound: whether the files are; else those that cannot be read are passed over, as `report` says what they lack,
            and the network is not tried.
    """
    if len(dataset) == 0:
        return [f"{data.path}: nothing is left to train on with fold {wanted.fold}; choose another fold, or fold all"]
    shapes, found = _tried(dataset, description, sound)
    if wanted.batch_size > len(dataset):
        found.append(
            f"{data.path}: batch_size {wanted.batch_size} is more than the {len(dataset)} training images; lower "
            "--batch_size"
        )
    dims = description.spatial_dims
    name = str(description.network.get("name", "the network"))
    for path, shape in shapes.items():
        if len(shape) - 1 != dims:
            other = _AXES.get(len(shape) - 1, f"{len(shape) - 1}D")
            found.append(
                f"{path}: {name} is a network for {_AXES[dims]}, the images are {other}; give "
                f"--network_def#spatial_dims {len(shape) - 1} where the network has it, or cut volumes into slices"
            )
            return found  # sizes of other axes say nothing
    different = sorted(set(shapes.values()))
    found += _sizes(data, wanted.batch_size, different)
    if sound:
        smallest = min(different, key=lambda shape: shape[1:])
        found += _runs(network, smallest, min(wanted.batch_size, len(dataset)), name)
    return found


def _sizes(data: Datalist, batch: int, different: Sequence[tuple[int, ...]]) -> list[str]:
    """Return why samples of these shapes make no batch, if they do not."""
    sizes = sorted({shape[1:] for shape in different})
    if batch == 1 or len(sizes) < 2:
        return []
    listed = ", ".join("x".join(map(str, size)) for size in sizes[:4])
    edges = "[" + ",".join(str(min(axis)) for axis in zip(*sizes, strict=True)) + "]"
    return [
        f"{data.path}: training images have different sizes ({listed}), which a batch of {batch} cannot hold; give "
        f'--crop_size "{edges}" (random windows), --model#input#size "{edges}" (every image resized), or --batch_size 1'
    ]


def _tried(
    dataset: SegmentationDataset, description: Description, sound: bool
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Return the shapes of some training samples, from least to greatest file, and what is odd in their values."""
    sizes = {index: _bytes(dataset.data[index]["image"]) for index in range(len(dataset))}
    order = sorted(sizes, key=lambda index: sizes[index])
    chosen = sorted({order[round(step * (len(order) - 1) / max(1, _TRIED - 1))] for step in range(_TRIED)})
    shapes: dict[str, tuple[int, ...]] = {}
    strange: list[str] = []
    before_chance = feeding.evaluation(description)
    for index in chosen:
        entry = dataset.data[index]
        try:
            shapes[str(entry["image"])] = tuple(dataset.read(index)["image"].shape)
            beyond = feeding.beyond_range(before_chance(dict(entry))["image"], description)
        except (MedsegError, RuntimeError):
            if sound:
                raise
            continue
        if beyond is not None and not strange:
            strange.append(f"{entry['image']}: {beyond}")
    return shapes, strange


def _bytes(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _runs(network: nn.Module, shape: Sequence[int], batch: int, name: str) -> list[str]:
    """Return why a training forward of a batch of this shape fails, if it does; nothing is computed."""
    tried = copy.deepcopy(network).to("meta").train()
    try:
        with torch.no_grad():
            tried(torch.empty((batch, *shape), device="meta"))
    except (NotImplementedError, AssertionError):
        return []  # an operation without a meta kernel: the training will tell
    except (RuntimeError, ValueError) as error:
        size = "x".join(map(str, shape[1:]))
        reason = str(error).splitlines()[0][:120]
        return [
            f"images of {size} are too small for {name} at batch_size {batch} ({reason}); take larger images or crops, "
            "fewer levels (--network_def#channels), or a larger batch"
        ]
    return []
