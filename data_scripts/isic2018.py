#!/usr/bin/env python
"""ISIC 2018 task 1, skin lesions: fetch or read the training data, divide, resize, write the datalist.

Data: N. Codella et al., "Skin Lesion Analysis Toward Melanoma Detection 2018: A Challenge Hosted by the International
Skin Imaging Collaboration (ISIC)", https://arxiv.org/abs/1902.03368: 2594 dermoscopic images of many sizes with one
mask each. Of the release only the training part is used; its validation and test parts came later.

Division, as in FocusNet++ (https://arxiv.org/abs/1912.02079): 1815 images for training, 259 for validation, 520 for
the test, three fixed lists. The paper does not say which: they are drawn with a fixed seed over the sorted names, or,
with ``--division listed``, are the first, the next and the last of the sorted names. So does the preparation whose
arrays FocusNet++'s code reads (https://github.com/rezazad68/BCDU-Net), but over the names as the folder gives them,
which is by name on some file systems alone: probably the paper's lists, or near them. Names follow collections, so that
listed parts differ more from each other than drawn ones. Of fewer images the same shares are taken, and the script says
so. The release names no patients: every image is a group.

Size: 256x256 with anti-aliasing (`medseg.releases.pictures`), the aspect ratio is lost, as in the paper; a mask's pixel
is lesion where more than half of it was. ``--size 0`` keeps size and bytes of the images. Each entry names its file in
the release (``original``) and the size there, height before width (``original_size``), so that predictions can be
judged at full size where the release is still at hand; downloaded archives stay in the folder ``download``.

Classes: 0 skin, 1 lesion.

Example::

    python data_scripts/isic2018.py --output data/isic2018
    python data_scripts/isic2018.py --source /data/isic --output data/isic2018
    python data_scripts/isic2018.py --source ISIC2018_Task1-2_Training_Input.zip \
        ISIC2018_Task1_Training_GroundTruth.zip --output data/isic2018
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.datalist import SPLITS, Datalist, Entry
from medseg.io.images import read_image
from medseg.releases.pictures import read_mask, resize_image, resize_mask, write_png
from medseg.releases.prepare import SourceError, clear, convert, find_one, make_parser, run

IMAGES = "ISIC2018_Task1-2_Training_Input"
LABELS = "ISIC2018_Task1_Training_GroundTruth"
HOST = "https://isic-challenge-data.s3.amazonaws.com/2018/"
URLS = (f"{HOST}{IMAGES}.zip", f"{HOST}{LABELS}.zip")
WHERE = f"the folders or archives {IMAGES} and {LABELS} of https://challenge.isic-archive.com/data/#2018"
SIZES = (1815, 259, 520)
MAX_BYTES = 64 * 2**30


def find_pairs(folders: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Return image and mask of every lesion, by name.

    Raises:
        SourceError: if a folder is missing or empty, or an image has no mask or a mask no image.
    """
    places = [find_one(folders, name, is_folder=True) for name in (IMAGES, LABELS)]
    for place, name in zip(places, (IMAGES, LABELS), strict=True):
        if place is None:
            raise SourceError(f"{', '.join(map(str, folders))}: no folder {name}; give it as --source: {WHERE}")
    image_folder, label_folder = (place for place in places if place is not None)
    images = {path.stem: path for path in sorted(image_folder.glob("ISIC_*.jpg"))}
    labels = {path.stem.removesuffix("_segmentation"): path for path in label_folder.glob("ISIC_*_segmentation.png")}
    for stem in sorted(images.keys() ^ labels.keys()):
        lacking = label_folder / f"{stem}_segmentation.png" if stem in images else image_folder / f"{stem}.jpg"
        other = images.get(stem) or labels[stem]
        raise SourceError(f"{lacking}: no such file, but {other} is there; take both from the release again")
    if len(images) < len(SPLITS):
        raise SourceError(f"{image_folder}: holds {len(images)} images; three lists need at least 3 (ISIC_*.jpg)")
    return [(path, labels[stem]) for stem, path in images.items()]


