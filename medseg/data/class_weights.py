"""Class weights for a loss out of how often each class occurs in the labels of a datalist's entries."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.data.file_facts import usual_workers
from medseg.errors import MedsegError, counted, shown
from medseg.io.images import ImageError
from medseg.io.labels import read_label

__all__ = ["class_weights", "count_pixels"]

SCHEMES = ("inverse", "sqrt", "median")

logger = logging.getLogger(__name__)

Counts = npt.NDArray[np.int64]


def class_weights(
    entries: Sequence[Mapping[str, Any]],
    num_classes: int,
    ignore_index: int | None = None,
    scheme: str = "inverse",
    *,
    workers: int | None = None,
) -> list[float]:
    """Return one weight a class: the rarer it is, the more it counts.

    Weights are scaled so that their mean over all counted pixels is 1: a loss that divides by the number of pixels
    keeps its size, and one that divides by the sum of weights (`CrossEntropyLoss`) does not depend on the scale. A
    class that occurs nowhere gets 1 and is named in a warning: no pixel asks for its weight.

    Args:
        entries: entries of a datalist with absolute paths, such as the training part of `Datalist.split`.
        num_classes: classes of the labels, 0 to ``num_classes - 1``.
        ignore_index: label value that is not counted.
        scheme: ``"inverse"``: 1 / share of the pixels; ``"sqrt"``: 1 / sqrt(share); ``"median"``: 1 / share of the
            pixels of those images that hold the class (median frequency balancing, D. Eigen, R. Fergus, ICCV 2015,
            https://arxiv.org/abs/1411.4734, whose median the scale above takes the place of).
        workers: threads that read; by default one for each CPU, at most 8.

    Raises:
        ValueError: if an option is unknown, there are no entries, one has no label, or no pixel counts.
        ImageError: if a label cannot be read or holds anything but class indices.
    """
    if scheme not in SCHEMES:
        raise MedsegError(f"scheme is {scheme!r}; choose one of {', '.join(SCHEMES)}")
    counts = count_pixels(entries, num_classes, ignore_index, workers=workers)
    pixels = counts.sum(axis=0)
    if not pixels.any():
        raise MedsegError(
            f"all pixels of {counted(len(entries), 'label')} have the ignore label {ignore_index}, so that nothing "
            "can be weighed; correct ignore_index or the entries"
        )
    occurs = pixels > 0
    if scheme == "median":
        seen_in = np.where(counts > 0, counts.sum(axis=1, keepdims=True), 0).sum(axis=0)
        share = pixels[occurs] / seen_in[occurs]
    else:
        share = pixels[occurs] / pixels.sum()
    weights = np.ones(num_classes)
    weights[occurs] = share ** (-0.5 if scheme == "sqrt" else -1.0)
    weights[occurs] /= np.average(weights[occurs], weights=pixels[occurs])
    if not occurs.all():
        absent = ", ".join(map(str, np.flatnonzero(~occurs)))
        logger.warning("no label of %d holds class %s; its weight is set to 1", len(entries), absent)
    listed = ", ".join(f"{weight:.4g}" for weight in weights)
    logger.info("class weights (%s) of %s: %s", scheme, counted(len(entries), "label"), listed)
    return [float(weight) for weight in weights]


def count_pixels(
    entries: Sequence[Mapping[str, Any]],
    num_classes: int,
    ignore_index: int | None = None,
    *,
    workers: int | None = None,
) -> Counts:
    """Count the pixels of each class in each entry's label.

    Files are read in parallel threads: decoders release the interpreter lock.

    Args:
        entries: entries with absolute paths under ``label``, as `Datalist.absolute` makes them: a mapping of stored
            values among them is applied.
        num_classes: classes of the labels, 0 to ``num_classes - 1``.
        ignore_index: label value that is not counted.
        workers: threads that read; by default one for each CPU, at most 8.

    Shape:
        ``(len(entries), num_classes)``.

    Raises:
        ValueError: if there are no entries or classes, or an entry has no label.
        ImageError: if a label cannot be read or holds anything but class indices.
    """
    if num_classes < 1:
        raise MedsegError(f"num_classes is {num_classes}; it must be at least 1")
    if not entries:
        raise MedsegError("there are no entries to count class pixels in; name those of the training part")
    for position, entry in enumerate(entries):
        if "label" not in entry:
            raise MedsegError(f"entry {position} ({shown(entry.get('image', 'no image'))}) has no label; leave it out")
    workers = workers if workers is not None else usual_workers()
    count = partial(_count_file, num_classes=num_classes, ignore_index=ignore_index)
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        return np.stack(list(pool.map(count, entries)))


def _count_file(entry: Mapping[str, Any], num_classes: int, ignore_index: int | None) -> Counts:
    image, path = read_label(entry), shown(entry["label"])
    if image.channels != 1:
        raise ImageError(f"{path}: label with {image.channels} channels; store one channel of class indices")
    if image.array.dtype == np.uint8:
        number = np.bincount(image.array.ravel(), minlength=256)
        values = np.flatnonzero(number)
        number = number[values]
    else:
        values, number = np.unique(image.array, return_counts=True)
    kept = np.ones(len(values), bool) if ignore_index is None else values != ignore_index
    values, number = values[kept], number[kept]
    known = np.isin(values, np.arange(num_classes))
    if not known.all():
        wrong = ", ".join(f"{value:g}" for value in values[~known][:5])
        ignored = "" if ignore_index is None else f" and the ignore label {ignore_index}"
        raise ImageError(
            f"{path}: label holds value {wrong}, but the classes are 0-{num_classes - 1}{ignored}; "
            'map it to a class with "values" in the datalist, or set ignore_index if these pixels count nowhere'
        )
    counts: Counts = np.zeros(num_classes, np.int64)
    counts[values.astype(np.intp)] = number
    return counts
