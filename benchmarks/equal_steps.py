"""What a setting of a plan does, at an equal number of steps: on a busy machine, minutes would say what the load was.

    python -m benchmarks.equal_steps --data COVID_CT --steps 600 --json docs/results/plan_steps_cpu.json
    python -m benchmarks.equal_steps --data DSB2018 --sides base kinds_balanced --json FILE

A small U-Net is trained on slices of COVID-19's CT (``data_scripts.covid_ct``) or on nuclei (``data_scripts.dsb2018
--size 0``) by what a plan chooses, or chose before it was tried here: a third of the patches on a class, images drawn
alike, nuclei in grey. Width, patch and batch are fixed, and so is the schedule: to the number of steps. A side changes
single settings (`SIDES`), and nothing else. What is in the work folder already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import at_once, call, evaluate_words, merge_rows, train_words, training_of
from medseg.bundle import generate
from medseg.bundle.data import load_data, split
from medseg.data.kinds import kinds_of
from medseg.runs.provenance import collect
from medseg.runs.report import PER_CASE, read_rows
from medseg.studies.kinds import means_of_cases

EPOCHS = 20
BACKGROUND = "background"
SIDES: dict[str, dict[str, Any]] = {
    "base": {},
    "kinds_balanced": {"balance_kinds": 0.5},
    "zscore": {"model#input#intensity": {"scheme": "zscore"}},
    "rgb": {"model#input#colour": "rgb", "network_def#in_channels": 3},
    "rgb_balanced": {"model#input#colour": "rgb", "network_def#in_channels": 3, "balance_kinds": 0.5},
    "turned": {"model#input#polarity": "bright"},
    "more_classes": {"foreground": 0.67},
    "dice": {
        "loss": {"_target_": "monai.losses.DiceCELoss", "to_onehot_y": True, "softmax": True, "batch": True},
    },
    "larger_patch": {"patch": [256, 224], "model#inference#window": [256, 224], "batch_size": 1},
    "wide": {
        "network_def#channels": [12, 24, 48, 96, 192, 384], "network_def#strides": [[2, 2]] * 5, "patch": [192, 160],
        "model#inference#window": [192, 160],
    },
}  # fmt: skip
"""What is compared, by the settings that differ; ``wide`` is what a plan took for 8 minutes of two cores."""
FED = {
    "covid_semiseg": ("{scheme: range, low: 0, high: 255}, polarity: null, colour: null", "[1]"),
    "dsb2018_stage1": ("{scheme: percentiles}, polarity: bright, colour: grey", "[0, 1]"),
}
"""How a plan feeds the images of a data set, and along which axes it mirrors them."""
BUNDLE = """\
title: UNet, {name}
task: Segmentation of what a plan is tried on
description: A small U-Net, fed and trained as a plan says
data_source: {name}
data_type: pictures
modality: {modality}
classes: {classes}
network: {{name: unet, spatial_dims: 2, channels: [8, 16, 32, 64, 128], in_channels: 1,
  strides: [[2, 2], [2, 2], [2, 2], [2, 2]]}}
input: {{intensity: {fed}, spacing: null}}
inference: {{window: [128, 112], overlap: 0.5, mirror_axes: {mirrored}}}
train:
  iterations: {iterations}
  max_epochs: {epochs}
  val_interval: {epochs}
  validation_fold: null
  schedule: cosine
  warmup: {iterations}
  learning_rate: 0.002
  clip_grad_norm: 1.0
  ema_decay: 0.98
  patch: [128, 112]
  batch_size: 4
  foreground: 0.33
  loss: {{_target_: medseg.losses.focal_iou.FocalIoULoss, gamma: 0.0}}
  optimizer: {{_target_: torch.optim.AdamW, params: $@network.parameters(), lr: '@learning_rate', weight_decay: 0.01,
    fused: true}}
  augmentation:
  - {{_target_: medseg.transforms.augmentation.augmentation, roi_size: '@patch',
    mirror_axes: '@model#inference#mirror_axes'}}
"""


def bundle(folder: Path, data: Path, steps: int) -> Path:
    """Write the bundle that all sides start from, and return its folder."""
    found = load_data(data)
    if found.name not in FED:
        raise SystemExit(f"{data}: is {found.name}; name the folder of one of {', '.join(FED)}")
    fed, mirrored = FED[found.name]
    folder.mkdir(parents=True, exist_ok=True)
    text = BUNDLE.format(
        name=found.name, modality=", ".join(found.modality), classes=json.dumps(found.class_names), epochs=EPOCHS,
        iterations=max(1, steps // EPOCHS), fed=fed, mirrored=mirrored,
    )  # fmt: skip
    (folder / "bundle.yaml").write_text(text)
    generate.build(folder)
    return folder


def row_of(side: str, source: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train and score a side, unless that has been done, and return its row."""
    run = options.work / f"{side}_{options.steps}steps_fold{options.fold}_seed{options.seed}"
    started, environment = time.monotonic(), {**os.environ, "OMP_NUM_THREADS": "1"}
    if not (run / "model.pt").is_file():  # the last of what a training writes
        settings = {**SIDES[side], "fold": options.fold, "seed": options.seed, "mlflow": False, "device": "cpu"}
        call(train_words(str(source), options.data, run, (), settings), env=environment)
    if not (run / "test" / "scores.json").is_file():
        call(evaluate_words(run, run / "test", settings={"mlflow": False, "device": "cpu"}), env=environment)
    scores = json.loads((run / "test" / "scores.json").read_text())
    classes = [row for row in scores["per_case"]["classes"] if row["name"] != BACKGROUND]
    data = load_data(options.data)
    kinds = kinds_of(data, split(data, {"fold": options.fold, "validation_fold": None})[2])
    values = means_of_cases(read_rows(run / "test" / PER_CASE), [row["name"] for row in classes])
    return {
        "data": data.name, "side": side, "settings": SIDES[side], "fold": options.fold, "seed": options.seed,
        **training_of(run), "cases": scores["per_case"]["cases"], "environment": collect(),
        "wall_seconds": time.monotonic() - started,
        "dice": {row["name"]: {"mean": row["dice"], "interval": row["interval"].get("dice")} for row in classes},
        "kinds": [
            {"kind": kind, "images": number, "dice": _mean(values[[each == kind for each in kinds]])}
            for kind, number in Counter(kinds).most_common()
        ],
        "pooled_iou": {row["name"]: row["iou"] for row in scores["classes"] if row["name"] != BACKGROUND},
    }  # fmt: skip


def _mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else None


def _key(row: Mapping[str, Any]) -> tuple[str, int, int, int]:
    return row["data"], list(SIDES).index(row["side"]), row["fold"], row["seed"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that the script of one of them wrote")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="trainings at a time (default: 1)")
    parser.add_argument("--work", type=Path, default=Path("build/equal_steps"))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(arguments)
    options.work, options.data = options.work.absolute(), options.data.absolute()
    source = bundle(options.work / f"bundle_{options.steps}steps", options.data, options.steps)
    head = {"benchmark": "equal_steps", "steps": options.steps}

    def keep(side: str, row: dict[str, Any]) -> None:
        if "error" in row:
            raise SystemExit(f"{side}: {row['error']}")
        merge_rows(options.json, head, [row], _key)
        shown = ", ".join(f"{name} {each['mean']:.3f}" for name, each in row["dice"].items())
        sys.stdout.write(f"{side}: {shown}\n")
        sys.stdout.flush()

    at_once({side: partial(row_of, side, source, options) for side in options.sides}, options.at_once, keep)


if __name__ == "__main__":
    main()
