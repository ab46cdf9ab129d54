#!/usr/bin/env python
"""Pascal VOC 2012, semantic segmentation, with the annotations of SBD where given: read, check, write the datalist.

Data: M. Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 88, 2010,
https://doi.org/10.1007/s11263-009-0275-4; 1,464 images for training, 1,449 for validation. SBD: B. Hariharan et al.,
"Semantic Contours from Inverse Detectors", ICCV 2011, https://doi.org/10.1109/ICCV.2011.6126343.

``--training`` chooses the training list: ``train`` is VOC's own; ``train_aug`` (default where SBD is given) the union
of VOC's and both lists of SBD less VOC's validation list, 10,582 images; ``trainval`` VOC's training and validation
lists together, 2,913 images, for masks that the test server scores: no image is then left to validate on. Labels are
VOC's wherever VOC has one (``label_source`` of the entry is ``voc``), SBD's elsewhere (``sbd``; its masks have no void
border).

Images keep their bytes as hard links, or copies where the file system has none; labels become grey PNG of indices.
Classes: 0 background and 20 kinds of object; 255 is void and ignored. Every image is a group.

Example::

    python data_scripts/voc2012.py --source VOCtrainval_11-May-2012.tar --output data/voc2012
    python data_scripts/voc2012.py --source VOCtrainval_11-May-2012.tar benchmark.tgz --output data/voc2012_aug
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
from medseg.releases.pictures import Pixels, link_image, read_indices, write_png
from medseg.releases.prepare import SourceError, check_counts, clear, convert, find_one, make_parser, run

WHERE = (
    "the folder VOCdevkit or VOCtrainval_11-May-2012.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2012, and "
    "optionally the folder benchmark_RELEASE or benchmark.tgz of SBD, http://home.bharathh.info/pubs/codes/SBD"
)
CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
VOID = 255
OFFICIAL = {"train": 1464, "train_aug": 10582, "trainval": 2913, "val": 1449}
MAX_BYTES = 16 * 2**30


@dataclass(frozen=True)
class Scene:
    """One image and its label: a PNG of VOC or a MAT file of SBD."""

    name: str
    image: Path
    label: Path


def read_list(path: Path) -> list[str]:
    """Read a list of image names, sorted.

    Raises:
        SourceError: if it is missing, or a line is not one name, or a name is there twice.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file; --source is {WHERE}")
    names = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    for name in names:
        if not name.replace("_", "").replace("-", "").isalnum():
            raise SourceError(
                f"{path}: holds the line {name!r}, but a line is one image's name; take the official list"
            )
    if len(set(names)) < len(names):
        twin = next(name for name in names if names.count(name) > 1)
        raise SourceError(f"{path}: names {twin} twice; take the official list")
    return sorted(names)


def find_scenes(voc: Path, sbd: Path | None) -> tuple[list[Scene], list[Scene]]:
    """Return the scenes for training and validation; with SBD, the training list is ``train_aug``.

    Args:
        voc: folder ``VOC2012``.
        sbd: folder ``benchmark_RELEASE``, or ``None``.

    Raises:
        SourceError: if a list, or a file that a list names, is missing, or a list shares names with the other.
    """
    lists = voc / "ImageSets" / "Segmentation"
    training, validation = read_list(lists / "train.txt"), read_list(lists / "val.txt")
    both = sorted(set(training).intersection(validation))
    if both:
        raise SourceError(f"{lists}: train.txt and val.txt both name {both[0]}; take the official lists")
    own, held_out = set(training), set(validation)
    if sbd is not None:
        more = (name for part in ("train", "val") for name in read_list(sbd / "dataset" / f"{part}.txt"))
        training = sorted(own.union(more).difference(held_out))

    def scene(name: str) -> Scene:
        label = voc / "SegmentationClass" / f"{name}.png"
        if sbd is not None and name not in own and name not in held_out:
            label = sbd / "dataset" / "cls" / f"{name}.mat"
        return Scene(name, voc / "JPEGImages" / f"{name}.jpg", label)

    scenes = [scene(name) for name in training], [scene(name) for name in validation]
    for path in (path for part in scenes for place in part for path in (place.image, place.label)):
        if not path.is_file():
            raise SourceError(f"{path}: no such file, but a list of the release names it; unpack the release again")
    return scenes


