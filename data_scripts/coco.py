#!/usr/bin/env python
"""COCO 2017 with the 21 classes of Pascal VOC: draw the instances, write the datalist.

Data: T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, https://arxiv.org/abs/1405.0312: 118,287
images for training, 5,000 for validation, ``instances_{train,val}2017.json``. MFNet names COCO as its second data set
but not how classes, overlaps or images were chosen; its author's code does (https://github.com/nageshgurram12/
generic-semantic-segmentation, dataloaders/datasets/coco.py), and is followed:

Classes: of the 80 kinds of object the 20 of VOC, under VOC's names (the author fixes their numbers, 5, 2, 16 and so on,
which are those of the release); all else is background. Of overlapping objects the one that comes first in the file
counts. A crowd region is an object like any other, and nothing is ignored.

Lists: of both, only images on which objects cover more than 1,000 pixels (``--min-pixels``, the least number that is
kept; 0 keeps every image).

Deviation: an object covers the pixels whose centres lie inside one of its polygons; the author's pycocotools rounds
corners to a grid five times finer first, so that pixels on the border may differ.

Images keep their bytes as hard links, or copies where the file system has none; grey ones become RGB PNG. Every image
is a group.

Example::

    python data_scripts/coco.py --source train2017.zip val2017.zip annotations_trainval2017.zip --output data/coco
    python data_scripts/coco.py --source /data/coco --output data/coco
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.datalist import Datalist, Entry
from medseg.importers.drawing import decode_rle, fill_polygons
from medseg.releases.pictures import Pixels, link_image, write_png
from medseg.releases.prepare import SourceError, check_counts, clear, convert, find_one, make_parser, run

WHERE = (
    "the folder or archives with train2017, val2017 and annotations/instances_{train,val}2017.json of "
    "https://cocodataset.org/#download (19 GB, 1 GB, 0.2 GB)"
)
VOC_NAME = {
    **{"airplane": "aeroplane", "bicycle": "bicycle", "bird": "bird", "boat": "boat", "bottle": "bottle", "bus": "bus"},
    **{"car": "car", "cat": "cat", "chair": "chair", "cow": "cow", "dining table": "diningtable", "dog": "dog"},
    **{"horse": "horse", "motorcycle": "motorbike", "person": "person", "potted plant": "pottedplant"},
    **{"sheep": "sheep", "couch": "sofa", "train": "train", "tv": "tvmonitor"},
}
IGNORED = 255  # what a training pads labels with; no pixel of the release is
SPLITS = {"training": "train2017", "validation": "val2017"}
OFFICIAL = {"training": 118287, "validation": 5000}
MAX_BYTES = 64 * 2**30


@dataclass(frozen=True)
class Thing:
    """One annotation: class 1 to 20, its segmentation as in the JSON file, and where it stands, for messages."""

    label: int
    segmentation: Any
    where: str


@dataclass(frozen=True)
class Scene:
    """One image of ``(height, width)`` and what is annotated on it."""

    image: Path
    shape: tuple[int, int]
    things: list[Thing]


def draw(scene: Scene) -> Pixels:
    """Return the label of a scene, by the rule at the head of this script.

    Raises:
        SourceError: if a segmentation is neither polygons nor run lengths of the image's size.
    """
    label = np.zeros(scene.shape, np.uint8)
    for thing in scene.things:
        if isinstance(thing.segmentation, dict):
            mask = decode_rle(thing.segmentation, scene.shape, thing.where)
        elif isinstance(thing.segmentation, list):
            mask = fill_polygons(thing.segmentation, scene.shape, thing.where)
        else:
            raise SourceError(f"{thing.where}: its segmentation is {thing.segmentation}, not polygons or run lengths")
        label[mask & (label == 0)] = thing.label
    return label


def read_json(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the three lists of an instances file.

    Raises:
        SourceError: if it is damaged, or lacks a list or a key of an item.
    """
    needed: dict[str, dict[str, type]] = {
        "categories": {"id": int, "name": str},
        "images": {"id": int, "file_name": str, "height": int, "width": int},
        "annotations": {"id": int, "image_id": int, "category_id": int, "segmentation": object},
    }
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: damaged or no JSON ({error}); unpack it again") from error
    for part, keys in needed.items():
        items = content.get(part) if isinstance(content, dict) else None
        if not isinstance(items, list):
            raise SourceError(f"{path}: lacks the list {part!r}; take the instances, neither captions nor test images")
        for index, item in enumerate(items):
            for key, kind in keys.items():
                value = item.get(key) if isinstance(item, dict) else None
                if value is None or not isinstance(value, kind):
                    raise SourceError(f"{path}: {part}[{index}] lacks {key!r}, or of another type; take the instances")
    return {part: content[part] for part in needed}


