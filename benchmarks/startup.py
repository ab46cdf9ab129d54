"""What a user waits for before anything happens: `import medseg`, its help, a mistake's line, a training's first step.

MONAI's import stands apart: the processor seconds of PyTorch, of both, of both as `medseg predict` imports them, which
is without what MONAI only tries (see `medseg.cli._lean`), and how long each of those parts takes.

python -m benchmarks.startup
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import compile_medseg, report, train_words
from medseg.cli._lean import LATER

ROOT = Path(__file__).parents[1]
LEAN = "from medseg.cli._lean import lean_monai\nlean_monai()\nimport monai"
PROBE = """
import sys, time
start = time.perf_counter()
import monai.bundle
imported = time.perf_counter()
import medseg.engines.trainer as trainer
ours = time.perf_counter()
def first(self):
    sys.stderr.write(f"PROBE {imported - start:.3f} {ours - imported:.3f} {time.perf_counter() - ours:.3f}\\n")
    sys.exit(0)
trainer.Trainer._set_rate = first
from medseg.cli import main
sys.exit(main(sys.argv[1:]))
"""


def cpu_seconds(command: list[str], repeats: int, status: int = 0) -> float:
    """Return the median processor seconds of a command: what else the machine does matters little to them.

    Args:
        command: to run.
        repeats: of it.
        status: that it must end with.
    """
    times = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != status:
            raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(times)


def monais_import(repeats: int) -> dict[str, Any]:
    """Return processor seconds of importing PyTorch, and MONAI with it, and the seconds of what MONAI only tries.

    Args:
        repeats: of each; the parts are measured once, each with what it is the first to import.
    """
    codes = {"import_torch_cpu": "import torch", "import_monai_cpu": "import monai", "import_monai_lean_cpu": LEAN}
    found: dict[str, Any] = {
        name: cpu_seconds([sys.executable, "-W", "ignore", "-c", code], repeats) for name, code in codes.items()
    }
    command = [sys.executable, "-W", "ignore", "-X", "importtime", "-c", "import monai"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    lines = (line.removeprefix("import time:").split("|") for line in said.splitlines() if line.count("|") == 2)
    seconds = {name.strip(): int(whole) / 1e6 for _, whole, name in lines if whole.strip().isdecimal()}
    found["import_monai_parts"] = {name: seconds[name] for name in LATER if name in seconds}
    return found


def first_step(folder: Path, repeats: int) -> dict[str, float]:
    """Return the median seconds of the parts of a training up to its first step.

    Args:
        folder: for data and runs.
        repeats: trainings.
    """
    data = folder / "data"
    script = [sys.executable, str(ROOT / "data_scripts" / "synthetic.py"), "--output", str(data)]
    subprocess.run([*script, "--sections", "5", "--size", "64", "--crop-size", "32"], check=True, capture_output=True)
    rows = []
    for number in range(repeats):
        settings = {"network_def#channels": [4, 8], "mlflow": False}
        _, *words = train_words("lfa_unet_drosophila", data, folder / f"run{number}", settings=settings)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", PROBE, *words], check=False, capture_output=True, text=True)
        probe = next((line for line in done.stderr.splitlines() if line.startswith("PROBE")), None)
        if probe is None:
            raise RuntimeError(f"the run did not reach its first step:\n{done.stderr[-2000:]}")
        rows.append([*map(float, probe.split()[1:]), time.perf_counter() - start])
    names = ("import_monai_bundle", "import_medseg_on_top", "configuration_checks_and_assembly", "whole_process")
    return {name: statistics.median(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    program = str(Path(sys.executable).with_name("medseg"))
    compile_medseg()
    result: dict[str, Any] = {
        "python_cpu": cpu_seconds([sys.executable, "-c", ""], options.repeats),
        "import_medseg_cpu": cpu_seconds([sys.executable, "-c", "import medseg"], options.repeats),
        "target_import_medseg_cpu": 0.1,
        "medseg_help_cpu": cpu_seconds([program, "--help"], options.repeats),
        "target_medseg_help_cpu": 0.15,
        "mistake_cpu": cpu_seconds([program, "train", "lfa_unet_drosophila", "--data", "nowhere"], options.repeats, 2),
        "target_mistake_cpu": 1.0,
    }
    for name in ("import_medseg", "medseg_help"):
        result[f"{name}_over_python"] = result[f"{name}_cpu"] / result["python_cpu"]
    result |= monais_import(options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        result |= first_step(Path(folder), options.repeats)
    report("seconds before the first step", result, options.json)


if __name__ == "__main__":
    main()
