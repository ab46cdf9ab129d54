"""The cases of a folder of DICOM files: each series that the model takes; the others are left out by name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from medseg.io.dicom_rules import ANY, Rule, choose_series
from medseg.io.dicom_series import list_series
from medseg.io.folder import LeftOut
from medseg.prediction.sinks import Case

__all__ = ["series_cases"]

_DIGITS = 8  # of the hash that stands for a series' UID in names


def series_cases(case: Case, rules: Sequence[Rule] | None = None) -> tuple[list[Case], list[LeftOut]]:
    """Return a case for each series of a folder, and what is none.

    A folder of a single series is a case under its own name. Whether a damaged file, or the only series where it is no
    volume, can be read as something else (a picture) is left to the reader, which says why not.

    Args:
        case: of the folder.
        rules: which series the model takes; without any, all volumes whose slices are not sheared.
    """
    listing = list_series(file for file in sorted(case.image.iterdir()) if not file.name.startswith("."))
    several = len(listing.series) > 1
    if listing.damaged or not listing.series or (not several and listing.series[0].problem):
        return [case], []
    choice = choose_series(listing.series, ANY if rules is None else rules)
    left_out = [LeftOut(path, reason, ours=True) for path, reason in sorted(listing.left_out.items())]
    for series, reason in choice.refused:
        wanted = rules is None or reason == series.problem
        left_out.append(LeftOut(series.files[0], f"series of {series.slices} slices: {reason}", ours=not wanted))
    if not several:
        return [case] * len(choice.taken), left_out
    made = []
    for series in sorted(choice.taken, key=lambda each: each.files[0]):
        short = hashlib.sha256(series.uid.encode()).hexdigest()[:_DIGITS]
        target = case.beside(f"_{short}.nii.gz")
        made.append(replace(case, name=f"{case.name}_{short}", files=(series.files[0],), target=target))
    return made, left_out
