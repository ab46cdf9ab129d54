"""Measure what networks cost."""

from __future__ import annotations

import argparse
import sys

from medseg.cli._arguments import positive, write_json

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="class or module (default: every network)")
    parser.add_argument("--table", help="rows of a paper's table: 2 or 3 of FocusNet++, lfa_unet")
    parser.add_argument(
        "--measure",
        nargs="+",
        choices=("parameters", "macs", "memory", "training", "throughput"),
        default=("parameters", "macs"),
        help="what to measure (default: parameters macs; the others compute, which takes long on a CPU)",
    )
    parser.add_argument("--size", type=positive, nargs="+", metavar="EDGE", help="of the image (256 in 2D, 64 in 3D)")
    parser.add_argument("--spatial-dims", type=positive, metavar="N", help="2 or 3 (default: as --size has, or 2)")
    parser.add_argument("--in-channels", type=positive, metavar="N", help="channels of the image (1)")
    parser.add_argument("--out-channels", type=positive, metavar="N", help="classes (5)")
    parser.add_argument("--batch-size", type=positive, metavar="N", default=2, help="images at a time (2)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, with the machine's description")
    parser.set_defaults(spelt={"device": "--device"})


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from medseg.reports.progress import progress_bar
    from medseg.studies.complexity import choose_rows, measure

    channels = {"in_channels": options.in_channels, "out_channels": options.out_channels}
    shape = {"size": options.size, "spatial_dims": options.spatial_dims}
    rows = choose_rows(options.networks, table=options.table, **shape, **channels)
    with progress_bar("measuring") as update:
        result = measure(rows, options.measure, batch_size=options.batch_size, device=options.device, progress=update)
    if options.json:
        from medseg.runs.provenance import collect

        write_json(result | {"environment": collect()})
    else:
        from medseg.studies.complexity_table import complexity_table

        sys.stdout.write(complexity_table(result).to("text"))
    return 1 if any(row["errors"] for row in result["rows"]) else 0
