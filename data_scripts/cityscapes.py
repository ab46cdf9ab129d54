#!/usr/bin/env python
"""Cityscapes, fine annotations, 19 classes: read, check, write the datalist.

Data: M. Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016,
https://arxiv.org/abs/1604.01685: 2,975 images for training (18 cities), 500 for validation (3 cities), of 1024x2048
pixels. The test images have no public labels and are left out.

Labels: of ``*_gtFine_labelIds.png`` (0 to 33) the 19 classes of the benchmark become 0 to 18, all else 255, ignored.
``group`` is the city. Images keep their bytes as hard links, or copies where the file system has none.

Example::

    python data_scripts/cityscapes.py --source leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip \
        --output data/cityscapes
    python data_scripts/cityscapes.py --source /data/cityscapes --output data/cityscapes
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.datalist import Datalist, Entry
from medseg.importers.layouts.cityscapes import CLASS_OF_ID
from medseg.releases.pictures import Pixels, link_image, read_indices, write_png
from medseg.releases.prepare import SourceError, check_counts, clear, convert, find_one, make_parser, run

IMAGES, LABELS = "leftImg8bit", "gtFine"
WHERE = (
    f"the folders {IMAGES} and {LABELS}, or {IMAGES}_trainvaltest.zip (11 GB) and {LABELS}_trainvaltest.zip, which "
    "need a login: https://www.cityscapes-dataset.com/downloads"
)
IGNORED, HIGHEST_ID = 255, 33
SPLITS = {"training": "train", "validation": "val"}
OFFICIAL = {"training": 2975, "validation": 500}
OTHERS = {
    "instanceIds": "16-bit numbers of instances",
    "color": "colours for looking at",
    "labelTrainIds": "classes 0 to 18, made from the release by another tool",
}
MAX_BYTES = 64 * 2**30


@dataclass(frozen=True)
class Scene:
    """One image and its label; the name begins with the city."""

    name: str
    city: str
    image: Path
    label: Path


def find_scenes(images: Path, labels: Path, *, allow_partial: bool) -> list[Scene]:
    """Return the scenes of one list by name; nothing where a partial release lacks the list altogether.

    Args:
        images: e.g. ``leftImg8bit/train``, with a folder for each city.
        labels: e.g. ``gtFine/train``.
        allow_partial: see above.

    Raises:
        SourceError: if a folder is missing, or an image has no label or a label no image.
    """
    if allow_partial and not images.is_dir() and not labels.is_dir():
        return []
    for place in (images, labels):
        if not place.is_dir():
            raise SourceError(f"{place}: no such folder; --source is {WHERE}")
    scenes = []
    for image in sorted(images.glob(f"*/*_{IMAGES}.png")):
        city, name = image.parent.name, image.name.removesuffix(f"_{IMAGES}.png")
        label = labels / city / f"{name}_{LABELS}_labelIds.png"
        if not label.is_file():
            raise SourceError(f"{label}: no such file, but {image} is there; {_what_else(label)}")
        scenes.append(Scene(name, city, image, label))
    known = {scene.label for scene in scenes}
    for label in sorted(labels.glob("*/*_labelIds.png")):
        if label not in known:
            image = images / label.parent.name / label.name.replace(f"_{LABELS}_labelIds", f"_{IMAGES}")
            raise SourceError(f"{image}: no such file, but {label} is there; take both from the release again")
    return scenes


def _what_else(label: Path) -> str:
    """Say which file beside a missing label might be taken for it."""
    for kind, content in OTHERS.items():
        other = label.with_name(label.name.replace("labelIds", kind))
        if other.is_file():
            return f"{other.name} holds {content}: unpack {LABELS}_trainvaltest.zip again, which has labelIds"
    return "take both from the release again"


def read_label(path: Path, image: Path, shape: tuple[int, ...]) -> Pixels:
    """Read a label as classes 0 to 18 with 255 for what counts nowhere.

    Raises:
        SourceError: if it holds a value above 33.
        ImageError: if it is a colour picture, not 8 bit, or of another size.
    """
    pixels = read_indices(path, image, shape)
    if pixels.max() > HIGHEST_ID:
        raise SourceError(
            f"{path}: holds the value {pixels.max()}, but labelIds are 0 to {HIGHEST_ID}; 255 is in labelTrainIds, "
            "classes already; take labelIds from the release again"
        )
    class_of_id = np.full(HIGHEST_ID + 1, IGNORED, np.uint8)
    class_of_id[list(CLASS_OF_ID)] = np.arange(len(CLASS_OF_ID))
    return class_of_id[pixels]


def write_scene(scene: Scene, output: Path) -> Entry:
    """Link the image and write the label of a scene."""
    name, shape = link_image(scene.image, output, scene.name)
    entry: Entry = {"image": name, "label": f"labels/{scene.name}.png", "group": scene.city}
    write_png(output / entry["label"], read_label(scene.label, scene.image, shape))
    return entry


def record(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that decide what is written; ``None`` is whatever is there."""
    return {"script": "cityscapes", "partial": None if options.allow_partial else False}


def prepare(folders: Sequence[Path], options: argparse.Namespace) -> str:
    """Write everything; returns what was done.

    Raises:
        SourceError: if the release is not as expected, or not whole and ``--allow-partial`` is not given.
    """
    places = [find_one(folders, name, is_folder=True) for name in (IMAGES, LABELS)]
    for place, name in zip(places, (IMAGES, LABELS), strict=True):
        if place is None:
            raise SourceError(f"{', '.join(map(str, folders))}: no folder {name}; --source is {WHERE}")
    images, labels = (place for place in places if place is not None)
    scenes = {
        split: find_scenes(images / folder, labels / folder, allow_partial=options.allow_partial)
        for split, folder in SPLITS.items()
    }
    found = {split: len(part) for split, part in scenes.items()}
    counts = check_counts(found, OFFICIAL, where=images, allow_partial=options.allow_partial)
    for city in sorted({scene.city for scene in scenes["training"]} & {scene.city for scene in scenes["validation"]}):
        raise SourceError(f"{images}: train and val both hold {city}, but share no city; unpack the release again")
    target = options.output / "datalist.json"
    clear(target, "cityscapes")
    jobs = [*scenes["training"], *scenes["validation"]]
    entries = convert(jobs, lambda scene: write_scene(scene, options.output), "reading labels")
    Datalist(
        name="cityscapes",
        version=1,
        modality=("photograph",),
        licence="https://www.cityscapes-dataset.com/license, non-commercial research",
        source="https://www.cityscapes-dataset.com",
        labels=dict(enumerate(CLASS_OF_ID.values())),
        ignore_index=IGNORED,
        training=entries[: found["training"]],
        validation=entries[found["training"] :],
        path=target,
        preparation={**record(options), "partial": found != OFFICIAL},
    ).save()
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = make_parser(__doc__, WHERE, fixed=True).parse_args(arguments)
    return run(options, record(options), lambda folders: prepare(folders, options), max_bytes=MAX_BYTES)


if __name__ == "__main__":
    sys.exit(main())
