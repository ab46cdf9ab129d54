"""What loading a sample of a scene bundle takes of a processor: pictures as large as the releases', by the recipes.

    python -m benchmarks.scene_loading --json docs/results/scene_loading_cpu.json

Pictures are made up (blurred noise, as large as those of PASCAL VOC, ADE20K and Cityscapes) and go through the data set
and loader of a training, in this process: reading a sample from its files, augmenting and batching one that is in
memory, and, for comparison, batching ready tensors of the crop's size. Figures are processor milliseconds a sample,
which other work on the machine changes little: 1000 over their sum is what one loading process gives a second of
samples that memory does not hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from monai.bundle import ConfigParser
from PIL import Image

from benchmarks.common import BUNDLES, report
from benchmarks.trainer import InMemory
from medseg.engines.loading import SegmentationDataset, make_loader


@dataclass(frozen=True)
class Release:
    """Pictures as a release has them: width, height, the suffix of the images."""

    width: int
    height: int
    suffix: str


VOC, ADE20K, CITYSCAPES = Release(500, 375, ".jpg"), Release(683, 512, ".jpg"), Release(2048, 1024, ".png")
SCENES = {
    "df_dam_voc": VOC,
    "mfnet_voc": VOC,
    "refine_multi_scale_voc": VOC,
    "refine_multi_scale_ade20k": ADE20K,
    "df_dam_cityscapes": CITYSCAPES,
}


def write_release(folder: Path, release: Release, classes: Sequence[str], images: int) -> None:
    """Write pictures, their labels in blocks, and the datalist.

    Args:
        folder: new.
        release: what pictures they are.
        classes: by number.
        images: how many.
    """
    random, size = np.random.default_rng(0), (release.width, release.height)
    entries = []
    for number in range(images):
        coarse = random.integers(0, 256, (release.height // 16, release.width // 16, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(image + random.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
        blocks = random.integers(0, len(classes), (release.height // 64, release.width // 64), dtype=np.uint8)
        entry = {"image": f"{number}{release.suffix}", "label": f"{number}_label.png", "group": str(number)}
        Image.fromarray(noisy).save(folder / entry["image"], quality=90)
        Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(folder / entry["label"])
        entries.append(entry)
    named = {str(number): name for number, name in enumerate(classes)}
    content = {"name": "made", "version": 1, "modality": ["photograph"], "licence": "CC0", "source": "made"}
    content |= {"labels": named, "ignore_index": 255, "training": entries, "validation": entries[:1], "test": []}
    (folder / "datalist.json").write_text(json.dumps(content))


def dataset_of(bundle: str, folder: Path) -> tuple[SegmentationDataset, tuple[int, ...]]:
    """Return a training's data set as the bundle's configuration builds it, and the size of its samples.

    Args:
        bundle: its name.
        folder: of the datalist.
    """
    parser = ConfigParser(yaml.safe_load((BUNDLES / bundle / "configs" / "train.yaml").read_text()))
    parser.update({"dataset_dir": str(folder), "encoder_weights": "random"})
    return parser.get_parsed_content("train#dataset"), tuple(parser["patch"])


def milliseconds(dataset: SegmentationDataset, passes: int) -> list[float]:
    """Return the processor milliseconds a sample of each pass of a loader in this process.

    Args:
        dataset: of samples of one size.
        passes: over it.
    """
    loader, found = make_loader(dataset, 2, shuffle=True), []
    for _ in range(passes):
        start, count = time.process_time(), 0
        for batch in loader:
            count += int(batch["image"].shape[0])
        found.append(1000 * (time.process_time() - start) / count)
    return found


def measured(bundle: str, images: int, repeats: int, release: Release | None = None) -> dict[str, Any]:
    """Return what a sample of a bundle takes, medians over repeats.

    Args:
        bundle: its name.
        images: so many.
        repeats: passes.
        release: other pictures than the bundle's.
    """
    made = release or SCENES[bundle]
    classes = yaml.safe_load((BUNDLES / bundle / "configs" / "train.yaml").read_text())["model"]["classes"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_release(folder, made, classes, images)
        dataset, crop = dataset_of(bundle, folder)
        dataset[0]  # imports, once, and fills the cache
        reading = []
        for _ in range(repeats):
            start = time.process_time()
            for number in range(images):
                dataset.whole(number)
            reading.append(1000 * (time.process_time() - start) / images)
        kept = milliseconds(dataset, repeats)
    tensors = [
        {"image": torch.zeros(3, *crop), "label": torch.zeros(1, *crop, dtype=torch.uint8)} for _ in range(images)
    ]
    ready = milliseconds(InMemory(tensors), repeats)
    return {
        "pictures": [made.width, made.height], "format": made.suffix.lstrip("."), "crop": list(crop), "images": images,
        "read": statistics.median(reading), "augment": statistics.median(kept),
        "ready_tensors": statistics.median(ready),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16, help="of each bundle (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result = {bundle: measured(bundle, options.images, options.repeats) for bundle in SCENES}
    report("scene_loading, processor ms a sample", result, options.json)


if __name__ == "__main__":
    main()
