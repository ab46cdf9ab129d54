"""What no network is needed for: a threshold, or the most frequent class. The rows that a network has to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.data.class_weights import count_pixels
from medseg.data.datalist import Datalist, DatalistError, Entry
from medseg.engines.evaluator import SCORES
from medseg.engines.scores import case_names
from medseg.io.image_file import ImageFile
from medseg.io.images import read_image
from medseg.io.labels import read_label
from medseg.metrics.score import ScoredCase
from medseg.metrics.score_board import ScoreBoard
from medseg.metrics.threshold_baseline import otsu_foreground
from medseg.reports.palette import background_index

__all__ = ["Baseline", "score_most_frequent", "score_otsu"]

Scores = Mapping[str, Mapping[str, Any] | None]


@dataclass(frozen=True)
class Baseline:
    """What needs no network, scored.

    Args:
        title: what was done.
        scores: as in an evaluation's ``scores.json``.
        rows: as in its ``scores_per_case.csv``.
    """

    title: str
    scores: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


Progress = Callable[[int, int], None]


def score_otsu(
    data: Datalist,
    entries: Sequence[Entry],
    *,
    foreground: Literal["bright", "dark", "minority"] = "minority",
    scores: Scores | None = None,
    progress: Progress | None = None,
) -> Baseline:
    """Score Otsu's threshold, image by image, as `medseg.bundle.evaluation.evaluate` scores a network.

    Of three channels it is that of their luminance, of other numbers (modalities) that of their mean, each brought to
    mean 0 and deviation 1; opacity is no channel.

    Args:
        data: the datalist, which must have two classes: the background, which is the first unless named otherwise, and
            another.
        entries: labelled images with absolute paths.
        foreground: side of the threshold, see `otsu_foreground`.
        scores: options of further scores by name, see `medseg.metrics.score`.
        progress: called as ``progress(images done, images in all)``.

    Returns:
        Its scores.

    Raises:
        DatalistError: if the data have not two classes, or there is nothing to score.
    """
    if data.num_classes != 2:
        raise DatalistError(
            f"{data.path}: has {data.num_classes} classes, but a threshold tells two apart; leave the baseline out"
        )

    of_mean, inside = False, 0 if background_index(data.class_names) == 1 else 1

    def mask(image: ImageFile) -> NDArray[Any]:
        nonlocal of_mean
        pixels = _seen(image)
        if len(pixels) not in (1, 3):
            pixels, of_mean = _mean_channel(pixels), True
        found = otsu_foreground(pixels, foreground, spatial_dims=len(image.shape))
        return ~found if inside == 0 else found

    found = _score(data, entries, mask, f"Otsu's threshold, {foreground} side", scores, progress)
    return replace(found, title=f"{found.title} of the channels' mean") if of_mean else found


def _seen(image: ImageFile) -> NDArray[Any]:
    """Return an image's channels ``(C, *S)`` without that of opacity."""
    if image.channels == 1:
        return image.array[None]
    return np.moveaxis(image.array[..., :-1] if image.alpha else image.array, -1, 0)


def _mean_channel(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean ``(1, *S)`` of channels of different scales, each with mean 0 and deviation 1."""
    scaled = np.zeros(pixels.shape[1:], np.float64)
    for channel in pixels.astype(np.float64):
        spread = float(channel.std())
        scaled += (channel - channel.mean()) / (spread if spread > 0 else 1.0)
    return scaled[None] / len(pixels)


def score_most_frequent(
    data: Datalist,
    training: Sequence[Entry],
    entries: Sequence[Entry],
    *,
    scores: Scores | None = None,
    progress: Progress | None = None,
) -> Baseline:
    """Score the answer that every voxel is of the class that most voxels of the training labels have.

    Args:
        data: the datalist.
        training: labelled images to count classes in.
        entries: labelled images to score.
        scores: options of further scores by name.
        progress: called as ``progress(images done, images in all)``.

    Returns:
        Its scores.

    Raises:
        DatalistError: if there is nothing to score.
    """
    counts = count_pixels(training, data.num_classes, data.ignore_index).sum(axis=0)
    most = int(np.argmax(counts))

    def mask(image: ImageFile) -> NDArray[Any]:
        return np.full(image.shape, most, np.int64)

    return _score(data, entries, mask, f"Every voxel {data.class_names[most]}", scores, progress)


def _score(
    data: Datalist,
    entries: Sequence[Entry],
    mask_of: Callable[[ImageFile], NDArray[Any]],
    title: str,
    scores: Scores | None,
    progress: Progress | None,
) -> Baseline:
    if not entries:
        raise DatalistError(f"{data.path}: the split holds no images, so there is nothing to score; choose another")
    board = ScoreBoard(data.class_names, data.ignore_index, {**SCORES, **(scores or {})})
    board.check(entries)
    names = case_names(entries)
    for number, entry in enumerate(entries):
        image, label = read_image(entry["image"]), read_label(entry)
        board.update(
            ScoredCase(
                index=number,
                name=names[number],
                prediction=torch.from_numpy(mask_of(image).astype(np.int64)),
                label=torch.from_numpy(label.array.astype(np.int64)),
                group=str(entry.get("group", "")),
                affine=label.affine if len(label.shape) == 3 else None,  # pictures in pixels, as a network's
                read=lambda key, entry=entry: read_label(entry, key).array,  # type: ignore[misc]
            )
        )
        if progress is not None:
            progress(number + 1, len(entries))
    return Baseline(title, board.table(), list(board.lines()))
