"""`benchmarks.patch_training` on a GPU: patches a second of trainings by medseg, nnU-Net and a plain MONAI script.

    python -m benchmarks.patch_training_data --work build/hippocampus --output build/patches_gpu
    python -m benchmarks.patch_training_gpu --work build/patches_gpu --json docs/results/patch_training_gpu.json

All train one network (nnU-Net's PlainConvUNet, one output) on the same patches: the hippocampus's at nnU-Net's own
widths and batch, and large ones of drawn volumes. Mixed precision is on in all: bfloat16, and nnU-Net's float16 with
its scaler, as it ships; nothing is compiled but in the side that says so. nnU-Net and the script augment by as many
loading processes as medseg has; medseg by these, on the device, and where ``auto`` finds it faster. The bare step is
the network, cross-entropy and AdamW in one pass on tensors that lie on the device.

A side runs by itself, in a process of its own, in rounds of alternating order: loading processes of one would run ahead
while another computes. Counted are steps after a warm-up that uses up what lay ready; the device is waited for at their
ends only. With ``--profile`` some more steps follow that are not counted: how many kernels one launches, and how long
the device works for it, say whether the device or the processor that launches is the limit. A side that fails or takes
too long says so, and the file is written after each. Without a GPU the processor is used, for a look at whether all
goes through.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_speed import read, write
from benchmarks.patch_training_data import draw
from benchmarks.patch_training_sides import COMPILED, GROUPS, SETTINGS, SIDES, Setting, Task, run_side
from medseg.runs.provenance import collect

PEAKS = {"H100 80GB HBM3": 989.4e12, "H200": 989.4e12}  # bf16, dense, NVIDIA's data sheet
MEDSEG = "medseg, auto"
_LEAST = 15.0  # seconds left under which no side begins


def jobs(settings: Sequence[str], sides: Sequence[str], rounds: int) -> Iterator[tuple[int, str, str]]:
    """Yield round, setting and side: rounds in alternating order; what is compiled, once, at the end."""
    names = [name for side in sides for name in GROUPS.get(side, (side,))]
    taking_turns = [name for name in names if name != COMPILED]
    for number in range(rounds):
        order = taking_turns if number % 2 == 0 else taking_turns[::-1]
        yield from ((number, setting, side) for setting in settings for side in order)
    if COMPILED in names:
        yield from ((0, setting, COMPILED) for setting in settings)


def environment(options: argparse.Namespace, work: Path, *, compiled: bool) -> dict[str, str]:
    """Return a side's environment: nnU-Net is told by it where its data are, and how it works."""
    found = dict(os.environ)
    for name in ("raw", "preprocessed", "results"):
        found[f"nnUNet_{name}"] = str((work / "nnunet" / name).absolute())
    if options.nnunet is not None:
        paths = [str(options.nnunet.absolute()), os.environ.get("PYTHONPATH", "")]
        found["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return found | {"nnUNet_n_proc_DA": str(options.workers), "nnUNet_compile": "t" if compiled else "f"}


def in_a_process(words: Sequence[str], limit: float, env: dict[str, str], answer: Path) -> tuple[dict[str, Any], str]:
    """Run one side, and end it and its loading processes after some seconds.

    Args:
        words: of the command line.
        limit: in seconds.
        env: of the process.
        answer: file that it writes.

    Returns:
        What it has written, and what went wrong with it, or nothing.
    """
    with tempfile.TemporaryFile() as told:
        line = [sys.executable, "-m", "benchmarks.patch_training_gpu", *words, "--json", str(answer)]
        process = subprocess.Popen(line, env=env, stdout=told, stderr=told, start_new_session=True)
        wrong = ""
        try:
            status = process.wait(limit)
            if status:
                told.seek(0)
                last = told.read().decode(errors="replace").strip().splitlines() or [""]
                wrong = f"status {status}: {last[-1]}"[:300]
        except subprocess.TimeoutExpired:
            wrong = f"ended after {limit:.0f} seconds"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # loading processes too
            process.wait()
    return read(answer), wrong


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Return how many times as many patches a second medseg does as each other row, in each round that has both."""
    found: dict[str, list[float]] = {}
    of = {(row["setting"], row["side"], row["round"]): row["seconds"] for row in rows if "seconds" in row}
    for (setting, side, number), seconds in of.items():
        ours = of.get((setting, MEDSEG, number))
        if ours is not None and side != MEDSEG:
            found.setdefault(f"{setting}: {MEDSEG} / {side}", []).append(seconds / ours)
    return dict(sorted(found.items()))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all sides, and write the file after each."""
    started = time.monotonic()
    rows: list[dict[str, Any]] = []
    settings = {name: SETTINGS[name].shrunk() if options.tiny else SETTINGS[name] for name in options.settings}
    command = " ".join(["python", "-m", "benchmarks.patch_training_gpu", *_shown(sys.argv[1:])])
    result: dict[str, Any] = {"settings": {name: s.described() for name, s in settings.items()}, "rows": rows}
    result |= {"workers": options.workers, "steps": options.steps, "rounds": options.rounds}
    record = {"benchmark": "patches a second of a training on a GPU", "command": command, "result": result}
    record["environment"] = collect()
    with tempfile.TemporaryDirectory() as folder:
        for count, (number, setting, side) in enumerate(jobs(options.settings, options.sides, options.rounds)):
            left = options.seconds - (time.monotonic() - started)
            about = {"setting": setting, "round": number}
            if left < _LEAST:
                rows.append({**about, "side": side, "error": "not begun: no time was left"})
                continue
            work = options.work if setting == "hippocampus" else Path(folder, setting)
            words = ["--work", str(work.absolute()), "--settings", setting, "--steps", str(options.steps)]
            words += ["--workers", str(options.workers), *(["--tiny"] if options.tiny else [])]
            words += ["--profile"] if options.profile and number == 0 else []
            env, limit = environment(options, work, compiled=side == COMPILED), min(options.limit, left)
            begun = time.monotonic()
            if not work.is_dir():
                source = ["--source", str(options.work.absolute())]
                in_a_process([*words, "--side", "draw", *source], limit, env, Path(folder, "drawn"))
            answer, wrong = in_a_process([*words, "--side", side], limit, env, Path(folder, f"{count}.json"))
            rows.append({**about, "side": side, **answer, **({"error": wrong} if wrong else {})})
            _add_shares(rows, result["settings"])
            result["ratios"] = ratios(rows)
            write(options.json, record)
            took = time.monotonic() - begun
            sys.stdout.write(f"{took:.0f} s {setting} {side}: {json.dumps(answer)} {wrong}\n")
            sys.stdout.flush()
    write(options.json, record)
    return record


def _add_shares(rows: Sequence[dict[str, Any]], settings: dict[str, Any]) -> None:
    """Add the share of the device's peak (MFU): operations of a step are six times the multiply-adds."""
    for row in rows:
        peak = next((value for name, value in PEAKS.items() if name in row.get("device", "")), None)
        if peak is not None and "seconds" in row and "fp32" not in row["side"]:
            row["mfu"] = 6 * settings[row["setting"]]["macs"] / row["seconds"] / peak


def _shown(words: Sequence[str]) -> list[str]:
    return [Path(word).name if Path(word).is_absolute() else word for word in words]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of benchmarks.patch_training_data")
    parser.add_argument("--nnunet", type=Path, help="folder that holds nnunetv2, where it is not installed")
    parser.add_argument("--json", type=Path, required=True)
    names = [*GROUPS, *SIDES]
    parser.add_argument("--sides", nargs="+", choices=names, default=[MEDSEG, "nnunet", "monai", "bare"])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--steps", type=int, default=100, help="counted, of the small patches; fewer of the large")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=12, help="loading processes of a side")
    parser.add_argument("--limit", type=float, default=75.0, help="seconds of a side")
    parser.add_argument("--seconds", type=float, default=600.0, help="of all")
    parser.add_argument(
        "--profile", action="store_true", help="count, after the first round's steps, what some ask for"
    )
    parser.add_argument("--tiny", action="store_true", help="small networks and patches: does all go through?")
    parser.add_argument("--side", choices=[*SIDES, "draw"], help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side is None:
        if not (options.work / "cases.json").is_file():
            raise SystemExit(f"{options.work} has no cases.json; write it by python -m benchmarks.patch_training_data")
        measure(options)
        return
    (name,) = options.settings
    setting: Setting = SETTINGS[name].shrunk() if options.tiny else SETTINGS[name]
    if options.side == "draw":
        draw(options.work, setting.edge, setting.patch, setting.widths, options.source)
        return
    task = Task(setting, options.work, options.steps, options.workers, options.profile)
    run_side(options.side, task, options.json)
    os._exit(0)  # all is written; loading processes that take long to end are ended by who started this


if __name__ == "__main__":
    main()
