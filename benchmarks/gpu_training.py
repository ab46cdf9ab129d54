"""Trainings of `benchmarks.gpu`: what they cost, which fit into the time, and what came out of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.gpu_rows import BUNDLE, TRAININGS, Training

BATCH = 8
PASSES = {"drosophila": 1500, "dsb2018": 168}  # at most; 168 of 161 images are 50 of 540
SHARES = {"drosophila": 0.45, "dsb2018": 0.08}  # of all minutes, for the first rows of an item
FIRST = {"drosophila": 8, "dsb2018": 5}
REPEATS = {"drosophila": 10, "dsb2018": 8}  # passes in what the trainer calls an epoch, after which it saves everything
UNKNOWN_STEP = 0.03  # seconds
BUSY = {"dsb2018": 0.2}  # share of a step that the device works, where small networks leave it idle
BESIDE = 1.6  # of a measured step: loading, loss and validation, and that processes take turns (measured: 1.2 to 1.7)
STRETCH = 2.2  # of a measured step that leaves the device idle, among others (measured)
START, END = 40.0, 60.0  # seconds from a command to its first step, and from its last step to the scores
_SHOWN = 1200  # characters of a log
OUT_OF_TIME = "not done when the call was over"


@dataclass(frozen=True)
class Place:
    """Where trainings find and leave things, and how they are run.

    Attributes:
        data: folder of each item.
        work: folder for runs.
        concurrent: trainings at a time.
        seed: of all of them.
        dry: tiny networks, one pass.
    """

    data: Mapping[str, Path]
    work: Path
    concurrent: int
    seed: int
    dry: bool


def step_seconds(speed: Mapping[str, Any], row: Training) -> float:
    """Return the measured seconds of a training's step."""
    found = speed.get("rows", {}).get(row.measured, {}).get("formats", {}).get("bf16 channels-last", {})
    return float(found.get("training_step_seconds", UNKNOWN_STEP))


def _device_seconds(speed: Mapping[str, Any], row: Training) -> float:
    """Return the seconds of a training's step that the device is not there for others."""
    return step_seconds(speed, row) * BESIDE * BUSY.get(row.item, 1.0)


