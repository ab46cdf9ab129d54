"""What must not become a mask without a word: one class everywhere, or none where it is."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medseg.errors import shown

logger = logging.getLogger(__name__)

NEARLY_ALL = 0.999
"""Share of the predicted pixels from which one class is everywhere, where the truth has ten times as much of others."""


def one_class_everywhere(
    predicted: Sequence[int], class_names: Sequence[str], truth: Sequence[int] | None = None
) -> str | None:
    """Return what to say of a network that predicts one class (nearly) everywhere, or ``None`` if it does not.

    Args:
        predicted: pixels by class over all images.
        class_names: by index.
        truth: true pixels by class, where they are known: without, every pixel must be of one class; with them,
            `NEARLY_ALL` is enough where other classes have at least ten times what was predicted of them.
    """
    total = sum(predicted)
    if total == 0 or len(predicted) < 2:
        return None
    most = max(range(len(predicted)), key=lambda index: predicted[index])
    share = predicted[most] / total
    if truth is None:
        if predicted[most] < total:
            return None
        known = "if the images hold other classes"
    else:
        true_share = truth[most] / max(1, sum(truth))
        if share < NEARLY_ALL or 1 - true_share < 10 * (1 - share) or truth[most] == sum(truth):
            return None
        known = f"where the labels have it in {_percent(true_share)}"
    return (
        f"the network predicts class {shown(class_names[most])!r} for {_percent(share)} of all pixels, {known}: it "
        "tells nothing apart. Train longer or at another rate, and see that the images are fed as in training"
    )


def hardly_right(right: int, class_names: Sequence[str], truth: Sequence[int]) -> str | None:
    """Return what to say of a network that is right in less than half of the pixels that one class everywhere would be.

    Rare things that are drawn a little too wide cost many pixels, too: that is no reason to complain.

    Args:
        right: pixels over all images that got their class.
        class_names: by index.
        truth: true pixels by class.
    """
    most = max(range(len(truth)), key=lambda index: truth[index])
    if 2 * right >= truth[most]:
        return None
    return (
        f"the network is right in {_percent(right / sum(truth))} of all pixels, class {shown(class_names[most])!r} "
        f"everywhere would be in {_percent(truth[most] / sum(truth))}: it has not learnt the classes. Train longer or "
        "at another rate, and see that the images are fed as in training"
    )


def learned_nothing(scores: Mapping[str, Any]) -> str | None:
    """Return what to say of an evaluation whose network has not learned, or ``None`` if it has.

    Args:
        scores: of the evaluation, as its ``scores.json`` holds them.
    """
    matrix = np.asarray(scores["overlap"]["confusion_matrix"])
    names = [row["name"] for row in scores["classes"]]
    predicted, truth = matrix.sum(0).tolist(), matrix.sum(1).tolist()
    if not sum(truth):
        return None
    return one_class_everywhere(predicted, names, truth) or hardly_right(int(matrix.trace()), names, truth)


def warn_of_one_class(
    predicted: Sequence[int],
    class_names: Sequence[str],
    truth: Sequence[int] | None = None,
    right: int | None = None,
    *,
    level: int = logging.WARNING,
) -> None:
    """Log what `one_class_everywhere` says, or `hardly_right`, if anything.

    Args:
        predicted: as there.
        class_names: as there.
        truth: as there.
        right: as there, where it is known.
        level: of the message.
    """
    message = one_class_everywhere(predicted, class_names, truth)
    if message is None and truth is not None and right is not None:
        message = hardly_right(right, class_names, truth)
    if message is not None:
        logger.log(level, "%s", message)


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
