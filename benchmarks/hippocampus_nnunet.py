"""nnU-Net's side of `benchmarks.hippocampus`: its own plan, preprocessing, augmentation, trainer and predictor.

F. Isensee et al., https://arxiv.org/abs/1809.10486, version 2 (package nnunetv2). Fitted to some minutes on a CPU are

- widths and batch of the plan: 32 to 256 and 7 do 25 steps in eight minutes on two cores;
- of its own variants, AdamW at 0.001 and no mirroring: with SGD some hundred steps teach it nothing, and mirrored,
  front and back of a hippocampus are the same;
- its polynomial fall of the learning rate, which is over the budget and not over a thousand epochs.

The validation on patches and the pictures of progress after each epoch are left out, so that the time is for steps.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Budget, add_training
from benchmarks.hippocampus_monai import BATCH, WIDTHS

TASK = 4
CONFIGURATION = "3d_fullres"


def prepare() -> dict[str, Any]:
    """Plan and preprocess all cases, once; return how long it took."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    started = time.perf_counter()
    api.extract_fingerprints([TASK], num_processes=1, check_dataset_integrity=True, show_progress_bar=False)
    api.plan_experiments([TASK])
    api.preprocess([TASK], configurations=[CONFIGURATION], num_processes=[1], show_progress_bar=False)
    raw, prepared, _ = _folders()
    shutil.copyfile(raw / "splits_final.json", prepared / "splits_final.json")
    return {"prepare_seconds": time.perf_counter() - started, "nnunetv2": version("nnunetv2")}


def _folders() -> tuple[Path, Path, Path]:
    """Return the data set's folder of raw data, of preprocessed data, and of results."""
    from nnunetv2 import paths
    from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name

    name = convert_id_to_dataset_name(TASK)
    return Path(paths.nnUNet_raw) / name, Path(paths.nnUNet_preprocessed) / name, Path(paths.nnUNet_results) / name


def fitted(widths: Sequence[int], batch: int = BATCH) -> dict[str, Any]:
    """Return nnU-Net's plan with these widths, a level each, and this batch: the plain script's, unless told."""
    plan: dict[str, Any] = json.loads((_folders()[1] / "nnUNetPlans.json").read_text())
    chosen = plan["configurations"][CONFIGURATION]
    chosen["batch_size"] = batch
    arguments = chosen["architecture"]["arch_kwargs"]
    levels = min(len(widths), arguments["n_stages"])
    arguments |= {"n_stages": levels, "features_per_stage": list(widths[:levels])}
    for key in ("kernel_sizes", "strides", "n_conv_per_stage"):
        arguments[key] = arguments[key][:levels]
    arguments["n_conv_per_stage_decoder"] = arguments["n_conv_per_stage_decoder"][: levels - 1]
    return {**plan, "continue_training": False}


def trainer_of(plan: dict[str, Any], seed: int, *, deep_supervision: bool = True, device: str = "cpu") -> Any:
    """Return nnU-Net's trainer, ready for its first step: its optimiser's and its augmentation's variants in one."""
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
        nnUNetTrainerNoMirroring,
    )
    from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam1en3

    threads = torch.get_num_threads()
    kind = type("AdamNoMirroring", (nnUNetTrainerNoMirroring, nnUNetTrainerAdam1en3), {})
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    described = json.loads((_folders()[0] / "dataset.json").read_text())
    trainer = kind(plan, CONFIGURATION, 0, described, torch.device(device))
    trainer.enable_deep_supervision = deep_supervision
    trainer.on_train_start()
    trainer.network.train()
    torch.set_num_threads(threads)
    return trainer


def train(trainer: Any, budget: Budget) -> dict[str, Any]:
    """Take steps until the budget is spent, and return what it took."""
    budget.start()
    waited, step = 0.0, 0
    while (progress := budget.progress(step)) < 1:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - progress) ** 0.9
        asked = time.perf_counter()
        batch = next(trainer.dataloader_train)
        waited += time.perf_counter() - asked
        trainer.train_step(batch)
        step += 1
    seconds = budget.seconds
    return {"steps": step, "seconds": seconds, "data_wait_share": waited / seconds}


def predict(trainer: Any, entries: Sequence[dict[str, str]], masks: Path) -> None:
    """Write a mask for each case by nnU-Net's own predictor, from the raw images."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    masks.mkdir(parents=True, exist_ok=True)
    raw, threads = _folders()[0], torch.get_num_threads()
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, [trainer.network.state_dict()],
        trainer.dataset_json, type(trainer).__name__, None,
    )  # fmt: skip
    torch.set_num_threads(threads)  # it is left at one
    names = [Path(entry["image"]).name.removesuffix(".nii.gz") for entry in entries]
    images = [[str(raw / "imagesTr" / f"{name}_0000.nii.gz")] for name in names]
    predictor.predict_from_files_sequential(images, [str(masks / name) for name in names])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("prepare")
    first.add_argument("output", type=Path, help="JSON for how long it took")
    second = commands.add_parser("train")
    second.add_argument("cases", type=Path, help="JSON with held_out")
    second.add_argument("output", type=Path, help="folder that gets training.json and masks")
    add_training(second, WIDTHS)
    options = parser.parse_args(arguments)
    if options.command == "prepare":
        options.output.write_text(json.dumps(prepare()))
        return
    started = time.perf_counter()
    trainer = trainer_of(fitted(options.widths), options.seed)
    ready = time.perf_counter() - started
    found = train(trainer, Budget(options.minutes, options.steps))
    started = time.perf_counter()
    predict(trainer, json.loads(options.cases.read_text())["held_out"], options.output / "masks")
    patch = "x".join(map(str, trainer.configuration_manager.patch_size))
    found |= {"ready_seconds": ready, "predict_seconds": time.perf_counter() - started}
    found["about"] = f"PlainConvUNet {'-'.join(map(str, options.widths))}, patch {patch}, deep supervision"
    (options.output / "training.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
