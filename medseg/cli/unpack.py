"""Compare a packed model with its checksums, and unpack it for MONAI's commands."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseg.errors import shown

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("pack", type=Path, help="file that medseg pack wrote")
    parser.add_argument("folder", type=Path, nargs="?", help="new folder; without one, only say what is in it")
    parser.add_argument("--signed-by", type=Path, metavar="KEY", help="public key that must have signed it")
    parser.add_argument("--pt", action="store_true", help="also write models/model.pt, which MONAI's ckpt_export needs")
    parser.add_argument("--renew", action="store_true", help="write its configurations anew from its description")
    parser.add_argument("--trust", action="store_true", help="also unpack what may be code, and runs when it is used")
    parser.set_defaults(spelt={"trust": "--trust", "renew": "--renew"})


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from medseg.bundle.unpack import opened, unpack

    if options.folder is not None:
        given = {"trust": options.trust, "renew": options.renew, "pickled": options.pt}
        unpack(options.pack, options.folder, signed_by=options.signed_by, **given)
        sys.stdout.write(f"{shown(options.folder)}\n")
        return 0
    with opened(options.pack, signed_by=options.signed_by) as pack:
        record, found = pack.record, pack.foreign()
        signed = "signed" + (f" by {shown(options.signed_by)}" if options.signed_by else ", by whom is not asked")
        lines = [
            f"{shown(record['name'])} {shown(record.get('version'))}: {shown(record['texts']['task'])}",
            f"weights {shown(record.get('weights'))}, licence {shown(record.get('licence') or 'none granted')}",
            f"checksums fit; {signed if pack.signed else 'not signed'}",
            *(f"more than data: {each}" for each in found),
        ]
    sys.stdout.writelines(f"{line}\n" for line in (lines if found else [*lines, "data only"]))
    return 1 if found else 0
