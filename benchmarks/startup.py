"""What a user waits for before anything happens: `medseg --help`, and `monai.bundle run` up to its first step.

python -m benchmarks.startup
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import report

ROOT = Path(__file__).parents[1]
PROBE = """
import sys, time, runpy
start = time.perf_counter()
import monai.bundle
imported = time.perf_counter()
import medseg.engines.trainer as trainer
ours = time.perf_counter()
set_rate = trainer.Trainer._set_rate
def first(self):
    sys.stderr.write(f"PROBE {imported - start:.3f} {ours - imported:.3f} {time.perf_counter() - ours:.3f}\\n")
    sys.exit(0)
trainer.Trainer._set_rate = first
sys.argv = sys.argv[1:]
runpy.run_module("monai.bundle", run_name="__main__")
"""


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    program = str(Path(sys.executable).with_name("medseg"))
    result: dict[str, Any] = {}
    result["medseg_help"] = statistics.median(seconds([program, "--help"]) for _ in range(options.repeats))
    result["target_medseg_help"] = 0.5
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        script = [sys.executable, str(ROOT / "data_scripts" / "synthetic.py"), "--output", str(data)]
        subprocess.run(
            [*script, "--sections", "5", "--size", "64", "--crop-size", "32"], check=True, capture_output=True
        )
        rows = []
        for number in range(options.repeats):
            command = [sys.executable, "-c", PROBE, "monai.bundle", "run", "--dataset_dir", str(data)]
            command += ["--config_file", str(ROOT / "bundles" / "lfa_unet_drosophila" / "configs" / "train.yaml")]
            command += ["--network_def#channels", "[4,8]", "--mlflow", "False", "--output_dir", f"{folder}/run{number}"]
            start = time.perf_counter()
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            probe = next((line for line in done.stderr.splitlines() if line.startswith("PROBE")), None)
            if probe is None:
                raise RuntimeError(f"the run did not reach its first step:\n{done.stderr[-2000:]}")
            rows.append([*map(float, probe.split()[1:]), time.perf_counter() - start])
    names = ("import_monai_bundle", "import_medseg_on_top", "configuration_checks_and_assembly", "whole_process")
    result |= {name: statistics.median(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    report("seconds before the first step", result, options.json)


if __name__ == "__main__":
    main()
