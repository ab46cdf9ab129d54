"""What a report says of the data: what was measured, and what the integrity check finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medseg.bundle.data import load_data
from medseg.bundle.ready import data_of
from medseg.data.check import Finding, check_datalist
from medseg.data.datalist import Datalist
from medseg.data.fingerprint import fingerprint
from medseg.errors import MedsegError, counted
from medseg.reports.figures import to_image
from medseg.reports.page import Item, Picture, Section, Text
from medseg.reports.tables import Table
from medseg.studies import fingerprint_page

__all__ = ["data_section"]


def data_section(
    run: Path | None, data: Datalist | Path | None, *, scored: str | None = None, keep_identifiers: bool
) -> Section:
    """Return the section on the data; where they cannot be read, or are not those that were scored, it says so.

    Args:
        run: folder of the training, which says where its data lay.
        data: another place, or the datalist.
        scored: fingerprint of the data that were scored, where it is known.
        keep_identifiers: show what findings say of single files and groups.

    Raises:
        MedsegError: if data were named and cannot be read.
    """
    return Section("data", "Data and their integrity", list(_items(run, data, scored, keep_identifiers)))


def _items(
    run: Path | None, data: Datalist | Path | None, scored: str | None, keep_identifiers: bool
) -> Iterator[Item]:
    held: Datalist | None
    if data is not None:
        held = data if isinstance(data, Datalist) else load_data(data)
    else:
        try:
            held = data_of(run) if run is not None else None
        except MedsegError:  # moved, or on another machine
            held = None
    if held is None:
        yield Text("The data are not here, so that they were not measured; name their folder with --data DIR.", "note")
        return
    if scored is not None and _is_other(held, scored):
        yield Text(
            "These are not the data that were scored, but those of the training, or others since; name the former with "
            "--data DIR.",
            "warning",
        )
    yield from _measured(held)
    report = check_datalist(held)
    yield from _findings(report.findings, report.files, keep_identifiers)


def _is_other(held: Datalist, scored: str) -> bool:
    try:
        return held.fingerprint() != scored
    except MedsegError:  # a file is missing, which the findings say
        return False


def _measured(held: Datalist) -> Iterator[Item]:
    try:
        found = fingerprint(held)
    except MedsegError as error:
        yield Text(f"The data cannot be measured: {type(error).__name__}; see medseg check DATA", "warning")
        return
    yield fingerprint_page.table(found)
    yield Picture(
        to_image(fingerprint_page.draw(found)),
        "Edges, sizes of a pixel or voxel, amounts of the classes and values of the images, a point or line an image",
    )


def _findings(findings: tuple[Finding, ...], files: int, keep_identifiers: bool) -> Iterator[Item]:
    """Yield the findings: their messages name files and groups, which may name patients."""
    if not findings:
        yield Text(f"The integrity check of {counted(files, 'file')} finds nothing wrong.")
        return
    worst = any(finding.severity == "error" for finding in findings)
    yield Text(
        f"The integrity check of {counted(files, 'file')} finds {counted(len(findings), 'thing')} to look at"
        f"{'' if keep_identifiers else '; medseg check DATA names the files'}.",
        "warning" if worst else "plain",
    )
    rows: list[dict[str, Any]] = [
        {
            "severity": finding.severity,
            "finding": finding.message if keep_identifiers else finding.code.replace("_", " ").replace("-", " "),
            "files": len(finding.files),
        }
        for finding in findings
    ]
    yield Table.of(rows)
