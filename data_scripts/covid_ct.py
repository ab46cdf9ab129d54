#!/usr/bin/env python
"""COVID-19 CT slices, from the NIfTI files or from the pictures of COVID-SemiSeg: read, divide, write the datalist.

Data: 100 axial CT slices of more than 40 patients, https://medicalsegmentation.com/covid19. The script looks what it
is given and takes one of two releases:

NIfTI: ``tr_im.nii.gz`` (512x512x100, HU), ``tr_mask.nii.gz`` (0 background, 1 ground glass, 2 consolidation, 3 pleural
effusion), ``tr_lungmasks_updated.nii.gz`` (above 0: lung). Each slice becomes a 2D NIfTI file, int16 in HU, with the
in-plane spacing and the affine of the image; the headers of the masks are not used. ``--classes`` chooses the labels:

- ``lungs`` (default): 0 background, 1 lungs other, 2 ground glass, 3 consolidation: the four classes of the LFA U-Net
  paper (https://arxiv.org/abs/2112.01702), which does not say how it made them. "Lungs other" is the lung mask less
  ground glass and consolidation; both keep their class outside the lung mask, too. Pleural effusion is none of the
  four: it counts as whatever it lies in, lungs other or background.
- ``effusion``: the same with pleural effusion as class 1, without lung masks. Table 2 has an IoU of 31-36 % for "lungs
  other" and the text a "small number of pixels", which fits healthy lung badly: the paper may have meant this.
- ``lesions``: 0 background, 1 ground glass, 2 consolidation, as in COVID-SemiSeg; lung and effusion are background.

Pictures: COVID-SemiSeg (D.-P. Fan et al., Inf-Net, https://arxiv.org/abs/2004.14133), 98 of the slices cropped, as
8-bit JPEG of many sizes in ``MultiClassInfection-Train/Imgs`` (50) and ``MultiClassInfection-Test/Imgs`` (48), labels
as palette PNG in ``GT``: classes ``lesions``. Images become grey PNG with the decoded pixels, labels PNG of indices.

Folds, four (training 50, validation 25, test 25 of 100 slices), for ``Datalist.split``: ``fold`` takes blocks of
neighbours in the release's order, which may be of one patient; ``fold_random`` draws slices with a fixed seed, which is
comparable with the paper if it did so. Patients are not named in either release, so that every slice is a group of its
own, and blocks are the best that can be done against a patient on both sides. Of COVID-SemiSeg, ``fold_official`` has
the release's own test set as fold 0, and of its training set the last fifth as fold 1 and the rest as fold 2:
``split(0, fold_key="fold_official")``.

Example::

    python data_scripts/covid_ct.py --source /data/covid_nifti --output data/covid_ct
    python data_scripts/covid_ct.py --source COVID-SemiSeg.zip --output data/covid_semiseg
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.data.datalist import Datalist, Entry
from medseg.io.images import read_image
from medseg.releases.pictures import Pixels, read_grey, write_png
from medseg.releases.prepare import SourceError, clear, convert, find_one, make_parser, run

WHERE = (
    "a folder with tr_im.nii.gz, tr_mask.nii.gz and tr_lungmasks_updated.nii.gz of "
    "https://medicalsegmentation.com/covid19, or the folder or zip COVID-SemiSeg of https://github.com/DengPingFan/Inf-Net"
)
LUNG_MASK = "tr_lungmasks_updated.nii.gz"
TRAIN, TEST = "MultiClassInfection-Train", "MultiClassInfection-Test"
MAX_BYTES = 8 * 2**30

LESIONS = ("background", "ground glass", "consolidation")
CLASS_NAMES = {
    "lungs": ("background", "lungs other", "ground glass", "consolidation"),
    "effusion": ("background", "pleural effusion", "ground glass", "consolidation"),
    "lesions": LESIONS,
}
CLASS_OF_VALUE = {"lungs": (0, 2, 3, 0), "effusion": (0, 2, 3, 1), "lesions": (0, 1, 2, 0)}


@dataclass(frozen=True)
class Volume:
    """The slices of the NIfTI release.

    Args:
        image: HU.
        label: class indices.
        affine: of the image, voxel to mm.

    Shape:
        image, label ``(X, Y, Z)``; affine ``(4, 4)``.
    """

    image: npt.NDArray[np.int16]
    label: Pixels
    affine: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Slice:
    """One slice of COVID-SemiSeg: its number in the release, which part it belongs to, and its two files."""

    number: int
    part: str
    image: Path
    label: Path


def read_values(path: Path, shape: tuple[int, ...], highest: int | None) -> npt.NDArray[Any]:
    """Read a mask volume.

    Args:
        path: the file.
        shape: of the image.
        highest: highest value of the release, ``None`` for any.

    Raises:
        SourceError: if it has another shape, or a value that is no integer, negative or above `highest`.
    """
    values = read_image(path, label=True).array
    if values.shape != shape:
        raise SourceError(
            f"{path}: has the shape {values.shape}, but the image {shape}; take both from the release again"
        )
    wrong = (values != np.rint(values)) | (values < 0)
    if highest is not None:
        wrong |= values > highest
    if wrong.any():
        limit = "" if highest is None else f" to {highest}"
        raise SourceError(
            f"{path}: holds the value {values[wrong].flat[0]:g}, but the release has integers from 0{limit}; "
            "take it from the release again"
        )
    return values


def read_volume(image: Path, mask: Path, lung: Path | None, classes: str) -> Volume:
    """Read the NIfTI release.

    Args:
        image: ``tr_im``.
        mask: ``tr_mask``.
        lung: the lung mask, ``None`` for classes that do without.
        classes: key of `CLASS_NAMES`.

    Raises:
        SourceError: if shapes or values are not the release's.
        ImageError: if a file cannot be read.
    """
    import nibabel

    intensities = read_image(image).array
    if intensities.ndim != 3:
        raise SourceError(f"{image}: has the shape {intensities.shape}, but the release has a stack of slices")
    rounded = np.rint(intensities)
    if not np.isfinite(rounded).all() or rounded.min() < -(2**15) or rounded.max() >= 2**15:
        raise SourceError(f"{image}: holds values from {rounded.min():g} to {rounded.max():g}, which are no HU")
    values = read_values(mask, intensities.shape, 3).astype(np.uint8)
    label = np.asarray(CLASS_OF_VALUE[classes], np.uint8)[values]
    if lung is not None:
        label[(label == 0) & (read_values(lung, intensities.shape, None) > 0)] = 1
    file: Any = nibabel.load(image)
    return Volume(rounded.astype(np.int16), label, np.asarray(file.affine, np.float64))


def write_slice(volume: Volume, index: int, output: Path) -> Entry:
    """Write one slice and its label as 2D NIfTI, where it lies in space."""
    import nibabel

    affine = volume.affine.copy()
    affine[:, 3] = volume.affine @ [0, 0, index, 1]
    name = f"slice_{index:03d}"
    entry: Entry = {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz", "group": name}
    for key, array in (("image", volume.image), ("label", volume.label)):
        path = output / entry[key]
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = nibabel.Nifti1Image(array[..., index], affine)
        picture.header.set_xyzt_units("mm")
        nibabel.save(picture, path)
    return entry


def find_slices(train: Path, test: Path) -> list[Slice]:
    """Return the slices of COVID-SemiSeg in the order of their numbers.

    Raises:
        SourceError: if an image has no label or a label no image, or a number is there twice.
    """
    slices: dict[int, Slice] = {}
    for place in (train, test):
        images = {path.stem: path for path in (place / "Imgs").glob("*.jpg")}
        labels = {path.stem: path for path in (place / "GT").glob("*.png")}
        for stem in sorted(images.keys() ^ labels.keys()):
            lacking = place / "GT" / f"{stem}.png" if stem in images else place / "Imgs" / f"{stem}.jpg"
            other = images.get(stem) or labels[stem]
            raise SourceError(f"{lacking}: no such file, but {other} is there; take both from the release again")
        if not images:
            raise SourceError(f"{place}: holds no Imgs/*.jpg with GT/*.png; unpack COVID-SemiSeg again")
        for stem, path in images.items():
            if not stem.isdecimal():
                raise SourceError(f"{path}: is not named by a number as in the release; move it away")
            if int(stem) in slices:
                raise SourceError(f"{path}: has the number of {slices[int(stem)].image}; each slice is there once")
            slices[int(stem)] = Slice(int(stem), place.name, path, labels[stem])
    return [slices[number] for number in sorted(slices)]


def write_pictures(place: Slice, output: Path) -> Entry:
    """Write one slice of COVID-SemiSeg and its label as PNG.

    Raises:
        SourceError: if the label has another size or another value than 0, 1 and 2.
        ImageError: if a file cannot be read, or is a colour picture.
    """
    image, label = read_grey(place.image, label=False), read_grey(place.label, label=True)
    if label.shape != image.shape:
        raise SourceError(
            f"{place.label}: is {label.shape[0]}x{label.shape[1]}, but its image is {image.shape[0]}x{image.shape[1]}; "
            "take both from the release again"
        )
    if label.max() >= len(LESIONS):
        odd = int(label[label >= len(LESIONS)].min())
        raise SourceError(
            f"{place.label}: holds the value {odd}, but the release has 0, 1 and 2 as palette indices; "
            "take the palette PNG of the release, not its colours as grey values"
        )
    name = f"slice_{place.number:03d}"
    entry: Entry = {"image": f"images/{name}.png", "label": f"labels/{name}.png", "group": name}
    write_png(output / entry["image"], image)
    write_png(output / entry["label"], label)
    return {**entry, "original": f"{place.part}/Imgs/{place.image.name}"}


def official_folds(slices: Sequence[Slice]) -> list[int]:
    """Return 0 for the release's test set, 1 for the last fifth of its training set, 2 for the rest."""
    training = [place.number for place in slices if place.part == TRAIN]
    validation = training[-max(1, len(training) // 5) :]
    return [0 if place.part == TEST else 1 if place.number in validation else 2 for place in slices]


def prepare(folders: Sequence[Path], options: argparse.Namespace) -> str:
    """Write everything; returns what was done.

    Raises:
        SourceError: if there is not exactly one of the two releases, or a file is missing.
        ValueError: if the folds are too many.
    """
    image = find_one(folders, "tr_im.nii*", is_folder=False)
    train = find_one(folders, TRAIN, is_folder=True)
    where = ", ".join(map(str, folders))
    if image is None and train is None:
        raise SourceError(f"{where}: holds neither tr_im.nii.gz nor {TRAIN}; --source is {WHERE}")
    if image is not None and train is not None:
        raise SourceError(f"{where}: holds both {image} and {train}; name the folder of one as --source")
    if image is not None:
        return _prepare_nifti(image, folders, options)
    test = find_one(folders, TEST, is_folder=True)
    if train is None or test is None:
        raise SourceError(f"{where}: holds {TRAIN}, but not {TEST}; unpack all of COVID-SemiSeg")
    if options.classes not in (None, "lesions"):
        raise SourceError(f"{train}: knows neither lungs nor effusion; leave --classes {options.classes} out")
    slices = find_slices(train, test)
    check_folds(len(slices), options.folds)
    clear(options.output / "datalist.json", "covid_ct")
    entries = convert(slices, lambda place: write_pictures(place, options.output), "converting slices")
    for entry, fold in zip(entries, official_folds(slices), strict=True):
        entry["fold_official"] = fold
    source = "https://github.com/DengPingFan/Inf-Net"
    return _save("covid_semiseg", "non-commercial use only", source, "lesions", entries, options, 98)


def _prepare_nifti(image: Path, folders: Sequence[Path], options: argparse.Namespace) -> str:
    classes = options.classes or "lungs"
    mask = find_one(folders, "tr_mask.nii*", is_folder=False)
    lung = find_one(folders, "tr_lungmasks_updated.nii*", is_folder=False)
    if mask is None:
        raise SourceError(
            f"{image.with_name('tr_mask.nii.gz')}: no such file, but {image} is there; --source is {WHERE}"
        )
    if classes == "lungs" and lung is None:
        raise SourceError(
            f"{image.with_name(LUNG_MASK)}: no such file, but the classes 'lungs' need it; put it there from "
            "https://medicalsegmentation.com/covid19, or choose --classes lesions or effusion, which do without"
        )
    volume = read_volume(image, mask, lung if classes == "lungs" else None, classes)
    count = volume.image.shape[2]
    check_folds(count, options.folds)
    clear(options.output / "datalist.json", "covid_ct")
    entries = convert(range(count), lambda index: write_slice(volume, index, options.output), "writing slices")
    source = "https://medicalsegmentation.com/covid19"
    return _save("covid_ct", f"see {source}", source, classes, entries, options, 100)


def check_folds(count: int, folds: int) -> None:
    """Refuse folds that would be empty.

    Raises:
        ValueError: if there are fewer than 2 folds or more than slices.
    """
    if not 2 <= folds <= count:
        raise ValueError(f"--folds is {folds}; with {count} slices give 2 to {count}")


def _save(
    name: str, licence: str, source: str, classes: str, entries: list[Entry], options: argparse.Namespace, whole: int
) -> str:
    blocks = [index * options.folds // len(entries) for index in range(len(entries))]
    drawn = list(blocks)
    random.Random(options.seed).shuffle(drawn)
    for entry, block, fold in zip(entries, blocks, drawn, strict=True):
        entry |= {"fold": block, "fold_random": fold}
    Datalist(
        name=name,
        version=1,
        modality=("CT",),
        licence=licence,
        source=source,
        labels=dict(enumerate(CLASS_NAMES[classes])),
        training=entries,
        path=options.output / "datalist.json",
        preparation={**record(options), "classes": classes},
    ).save()
    part = "" if len(entries) == whole else f" of the release's {whole}"
    return f"{len(entries)} slices{part} in {options.folds} folds, classes {', '.join(CLASS_NAMES[classes])}"


def record(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that decide what is written; classes that are not named are whatever is there."""
    return {"script": "covid_ct", "classes": options.classes, "folds": options.folds, "seed": options.seed}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = make_parser(__doc__, WHERE)
    made.add_argument(
        "--classes",
        choices=CLASS_NAMES,
        help="labels, see the head of this file (default: lungs; for COVID-SemiSeg: lesions)",
    )
    made.add_argument("--folds", type=int, default=4, help="number of folds (default: %(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(arguments)
    return run(options, record(options), lambda folders: prepare(folders, options), max_bytes=MAX_BYTES)


if __name__ == "__main__":
    sys.exit(main())
