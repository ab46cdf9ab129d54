"""What a threshold alone reaches on a test split: the row that a network has to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from medseg.data.datalist import Datalist, DatalistError, Entry
from medseg.engines.evaluator import SCORES
from medseg.engines.scores import case_names
from medseg.io.images import read_image
from medseg.io.labels import read_label
from medseg.metrics.score import ScoredCase
from medseg.metrics.score_board import ScoreBoard
from medseg.metrics.threshold_baseline import otsu_foreground


def score_otsu(
    data: Datalist,
    entries: Sequence[Entry],
    *,
    foreground: Literal["bright", "dark", "minority"] = "minority",
    scores: Mapping[str, Mapping[str, Any] | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score Otsu's threshold, image by image, as `medseg.bundle.evaluation.evaluate` scores a network.

    Args:
        data: the datalist, which must have two classes, background first.
        entries: labelled images with absolute paths.
        foreground: side of the threshold, see `otsu_foreground`.
        scores: options of further scores by name, see `medseg.metrics.score`.
        progress: called as ``progress(images done, images in all)``.

    Returns:
        Scores as in an evaluation's ``scores.json``.

    Raises:
        DatalistError: if the data have not two classes, or there is nothing to score.
    """
    if data.num_classes != 2:
        raise DatalistError(
            f"{data.path}: has {data.num_classes} classes, but a threshold tells two apart; leave the baseline out"
        )
    if not entries:
        raise DatalistError(f"{data.path}: the split holds no images, so there is nothing to score; choose another")
    board = ScoreBoard(data.class_names, data.ignore_index, {**SCORES, **(scores or {})})
    board.check(entries)
    names = case_names(entries)
    for number, entry in enumerate(entries):
        image = read_image(entry["image"])
        pixels = np.moveaxis(image.array, -1, 0) if image.channels > 1 else image.array
        mask = otsu_foreground(pixels, foreground, spatial_dims=len(image.shape))
        label = read_label(entry)
        board.update(
            ScoredCase(
                index=number,
                name=names[number],
                prediction=torch.from_numpy(mask.astype(np.int64)),
                label=torch.from_numpy(label.array.astype(np.int64)),
                group=str(entry.get("group", "")),
                affine=label.affine,
                read=lambda key, entry=entry: read_label(entry, key).array,  # type: ignore[misc]
            )
        )
        if progress is not None:
            progress(number + 1, len(entries))
    return {**board.table(), "title": f"Otsu's threshold, {foreground} side"}
