"""The command ``medseg``: parses, calls the package, prints. Each command imports the heavy packages it needs.

A further command is one row of `COMMANDS`: its name, help, and two functions, one that adds arguments and one that
runs and returns the exit status (0 done, 1 done with errors in the data, 2 wrong usage or input).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg import __version__
from medseg.data.schema import DatalistError

if TYPE_CHECKING:
    from medseg.data.check import Report

__all__ = ["COMMANDS", "Command", "main"]

_SHOWN_PER_CODE = 10
OWN_ERRORS = (DatalistError,)
"""Errors whose message says it all: shown as one line, without a traceback."""


@dataclass(frozen=True)
class Command:
    """One command of the program."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("datalist", type=Path, help="datalist JSON file")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--fold-key", action="append", metavar="KEY", help="fold scheme that must not split a group (default: fold)"
    )
    parser.add_argument("--workers", type=_positive, metavar="N", help="reading threads (default: CPUs, at most 8)")
    parser.add_argument("--no-cache", action="store_true", help="read every file, whatever is known of it")
    parser.add_argument("--in-channels", type=_positive, metavar="N", help="channels the network takes")
    parser.add_argument("--num-classes", type=_positive, metavar="N", help="classes the network gives")
    parser.add_argument("--roi-size", type=int, nargs="+", metavar="EDGE", help="window edges, -1 for a whole axis")
    parser.add_argument(
        "--allow-smaller", action="store_true", help="smaller images are a warning, as with an ignore label"
    )


def _check(options: argparse.Namespace) -> int:
    from medseg.data.check import check_datalist
    from medseg.reports.progress import progress_bar

    with progress_bar("checking") as update:
        report = check_datalist(
            options.datalist,
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
        sys.stdout.write(json.dumps(report.to_dict(), indent=1) + "\n")
    else:
        _print_report(report)
    return 0 if report.ok else 1


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
            f"{report.path}: {report.files} files{known}, {len(report.errors)} errors, "
            f"{len(report.warnings)} warnings, {report.seconds:.1f} s"
        )
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="folder of a run or of an evaluation")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def _report(options: argparse.Namespace) -> int:
    import json

    from medseg.reports.summary import SummaryError, summarise

    try:
        text, scores = summarise(options.folder)
    except SummaryError as error:
        sys.stderr.write(f"medseg: error: {error}\n")
        return 2
    mean = scores["mean_iou"]
    last = "mean IoU absent" if mean is None else f"mean IoU {mean:.3f}"
    sys.stdout.write((json.dumps(scores, indent=1) if options.json else f"{text}\n\n{last}") + "\n")
    return 0


def _complexity_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="class or module (default: every network)")
    parser.add_argument("--table", help="rows of a paper's table: 2 or 3 of FocusNet++, lfa_unet")
    parser.add_argument(
        "--measure",
        nargs="+",
        choices=("parameters", "macs", "memory", "throughput"),
        default=("parameters", "macs"),
        help="what to measure (default: parameters macs; the others compute, which takes long on a CPU)",
    )
    parser.add_argument("--size", type=_positive, nargs="+", metavar="EDGE", help="of the image (256 in 2D, 64 in 3D)")
    parser.add_argument("--spatial-dims", type=_positive, metavar="N", help="2 or 3 (default: as --size has, or 2)")
    parser.add_argument("--in-channels", type=_positive, metavar="N", help="channels of the image (1)")
    parser.add_argument("--out-channels", type=_positive, metavar="N", help="classes (5)")
    parser.add_argument("--batch-size", type=_positive, metavar="N", default=2, help="images at a time (2)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, with the machine's description")


def _complexity(options: argparse.Namespace) -> int:
    from medseg.reports.progress import progress_bar
    from medseg.studies.complexity import ComplexityError, choose_rows, measure

    channels = {"in_channels": options.in_channels, "out_channels": options.out_channels}
    shape = {"size": options.size, "spatial_dims": options.spatial_dims}
    try:
        rows = choose_rows(options.networks, table=options.table, **shape, **channels)
        with progress_bar("measuring") as update:
            result = measure(
                rows, options.measure, batch_size=options.batch_size, device=options.device, progress=update
            )
    except ComplexityError as error:
        sys.stderr.write(f"medseg: error: {error}\n")
        return 2
    if options.json:
        from medseg.runs.provenance import collect

        sys.stdout.write(json.dumps(result | {"environment": collect()}, indent=1) + "\n")
    else:
        _print_costs(result)
    return 1 if any(row["errors"] for row in result["rows"]) else 0


