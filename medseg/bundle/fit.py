"""Whether data and a model fit each other: what `medseg check` asks, and every training first.

What passes here, the training accepts; what training refuses, this has said, in one line a fault.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg.bundle import intensities
from medseg.bundle.description import Description
from medseg.bundle.options import Options
from medseg.caller import spelt
from medseg.data.check import Report, check_datalist
from medseg.data.datalist import Datalist
from medseg.data.file_facts import FileFacts, facts_of
from medseg.data.sides import sided
from medseg.engines.loading import SegmentationDataset, different_sizes
from medseg.engines.patches import PatchDataset
from medseg.errors import MedsegError, counted, few
from medseg.io.channels import first_of, paths_of
from medseg.io.parts import stored_bytes
from medseg.runs.processes import by_the_first
from medseg.transforms.mirrors import mirrored

__all__ = ["FitError", "check", "check_files", "problems", "report"]

logger = logging.getLogger(__name__)

_SHOWN = 5  # warnings of the data check
_TRIED = 8  # samples whose shapes are compared
_NARROW = 0.02  # of the range that is scaled: 0 to 1 of 0 to 255
_FILLED = 0.25  # of a patch, at least, without a word
_AXES = {2: "pictures (2D)", 3: "volumes (3D)"}


class FitError(MedsegError):
    """Data that a model cannot be trained on as the configuration says."""


@dataclass
class _Tried:
    """Some cases as a training gets them.

    Attributes:
        whole: shape ``(C, *S)`` of each as the model is fed it, by file.
        drawn: shapes of the samples that are drawn of them, ascending; none of cases of other axes.
        strange: what is odd in their values.
    """

    whole: dict[str, tuple[int, ...]] = field(default_factory=dict)
    drawn: list[tuple[int, ...]] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)


def check_files(data: Datalist) -> None:
    """Check every file of a datalist; fast where nothing changed since the last time.

    Args:
        data: the datalist.

    Raises:
        DatalistError: with what was found.
    """
    by_the_first(lambda: _refuse(check_datalist(data), ()))


def _refuse(checked: Report, further: Sequence[str]) -> None:
    """Log what is doubtful and raise with all that is wrong."""
    for finding in checked.warnings[:_SHOWN]:
        logger.warning("%s: %s", finding.code, finding.message)
    if len(checked.warnings) > _SHOWN:
        logger.warning("and %d more; `medseg check` lists them", len(checked.warnings) - _SHOWN)
    checked.raise_for_errors(further)
    if further:
        raise FitError("\n  ".join(further))


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
    wanted = Options.of(options)

    def whole() -> None:
        if wanted.fold_key != "fold":
            logger.warning(
                "folds by %s may split a group (patient, section) between training and test", wanted.fold_key
            )
        checked = report(data, wanted, description, dataset)
        _refuse(checked, problems(data, wanted, description, dataset, network, sound=checked.ok))

    by_the_first(whole)


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
        everything = spelt("fold", "all")
        return [f"{data.path}: nothing is left to train on with fold {wanted.fold}; choose another, or {everything}"]
    tried = _tried(dataset, description, sound)
    found = tried.strange or _beyond(data, description)
    if wanted.planned_for is not None and wanted.planned_for != data.fingerprint():
        found.append(
            f"{data.path}: the bundle was planned for other data (or they have changed since); plan again with medseg "
            f"plan, or give {spelt('planned_for', 'null')} where the images are of the same kind"
        )
    _warn_of_mirrors(data, wanted, description, dataset)
    dims = description.spatial_dims
    name = str(description.network.get("name", "the network"))
    for path, shape in tried.whole.items():
        if len(shape) - 1 != dims and not (wanted.slices and (dims, len(shape)) == (2, 4)):
            other = _AXES.get(len(shape) - 1, f"{len(shape) - 1}D")
            sliced = f", or {spelt('slices', 'true')} (with a patch) for their {description.input.plane} slices"
            found.append(
                f"{path}: {name} is a network for {_AXES[dims]}, the images are {other}; give "
                f"{spelt('network_def#spatial_dims', len(shape) - 1)} where the network has it{sliced * (dims == 2)}"
            )
            return found  # sizes of other axes say nothing
    if isinstance(dataset, PatchDataset) and (wrong := _patch_problem(dataset, tried.whole, dims)):
        return [*found, wrong]
    if wanted.batch_size > len(dataset) and not dataset.redraws and wanted.iterations is None:
        found.append(
            f"{data.path}: batch_size {wanted.batch_size} is more than the {counted(len(dataset), 'training image')}; "
            f"lower {spelt('batch_size')}, or give {spelt('iterations')}, for which images are drawn again"
        )
    uneven = _sizes(data, wanted.batch_size, tried.drawn)
    before = sorted({shape[1:] for shape in tried.whole.values()})
    moved = wanted.augment_on == "device" and dataset.augmentation is not None and not dataset.same_size
    if moved and not uneven and len(before) > 1 and wanted.batch_size > 1:
        uneven = [f"{data.path}: {different_sizes(before, wanted.batch_size)}"]
    found += uneven
    if sound:
        drawn = dataset.redraws or wanted.iterations is not None
        smallest = min(tried.drawn, key=lambda shape: shape[1:])
        found += _runs(network, smallest, wanted.batch_size if drawn else min(wanted.batch_size, len(dataset)), name)
    return found


def _warn_of_mirrors(data: Datalist, wanted: Options, description: Description, dataset: SegmentationDataset) -> None:
    """Tell of mirror images, as a bundle for other classes makes them, in which left becomes right."""
    if not sided(description.classes):
        return
    axes, fed = description.spatial_dims, description.input
    across = [axis for axis, code in enumerate(fed.orientation or "RAS") if code in "LR"] if axes == 3 else [0, 1]
    if wanted.slices and axes == 2:
        across = [] if fed.plane == "sagittal" else [0]
    for key in ("mirror_axes", "flip_axes"):
        used = getattr(description.inference, key) or []
        if any(axis % axes in across for axis in used):
            logger.warning(
                "%s: classes are named by side (%s), which %s of %s exchanges; give %s",
                data.path, few(description.classes), key, used, spelt(f"model#inference#{key}", "[]"),
            )  # fmt: skip
    augmentation = dataset.augmentation.transforms if dataset.augmentation is not None else ()
    for name, used in mirrored(augmentation, axes).items():
        if any(axis in across for axis in used):
            logger.warning(
                "%s: classes are named by side (%s), which %s along the axes %s exchanges; take it out of the bundle's "
                "augmentation, or leave out the axes %s",
                data.path, few(description.classes), name, used, [axis for axis in used if axis in across],
            )  # fmt: skip


def _beyond(data: Datalist, description: Description) -> list[str]:
    """Return which images of any part have values that the model does not scale, as the check has measured them all."""
    taken = intensities.limits(description)
    if taken is None:
        return []
    named = dict.fromkeys(path for _, entry in data.entries() for path in paths_of(data.absolute(entry)["image"]))
    facts = facts_of(data.path, [(path, False) for path in named])
    ends = {
        path: (min(row[0] for row in rows), max(row[-1] for row in rows))
        for path in named
        if (rows := _rows(facts, path))
    }
    wrong = [
        (path, said) for path, (least, most) in ends.items() if (said := intensities.beyond(least, most, description))
    ]
    if wrong:
        more = f" (and so {counted(len(wrong) - 1, 'more image')} of {len(ends)})" if len(wrong) > 1 else ""
        return [f"{wrong[0][0]}: {wrong[0][1]}{more}"]
    least, most = (
        min((end for end, _ in ends.values()), default=0.0),
        max((end for _, end in ends.values()), default=0.0),
    )
    if ends and most - least < _NARROW * (taken[1] - taken[0]):
        logger.warning(
            "%s: the values of all images go from %g to %g, of which little is left where the model scales %g to %g; "
            "train with model#input#intensity#low and #high of these images, or with scheme image",
            data.path, least, most, *taken,
        )  # fmt: skip
    return []


def _rows(facts: Mapping[tuple[Path, bool], FileFacts], path: Path) -> tuple[tuple[float, ...], ...]:
    """Return the quantiles of a file's channels; none where it cannot be read."""
    held = facts.get((path, False))
    return held.quantiles if held is not None else ()