def share_out(count: int, seed: int | None) -> list[str]:
    """Return the list of each of `count` images: 1815 / 259 / 520 of 2594, the same shares of fewer, one at least.

    Args:
        count: of images.
        seed: draws the lists; ``None`` cuts the images in their order.
    """
    whole = sum(SIZES)
    training, validation = (max(1, round(count * size / whole)) for size in SIZES[:2])
    training = min(training, count - validation - 1)
    lists = [SPLITS[0]] * training + [SPLITS[1]] * validation
    lists += [SPLITS[2]] * (count - len(lists))
    if seed is not None:
        random.Random(seed).shuffle(lists)
    return lists


def write_pair(image: Path, label: Path, output: Path, size: int) -> Entry:
    """Read, resize and write an image and its mask.

    Raises:
        SourceError: if the image is not an 8-bit colour picture, or the mask has another size.
        ImageError: if a file cannot be read, or the mask holds another value than 0 and 255.
    """
    pixels, mask = read_image(image).array, read_mask(label)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise SourceError(f"{image}: {pixels.dtype} with shape {pixels.shape}, but the release has 8-bit RGB pictures")
    height, width = pixels.shape[:2]
    if mask.shape != (height, width):
        raise SourceError(
            f"{label}: is {mask.shape[0]}x{mask.shape[1]}, but its image {image.name} is {height}x{width}; "
            "take both from the release again"
        )
    entry: Entry = {"image": f"images/{image.stem}.png", "label": f"labels/{image.stem}.png", "group": image.stem}
    if size:
        write_png(output / entry["image"], resize_image(pixels, size))
    else:
        entry["image"] = f"images/{image.name}"
        (output / "images").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, output / entry["image"])
    write_png(output / entry["label"], resize_mask(mask, size).astype(np.uint8))
    return {**entry, "original": f"{IMAGES}/{image.name}", "original_size": [height, width]}


def record(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that decide what is written."""
    drawn = options.division == "drawn"
    return {"script": "isic2018", "size": options.size, **({"seed": options.seed} if drawn else {"division": "listed"})}


def prepare(folders: Sequence[Path], options: argparse.Namespace) -> str:
    """Write everything; returns what was done.

    Raises:
        ValueError: if the size is negative, or the release is not as expected.
    """
    if options.size < 0:
        raise ValueError(f"--size is {options.size}; give an edge in pixels, or 0 to keep the size")
    pairs = find_pairs(folders)
    target = options.output / "datalist.json"
    clear(target, "isic2018")
    entries = convert(pairs, lambda pair: write_pair(*pair, options.output, options.size), "resizing images")
    lists: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    seed = options.seed if options.division == "drawn" else None
    for entry, split in zip(entries, share_out(len(entries), seed), strict=True):
        lists[split].append(entry)
    Datalist(
        name="isic2018_task1",
        version=1,
        modality=("dermoscopy",),
        licence="terms of the ISIC 2018 challenge, non-commercial",
        source="https://challenge.isic-archive.com/data/#2018",
        labels={0: "skin", 1: "lesion"},
        training=lists["training"],
        validation=lists["validation"],
        test=lists["test"],
        path=target,
        preparation=record(options),
    ).save()
    shares = " / ".join(str(len(lists[split])) for split in SPLITS)
    whole = (
        "" if len(entries) == sum(SIZES) else f" (the release has {sum(SIZES)}: 1815 / 259 / 520, here in proportion)"
    )
    return f"{shares} images for training / validation / test{whole}"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = make_parser(__doc__, WHERE, URLS)
    made.add_argument("--size", type=int, default=256, help="edge in pixels, 0 keeps the size (default: %(default)s)")
    made.add_argument(
        "--division",
        choices=("drawn", "listed"),
        default="drawn",
        help="how the three lists come about: drawn by the seed, or cut from the names in order (default: %(default)s)",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(arguments)
    return run(options, record(options), lambda folders: prepare(folders, options), max_bytes=MAX_BYTES)


if __name__ == "__main__":
    sys.exit(main())
