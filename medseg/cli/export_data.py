"""Write a datalist's images and labels in the layout of nnU-Net or the decathlon."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseg.cli._arguments import add_output
from medseg.errors import counted, shown

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("datalist", type=Path, help="datalist JSON file, or the folder that holds it")
    parser.add_argument("--to", choices=("nnunet", "decathlon"), required=True, help="layout")
    add_output(parser, "a new folder, for nnU-Net such as Dataset001_NAME", required=True)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from medseg.data.datalist import Datalist
    from medseg.exporters.decathlon import export_decathlon
    from medseg.exporters.nnunet import export_nnunet

    path = options.datalist / "datalist.json" if options.datalist.is_dir() else options.datalist
    datalist = Datalist.load(path)
    export = export_nnunet if options.to == "nnunet" else export_decathlon
    notes = export(datalist, options.output)
    sys.stdout.writelines(f"{shown(note)}\n" for note in notes)
    sys.stdout.write(f"{shown(options.output / 'dataset.json')}: {counted(len(datalist.entries()), 'case')}\n")
    return 0
