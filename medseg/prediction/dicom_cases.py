"""The cases of a folder of DICOM files: each series that the model takes; the others are left out by name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.io.dicom_heads import SUFFIXES
from medseg.io.dicom_rules import ANY, Rule, choose_series
from medseg.io.dicom_series import Series, list_series, parts_of_series
from medseg.io.folder import LeftOut
from medseg.prediction.sinks import Case

__all__ = ["Found", "picture_case", "series_cases", "whole_series"]

_DIGITS = 8  # of the hash that stands for a series' UID in names


@dataclass(frozen=True)
class Found:
    """What a folder of DICOM files is to a model.

    Args:
        cases: that it takes.
        left_out: files of what is none.
        series: all that lie there, also those that are no case, with the case that each is.
        beside: of a folder of localisers, screenshots or objects about images alone, which is a case where there is no
            other: its files, with the reason.
    """

    cases: Sequence[Case]
    left_out: Sequence[LeftOut] = ()
    series: Sequence[tuple[Series, Case | None]] = ()
    beside: Sequence[LeftOut] = ()


def series_cases(case: Case, rules: Sequence[Rule] | None = None) -> Found:
    """Return a case for each series of a folder and for each picture without a place (X-ray), and what is none.

    A folder of a single series or picture is a case under its own name. Whether a damaged file, or the only series
    where it is no volume, can be read as something else is left to the reader, which says why not.

    Args:
        case: of the folder.
        rules: which series the model takes, and no pictures; without any, all volumes whose slices are not sheared.
    """
    listing = list_series(file for file in sorted(case.image.iterdir()) if not file.name.startswith("."))
    if rules is None:
        pictures = [series for series in listing.series if series.pictures]
        listing = replace(listing, series=tuple(series for series in listing.series if not series.pictures))
    else:
        pictures = []
    files = sorted(file for series in pictures for file in series.files)
    several = len(listing.series) + len(files) > 1
    if listing.damaged and (listing.series or not files):  # a slice of one of them, perhaps
        return Found([case], series=[(series, None) for series in listing.series])
    if not files and not listing.series:
        beside = [LeftOut(path, reason, ours=True) for path, reason in sorted(listing.left_out.items())]
        return Found([case], beside=beside) if rules is None else Found([], beside)
    if not files and not several and listing.series[0].problem:
        return Found([case], series=[(series, case) for series in listing.series])
    choice = choose_series(listing.series, ANY if rules is None else rules)
    left_out = [
        LeftOut(path, reason, ours=path not in listing.damaged) for path, reason in sorted(listing.left_out.items())
    ]
    for series, reason in choice.refused:
        wanted = rules is None or reason == series.problem
        left_out.append(LeftOut(series.files[0], f"series of {series.slices} slices: {reason}", ours=not wanted))
    none: list[tuple[Series, Case | None]] = [(series, None) for series, _ in choice.refused]
    if not several:
        taken = [picture_case(case)] if files else [case] * len(choice.taken)
        return Found(taken, left_out, [*none, *((series, case) for series in choice.taken)])
    made = []
    for series in sorted(choice.taken, key=lambda each: each.files[0]):
        short = hashlib.sha256(series.uid.encode()).hexdigest()[:_DIGITS]
        target = case.beside(f"_{short}.nii.gz")
        made.append((series, replace(case, name=f"{case.name}_{short}", files=(series.files[0],), target=target)))
    cases = [*(each for _, each in made), *(_picture_of(case, file) for file in files)]
    return Found(cases, left_out, [*none, *made])


def whole_series(found: Sequence[Found]) -> tuple[list[Case], list[LeftOut]]:
    """Return the cases of several folders, and what is left out, with the reason.

    Left out are those that are but a part of a series, and what lies beside series in folders of its own.

    Args:
        found: of each folder.
    """
    others = any(each.cases and not each.beside for each in found)
    cases = [case for each in found if not (others and each.beside) for case in each.cases]
    left_out = [one for each in found for one in (*each.left_out, *(each.beside if others else ()))]
    owners = [(series, case) for each in found for series, case in each.series]
    if len([each for each in found if each.series]) < 2:
        return cases, left_out
    parts = parts_of_series(series for series, _ in owners)
    for series, case in owners:
        reason = parts.get(series.files[0])
        if reason and case in cases:
            cases.remove(case)
            left_out.append(LeftOut(series.files[0], f"series of {series.slices} slices: {reason}"))
    return cases, left_out


def picture_case(case: Case) -> Case:
    """Return a case of one DICOM picture with a mask that is a picture, too.

    Args:
        case: whose image is a file, or the folder of one.
    """
    return replace(case, target=case.beside(".png"))


def _picture_of(case: Case, file: Path) -> Case:
    """Return the case of a picture in a folder of several: its mask lies in a folder of that name."""
    name = file.stem if file.suffix.lower() in SUFFIXES else file.name
    return replace(case, name=f"{case.name}/{file.name}", files=(file,), target=case.beside("") / f"{name}.png")
