"""Whether data and a model fit each other: what `medseg check` asks, and every training first.

What passes here, the training accepts; what training refuses, this has said, in one line a fault.
"""

from __future__ import annotations

import copy
import logging
import math
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
from medseg.engines.patches import PatchDataset
from medseg.errors import MedsegError
from medseg.runs.processes import rank

__all__ = ["FitError", "check", "check_files", "problems", "report"]

logger = logging.getLogger(__name__)

_SHOWN = 5  # warnings of the data check
_TRIED = 8  # samples whose shapes are compared
_FILLED = 0.25  # of a patch, at least, without a word
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
    check_files(data, checked=report(data, wanted, description, dataset))
    found = problems(data, wanted, description, dataset, network)
    if found:
        raise FitError(found[0])


def report(data: Datalist, wanted: Options, description: Description, dataset: SegmentationDataset) -> Report:
    """Check every file of a data set against what a configuration demands of it.

    Args:
        data: the datalist.
        wanted: options of the configuration.
        description: the model.
        dataset: training samples; one that cuts patches pads images that are smaller.
    """
    smaller = isinstance(dataset, PatchDataset) or description.input.size is not None
    network = description.network
    return check_datalist(
        data,
        fold_keys=[wanted.fold_key] if wanted.fold_key == "fold" else [],
        in_channels=network.get("in_channels") if description.input.colour is None else None,
        num_classes=network.get("out_channels"),
        roi_size=None if smaller else wanted.patch,
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
    whole, strange = _tried(dataset, description)
    if strange:
        return [strange]
    dims = description.spatial_dims
    name = description.network.get("name", "the network")
    for path, shape in whole.items():
        if len(shape) - 1 != dims:
            other = _AXES.get(len(shape) - 1, f"{len(shape) - 1}D")
            return [
                f"{path}: {name} is a network for {_AXES[dims]}, the images are {other}; give "
                f"--network_def#spatial_dims {len(shape) - 1} where the network has it, or cut volumes into slices"
            ]
    if isinstance(dataset, PatchDataset) and (wrong := _patch_problem(dataset, whole, dims)):
        return [wrong]
    different = sorted({tuple(part["image"].shape) for index in _chosen(dataset) for part in _parts(dataset[index])})
    if wrong := _batch_problem(data, wanted, dataset, different):
        return [wrong]
    smallest = min(different, key=lambda shape: shape[1:])
    return _runs(network, smallest, wanted.batch_size, str(name))


def _batch_problem(
    data: Datalist, wanted: Options, dataset: SegmentationDataset, shapes: Sequence[tuple[int, ...]]
) -> str:
    """Return why training images of these shapes make no batch, if so."""
    if wanted.batch_size > 1 and len(shapes) > 1:
        sizes = ", ".join("x".join(map(str, shape[1:])) for shape in shapes[:4])
        axes = range(1, len(shapes[0]))
        edges = "[" + ",".join(str(min(shape[axis] for shape in shapes)) for axis in axes) + "]"
        return (
            f"{data.path}: training images have different sizes ({sizes}), which a batch of {wanted.batch_size} "
            f'cannot hold; give --patch "{edges}" (random windows), --model#input#size "{edges}" (every image '
            "resized), or --batch_size 1"
        )
    if wanted.batch_size > len(dataset) and not dataset.redraws and wanted.iterations is None:
        return (
            f"{data.path}: batch_size {wanted.batch_size} is more than the {len(dataset)} training images; lower "
            "--batch_size, or give --iterations, for which images are drawn again"
        )
    return ""


def _chosen(dataset: SegmentationDataset) -> list[int]:
    """Return the numbers of some cases, from least to greatest file."""
    order = sorted(range(len(dataset)), key=lambda index: os.path.getsize(dataset.data[index]["image"]))
    return sorted({order[round(step * (len(order) - 1) / max(1, _TRIED - 1))] for step in range(_TRIED)})


def _parts(sample: Any) -> list[dict[str, Any]]:
    """Return the samples that a case gives: several, where a transform draws as many."""
    return sample if isinstance(sample, list) else [sample]


def _tried(dataset: SegmentationDataset, description: Description) -> tuple[dict[str, tuple[int, ...]], str]:
    """Return the shapes of some whole images as the model is fed them, and what is odd in their values."""
    shapes: dict[str, tuple[int, ...]] = {}
    before_chance = feeding.evaluation(description)
    for index in _chosen(dataset):
        entry = dataset.data[index]
        image = before_chance(dict(entry))["image"]
        shapes[str(entry["image"])] = tuple(image.shape)
        beyond = feeding.beyond_range(image, description)
        if beyond is not None:
            return shapes, f"{entry['image']}: {beyond}"
    return shapes, ""


def _patch_problem(dataset: PatchDataset, whole: Mapping[str, tuple[int, ...]], dims: int) -> str:
    """Return why patches cannot be cut, if so; warn of images that fill little of one."""
    patch = "x".join(map(str, dataset.patch))
    if len(dataset.patch) != dims:
        edges = len(dataset.patch)
        return f"patch {list(dataset.patch)} has {edges} edges, the network {dims} axes; give --patch one edge an axis"
    for path, (_, *shape) in whole.items():
        share = math.prod(min(edge / wanted, 1) for edge, wanted in zip(shape, dataset.patch, strict=True))
        if share < _FILLED:
            size = "x".join(map(str, shape))
            logger.warning(
                "%s: %s fills %.0f %% of a patch of %s, the rest is padding; take patches of about the images' size",
                path, size, 100 * share, patch,
            )  # fmt: skip
            break
    return ""


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
