"""A tiny data set of images on disk, and tiny networks that train on it in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, RandFlipd, RandGaussianNoised, RandRotate90d, ScaleIntensityRanged
from PIL import Image
from torch import Tensor, nn

from medseg.data.datalist import Datalist, Entry
from medseg.engines.evaluator import Evaluator
from medseg.engines.loading import SegmentationDataset
from medseg.engines.run import Run
from medseg.engines.trainer import Trainer
from medseg.transforms.load import LoadImagesd

CPU = torch.device("cpu")
LABELS = {0: "background", 1: "bright disc", 2: "stripe"}
SIZE = 32


def write_data(folder: Path, count: int = 12, *, size: int = SIZE, ignore_index: int | None = None) -> Path:
    """Write ``count`` images with a disc and a stripe in four folds, and return the datalist's path."""
    random = np.random.default_rng(5)
    rows, columns = np.mgrid[:size, :size]
    entries = []
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        label = np.zeros((size, size), np.uint8)
        centre = random.integers(size // 4, 3 * size // 4, 2)
        label[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (size / 5) ** 2] = 1
        at = int(random.integers(0, size - 4))
        label[at : at + 4] = 2
        values = np.array([60, 190, 120])[label] + random.normal(0, 12, label.shape)
        if ignore_index is not None:
            label[:3] = ignore_index
        entry = {"image": f"images/{number:02d}.png", "label": f"labels/{number:02d}.png"}
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(folder / entry["image"])
        Image.fromarray(label).save(folder / entry["label"])
        entries.append({**entry, "group": f"g{number % 4}", "fold": number % 4})
    content = {
        "name": "discs", "version": 1, "modality": ["none"], "licence": "CC0-1.0", "source": "drawn by the tests",
        "labels": {str(k): v for k, v in LABELS.items()}, "ignore_index": ignore_index,
        "training": entries, "validation": [], "test": [],
    }  # fmt: skip
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder / "datalist.json"


def fixed() -> list[Any]:
    return [LoadImagesd(["image", "label"]), ScaleIntensityRanged("image", a_min=0, a_max=255, b_min=0, b_max=1)]


def augmentation() -> list[Any]:
    keys = ["image", "label"]
    return [RandFlipd(keys, prob=0.5, spatial_axis=0), RandRotate90d(keys, prob=0.75), RandGaussianNoised("image", 0.5)]


class Counting(MapTransform):
    """Count how often it is asked."""

    def __init__(self) -> None:
        super().__init__(["image"])
        self.calls = 0

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        return data


def training(datalist: Path) -> list[Entry]:
    return Datalist.load(datalist).split(0)[0]


def plain_network(seed: int = 3) -> nn.Sequential:
    """Two convolutions: no norm, no dropout, so that a batch is the sum of its parts."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))


def full_network(seed: int = 3) -> nn.Sequential:
    """With a batch norm (buffers, a counter) and dropout (random numbers)."""
    torch.manual_seed(seed)
    first = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.3)]
    return nn.Sequential(*first, nn.Conv2d(8, 3, 3, padding=1))


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, label[:, 0].long())


class Training:
    """All parts of one training, to be looked at after it."""

    def __init__(
        self,
        datalist: Path,
        folder: Path,
        *,
        network: nn.Module | None = None,
        max_epochs: int = 2,
        validate: bool = True,
        augment: bool = False,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        learning_rate: float = 0.01,
        loss: Callable[..., Tensor] = cross_entropy,
        publish: Path | None = None,
        **options: Any,
    ) -> None:
        data = Datalist.load(datalist)
        split = data.split(0)
        self.network = network if network is not None else plain_network()
        self.dataset = SegmentationDataset(split[0], fixed(), augmentation() if augment else None, seed=4)
        self.evaluator = Evaluator(
            CPU, SegmentationDataset(split[1] if validate else [], fixed()), self.network, data.labels
        )
        self.optimizer = optimizer(self.network.parameters(), lr=learning_rate)
        self.folder = folder
        self.run = Run(
            folder, config=lambda: {"seed": 4}, datalist=data, split={"fold": 0}, publish=publish, tracking=False
        )
        options = {"batch_size": 2, "seed": 4, **options}
        self.trainer = Trainer(
            max_epochs, CPU, self.dataset, self.network, loss, self.optimizer, self.run, evaluator=self.evaluator,
            **options,
        )  # fmt: skip

    def go(self) -> Training:
        self.trainer.run()
        return self

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.network.state_dict().items()}

    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
