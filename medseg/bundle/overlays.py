"""Overlays of a bundle: single keys that a variant changes. They commute, or are refused by name.

Each generated overlay file records what it sets under ``overlays``, so that a run knows which were put on, whoever
merged the files and in whichever order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from medseg.errors import MedsegError

__all__ = ["OverlayError", "clashes", "record", "refuse_clashes"]

_MARK = "= "  # a record must not look like an expression or a reference to MONAI


class OverlayError(MedsegError):
    """Overlays that contradict each other."""


def record(changes: Mapping[str, Any]) -> dict[str, str]:
    """Return what an overlay sets as text: key to value."""
    return {key: _MARK + json.dumps(value, sort_keys=True) for key, value in changes.items()}


def clashes(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the keys by which two overlays contradict each other: set differently, or one inside the other's.

    Args:
        one: record of an overlay.
        other: record of another.
    """
    found = []
    for key, value in one.items():
        for key_of_other, value_of_other in other.items():
            inside = key.startswith(f"{key_of_other}#") or key_of_other.startswith(f"{key}#")
            if inside or (key == key_of_other and value != value_of_other):
                found.append(key if len(key) <= len(key_of_other) else key_of_other)
    return sorted(set(found))


def refuse_clashes(records: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse overlays that contradict each other.

    Args:
        records: of every overlay that was put on, by name.

    Raises:
        OverlayError: naming the first two and what both set.
    """
    for (one, sets), (other, sets_too) in combinations(sorted(records.items()), 2):
        keys = clashes(sets, sets_too)
        if keys:
            raise OverlayError(f"overlays {one} and {other} both set {', '.join(keys)}; take one of them")
