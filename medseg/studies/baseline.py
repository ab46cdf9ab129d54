"""What a threshold alone reaches on a test split: the row that a network has to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from medseg.data.datalist import Datalist, DatalistError, Entry
from medseg.io.images import read_image
from medseg.metrics.confusion_matrix import ConfusionMatrix
from medseg.metrics.instances import InstanceMatching, label_instances
from medseg.metrics.threshold_baseline import otsu_foreground


def score_otsu(
    data: Datalist,
    entries: Sequence[Entry],
    *,
    foreground: Literal["bright", "dark", "minority"] = "minority",
    instances: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score Otsu's threshold, image by image, as `medseg.bundle.evaluation.evaluate` scores a network.

    Args:
        data: the datalist, which must have two classes, background first.
        entries: labelled images with absolute paths.
        foreground: side of the threshold, see `otsu_foreground`.
        instances: arguments of `label_instances`, for instance scores too where the entries have instance maps.
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
    matrix = ConfusionMatrix(2, ignore_index=data.ignore_index)
    matching = InstanceMatching()
    for number, entry in enumerate(entries, start=1):
        image = read_image(entry["image"])
        pixels = np.moveaxis(image.array, -1, 0) if image.channels > 1 else image.array
        mask = otsu_foreground(pixels, foreground, spatial_dims=len(image.shape))
        label = read_image(entry["label"], label=True).array
        matrix.update(torch.from_numpy(mask.astype(np.int64))[None], torch.from_numpy(label.astype(np.int64))[None])
        if instances is not None and "instances" in entry:
            matching.update(label_instances(mask, **instances), read_image(entry["instances"], label=True).array)
        if progress is not None:
            progress(number, len(entries))
    scores = matrix.compute().to_dict(data.class_names)
    if instances is not None and all("instances" in entry for entry in entries):
        scores["instances"] = {**matching.compute().to_dict(), **instances}
    return {**scores, "title": f"Otsu's threshold, {foreground} side"}