def _print_costs(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from medseg.studies.complexity_table import cells, notes

    headings, rows = cells(result)
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(soft_wrap=not sys.stdout.isatty())
    console.print(table, *map(Text, notes(result)), sep="\n")


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="evaluations of the same images")
    parser.add_argument(
        "--otsu", type=Path, metavar="DATALIST", help="add Otsu's threshold on the same images as a row"
    )
    parser.add_argument(
        "--foreground", choices=("minority", "bright", "dark"), default="minority", help="side of Otsu's"
    )
    parser.add_argument("--format", choices=("text", "markdown", "csv", "json"), default="text", help="of the table")


def _compare(options: argparse.Namespace) -> int:
    from medseg.studies import comparison

    try:
        methods = [comparison.load_method(folder) for folder in options.folders]
        comparison.check_same_data(methods)
        if options.otsu is not None:
            methods.insert(0, comparison.otsu_method(methods, options.otsu, options.foreground))
    except comparison.ComparisonError as error:
        sys.stderr.write(f"medseg: error: {error}\n")
        return 2
    rows = comparison.rows_of(methods)
    formats: dict[str, Callable[[], str]] = {
        "text": lambda: comparison.to_text(rows) + "\n",
        "markdown": lambda: comparison.to_markdown(rows),
        "csv": lambda: comparison.to_csv(rows),
        "json": lambda: json.dumps(rows, indent=1) + "\n",
    }
    sys.stdout.write(formats[options.format]())
    return 0


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="folder of the bundle, with weights")
    parser.add_argument(
        "--image", type=Path, nargs="+", action="extend", required=True, metavar="PATH", help="images or folders"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the sheets and arrays")
    parser.add_argument("--ckpt", type=Path, metavar="FILE", help="weights (default: those of the bundle's inference)")
    parser.add_argument(
        "--config",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="overlays on inference.yaml, such as small.yaml",
    )
    parser.add_argument(
        "--maps", nargs="+", action="extend", default=[], metavar="NAME", help="which maps to show (default: all)"
    )
    parser.add_argument(
        "--roi", type=_positive, nargs="+", default=(), metavar="EDGE", help="look at a centred region of that size"
    )
    parser.add_argument("--overwrite", action="store_true", help="also do images whose files are there")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def _explain(options: argparse.Namespace) -> int:
    from medseg.bundle.config import ConfigError
    from medseg.bundle.start import InputError
    from medseg.reports.progress import progress_bar
    from medseg.runs.checkpoint import CheckpointError
    from medseg.studies.explain import explain
    from medseg.studies.explainable import load_bundle

    try:
        bundle = load_bundle(options.bundle, ckpt=options.ckpt, overlays=options.config)
        with progress_bar("explaining") as update:
            done = explain(
                bundle,
                options.image,
                options.output,
                maps=options.maps,
                roi=options.roi,
                overwrite=options.overwrite,
                progress=update,
            )
    except (CheckpointError, ConfigError, InputError) as error:
        sys.stderr.write(f"medseg: error: {error}\n")
        return 2
    if options.json:
        sys.stdout.write(json.dumps(done, indent=1) + "\n")
    else:
        for entry in done["written"]:
            sys.stdout.write(f"{entry['sheet']}: {', '.join(entry['maps'])}\n")
        if done["skipped"]:
            sys.stdout.write(f"{len(done['skipped'])} skipped: their files are there (--overwrite does them again)\n")
    for failure in done["failures"]:
        sys.stderr.write(f"medseg: error: {failure['image']}: {failure['reason']}\n")
    return 1 if done["failures"] else 0


COMMANDS = (
    Command("check", "report what is wrong with a data set", _check_arguments, _check),
    Command("compare", "put evaluations of the same images into one table", _compare_arguments, _compare),
    Command("complexity", "measure what networks cost", _complexity_arguments, _complexity),
    Command("explain", "draw what a bundle's network attends to in images", _explain_arguments, _explain),
    Command("report", "print the scores of a run and where its pictures are", _report_arguments, _report),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: the command line without the program's name; by default that of the process.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="medseg", description="Attention networks for image segmentation.")
    parser.add_argument("--version", action="version", version=f"medseg {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        below = commands.add_parser(command.name, help=command.help, description=command.help)
        command.add_arguments(below)
        below.set_defaults(run=command.run)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except OWN_ERRORS as error:
        sys.stderr.write(f"medseg: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("medseg: interrupted\n")
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
