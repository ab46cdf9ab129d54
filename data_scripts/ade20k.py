#!/usr/bin/env python
"""ADE20K as in the scene parsing challenge of 2016 (150 classes): read, check, write the datalist.

Data: B. Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017, https://doi.org/10.1109/CVPR.2017.544, release
``ADEChallengeData2016``: 20,210 images for training, 2,000 for validation; labels are grey PNG with 0 for whatever is
none of the 150 classes and 1 to 150 for these. Here a class is one less, 0 to 149, and what was 0 is 255, ignored.
The full release (``ADE20K_2021_17_01``), which codes classes in colours, is another one and refused.

``--training trainval`` puts both lists into the training's, for masks that the test server scores: no image is then
left to validate on.

A class is named by the first of its names in ``objectInfo150.txt``. Images keep their bytes as hard links, or copies
where the file system has none; the few grey ones become RGB PNG. Every image is a group.

Example::

    python data_scripts/ade20k.py --source ADEChallengeData2016.zip --output data/ade20k
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.datalist import Datalist, Entry
from medseg.releases.pictures import Pixels, link_image, read_indices, write_png
from medseg.releases.prepare import SourceError, check_counts, clear, convert, find_one, make_parser, run

RELEASE = "ADEChallengeData2016"
WHERE = f"the folder {RELEASE} or http://data.csail.mit.edu/places/ADEchallenge/{RELEASE}.zip (about 1 GB)"
NAMES = "objectInfo150.txt"
OFFICIAL = {"training": 20210, "validation": 2000}
CLASSES, IGNORED = 150, 255
MAX_BYTES = 16 * 2**30


def find_release(folders: Sequence[Path]) -> Path:
    """Return the folder of the release.

    Raises:
        SourceError: if there is none, or the full release instead.
    """
    place = find_one(folders, RELEASE, is_folder=True)
    if place is not None:
        return place
    for folder in folders:
        coded = next(folder.rglob("*_seg.png"), None)
        if coded is not None:
            raise SourceError(
                f"{coded}: belongs to the full release of ADE20K (ADE20K_2021_17_01), whose labels are more than "
                f"3,000 classes, coded in red and green; needed is {WHERE}"
            )
    raise SourceError(
        f"{', '.join(map(str, folders))}: no folder {RELEASE} (with images/training, annotations/training, {NAMES}); "
        f"--source is {WHERE}"
    )


def read_names(path: Path) -> list[str]:
    """Read the names of the 150 classes, in their order.

    Raises:
        SourceError: if the file is missing or is not the release's.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file; unpack the release again: {WHERE}")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [line.split("\t") for line in lines[1:] if line.strip()]
    whole = [row[-1].strip() for row in rows]
    first = [name.split(",", 1)[0].strip() for name in whole]
    names = [short if first.count(short) == 1 else name for short, name in zip(first, whole, strict=True)]
    if [row[0].strip() for row in rows] != [str(index + 1) for index in range(CLASSES)] or len(set(names)) != CLASSES:
        raise SourceError(
            f"{path}: does not number 150 classes from 1 with a name each; take it from the release again"
        )
    return names


def find_pairs(root: Path, split: str, *, allow_partial: bool) -> list[tuple[Path, Path]]:
    """Return images and labels of one list, by name; nothing where a partial release lacks the list altogether.

    Raises:
        SourceError: if a folder is missing, or an image has no label or a label no image.
    """
    places = root / "images" / split, root / "annotations" / split
    if allow_partial and not any(place.is_dir() for place in places):
        return []
    for place in places:
        if not place.is_dir():
            raise SourceError(f"{place}: no such folder; --source is {WHERE}")
    images = {path.stem: path for path in places[0].glob("*.jpg")}
    labels = {path.stem: path for path in places[1].glob("*.png")}
    for stem in sorted(images.keys() ^ labels.keys()):
        lacking = places[1] / f"{stem}.png" if stem in images else places[0] / f"{stem}.jpg"
        other = images.get(stem) or labels[stem]
        raise SourceError(f"{lacking}: no such file, but {other} is there; take both from the release again")
    return [(images[stem], labels[stem]) for stem in sorted(images)]


def read_label(path: Path, image: Path, shape: tuple[int, ...]) -> Pixels:
    """Read a label as classes 0 to 149 with 255 for what counts nowhere.

    Raises:
        SourceError: if it holds a value above 150, or has been converted already.
        ImageError: if it is a colour picture, not 8 bit, or of another size.
    """
    pixels = read_indices(path, image, shape)
    if pixels.max() == IGNORED and not (pixels[pixels != IGNORED] >= CLASSES).any():
        raise SourceError(
            f"{path}: holds 255, so its values are classes 0 to 149 already, with 255 for what is ignored; the release "
            "has 0 for what is ignored and classes 1 to 150, and is needed as it is, or every class would be off by one"
        )
    if pixels.max() > CLASSES:
        raise SourceError(
            f"{path}: holds the value {pixels[pixels > CLASSES].min()}, but the release has 0 to 150; take it from the "
            "release again"
        )
    return np.where(pixels == 0, IGNORED, pixels - 1).astype(np.uint8)


def write_pair(image: Path, label: Path, output: Path) -> Entry:
    """Link an image and write its label."""
    name, shape = link_image(image, output, image.stem)
    entry: Entry = {"image": name, "label": f"labels/{image.stem}.png", "group": image.stem}
    write_png(output / entry["label"], read_label(label, image, shape))
    return entry


def record(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that decide what is written; ``None`` is whatever is there."""
    partial = None if options.allow_partial else False
    return {"script": "ade20k", "training": options.training, "partial": partial}


def prepare(folders: Sequence[Path], options: argparse.Namespace) -> str:
    """Write everything; returns what was done.

    Raises:
        SourceError: if the release is not as expected, or not whole and ``--allow-partial`` is not given.
    """
    root = find_release(folders)
    names = read_names(root / NAMES)
    pairs = {split: find_pairs(root, split, allow_partial=options.allow_partial) for split in OFFICIAL}
    found = {split: len(part) for split, part in pairs.items()}
    counts = check_counts(found, OFFICIAL, where=root, allow_partial=options.allow_partial)
    stems = [image.stem for part in pairs.values() for image, _ in part]
    if len(set(stems)) < len(stems):
        twin = next(stem for stem in stems if stems.count(stem) > 1)
        raise SourceError(f"{root / 'images'}: training and validation both hold {twin}.jpg; unpack the release again")
    target = options.output / "datalist.json"
    clear(target, "ade20k")
    jobs = [*pairs["training"], *pairs["validation"]]
    entries = convert(jobs, lambda pair: write_pair(*pair, options.output), "reading labels")
    held_out = [] if options.training == "trainval" else entries[found["training"] :]
    Datalist(
        name="ade20k" if options.training == "train" else f"ade20k_{options.training}",
        version=1,
        modality=("photograph",),
        licence="terms of ADE20K, non-commercial research: https://ade20k.csail.mit.edu/terms",
        source="http://sceneparsing.csail.mit.edu",
        labels=dict(enumerate(names)),
        ignore_index=IGNORED,
        training=entries[: len(entries) - len(held_out)],
        validation=held_out,
        path=target,
        preparation={**record(options), "partial": found != OFFICIAL},
    ).save()
    return counts


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = make_parser(__doc__, WHERE, fixed=True)
    made.add_argument(
        "--training", choices=("train", "trainval"), default="train", help="training list (default: %(default)s)"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(arguments)
    return run(options, record(options), lambda folders: prepare(folders, options), max_bytes=MAX_BYTES)


if __name__ == "__main__":
    sys.exit(main())
