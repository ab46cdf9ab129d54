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


def check_files(data: Datalist, *, checked: Report | None = None) -> None:
    """Check every file of a datalist; fast where nothing changed since the last time.

    Args:
        data: the datalist.
        checked: report of a check that was made already.

    Raises:
        DatalistError: with what was found.
    """
    if rank() != 0:
        return
    checked = checked or check_datalist(data)
    for finding in checked.warnings[:_SHOWN]:
        logger.warning("%s: %s", finding.code, finding.message)
    if len(checked.warnings) > _SHOWN:
        logger.warning("and %d more; `medseg check` lists them", len(checked.warnings) - _SHOWN)
    checked.raise_for_errors()


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
        DatalistError: with the errors in the files.
        FitError: if they are sound, but do not fit.
    """
    if rank() != 0:
        return
    wanted = Options.of(options)
    if wanted.fold_key != "fold":
        logger.warning("folds by %s may split a group (patient, section) between training and test", wanted.fold_key)
    check_files(data, checked=report(data, wanted, description))
    found = problems(data, wanted, description, dataset, network)
    if found:
        raise FitError(found[0])


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
    data: Datalist, wanted: Options, description: Description, dataset: SegmentationDataset, network: nn.Module
) -> list[str]:
    """Return why sound data cannot be trained on as the configuration says, one line each; empty where they can.

    Args:
        data: the datalist.
        wanted: options of the configuration.
        description: the model.
        dataset: training samples as the configuration makes them.
        network: as its definition gives it.
    """
    if wanted.planned_for is not None and wanted.planned_for != data.fingerprint():
        return [
            f"{data.path}: the bundle was planned for other data (or they have changed since); plan again with medseg "
            "plan, or give --planned_for null where the images are of the same kind"
        ]
    if len(dataset) == 0:
        return [f"{data.path}: nothing is left to train on with fold {wanted.fold}; choose another fold, or fold all"]
    shapes, strange = _tried(dataset, description)
    if strange:
        return [strange]
    dims = description.spatial_dims
    name = description.network.get("name", "the network")
    for path, shape in shapes.items():
        if len(shape) - 1 != dims:
            other = _AXES.get(len(shape) - 1, f"{len(shape) - 1}D")
            return [
                f"{path}: {name} is a network for {_AXES[dims]}, the images are {other}; give "
                f"--network_def#spatial_dims {len(shape) - 1} where the network has it, or cut volumes into slices"
            ]
    different = sorted(set(shapes.values()))
    if wanted.batch_size > 1 and len(different) > 1:
        sizes = ", ".join("x".join(map(str, shape[1:])) for shape in different[:4])
        edges = "[" + ",".join(str(min(shape[1 + axis] for shape in different)) for axis in range(dims)) + "]"
        return [
            f"{data.path}: training images have different sizes ({sizes}), which a batch of {wanted.batch_size} "
            f'cannot hold; give --crop_size "{edges}" (random windows), --model#input#size "{edges}" (every image '
            "resized), or --batch_size 1"
        ]
    if wanted.batch_size > len(dataset):
        return [
            f"{data.path}: batch_size {wanted.batch_size} is more than the {len(dataset)} training images; lower "
            "--batch_size"
        ]
    smallest = min(different, key=lambda shape: shape[1:])
    return _runs(network, smallest, wanted.batch_size, str(name))


def _tried(dataset: SegmentationDataset, description: Description) -> tuple[dict[str, tuple[int, ...]], str]:
    """Return the shapes of some training samples, from least to greatest file, and what is odd in their values."""
    order = sorted(range(len(dataset)), key=lambda index: os.path.getsize(dataset.data[index]["image"]))
    chosen = sorted({order[round(step * (len(order) - 1) / max(1, _TRIED - 1))] for step in range(_TRIED)})
    shapes: dict[str, tuple[int, ...]] = {}
    before_chance = feeding.evaluation(description)
    for index in chosen:
        entry = dataset.data[index]
        shapes[str(entry["image"])] = tuple(dataset[index]["image"].shape)
        beyond = feeding.beyond_range(before_chance(dict(entry))["image"], description)
        if beyond is not None:
            return shapes, f"{entry['image']}: {beyond}"
    return shapes, ""


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
