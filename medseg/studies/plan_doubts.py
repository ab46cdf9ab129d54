"""What a plan can do little about, each in one line with what would help."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from medseg.data.fingerprint import Fingerprint
from medseg.errors import few, shown
from medseg.studies.plan_network import SHARE, Measured
from medseg.studies.plan_rules import LEAST_EDGE

__all__ = ["FEW_STEPS", "LARGE", "SMALL", "THICK", "doubts"]

FEW_STEPS = 150
"""Steps below which a training hardly leaves its first weights."""
THICK = 10.0
"""Ratio of voxel edges from which neighbouring slices say little of each other."""
SMALL, LARGE = 1.0, 5000.0
"""Millimetres across that no patient is: micrometres or metres were meant, or a microscope's volume."""


def doubts(found: Fingerprint, axes: int, measured: Measured, minutes: float) -> list[str]:
    """Return what is doubtful about a plan, a line each.

    Args:
        found: the data set's fingerprint.
        axes: of the network.
        measured: what it costs.
        minutes: of the training.
    """
    return [*_steps(measured, minutes), *_depth(found, axes), *_size(found), *_around(found), *_rare(found)]


def _steps(measured: Measured, minutes: float) -> Iterator[str]:
    steps = measured.steps(minutes)
    if steps < FEW_STEPS:
        needed = math.ceil(FEW_STEPS * measured.seconds / 60 / SHARE)
        yield (
            f"about {steps} steps in {minutes:.3g} minutes are too few to learn much; give a training --minutes "
            f"{needed} or more (for {FEW_STEPS} steps), a smaller --network, or a GPU"
        )


def _depth(found: Fingerprint, axes: int) -> Iterator[str]:
    if axes != 3:
        return
    edges = np.median(found.shapes, axis=0)
    thin = int(np.argmin(edges))
    if edges[thin] < LEAST_EDGE:
        yield (
            f"half of the volumes have {edges[thin]:.0f} slices or fewer along {'RAS'[thin]}, which a 3D network sees "
            "little in; compare with --dimensions 2"
        )
    if found.spacings is None:
        return
    middle = np.median(found.spacings, axis=0)
    thick = int(np.argmax(middle))
    ratio = float(middle[thick] / np.delete(middle, thick).max())
    if ratio >= THICK:
        yield (
            f"voxels are {ratio:.0f} times as long along {'RAS'[thick]} as across it, so that neighbouring slices say "
            "little of each other; compare with --dimensions 2"
        )


def _size(found: Fingerprint) -> Iterator[str]:
    if found.spacings is None:
        return
    across = float(np.median((found.spacings * found.shapes).max(axis=1)))
    if across < SMALL or across > LARGE:
        yield (
            f"half of the volumes are {across:.3g} mm across or {'less' if across < SMALL else 'more'}; where their "
            "headers mean another unit, scores in mm and tolerances say nothing: correct the spacing"
        )


def _around(found: Fingerprint) -> Iterator[str]:
    shares = found.class_shares()
    most = max(range(len(shares)), key=lambda index: shares[index])
    if found.background is None and shares[most] > 0.5:
        yield (
            f"no class is called background, so that {shown(found.classes[most])}, {100 * shares[most]:.0f} % of all "
            "voxels, is taken for a structure like the others; if it is what lies around them, call it background"
        )


def _rare(found: Fingerprint) -> Iterator[str]:
    counts = dict(zip(found.classes, found.class_cases(), strict=True))
    if len(found.cases) < 2:
        return
    never = [name for name, count in counts.items() if count == 0]
    if never:
        yield f"no label holds {few(never)}; nothing can be learned of it: label it, or leave the class out"
    once = [name for name, count in counts.items() if count == 1]
    if once:
        yield (
            f"{few(once)}: in one of {len(found.cases)} images alone, so that it can be trained on or scored, never "
            "both; add images that show it"
        )
