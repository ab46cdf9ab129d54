"""Cross-validate what ``medseg plan`` plans for a data set: all folds trained at once on one device, each case scored.

    python -m benchmarks.gpu_folds --data msd_hippocampus --minutes 6 --limit 9 --json docs/results/gpu_folds.json

The plan is made once, alone on the device, as ``medseg train DATA`` makes it; then each fold is trained by ``medseg
train`` and scored by ``medseg evaluate``, in processes of their own that share the device: their minutes are those of a
share. No fold picks weights. Cases are scored at their own size in mm, and pooled over all folds, with an interval over
cases. Rows are written as they come; the same command goes on with the folds that have none.
Data: A. L. Simpson et al., https://arxiv.org/abs/1902.09063, CC-BY-SA 4.0. The release does not say which volumes are
one person's, so that two of one may stand on both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import at_once, call_logged, evaluate_words, merge_rows, train_words, training_of
from benchmarks.hippocampus import PUBLISHED
from medseg.bundle.data import load_data
from medseg.bundle.source import read_source
from medseg.cli._arguments import setting
from medseg.metrics.intervals import ClusterBootstrap
from medseg.reports.score_tables import WHOLE
from medseg.runs.provenance import collect
from medseg.runs.report import PER_CASE, read_rows
from medseg.studies import complexity
from medseg.studies.study_list import measured_row

FOLDS = 5
SCORES = ("dice", "hd95", "assd", "nsd")
_START, _END = 40.0, 80.0  # seconds that a training takes before its first step, and its scores after the last
_LEAST = 0.05  # minutes under which nothing is trained
_OFF = {"mlflow": False}


def planned(options: argparse.Namespace, deadline: float) -> Path:
    """Return the folder of the plan, made where there is none."""
    if options.plan is not None:
        return Path(options.plan).absolute()
    folder: Path = options.work / "plan"
    if not (folder / "bundle.yaml").is_file():
        words = ["medseg.cli", "plan", str(options.data), "-o", str(folder), "--minutes", f"{options.minutes:g}"]
        words += [] if options.network is None else ["--network", options.network]
        call_logged(words, options.work / "plan.log", deadline)
    return folder


def about(plan: Path, classes: int) -> dict[str, Any]:
    """Return what a plan, or a bundle, chose: network, patch, batch, and the multiply-adds of a patch or an image.

    Args:
        plan: its folder.
        classes: of the data.
    """
    source = read_source(plan)
    network, train = dict(source.description.network), source.options()
    lines = (plan / "bundle.yaml").read_text().splitlines()
    why = next((before for before, line in itertools.pairwise(lines) if line.startswith("network:")), "")
    row = replace(measured_row(str(network["name"]), source, {}), out_channels=classes)
    macs = complexity.measure([row], ("macs",))["rows"][0]["macs"]
    names = ("patch", "batch_size", "iterations", "max_epochs", "warmup", "ema_decay", "num_workers")
    held = {"network": network, **{name: train.get(name) for name in names}}
    return {**held, "macs": macs, "macs_of": list(row.size), "why": why.lstrip("# ")}


def fold_row(fold: int, options: argparse.Namespace, plan: Path, deadline: float) -> dict[str, Any]:
    """Train and score one fold, until a deadline on the monotonic clock."""
    started, folder = time.monotonic(), options.work / f"fold_{fold}"
    run, log = folder / "run", folder / "log"
    threads, told = max(1, (os.cpu_count() or 1) // options.concurrent), folder / "settings.json"
    if not (run / "model.pt").is_file():  # the last of what a training writes
        minutes = min(options.minutes, (deadline - started - _START - _END) / 60)
        if minutes < _LEAST:
            raise RuntimeError("too little time was left to begin")
        if folder.is_dir():  # broken off
            folder.rename(folder.with_name(f"{folder.name}_{time.time_ns()}"))
        folder.mkdir(parents=True)
        settings = {"fold": fold, "max_minutes": round(minutes, 3), "seed": options.seed, **_OFF}
        settings |= {"num_workers": min(4, threads - 1), **dict(options.settings)}
        told.write_text(json.dumps(settings))
        call_logged(train_words(str(plan), options.data, run, (), settings), log, deadline, threads)
    settings, trained = json.loads(told.read_text()), time.monotonic()
    call_logged(evaluate_words(run, run / "test", settings=_OFF), log, deadline, threads)
    per_case = json.loads((run / "test" / "scores.json").read_text())["per_case"]
    placed = run / "augmentation.json"
    return {
        **training_of(run), "minutes": settings["max_minutes"], "settings": settings, "threads": threads,
        "images_per_second": _pace(run), "cases": per_case["cases"], "units": per_case["units"],
        "classes": [row for row in per_case["classes"] if row["n"]["dice"] and row.get("hd95") is not None],
        "each": [_short(row) for row in read_rows(run / "test" / PER_CASE) if row["class"] != WHOLE],
        "augmentation": json.loads(placed.read_text()) if placed.is_file() else None,
        "train_seconds": trained - started, "score_seconds": time.monotonic() - trained,
    }  # fmt: skip


def _pace(run: Path) -> float:
    """Return the median over epochs of the patches a second."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float(np.median([line["images_per_second"] for line in lines]))


