"""The report of a run, an evaluation or a folder of predictions: one HTML file for a reader who was not there."""

from __future__ import annotations

import time
from pathlib import Path

from medseg import __version__
from medseg.bundle.library import run_folder
from medseg.bundle.metadata import INTENDED_USE
from medseg.data.datalist import Datalist
from medseg.errors import MedsegError, meant, shown
from medseg.io.folder import MASK_RECORD
from medseg.reports.page import Page, write_page
from medseg.reports.summary import HTML

__all__ = ["make_report"]


def make_report(
    folder: Path,
    output: Path | None = None,
    *,
    data: Datalist | Path | None = None,
    keep_identifiers: bool = False,
) -> Path:
    """Write the report of a folder.

    Args:
        folder: of a run, an evaluation or predictions; or what `medseg train DATA` wrote, which holds the run.
        output: the HTML file; by default ``report.html`` in the folder.
        data: of a run, its data, by default where they lay; of predictions, the folder of their images, without which
            none is shown.
        keep_identifiers: call cases by the names of their files, which may name patients; otherwise by numbers.

    Returns:
        The file.

    Raises:
        MedsegError: if the folder holds nothing to report, or the output is a folder.
    """
    if not folder.is_dir():
        way = meant(folder, "name a run, an evaluation or a folder of predictions", Path.is_dir)
        raise MedsegError(f"{shown(folder)}: no such folder; {way}")
    if not (folder / MASK_RECORD).is_file():
        folder = run_folder(folder)
    target = folder / HTML if output is None else output
    if target.is_dir():
        raise MedsegError(f"{shown(target)} is a folder; name a file for the report, such as {HTML}")
    use = f"{INTENDED_USE}. It is no medical device; whoever treats a patient looks at the images."
    if (folder / MASK_RECORD).is_file():
        from medseg.studies import report_predictions

        images = data.root if isinstance(data, Datalist) else data
        title, subtitle, sections = report_predictions.sections(folder, images, keep_identifiers=keep_identifiers)
    else:
        from medseg.studies import report_run

        title, subtitle, sections = report_run.sections(folder, data, keep_identifiers=keep_identifiers)
    made = f"Written by medseg {__version__} on {time.strftime('%Y-%m-%d %H:%M')}. This file loads nothing: it can be "
    foot = f"{made}sent and kept. {'' if keep_identifiers else 'Cases are numbered, not named.'}"
    return write_page(Page(title, subtitle, use, sections, foot), target)