def passes(speed: Mapping[str, Any], minutes: float) -> dict[str, int]:
    """Return passes over the data by item, the same for all of its rows, so that the first rows take their share.

    Args:
        speed: what `benchmarks.gpu_speed` wrote.
        minutes: of all calls together.
    """
    found = {}
    for item, share in SHARES.items():
        first = [row for row in TRAININGS if row.item == item and not row.passes][: FIRST[item]]
        one = sum(row.images // BATCH * _device_seconds(speed, row) for row in first)
        repeats = REPEATS[item]
        most = int(share * 60 * minutes / one) // repeats * repeats
        found[item] = max(repeats, min(PASSES[item], most))
    return found


def passes_of(row: Training, planned: Mapping[str, int]) -> int:
    """Return the passes of a training: its own, else those that are planned for its item."""
    return row.passes or planned[row.item]


def cost(row: Training, speed: Mapping[str, Any], planned: Mapping[str, int]) -> float:
    """Return the seconds that a training takes of the device."""
    return passes_of(row, planned) * (row.images // BATCH) * _device_seconds(speed, row)


def choose(
    pending: Sequence[Training], speed: Mapping[str, Any], planned: Mapping[str, int], seconds: float
) -> list[Training]:
    """Return what fits into some seconds of the device, by worth; one that does not leaves its place to the next."""
    most = left = seconds - START - END
    chosen = []
    for row in pending:
        device = cost(row, speed, planned)
        longest = passes_of(row, planned) * (row.images // BATCH) * step_seconds(speed, row) * STRETCH
        if device <= left and longest <= most:
            left -= device
            chosen.append(row)
    return chosen


def run(row: Training, place: Place, planned: int, deadline: float) -> dict[str, Any] | None:
    """Train and score one row; an error is its result, and ``None`` if too little time was left to begin.

    Args:
        row: what to train.
        place: where.
        planned: passes over the data.
        deadline: on the monotonic clock, by which the training's scores are there.
    """
    started = time.monotonic()
    minutes = (deadline - started - START - END) / 60
    if minutes <= 0:
        return None
    folder = place.work / row.item / "".join(c if c.isalnum() else "_" for c in row.name)
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"item": row.item, "network": row.network, "split": row.split, "fold": row.fold}
    result |= {"variant": row.variant, "settings": dict(row.settings)}
    result |= {"planned_passes": planned, "concurrent": place.concurrent, "seed": place.seed}
    try:
        if row.item not in place.data:
            raise FileNotFoundError(f"no data of {row.item}")
        result |= _bundle(row, place, folder, planned, minutes, deadline)
        result["cut_short"] = result["passes"] < planned
    except subprocess.TimeoutExpired:
        result["error"] = OUT_OF_TIME
    except Exception as error:
        result["error"] = _plain(f"{type(error).__name__}: {error}", place, folder)
    result["wall_seconds"] = time.monotonic() - started
    return result


def _call(words: Sequence[str], folder: Path, place: Place, deadline: float) -> None:
    """Run a Python module; its output goes into the folder's log."""
    threads = str(max(1, (os.cpu_count() or 1) // max(1, place.concurrent)))
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    with (folder / "log").open("a") as log:
        left = max(1.0, deadline - time.monotonic())
        common.call(words, stdout=log, stderr=log, env=environment, timeout=left)


def _plain(text: str, place: Place, folder: Path) -> str:
    """Return an error with the end of the log, without this machine's paths."""
    log = folder / "log"
    text += "\n" + (log.read_text(errors="replace")[-_SHOWN:] if log.is_file() else "")
    for path, name in (
        (place.work, "WORK"),
        (common.BUNDLES.parent, "."),
        (Path(sys.prefix), "PYTHON"),
        (Path.home(), "~"),
    ):
        text = text.replace(str(path), name)
    return text


def _records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _bundle(row: Training, place: Place, folder: Path, planned: int, minutes: float, deadline: float) -> dict[str, Any]:
    repeats = min(planned, REPEATS[row.item])
    epochs = planned // repeats
    lists = row.split == "lists"
    overlays = [*row.overlays, *(["paper_split"] if lists else [])]
    settings: dict[str, Any] = {"max_epochs": epochs, "max_minutes": round(minutes, 2), "seed": place.seed}
    settings |= {"mlflow": False, "resume": True, "train#dataset#entries": f"$@split[0] * {repeats}"}
    if lists:  # the last weights: those images are scored too, so none of them picks
        settings["val_interval"] = epochs
    else:
        settings |= {"fold_key": row.split, "fold": row.fold}
    if row.item == "drosophila":
        settings["schedule"] = "cosine"
    if place.dry:
        settings["network_def#channels"] = [4, 8]
    words = common.train_words(
        BUNDLE[row.item], place.data[row.item], folder / "run", overlays, {**settings, **row.settings}
    )
    _call(words, folder, place, deadline)
    _call(common.evaluate_words(folder / "run", folder / "test", settings={"mlflow": False}), folder, place, deadline)
    records = _records(folder / "run")
    scores = json.loads((folder / "test" / "scores.json").read_text())
    held = json.loads((folder / "test" / "data.json").read_text())
    speeds = sorted(record["images_per_second"] for record in records)
    found = {
        "passes": len(records) * repeats,
        "train_minutes": records[-1]["seconds"] / 60,
        "images_per_second": speeds[len(speeds) // 2],
        "data_wait_share": records[-1]["data_wait_share"],
        "last_loss": records[-1]["loss"],
        "validation": [round(record["val_mean_iou"], 4) for record in records if "val_mean_iou" in record],
        "overlays": overlays,
        "scored": held["split"],
        "images_scored": held["images"],
        "fingerprint": held["fingerprint"],
        "mean_iou": scores["mean_iou"],
        "classes": scores["classes"],
        "accuracy": scores["accuracy"],
    }
    if "instances" in scores:
        per_image = scores["instances"]["per_image"]
        found["instances"] = {"average_precision": per_image["average_precision"]}
    if len(records) == 1 and records[-1]["images_per_second"] == 0:
        raise ValueError("not one pass was trained")
    return found
