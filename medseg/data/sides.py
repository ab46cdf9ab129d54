"""Whether classes are told apart by side: a mirror image of a patient's left kidney shows a right one."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["sided"]

_SIDES = ("left", "right", "links", "rechts", "gauche", "droit", "izquierd", "derech", "sinist", "dext")
_PAIRS = ({"l", "r"}, {"sin", "dex"}, {"sin", "dx"}, {"sx", "dx"}, {"os", "od"})  # one of them alone says little
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")


def sided(classes: Sequence[str]) -> bool:
    """Return whether classes are named by side: ``kidney_left``, ``Left-Lung``, ``RightLung``, ``rib_L``.

    So are those whose names differ by an L and an R at the end of a word alone: ``LK`` and ``RK``, ``rib_L1`` and
    ``rib_R1``, ``lkidney`` and ``rkidney``, the heart's ``LV`` and ``RV``.

    Args:
        classes: names.
    """
    names = [[word.lower() for word in _WORD.findall(name)] for name in classes]
    words = {word for name in names for word in name}
    if any(word.startswith(_SIDES) for word in words) or any(pair <= words for pair in _PAIRS):
        return True
    known = {tuple(name) for name in names}
    return any(
        (*name[:place], other, *name[place + 1 :]) in known
        for name in names
        for place, word in enumerate(name)
        for other in _mirrored(word)
    )


def _mirrored(word: str) -> list[str]:
    """Return a word of the left as the right would have it; none where it has no L at an end."""
    starts = [f"r{word[1:]}"] if word.startswith("l") else []
    return [*starts, *([f"{word[:-1]}r"] if word.endswith("l") else [])]