def _sizes(data: Datalist, batch: int, different: Sequence[tuple[int, ...]]) -> list[str]:
    """Return why samples of these shapes make no batch, if they do not."""
    sizes = sorted({shape[1:] for shape in different})
    if batch == 1 or len(sizes) < 2:
        return []
    listed = ", ".join("x".join(map(str, size)) for size in sizes[:4])
    edges = "[" + ",".join(str(min(axis)) for axis in zip(*sizes, strict=True)) + "]"
    return [
        f"{data.path}: training images have different sizes ({listed}), which a batch of {batch} cannot hold; give "
        f"{spelt('patch', edges)} (random windows), {spelt('model#input#size', edges)} (every image resized), or "
        f"{spelt('batch_size', 1)}"
    ]


def _chosen(dataset: SegmentationDataset) -> list[int]:
    """Return the numbers of some cases, from least to greatest file."""
    sizes = {index: stored_bytes(dataset.data[index]["image"]) for index in range(len(dataset))}
    order = sorted(sizes, key=lambda index: sizes[index])
    return sorted({order[round(step * (len(order) - 1) / max(1, _TRIED - 1))] for step in range(_TRIED)})


def _tried(dataset: SegmentationDataset, description: Description, sound: bool) -> _Tried:
    """Read some cases, once, and draw a sample of each; those at fault are passed over where that is known."""
    tried = _Tried()
    drawn: set[tuple[int, ...]] = set()
    for index in _chosen(dataset):
        path = first_of(dataset.data[index]["image"])
        try:
            case = dataset.whole(index)
            tried.whole[path] = tuple(case["image"].shape)
            beyond = intensities.beyond_range(case["image"], description)
            if beyond is not None and not tried.strange:
                tried.strange.append(f"{path}: {beyond}")
            if _fits(dataset, case["image"].ndim - 1, description.spatial_dims):
                samples = dataset.drawn(index, case)
                parts = samples if isinstance(samples, list) else [samples]
                drawn |= {tuple(part["image"].shape) for part in parts}
        except (MedsegError, RuntimeError):
            if sound:
                raise
    tried.drawn = sorted(drawn)
    return tried


def _fits(dataset: SegmentationDataset, axes: int, dims: int) -> bool:
    """Return whether images of so many axes can be drawn from: patches and the network have as many, or take slices."""
    if not isinstance(dataset, PatchDataset):
        return axes == dims
    return len(dataset.patch) == dims and axes in (dims, dims + dataset.slices)


def _patch_problem(dataset: PatchDataset, whole: Mapping[str, tuple[int, ...]], dims: int) -> str:
    """Return why patches cannot be cut, if so; warn of images that fill little of one."""
    patch = "x".join(map(str, dataset.patch))
    if len(dataset.patch) != dims:
        edges = len(dataset.patch)
        return (
            f"patch {list(dataset.patch)} has {counted(edges, 'edge')}, the network {dims} axes; give {spelt('patch')} "
            "one edge an axis"
        )
    if dataset.slices and dims == 3:
        return f"slices is true, but the network takes volumes as they are; give {spelt('slices', 'false')}"
    for path, (_, *shape) in whole.items():
        share = math.prod(min(edge / wanted, 1) for edge, wanted in zip(shape, dataset.patch, strict=False))  # a slice
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
            f"fewer levels ({spelt('network_def#channels')}), or a larger batch"
        ]
    return []
