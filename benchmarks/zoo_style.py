"""The same small network trained by medseg and by a configuration in the style of the MONAI model zoo.

The zoo's training configurations post-process every training batch (`AsDiscreted`), compute a training metric from it
and track every iteration in MLflow; that stands against medseg's engine here, with the same network, data, batch
and augmentation. Both minimise focal + IoU loss: the zoo's by MONAI's `DiceFocalLoss(jaccard=True)`, medseg's by the
bundle's `FocalIoULoss`; a third training, medseg's engine with MONAI's loss, shows what the engine alone does. Every
training runs in a process of its own, in turn, so that none is helped by another's allocator or by a drifting machine.

    python -m benchmarks.zoo_style
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.handlers import MeanDice, MLFlowHandler, StatsHandler, from_engine
from monai.inferers import SimpleInferer
from monai.losses import DiceFocalLoss
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureTyped,
    LoadImaged,
    RandFlipd,
    RandRotate90d,
    ScaleIntensityRanged,
)

from benchmarks.common import report
from benchmarks.trainer import sections
from medseg.engines.loading import SegmentationDataset
from medseg.engines.trainer import Trainer
from medseg.io.load import LoadImagesd
from medseg.losses.focal_iou import FocalIoULoss
from medseg.networks.lfa_unet import LFAUNet
from medseg.runs.run import Run

KEYS = ["image", "label"]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SCALE = {"keys": "image", "a_min": 0, "a_max": 255, "b_min": 0, "b_max": 1}


def augmentation() -> list[Any]:
    return [RandFlipd(keys=KEYS, prob=0.5, spatial_axis=0), RandRotate90d(keys=KEYS, prob=0.75)]


def loss() -> torch.nn.Module:
    return DiceFocalLoss(to_onehot_y=True, softmax=True, jaccard=True, batch=True)  # type: ignore[no-any-return]


def make_network(channels: list[int]) -> LFAUNet:
    torch.manual_seed(0)
    return LFAUNet(2, 1, 5, channels=channels).to(DEVICE)


def zoo(entries: list[dict[str, Any]], options: argparse.Namespace, folder: Path) -> float:
    """Return the seconds of the last epoch of a zoo-style training."""
    load = LoadImaged(keys=KEYS, ensure_channel_first=True, reader="PILReader")
    fixed = [load, ScaleIntensityRanged(**SCALE), EnsureTyped(keys=KEYS)]
    dataset = CacheDataset(entries, Compose([*fixed, *augmentation()]), progress=False, num_workers=2)
    network = make_network(options.channels)
    tracking = f"sqlite:///{folder / 'zoo.db'}"
    trainer = SupervisedTrainer(
        device=DEVICE,
        max_epochs=options.epochs,
        train_data_loader=DataLoader(dataset, batch_size=options.batch_size, shuffle=True),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=1e-3),
        loss_function=loss(),
        inferer=SimpleInferer(),
        postprocessing=Compose(
            [
                Activationsd(keys="pred", softmax=True),
                AsDiscreted(keys=["pred", "label"], argmax=[True, False], to_onehot=5),
            ]
        ),
        key_train_metric={"train_dice": MeanDice(output_transform=from_engine(["pred", "label"]))},
        train_handlers=[
            StatsHandler(tag_name="train_loss", output_transform=from_engine(["loss"], first=True)),
            MLFlowHandler(
                tracking_uri=tracking,
                experiment_name="zoo",
                output_transform=from_engine(["loss"], first=True),
                close_on_complete=True,
            ),
        ],
    )
    stamps = _epoch_stamps(trainer)
    trainer.run()
    return stamps[-1] - stamps[-2]


def ours(entries: list[dict[str, Any]], options: argparse.Namespace, folder: Path) -> float:
    """Return the seconds of the last epoch of medseg's training, tracked in MLflow and on disk."""
    return _ours(entries, options, folder, FocalIoULoss())


def ours_with_monais_loss(entries: list[dict[str, Any]], options: argparse.Namespace, folder: Path) -> float:
    """Return the seconds of the last epoch of medseg's training with the zoo's loss."""
    return _ours(entries, options, folder, loss())


def _ours(
    entries: list[dict[str, Any]], options: argparse.Namespace, folder: Path, criterion: torch.nn.Module
) -> float:
    fixed = [LoadImagesd(keys=KEYS), ScaleIntensityRanged(**SCALE)]
    dataset = SegmentationDataset(entries, fixed, augmentation())
    network = make_network(options.channels)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    run = Run(folder / "ours")
    trainer = Trainer(
        options.epochs,
        DEVICE,
        dataset,
        network,
        criterion,
        optimizer,
        run,
        batch_size=options.batch_size,
        precision="fp32",
    )
    stamps = _epoch_stamps(trainer)
    trainer.run()
    return stamps[-1] - stamps[-2]


def _epoch_stamps(trainer: SupervisedTrainer) -> list[float]:
    stamps: list[float] = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: stamps.append(time.perf_counter()))
    return stamps


Training = Callable[[list[dict[str, Any]], argparse.Namespace, Path], float]


def _measure(training: Training, entries: list[dict[str, Any]], options: argparse.Namespace) -> float:
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        return training(entries, options, Path(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    trainings = {"zoo_style": zoo, "medseg": ours, "medseg_with_monais_loss": ours_with_monais_loss}
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    with tempfile.TemporaryDirectory() as folder:
        entries = [
            {k: str(Path(folder) / v) for k, v in entry.items() if k in KEYS}
            for entry in sections(Path(folder), options.samples)
        ]
        for _ in range(options.repeats):
            for name, training in trainings.items():
                with multiprocessing.get_context("spawn").Pool(1) as process:
                    seconds[name].append(process.apply(_measure, (training, entries, options)))
    images = options.samples // options.batch_size * options.batch_size
    result: dict[str, Any] = {
        "channels": options.channels,
        "batch_size": options.batch_size,
        "samples": options.samples,
    }
    for name, values in seconds.items():
        result[f"images_per_second_{name}"] = images / statistics.median(values)
    pairs = [slow / fast for slow, fast in zip(seconds["zoo_style"], seconds["medseg"], strict=True)]
    result["ratio"] = statistics.median(pairs)
    result["ratios"] = [round(pair, 3) for pair in pairs]
    result["ratio_with_monais_loss"] = statistics.median(
        slow / fast for slow, fast in zip(seconds["zoo_style"], seconds["medseg_with_monais_loss"], strict=True)
    )
    result["target_ratio"] = 1.5
    report("medseg / model-zoo style", result, options.json)


if __name__ == "__main__":
    main()
