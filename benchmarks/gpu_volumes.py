"""Train a 3D network on the hippocampus volumes of the Medical Segmentation Decathlon (Task 4), leaving one fold out.

    python -m benchmarks.gpu_volumes --data msd_hippocampus --fold 0 --epochs 60 --minutes 3 --output RUN

Data: A. L. Simpson et al., https://arxiv.org/abs/1902.09063, CC-BY-SA 4.0, in the decathlon's layout. Whole volumes,
each normalised by its own mean and deviation and padded to 48 x 64 x 48; flips from left to right, small rotations and
scales, intensities and noise; Dice and cross-entropy, AdamW with a cosine, no fold that picks weights. Scored at the
volumes' own size, case by case: Dice, and the 95 % Hausdorff distance in millimetres (MONAI's).
The release does not say which volumes are one person's, so that two of one may stand on both sides.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from monai.losses import DiceCELoss
from monai.metrics import compute_hausdorff_distance
from monai.transforms import (
    Compose,
    NormalizeIntensityd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SpatialPad,
    SpatialPadd,
)
from torch import Tensor, nn
from torch.nn.functional import one_hot

from benchmarks.gpu_rows import VOLUME, VOLUME_CHANNELS
from medseg.engines.loading import SegmentationDataset
from medseg.engines.precision import autocast, resolve_precision
from medseg.engines.trainer import Trainer
from medseg.inferers.memory_format import to_memory_format
from medseg.io.load import LoadImagesd
from medseg.runs.processes import pick_device
from medseg.runs.run import Run

CLASSES = ("anterior", "posterior")
_KEYS = ["image", "label"]
_FOLDS = 5
_PASSES = 5  # over the data in what the trainer calls an epoch, after each of which it saves everything


def entries_of(data: Path, fold: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the volumes to train on and those left out; the folds are drawn with seed 0.

    Args:
        data: folder of the decathlon's ``dataset.json``.
        fold: 0 to 4.
    """
    held = json.loads((data / "dataset.json").read_text())["training"]
    entries = [{key: str(data / entry[key]) for key in _KEYS} for entry in held]
    entries.sort(key=lambda entry: entry["image"])
    random.Random(0).shuffle(entries)
    return [e for n, e in enumerate(entries) if n % _FOLDS != fold], entries[fold::_FOLDS]


def augmentation() -> list[Any]:
    """Return the random transforms."""
    return [
        RandFlipd(keys=_KEYS, prob=0.5, spatial_axis=0),
        RandAffined(
            keys=_KEYS, prob=0.5, rotate_range=(0.26, 0.26, 0.26), scale_range=(0.15, 0.15, 0.15),
            mode=("bilinear", "nearest"), padding_mode="zeros",
        ),
        RandScaleIntensityd(keys="image", prob=0.5, factors=0.25),
        RandShiftIntensityd(keys="image", prob=0.5, offsets=0.25),
        RandGaussianNoised(keys="image", prob=0.3, std=0.1),
    ]  # fmt: skip


def loading() -> list[Any]:
    """Return the fixed transforms up to the padding."""
    return [LoadImagesd(keys=_KEYS), NormalizeIntensityd(keys="image", channel_wise=True)]


def train(network: nn.Module, entries: list[dict[str, str]], options: argparse.Namespace) -> Trainer:
    """Train and return the trainer."""
    passes = min(_PASSES, options.epochs)
    dataset = SegmentationDataset(
        entries * passes, [*loading(), SpatialPadd(keys=_KEYS, spatial_size=VOLUME)], augmentation(), seed=options.seed
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=0.01)
    trainer = Trainer(
        max(1, options.epochs // passes),
        pick_device(None),
        dataset,
        network,
        DiceCELoss(softmax=True, to_onehot_y=True, batch=True),
        optimizer,
        Run(options.output, tracking=False),
        batch_size=options.batch_size,
        num_workers=options.workers,
        schedule="cosine",
        warmup=50,
        max_minutes=options.minutes,
        clip_grad_norm=1.0,
        seed=options.seed,
    )
    trainer.run()
    return trainer


def scores(prediction: Tensor, label: Tensor) -> dict[str, list[float | None]]:
    """Return Dice and 95 % Hausdorff distance of each class, ``None`` where a class is missing on one side.

    Args:
        prediction: class of each voxel.
        label: of the same shape.
    """
    masks = [one_hot(x.long(), len(CLASSES) + 1).movedim(-1, 0)[None] for x in (prediction, label)]
    dice, distance = [], compute_hausdorff_distance(*masks, percentile=95)[0].tolist()
    for number in range(1, len(CLASSES) + 1):
        one, two = (mask[0, number].bool() for mask in masks)
        total = int(one.sum() + two.sum())
        dice.append(2 * int((one & two).sum()) / total if total else None)
    return {"dice": dice, "hd95_mm": [d if d == d and d != float("inf") else None for d in distance]}


def score(network: nn.Module, entries: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Return one record for each volume, scored at its own size."""
    device = next(network.parameters()).device
    precision, pad, cases = resolve_precision("auto", device), SpatialPad(VOLUME), []
    network.eval()
    for entry in entries:
        sample = Compose(loading())(dict(entry))
        image, label = sample["image"].as_tensor(), sample["label"].as_tensor()[0]
        padded = to_memory_format(torch.as_tensor(pad(image))[None].to(device))
        with torch.inference_mode(), autocast(precision, device):
            logits = network(padded)[0].float()
        # the padding is symmetric, a voxel more behind than before where it is odd
        inside = tuple(slice((p - n) // 2, (p - n) // 2 + n) for p, n in zip(VOLUME, label.shape, strict=True))
        prediction = logits.argmax(0)[inside].cpu()
        cases.append({"case": Path(entry["image"]).name.split(".")[0], **scores(prediction, label)})
    return cases


def summary(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means and medians over cases, by class and score; a missing one counts in no distance."""
    found: dict[str, Any] = {"cases": len(cases)}
    for key in ("dice", "hd95_mm"):
        for number, name in enumerate(CLASSES):
            values = [case[key][number] for case in cases if case[key][number] is not None]
            found[f"{key}_{name}"] = statistics.fmean(values) if values else None
            found[f"{key}_{name}_median"] = statistics.median(values) if values else None
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--network", default="unet.UNet", help="below medseg.networks")
    parser.add_argument("--channels", type=int, nargs="+", default=list(VOLUME_CHANNELS))
    parser.add_argument("--fold", type=int, default=0, choices=range(_FOLDS))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=0.001)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    norm = ("instance", {"affine": True})
    network = resolve_name(f"medseg.networks.{options.network}")(3, 1, 3, channels=options.channels, norm=norm)
    network.to(pick_device(None))
    training, left_out = entries_of(options.data, options.fold)
    trainer = train(network, training, options)
    cases = score(trainer.predictor, left_out)
    steps = trainer.state.iteration
    result = {"training": len(training), "steps": steps, "seconds": trainer.seconds, **summary(cases), "each": cases}
    (options.output / "scores.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
