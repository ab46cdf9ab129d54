"""Which cases a run has seen, looked at before any are called a test of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from medseg.bundle.library import PLACE
from medseg.caller import spelt
from medseg.data.datalist import Datalist, Entry
from medseg.errors import MedsegError, counted
from medseg.io.channels import first_of
from medseg.io.parts import known_as

__all__ = ["SeenError", "refuse_seen"]


class SeenError(MedsegError):
    """Cases that are called what they are not: the run has seen them."""


def refuse_seen(runs: Sequence[Path], data: Datalist, entries: Sequence[Entry], part: str = "test") -> None:
    """Refuse to call images a test that a run was trained on, or that picked its weights."""
    barred = {"test": ("training", "validation"), "validation": ("training",), "training": ()}[part]
    for folder in runs:
        place = folder / PLACE
        seen = json.loads(place.read_text(encoding="utf-8")).get("seen", {}) if place.is_file() else {}
        for other in barred:
            known = set(seen.get(other, ()))
            images = [entry["image"] for entry in entries]
            found = [first_of(image) for image in images if known & known_as(image)]
            if found:
                did = "was trained on" if other == "training" else "picked the weights by"
                raise SeenError(
                    f"{folder.name} {did} {len(found)} of the {counted(len(entries), 'image')} to score, such as "
                    f"{found[0]}: that is no {part}; score them as what they are with {spelt('scored', other)}, or "
                    "choose the fold that was left out"
                )
