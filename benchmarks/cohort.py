"""A trained model over a cohort, from files to masks: medseg, MONAI's bundles as they are, and nnU-Net's predictor.

    python -m benchmarks.cohort --pictures DIR --volumes DIR --nnunet build/nnunet --json docs/results/cohort_cpu.json
    python -m benchmarks.cohort --volumes DIR --nnunet build/nnunet --number 2 --rounds 1       whether all sides run

40 pictures, 10 volumes, and 10 of eight times as many voxels (``--large-volumes``, interpolated from those), by one
network (nnU-Net's U-Net) with equal weights, windows, overlap and threads; each side in processes of its own, in turn,
so many rounds, and a ratio is the median over rounds.

- ``medseg``: ``medseg predict``; ``medseg_one``: of the largest image alone; ``medseg_inside``: in a process that has
  loaded the model and predicted before, and ``bare``: the forwards of the same windows there, nothing else.
- ``monai``: ``python -m monai.bundle run`` on a configuration of MONAI's parts alone.
- ``nnunet``: as ``nnUNetv2_predict`` does, and ``nnunet_inside``: in one process, likewise.

By a command's wall is meant all of it, from its start until its process is gone. What a machine does beside it matters
less to the processor's seconds, which stand beside, those of processes that it started too. The peak is that of the
largest of a side's processes; a process counts what the one that started it held then, which is little here.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.cohort_parts import BATCH, COHORTS, NAME, STAMPS, Cohort, agreement, commands, stamps_of
from benchmarks.common import compile_medseg, report

ROOT = Path(__file__).parents[1]
_END = 1500  # characters of a log
TARGETS = {
    "medseg_inside / bare": ("at most", 1.10),
    "nnunet / medseg": ("at least", 1.5),
    "nnunet_inside / medseg_inside": ("at least", 1.5),
    "monai / medseg": ("at least", 3.0),
    "first mask, s": ("at most", 5.0),
    "after the last forward / a case": ("at most", 1.0),
    "peak beside one case, GiB": ("at most", 0.5),
}


def run(command: Sequence[str], environment: Mapping[str, str], log: Path) -> dict[str, float]:
    """Run a command, and return its seconds, by the clock and of processors, and its largest process's peak.

    Args:
        command: with its arguments.
        environment: of the process.
        log: file that gets what it says.

    Raises:
        SystemExit: if it fails, with the end of what it said.
    """
    began, start = time.time(), time.perf_counter()
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=dict(environment), cwd=ROOT)
        _, status, used = os.wait4(process.pid, 0)
    ended = time.perf_counter()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:4])}: status {process.returncode}\n{log.read_text()[-_END:]}")
    cpu = used.ru_utime + used.ru_stime
    return {
        "began": began,
        "start": start,
        "ended": ended,
        "wall": ended - start,
        "cpu": cpu,
        "peak": used.ru_maxrss / 2**20,
    }


def measured(command: Sequence[str], environment: Mapping[str, str], masks: Path, number: int) -> dict[str, float]:
    """Run a command that predicts a cohort; return what `run` does, and when masks and forwards were there.

    Args:
        command: that writes ``masks``.
        environment: of the process.
        masks: folder that is not there yet.
        number: of images.
    """
    stamps, log = masks.with_suffix(".stamps"), masks.with_suffix(".log")
    found = run(command, {**environment, STAMPS: str(stamps)}, log)
    forwards = stamps_of(stamps)
    written = [path.stat().st_mtime for path in masks.iterdir() if path.name.startswith("image")]
    if len(written) != number:
        raise SystemExit(f"{masks.name}: {len(written)} masks of {number}\n{log.read_text()[-_END:]}")
    first, last = forwards[0][1], forwards[-1][1]
    windows = [count for *_, count in forwards]
    later = forwards[1:]  # the first one is still part of the start
    second, took = sum(windows[1:]), sum(end - begin for begin, end, _ in later)  # of several at a time each counts
    return {
        **{key: found[key] for key in ("wall", "cpu", "peak")},
        "first_forward": first - found["start"],
        "first_mask": min(written) - found["began"],
        "last_mask": max(written) - found["began"],
        "after_last_forward": found["ended"] - last,
        "case": took / second * sum(windows) / number if second else float("nan"),
        "windows": sum(windows),
    }


def round_of(cohort: Cohort, folder: Path, place: Path, environment: Mapping[str, str], turn: int) -> dict[str, Any]:
    """Run all sides once, beginning with another one each turn; return what each took.

    Args:
        cohort: of which kind.
        folder: as `benchmarks.cohort_sides.lay_out` made it.
        place: folder for masks and logs, new.
        environment: of all processes.
        turn: from 0.
    """
    place.mkdir()
    inside = {"medseg_inside": ["benchmarks.cohort_inside"], "nnunet_inside": ["benchmarks.cohort_nnunet", "inside"]}
    sides = ["medseg", "medseg_one", "medseg_inside", "monai", "nnunet", "nnunet_inside"]
    found: dict[str, Any] = {"load": os.getloadavg()[0]}
    for side in [*sides[turn % len(sides) :], *sides[: turn % len(sides)]]:
        masks = place / side
        if side in inside:
            output = masks.with_suffix(".json")
            words = [sys.executable, "-m", *inside[side], str(folder), str(masks), str(output)]
            whole = run(words, environment, masks.with_suffix(".log"))
            found[side] = {**json.loads(output.read_text()), "peak": whole["peak"]}
        else:
            number = 1 if side == "medseg_one" else cohort.number
            found[side] = measured(commands(folder, masks)[side], environment, masks, number)
        sys.stdout.write(f"{cohort.name}, round {turn + 1}: {side} done\n")
        sys.stdout.flush()
    held = found.pop("medseg_inside")
    found["bare"] = {**held["bare"], "windows": held["windows"]}
    found["medseg_inside"] = {**held["medseg"], **{key: held[key] for key in ("peak", "threads")}}
    return found


def ratios(rounds: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[float]]:
    """Return what `TARGETS` names, and more, of each round.

    Args:
        rounds: of `round_of`.
        key: ``"wall"`` or ``"cpu"``.
    """
    pairs = [("medseg_inside", "bare"), ("nnunet", "medseg"), ("nnunet_inside", "medseg_inside"), ("monai", "medseg")]
    pairs += [("medseg", "bare"), ("monai", "bare"), ("nnunet", "bare"), ("nnunet_inside", "bare")]
    found = {f"{one} / {other}": [each[one][key] / each[other][key] for each in rounds] for one, other in pairs}
    if key == "wall":
        found["first mask, s"] = [each["medseg"]["first_mask"] for each in rounds]
        found["after the last forward / a case"] = [
            each["medseg"]["after_last_forward"] / each["medseg"]["case"] for each in rounds
        ]
        found["peak beside one case, GiB"] = [each["medseg"]["peak"] - each["medseg_one"]["peak"] for each in rounds]
    return found


def summary(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return medians of what sides took, and of ratios with each round's.

    Args:
        rounds: of `round_of`.
    """
    sides = {
        side: {key: statistics.median(each[side][key] for each in rounds) for key in values}
        for side, values in rounds[0].items()
        if side != "load"
    }
    found = {
        key: {name: {"median": statistics.median(each), "rounds": each} for name, each in ratios(rounds, key).items()}
        for key in ("wall", "cpu")
    }
    return {"sides": sides, "ratios": found, "load": [each["load"] for each in rounds]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="folder of at least 40 PNG images")
    parser.add_argument("--volumes", type=Path, help="folder of at least 10 volumes, .nii.gz")
    parser.add_argument("--large-volumes", type=Path, help="likewise, each enlarged twofold over every axis")
    parser.add_argument("--nnunet", type=Path, required=True, help="folder that holds nnunetv2, or that of this Python")
    parser.add_argument("--number", type=int, help="of images of each kind, instead")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(options.nnunet.resolve()))
    if importlib.util.find_spec("nnunetv2") is None:
        from benchmarks.hippocampus import INSTALL

        raise SystemExit(INSTALL)
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "MLFLOW_DISABLE_TELEMETRY": "true"}
    paths = [str(ROOT), str(options.nnunet.resolve()), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    compile_medseg()
    result: dict[str, Any] = {"threads": options.threads, "rounds": options.rounds, "network": NAME, "batch": BATCH}
    result["targets"] = TARGETS
    given = [(replace(each, number=options.number or each.number), getattr(options, each.name)) for each in COHORTS]
    with tempfile.TemporaryDirectory() as name:
        for cohort, source in given:
            if source is not None:
                words = [cohort.name, str(source.resolve()), str(Path(name) / cohort.name), str(cohort.number)]
                command = [sys.executable, "-m", "benchmarks.cohort_sides", *words]
                run(command, environment, Path(name) / f"{cohort.name}.log")
        for cohort, source in given:
            if source is None:
                continue
            folder, rounds = Path(name) / cohort.name, []
            for turn in range(options.rounds):
                place = folder / f"round{turn}"
                rounds.append(round_of(cohort, folder, place, environment, turn))
            same = {other: agreement(place / "medseg", place / other) for other in ("monai", "nnunet")}
            result[cohort.name] = {**vars(cohort), **summary(rounds), "equal_pixels": same}
            shown = result[cohort.name]["ratios"]["wall"]
            result |= {f"{cohort.name}: {name}": each["median"] for name, each in shown.items()}
    report("a cohort from files to masks", result, options.json)


if __name__ == "__main__":
    main()