def read_scenes(path: Path, images: Path) -> list[Scene]:
    """Return the scenes of one list by file name.

    Args:
        path: ``instances_*.json``.
        images: folder of the images.

    Raises:
        SourceError: if the file is not the release's, or an image is missing.
    """
    content = read_json(path)
    identity = {item["name"]: item["id"] for item in content["categories"]}
    for name in VOC_NAME:
        if name not in identity:
            raise SourceError(f"{path}: has no category {name!r}; take instances, neither keypoints nor stuff")
    label_of = {identity[name]: index for index, name in enumerate(VOC_NAME, start=1)}
    things: dict[int, list[Thing]] = defaultdict(list)
    known = {item["id"] for item in content["images"]}
    for item in content["annotations"]:
        where = f"{path}: annotation {item['id']}"
        if item["image_id"] not in known:
            raise SourceError(f"{where}: is of image {item['image_id']}, which the file does not list; unpack it again")
        if item["category_id"] in label_of:
            things[item["image_id"]].append(Thing(label_of[item["category_id"]], item["segmentation"], where))
    scenes = []
    for item in sorted(content["images"], key=lambda item: str(item["file_name"])):
        image = images / item["file_name"]
        if image.parent != images or image.name != item["file_name"]:
            raise SourceError(f"{path}: names the image {item['file_name']!r}, which leads elsewhere; unpack it again")
        if not image.is_file():
            raise SourceError(f"{image}: no such file, but {path} names it; unpack {images.name}.zip again")
        scenes.append(Scene(image, (item["height"], item["width"]), things[item["id"]]))
    return scenes


def find_scenes(folders: Sequence[Path], name: str, *, allow_partial: bool) -> list[Scene]:
    """Return the scenes of ``train2017`` or ``val2017``; nothing where a partial release lacks it altogether.

    Raises:
        SourceError: if images or annotations are missing.
    """
    images = find_one(folders, name, is_folder=True)
    path = find_one(folders, f"instances_{name}.json", is_folder=False)
    if allow_partial and images is None and path is None:
        return []
    if images is None or path is None:
        lacking = f"folder {name}" if images is None else f"file instances_{name}.json"
        raise SourceError(f"{', '.join(map(str, folders))}: no {lacking}; --source is {WHERE}")
    return read_scenes(path, images)


def write_scene(scene: Scene, output: Path, min_pixels: int) -> Entry | None:
    """Draw and write the label of a scene and link its image; ``None`` where objects cover too few pixels.

    Raises:
        SourceError: if the image has another size than the annotations say.
    """
    name, shape = link_image(scene.image, output, scene.image.stem)
    if shape != scene.shape:
        raise SourceError(
            f"{scene.image}: is {shape[0]}x{shape[1]}, but its annotations are for {scene.shape[0]}x{scene.shape[1]}; "
            "take both from the release again"
        )
    label = draw(scene)
    if np.count_nonzero(label) < min_pixels:
        (output / name).unlink()
        return None
    entry: Entry = {"image": name, "label": f"labels/{scene.image.stem}.png", "group": scene.image.stem}
    write_png(output / entry["label"], label)
    return entry


def record(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that decide what is written; ``None`` is whatever is there."""
    partial = None if options.allow_partial else False
    return {"script": "coco", "min_pixels": options.min_pixels, "partial": partial}


def prepare(folders: Sequence[Path], options: argparse.Namespace) -> str:
    """Write everything; returns what was done.

    Raises:
        ValueError: if the least number of pixels is negative.
        SourceError: if the release is not as expected, or not whole and ``--allow-partial`` is not given.
    """
    if options.min_pixels < 0:
        raise ValueError(f"--min-pixels is {options.min_pixels}; give a number of pixels, or 0 to keep every image")
    scenes = {split: find_scenes(folders, name, allow_partial=options.allow_partial) for split, name in SPLITS.items()}
    found = {split: len(part) for split, part in scenes.items()}
    where = Path(folders[0])
    counts = check_counts(found, OFFICIAL, where=where, allow_partial=options.allow_partial)
    target = options.output / "datalist.json"
    clear(target, "coco")
    jobs = [*scenes["training"], *scenes["validation"]]
    made = convert(jobs, lambda scene: write_scene(scene, options.output, options.min_pixels), "drawing labels")
    training = [entry for entry in made[: found["training"]] if entry is not None]
    validation = [entry for entry in made[found["training"] :] if entry is not None]
    if not training and not validation:
        raise SourceError(f"{where}: no image has {options.min_pixels} pixels of the 20 classes; lower --min-pixels")
    Datalist(
        name="coco2017_voc",
        version=1,
        modality=("photograph",),
        licence="annotations CC-BY-4.0; terms of Flickr for the images",
        source="https://cocodataset.org",
        labels=dict(enumerate(("background", *VOC_NAME.values()))),
        ignore_index=IGNORED,
        training=training,
        validation=validation,
        path=target,
        preparation={**record(options), "partial": found != OFFICIAL},
    ).save()
    least = f"{options.min_pixels} pixels or more of the 20 classes"
    return f"{counts}, of which {len(training)} and {len(validation)} have {least}"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = make_parser(__doc__, WHERE, fixed=True)
    made.add_argument("--min-pixels", type=int, default=1001, help="leave images with less out (default: %(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(arguments)
    return run(options, record(options), lambda folders: prepare(folders, options), max_bytes=MAX_BYTES)


if __name__ == "__main__":
    sys.exit(main())
