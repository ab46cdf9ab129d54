"""Write a trained model as one file: weights, configurations, licence, card, scores, checksums."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseg.cli._arguments import add_output, say
from medseg.errors import shown

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", help="folder of a run, or a bundle with weights: its name or its folder")
    add_output(parser, "new file (default: the model's name.zip, here)", metavar="FILE")
    parser.add_argument("--bundle", metavar="NAME", help="that it was trained with, for title, sources and references")
    parser.add_argument(
        "--scores", nargs="+", default=[], metavar="DIR", help="evaluations of it (default: those in the run's folder)"
    )
    parser.add_argument("--licence", metavar="NAME", help="of the weights: SPDX, such as CC-BY-4.0, or a file")
    parser.add_argument("--intended-use", metavar="TEXT", help="a sentence (default: for research)")
    parser.add_argument("--authors", metavar="TEXT", help="whose it is")
    parser.add_argument("--version", metavar="NUMBER", help="of the model (default: 1.0.0)")
    parser.add_argument("--sign", type=Path, metavar="KEY", help="an Ed25519 private key, as ssh-keygen makes one")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from medseg.bundle.pack import About, pack

    said = ("bundle", "scores", "licence", "intended_use", "authors", "version")
    given = {name: getattr(options, name) for name in said if getattr(options, name)}
    packed = pack(options.model, options.output, About(**given), key=options.sign)
    for note in packed.notes:
        say(f"medseg: {note}")
    size = packed.path.stat().st_size / 2**20
    sys.stdout.write(f"{shown(packed.path)}: {size:.1f} MiB\n")
    return 0