def _short(row: Mapping[str, str]) -> list[Any]:
    columns = [next((column for column in row if column.split("_")[0] == key), key) for key in SCORES]  # hd95_mm
    return [row["case"], row["class"], *(float(row[column]) if row.get(column) else None for column in columns)]


def pooled(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    """Return mean and 95 % interval over the cases of all rows, by score and class; a missing value is not counted.

    Args:
        rows: of folds.
        classes: to be shown.
    """
    cases: dict[str, dict[str, list[Any]]] = {}
    for row in rows:
        for case, name, *values in row.get("each", ()):
            cases.setdefault(case, {})[name] = values
    if not cases:
        return {"cases": 0}
    bootstrap, found = ClusterBootstrap([""] * len(cases)), dict[str, Any]()
    for number, score in enumerate(SCORES):
        table = np.array([[_number(case, name, number) for name in classes] for case in cases.values()])
        intervals, overall = bootstrap.intervals(table)
        there = [table[:, n][~np.isnan(table[:, n])] for n in range(len(classes))]
        found[score] = {
            name: {"mean": float(each.mean()) if each.size else None, "interval": interval, "n": int(each.size)}
            for name, each, interval in zip(classes, there, intervals, strict=True)
        }
        means = [each["mean"] for each in found[score].values() if each["mean"] is not None]
        found[f"mean_{score}"] = {"mean": float(np.mean(means)) if means else None, "interval": overall}
    return {"cases": len(cases), **found}


def _number(case: Mapping[str, Sequence[Any]], name: str, number: int) -> float:
    value = case[name][number] if name in case else None
    return float("nan") if value is None else float(value)


@contextlib.contextmanager
def device_memory(found: list[int]) -> Iterator[None]:
    """Keep the most memory in MiB that all processes together hold of the first GPU; nothing where there is none."""
    over = threading.Event()
    words = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]

    def look() -> None:
        while not over.wait(3):
            with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
                said = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout
                found[:] = [max([int(said), *found])]

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(15)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the decathlon's dataset.json")
    parser.add_argument("--minutes", type=float, default=6.0, help="of each training (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=9.0, help="minutes of the whole call (default: %(default)s)")
    parser.add_argument("--concurrent", type=int, default=FOLDS, help="trainings at a time (default: %(default)s)")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--network", help="of the plan")
    parser.add_argument("--plan", help="folder of a bundle that is trained instead of a new plan's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", help="of this code, where it lies in no checkout")
    parser.add_argument("--set", dest="settings", type=setting, nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--work", type=Path, default=Path("build/gpu_folds"))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(arguments)
    options.work, options.data = options.work.absolute(), options.data.absolute()
    began = time.monotonic()
    deadline = began + 60 * options.limit
    held = json.loads(options.json.read_text())["rows"] if options.json.is_file() else []
    finished = {row["fold"]: row for row in held if "error" not in row}
    datalist = load_data(options.data)
    classes = datalist.class_names[1:]
    plan = planned(options, deadline)
    head: dict[str, Any] = {
        "benchmark": "gpu_folds", "minutes": options.minutes, "seed": options.seed, "concurrent": options.concurrent,
        "data": {"name": datalist.name, "fingerprint": datalist.fingerprint(), "folds": FOLDS},
        "plan": {**about(plan, datalist.num_classes), "seconds": time.monotonic() - began},
        "published": PUBLISHED, "environment": collect(),
    }  # fmt: skip
    if options.commit:
        head["environment"]["git"] = {"commit": options.commit, "dirty": False}
    memory: list[int] = []

    def keep(fold: int, row: dict[str, Any]) -> None:
        row = {"fold": fold, **row}
        if "error" not in row:
            finished[fold] = row
        head["pooled"] = pooled([finished[each] for each in sorted(finished)], classes)
        head["device_memory_mib"] = memory[0] if memory else None
        merge_rows(options.json, head, [row], lambda each: each["fold"])
        shown = ", ".join(f"{each['name']} {each['dice']:.3f}" for each in row.get("classes", ()))
        sys.stdout.write(f"{time.monotonic() - began:.0f} s: fold {fold}: {row.get('error') or shown}\n")
        sys.stdout.flush()

    with device_memory(memory):
        jobs = {n: partial(fold_row, n, options, plan, deadline) for n in options.folds if n not in finished}
        at_once(jobs, options.concurrent, keep)
    if "pooled" in head:
        means = {key: head["pooled"].get(f"mean_{key}", {}).get("mean") for key in SCORES}
        sys.stdout.write(f"{head['pooled']['cases']} cases, mean over classes: {means}\n")


if __name__ == "__main__":
    main()
