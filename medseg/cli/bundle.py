"""List the bundles, copy one to change it, build or check its files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseg.cli._arguments import add_output, say_foreign
from medseg.errors import shown

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(title="actions", dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="print the names of the bundles that come with medseg")
    copy = actions.add_parser("copy", help="copy a bundle into a folder of yours")
    copy.add_argument("name", help="name of a bundle, or its folder")
    add_output(copy, "folder to make", required=True)
    for action, text in (
        ("build", "write MONAI's files from the bundle's description"),
        ("check", "say whether MONAI's files are what the bundle's description gives"),
    ):
        actions.add_parser(action, help=text).add_argument("name", help="name of a bundle, or its folder")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from medseg.bundle import library

    if options.action == "list":
        sys.stdout.writelines(f"{name}\n" for name in library.names())
    elif options.action == "copy":
        library.copy(options.name, options.output)
        sys.stdout.write(f"{shown(options.output)}\n")
    else:
        folder = library.find(options.name)
        say_foreign(folder)
        return _print_files(folder, library.build(folder, check=options.action == "check"), options.action)
    return 0


def _print_files(folder: Path, changed: list[str], action: str) -> int:
    if not changed:
        sys.stdout.write(f"{shown(folder)}: up to date\n")
        return 0
    verb = "not what its bundle.yaml gives; medseg bundle build writes it" if action == "check" else "written"
    sys.stdout.writelines(f"{shown(folder / name)}: {verb}\n" for name in changed)
    return 1 if action == "check" else 0
