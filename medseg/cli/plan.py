"""Plan a bundle for a data set: how it is fed, how large the network is, how it is trained in the minutes at hand."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseg.cli._arguments import add_output, add_plan, add_settings, number_above_zero, overrides_of, say
from medseg.errors import shown

__all__ = ["add_arguments", "run"]

_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("data", type=Path, help="folder that holds the datalist, or the datalist")
    add_output(parser, "new folder of the bundle", metavar="BUNDLE", required=True)
    add_plan(parser)
    parser.add_argument("--minutes", type=number_above_zero, metavar="M", help="of the training (60)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    add_settings(parser, "single keys that the plan keeps to, such as patch=[64,64]")
    parser.set_defaults(spelt={"device": "--device", "max_minutes": "--minutes"})


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    changes = overrides_of(options, max_minutes=options.minutes)
    from medseg.bundle import library, networks
    from medseg.bundle.data import load_data
    from medseg.studies.plan_and_train import refuse_keys

    refuse_keys(changes)
    library.refuse_taken(options.output)
    data = load_data(options.data)
    if options.network is not None:
        networks.resolve(options.network)
    from medseg.data.check import check_datalist
    from medseg.studies import plan_bundle

    checked = check_datalist(data)  # as whatever is trained on the plan begins
    for finding in checked.warnings[:_SHOWN]:
        say(f"warning: {finding.message}")
    if len(checked.warnings) > _SHOWN:
        say(f"warning: and {len(checked.warnings) - _SHOWN} more; `medseg check` lists them")
    checked.raise_for_errors()
    plan = plan_bundle.plan_for(
        data,
        {key: value for key, value in changes.items() if key != "max_minutes"},
        network=options.network,
        dimensions=options.dimensions,
        memory=options.memory,
        minutes=changes.get("max_minutes"),
        device=options.device,
        say=say,
    )
    folder = plan_bundle.write(plan, data, options.output)
    sys.stdout.write(f"{plan_bundle.lines(plan)}\n{shown(folder)}\n")
    return 0
