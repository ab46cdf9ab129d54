"""The plain script of `benchmarks.hippocampus`: what one writes with MONAI alone, trained for minutes or steps.

DynUNet of 16 to 128 channels, AdamW with a cosine, patches of 40 x 56 x 40, batch 2, Dice and cross-entropy, MONAI's
cache and random transforms; predicted by MONAI's sliding window. Nothing of medseg takes part.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet
from monai.transforms import (
    Compose,
    LoadImaged,
    NormalizeIntensityd,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandSimulateLowResolutiond,
    SpatialPadd,
)
from monai.utils import set_determinism
from torch import nn

from benchmarks.common import Budget, add_training

PATCH = (40, 56, 40)
WIDTHS = (16, 32, 64, 128)
BATCH = 2
LEARNING_RATE = 1e-3
_KEYS = ["image", "label"]


def fixed(keys: Sequence[str]) -> list[Any]:
    """Return the transforms that are done once."""
    return [LoadImaged(keys=keys, ensure_channel_first=True), NormalizeIntensityd(keys="image")]


def augmentation(patch: Sequence[int]) -> list[Any]:
    """Return the random transforms: half of the patches hold a structure; nnU-Net's probabilities and ranges."""
    return [
        RandCropByPosNegLabeld(keys=_KEYS, label_key="label", spatial_size=patch, pos=1, neg=1, num_samples=1),
        RandAffined(
            keys=_KEYS, prob=0.36, rotate_range=(0.52, 0.52, 0.52), scale_range=(0.3, 0.3, 0.3),
            mode=("bilinear", "nearest"), padding_mode="border",
        ),
        RandGaussianNoised(keys="image", prob=0.1, std=0.3),
        RandGaussianSmoothd(keys="image", prob=0.1, sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0), sigma_z=(0.5, 1.0)),
        RandScaleIntensityd(keys="image", prob=0.15, factors=0.25),
        RandScaleIntensityFixedMeand(keys="image", prob=0.15, factors=0.25, preserve_range=True),
        RandSimulateLowResolutiond(keys="image", prob=0.125, zoom_range=(0.5, 1.0)),
        RandAdjustContrastd(keys="image", prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
        RandAdjustContrastd(keys="image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        RandFlipd(keys=_KEYS, prob=0.5, spatial_axis=0),
    ]  # fmt: skip


def network_of(widths: Sequence[int], classes: int) -> nn.Module:
    """Return the network."""
    levels = len(widths)
    strides = [1] + [2] * (levels - 1)
    made: nn.Module = DynUNet(
        3, 1, classes, [3] * levels, strides, strides[1:], filters=widths, norm_name=("instance", {"affine": True})
    )
    return made


def endless(loader: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches without end."""
    while True:
        yield from loader


def train(
    entries: Sequence[dict[str, str]], network: nn.Module, patch: Sequence[int], budget: Budget, workers: int = 0
) -> dict[str, Any]:
    """Train and return what it took.

    Args:
        entries: with ``image`` and ``label``.
        network: on the CPU.
        patch: edges in voxels.
        budget: its clock starts with the first step, when all cases are in memory.
        workers: loading processes.
    """
    before = time.perf_counter()
    steps = [*fixed(_KEYS), SpatialPadd(keys=_KEYS, spatial_size=patch), *augmentation(patch)]
    dataset = CacheDataset(list(entries), Compose(steps), num_workers=1, progress=False)
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=workers)
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    network.train()
    batches = endless(loader)
    waited = 0.0
    ready = time.perf_counter() - before
    budget.start()
    step = 0
    while (progress := budget.progress(step)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * progress)) / 2
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        optimizer.zero_grad(set_to_none=True)
        loss = loss_function(network(batch["image"]), batch["label"])
        loss.backward()
        optimizer.step()
        step += 1
    seconds = budget.seconds
    return {"steps": step, "seconds": seconds, "data_wait_share": waited / seconds, "ready_seconds": ready}


@torch.inference_mode()
def predict(entries: Sequence[dict[str, str]], network: nn.Module, patch: Sequence[int], masks: Path) -> None:
    """Write a mask for each case where its image lies."""
    masks.mkdir(parents=True, exist_ok=True)
    network.eval()
    load = Compose(fixed(["image"]))
    for entry in entries:
        image = load({"image": entry["image"]})["image"].as_tensor()[None]
        logits = sliding_window_inference(image, patch, BATCH, network, overlap=0.5, mode="gaussian")
        source = nibabel.load(entry["image"])
        mask = nibabel.Nifti1Image(logits[0].argmax(0).numpy().astype(np.uint8), source.affine)
        nibabel.save(mask, masks / Path(entry["image"]).name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path, help="JSON with training, held_out and classes")
    parser.add_argument("output", type=Path, help="folder that gets training.json and masks")
    add_training(parser, WIDTHS)
    parser.add_argument("--patch", type=int, nargs=3, default=PATCH)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args(arguments)
    cases = json.loads(options.cases.read_text())
    set_determinism(options.seed)
    network = network_of(options.widths, len(cases["classes"]))
    budget = Budget(options.minutes, options.steps)
    found = train(cases["training"], network, options.patch, budget, options.workers)
    started = time.perf_counter()
    predict(cases["held_out"], network, options.patch, options.output / "masks")
    found["predict_seconds"] = time.perf_counter() - started
    found["about"] = f"DynUNet {'-'.join(map(str, options.widths))}, patch {'x'.join(map(str, options.patch))}"
    (options.output / "training.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
