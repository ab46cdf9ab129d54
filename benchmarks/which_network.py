"""Which network is best, in minutes: ``medseg compare-networks`` on nuclei and on volumes, as a user types it.

    python -m benchmarks.which_network nuclei --raw DATA --work build/which_network --json docs/results
    python -m benchmarks.which_network hippocampus --raw DATA --work build/which_network --json docs/results

``nuclei``: 40 images of the Data Science Bowl 2018 at their own sizes, every fifth of the 200 at hand in the order of
their acquisitions, in 15 minutes. ``hippocampus``: the decathlon's volumes as they lie, in 40. Written are what came
out (``network_comparison_NAME.json``: no case's name) and the report as the command makes it, without pictures of
cases (``network_comparison_NAME.html``). Broken off, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.common import call
from benchmarks.own_data import prepared
from medseg.bundle.data import load_data
from medseg.studies.network_result import RESULTS

MINUTES = {"nuclei": 15.0, "hippocampus": 40.0}
IMAGES = 40
REPORT = "report.html"


def few(folder: Path) -> Path:
    """Return a datalist of so many of a folder's images, spread over acquisitions; made where there is none."""
    target = folder / "few.json"
    if not target.is_file():
        data = load_data(folder)
        entries = sorted(
            [*data.training, *data.validation], key=lambda entry: (str(entry["stratum"]), str(entry["image"]))
        )
        step = len(entries) // IMAGES
        kept = [{key: value for key, value in entry.items() if key != "fold"} for entry in entries[::step][:IMAGES]]
        replace(data, training=kept, validation=[], path=target).save()
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=MINUTES)
    parser.add_argument("--raw", type=Path, required=True, help="folder that holds the data sets as they are released")
    parser.add_argument("--minutes", type=float, help="of all (default: 15 for nuclei, 40 for the hippocampus)")
    parser.add_argument("--set", dest="settings", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--work", type=Path, default=Path("build/which_network"))
    parser.add_argument("--json", type=Path, required=True, metavar="FOLDER", help="where record and report go")
    options = parser.parse_args(arguments)
    folder = options.work.absolute()
    minutes = MINUTES[options.name] if options.minutes is None else options.minutes
    data = prepared("dsb2018" if options.name == "nuclei" else options.name, options.raw, folder)
    data = few(data) if options.name == "nuclei" else data
    made = folder / options.name
    words = ["compare-networks", str(data), "-o", str(made), "--minutes", f"{minutes:g}", "--no-pictures"]
    words += options.settings
    before = os.getloadavg()[0]
    call(["medseg.cli", *words])
    shown = shlex.join(["medseg", *words]).replace(str(data), "DATA").replace(str(made), "DIR")
    record = {"benchmark": "which_network", "command": shown, "results": json.loads((made / RESULTS).read_text())}
    record |= {"load_at_start": before, "load_at_end": os.getloadavg()[0]}
    record["threads"] = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    options.json.mkdir(parents=True, exist_ok=True)
    target = options.json / f"network_comparison_{options.name}.json"
    target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(made / REPORT, target.with_suffix(".html"))


if __name__ == "__main__":
    main()
