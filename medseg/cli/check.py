"""Report what is wrong with a data set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cli._arguments import (
    add_overlays,
    add_settings,
    overrides_of,
    own_process,
    positive,
    say_foreign,
    write_json,
)
from medseg.errors import MedsegError, counted, shown

if TYPE_CHECKING:
    from medseg.data.check import Report

__all__ = ["add_arguments", "run"]

_SHOWN_PER_CODE = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundle", nargs="?", help="bundle that is to be trained on it: its name or its folder")
    parser.add_argument("datalist", type=Path, help="datalist JSON file, or the folder that holds it")
    add_overlays(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--fold-key", action="append", metavar="KEY", help="fold scheme that must not split a group (default: fold)"
    )
    parser.add_argument("--workers", type=positive, metavar="N", help="reading threads (default: CPUs, at most 8)")
    parser.add_argument("--no-cache", action="store_true", help="read every file, whatever is known of it")
    parser.add_argument("--in-channels", type=positive, metavar="N", help="channels the network takes")
    parser.add_argument("--num-classes", type=positive, metavar="N", help="classes the network gives")
    parser.add_argument("--roi-size", type=int, nargs="+", metavar="EDGE", help="window edges, -1 for a whole axis")
    parser.add_argument(
        "--allow-smaller", action="store_true", help="smaller images are a warning, as with an ignore label"
    )
    add_settings(parser, "single keys of the bundle's configuration")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if options.bundle is not None:
        return _check_for_bundle(options)
    if options.overlays or options.settings:
        raise MedsegError("--with and KEY=VALUE are a bundle's; name it: medseg check BUNDLE DATALIST")
    from medseg.data.check import check_datalist
    from medseg.data.datalist import datalist_file
    from medseg.reports.progress import progress_bar

    with progress_bar("checking") as update:
        report = check_datalist(
            datalist_file(options.datalist) if options.datalist.is_dir() else options.datalist,
            fold_keys=options.fold_key,
            in_channels=options.in_channels,
            num_classes=options.num_classes,
            roi_size=options.roi_size,
            allow_smaller=options.allow_smaller,
            workers=options.workers,
            progress=update,
            cache=not options.no_cache,
        )
    if options.json:
        write_json(report.to_dict())
    else:
        _print_report(report)
    return 0 if report.ok else 1


def _check_for_bundle(options: argparse.Namespace) -> int:
    from medseg.bundle import library, workflow

    bundle = library.find(options.bundle)
    say_foreign(bundle)
    own_process()
    report, problems = workflow.check(
        bundle, data=options.datalist, overlays=options.overlays, overrides=overrides_of(options)
    )
    if options.json:
        write_json({**report.to_dict(), "ok": report.ok and not problems, "problems": problems})
    else:
        _print_report(report)
        sys.stdout.writelines(f"error: {shown(bundle.name)}: {shown(problem)}\n" for problem in problems)
    return 0 if report.ok and not problems else 1


def _print_report(report: Report) -> None:
    from collections import Counter

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=not sys.stdout.isatty())
    table = Table("", "finding", "file, value and remedy", box=None, pad_edge=False)
    shown: Counter[str] = Counter()
    for finding in report.findings:
        shown[finding.code] += 1
        if shown[finding.code] > _SHOWN_PER_CODE:
            continue
        if console.is_terminal:
            style = "red" if finding.severity == "error" else "yellow"
            table.add_row(Text(finding.severity, style), finding.code, Text(finding.message, overflow="fold"))
        else:  # a line for each finding, for grep
            console.print(Text(f"{finding.severity}: {finding.code}: {finding.message}"))
    if table.row_count:
        console.print(table)
    for code, count in shown.items():
        if count > _SHOWN_PER_CODE:
            console.print(Text(f"... and {count - _SHOWN_PER_CODE} more {code}; --json lists all"))
    known = f" ({report.files - report.files_read} known from an earlier check)" * (report.files_read < report.files)
    console.print(
        Text(
            f"{report.path}: {counted(report.files, 'file')}{known}, {counted(len(report.errors), 'error')}, "
            f"{counted(len(report.warnings), 'warning')}, {report.seconds:.1f} s"
        )
    )