def read_mat(path: Path) -> Pixels:
    """Read class indices from a MAT file of SBD.

    Raises:
        SourceError: if it is damaged or holds no class indices.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # the decoder raises nearly every type on damaged bytes
        raise SourceError(f"{path}: damaged or no MAT file ({error}); take it from SBD again") from error
    if "GTcls" not in content:
        held = ", ".join(key for key in content if not key.startswith("__")) or "nothing"
        raise SourceError(
            f"{path}: holds {held}, but GTcls with the class indices is needed; take the folder cls of SBD, not inst"
        )
    structure = content["GTcls"]
    if structure.shape != (1, 1) or "Segmentation" not in (structure.dtype.names or ()):
        raise SourceError(f"{path}: its GTcls lacks Segmentation; take it from SBD again")
    pixels = np.asarray(structure["Segmentation"][0, 0])
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise SourceError(
            f"{path}: Segmentation is {pixels.dtype} with shape {pixels.shape}, but indices are uint8 HxW"
        )
    return pixels


def read_label(place: Scene, shape: tuple[int, ...]) -> Pixels:
    """Read the label of a scene.

    Raises:
        SourceError: if it is not the release's, holds another value than 0 to 20 and 255, or has another size.
        ImageError: the same of a PNG.
    """
    if place.label.suffix == ".mat":
        pixels = read_mat(place.label)
        if pixels.shape != shape:
            raise SourceError(
                f"{place.label}: is {pixels.shape[0]}x{pixels.shape[1]}, but its image {place.image.name} is "
                f"{shape[0]}x{shape[1]}; take both from the release again"
            )
    else:
        pixels = read_indices(place.label, place.image, shape)
    wrong = pixels[(pixels >= len(CLASSES)) & (pixels != VOID)]
    if wrong.size:
        raise SourceError(
            f"{place.label}: holds the value {wrong.min()}, but VOC has 0 to 20 and 255 for void; take "
            "SegmentationClass of the release, neither SegmentationObject nor colours turned grey"
        )
    return pixels


def write_scene(place: Scene, output: Path) -> Entry:
    """Link the image and write the label of a scene."""
    name, shape = link_image(place.image, output, place.name)
    entry: Entry = {"image": name, "label": f"labels/{place.name}.png", "group": place.name}
    write_png(output / entry["label"], read_label(place, shape))
    return {**entry, "label_source": "sbd" if place.label.suffix == ".mat" else "voc"}


def record(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that decide what is written; ``None`` is whatever is there."""
    partial = None if options.allow_partial else False
    return {"script": "voc2012", "training": options.training, "partial": partial}


def prepare(folders: Sequence[Path], options: argparse.Namespace) -> str:
    """Write everything; returns what was done.

    Raises:
        SourceError: if the release is not as expected, or not whole and ``--allow-partial`` is not given.
    """
    where = ", ".join(map(str, folders))
    voc = find_one(folders, "VOC2012", is_folder=True)
    if voc is None:
        raise SourceError(f"{where}: no folder VOC2012 (with JPEGImages, SegmentationClass); --source is {WHERE}")
    sbd = find_one(folders, "benchmark_RELEASE", is_folder=True)
    if options.training == "train_aug" and sbd is None:
        raise SourceError(
            f"{where}: no folder benchmark_RELEASE, but --training train_aug needs SBD; --source is {WHERE}"
        )
    chosen = options.training or ("train" if sbd is None else "train_aug")
    scenes = find_scenes(voc, sbd if chosen == "train_aug" else None)
    if chosen == "trainval":
        scenes = sorted([*scenes[0], *scenes[1]], key=lambda scene: scene.name), []
    found = {chosen: len(scenes[0])} | ({} if chosen == "trainval" else {"val": len(scenes[1])})
    official = {name: OFFICIAL[name] for name in found}
    counts = check_counts(found, official, where=voc, allow_partial=options.allow_partial)
    target = options.output / "datalist.json"
    clear(target, "voc2012")
    entries = convert([*scenes[0], *scenes[1]], lambda place: write_scene(place, options.output), "reading labels")
    Datalist(
        name={"train": "voc2012", "train_aug": "voc2012_aug"}.get(chosen, f"voc2012_{chosen}"),
        version=1,
        modality=("photograph",),
        licence="terms of Flickr for the images; see http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
        source="http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
        labels=dict(enumerate(CLASSES)),
        ignore_index=VOID,
        training=entries[: found[chosen]],
        validation=entries[found[chosen] :],
        path=target,
        preparation={**record(options), "training": chosen, "partial": found != official},
    ).save()
    return counts


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = make_parser(__doc__, WHERE, fixed=True)
    made.add_argument(
        "--training",
        choices=("train", "train_aug", "trainval"),
        help="training list (default: train_aug where SBD is given)",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(arguments)
    return run(options, record(options), lambda folders: prepare(folders, options), max_bytes=MAX_BYTES)


if __name__ == "__main__":
    sys.exit(main())
