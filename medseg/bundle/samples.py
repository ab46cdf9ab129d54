"""The samples of a configuration, which are trained on or scored."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from medseg.bundle import feeding
from medseg.bundle.description import Description
from medseg.data.datalist import Datalist, Entry
from medseg.data.kinds import chances, kinds_of
from medseg.engines.case_files import CaseFiles
from medseg.engines.loading import SegmentationDataset
from medseg.engines.patches import PatchDataset
from medseg.errors import MedsegError, counted
from medseg.reports.palette import background_index

__all__ = ["samples", "scored_samples"]

logger = logging.getLogger(__name__)


def samples(
    entries: Sequence[Entry],
    description: Description,
    augmentation: Sequence[Callable[..., Any]],
    patch: Sequence[int] | None,
    data: Datalist,
    seed: int = 0,
    foreground: float = 0.0,
    slices: bool = False,
    balance_kinds: float = 0.0,
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
        balance_kinds: how far kinds of images are drawn alike, see `medseg.data.kinds.chances`.

    Raises:
        MedsegError: if ``foreground`` or ``slices`` is asked for without patches.
    """
    made = _samples(entries, description, augmentation, patch, data, seed, foreground, slices)
    if balance_kinds:
        made.chances = partial(_chances, data, entries, balance_kinds)  # asked for when a training begins to draw
    return made


def _chances(data: Datalist, entries: Sequence[Entry], balance: float) -> list[float]:
    kinds = kinds_of(data, entries)
    drawn = chances(kinds, balance)
    for kind, number in Counter(kinds).most_common():
        share = sum(chance for chance, each in zip(drawn, kinds, strict=True) if each == kind)
        logger.info(
            "%d of %s are of the kind %r: %.0f %% of the training's samples come from them, as balance_kinds is %g "
            "(%.0f %% if it were 0)",
            number, counted(len(kinds), "training image"), kind, 100 * share, balance, 100 * number / len(kinds),
        )  # fmt: skip
    return drawn


def _samples(
    entries: Sequence[Entry],
    description: Description,
    augmentation: Sequence[Callable[..., Any]],
    patch: Sequence[int] | None,
    data: Datalist,
    seed: int,
    foreground: float,
    slices: bool,
) -> SegmentationDataset:
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
        whole = SegmentationDataset(entries, fixed, augmentation, seed, files=files)
        whole.same_size = description.input.size is not None
        return whole
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
