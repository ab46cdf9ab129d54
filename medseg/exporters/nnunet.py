"""nnU-Net's raw data, version 2: ``imagesTr/CASE_0000.png``, ``labelsTr/CASE.png``, ``dataset.json``.

https://github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md: one file ending for all, a file a channel (of a
coloured picture one file for all its channels), classes counted from 0, of which the first is called ``background``,
and what counts nowhere is the last and called ``ignore``. What nnU-Net has no place for stands under ``medseg`` in
``dataset.json``, which nnU-Net passes over: the validation list, groups, folds, codes, colours; `medseg import` brings
it back. Folds also stand in ``splits_final.json``, which nnU-Net looks for in its folder of preprocessed data.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.datalist import Datalist
from medseg.errors import counted, shown
from medseg.exporters.writing import (
    ExportError,
    Item,
    indices_of,
    items_of,
    kept_of,
    new_folder,
    put_nifti,
    put_png,
    refuse_elsewhere,
)
from medseg.io.image_file import ImageFile
from medseg.io.images import image_suffix, read_image
from medseg.io.masks import write_mask
from medseg.reports.progress import progress_bar

__all__ = ["export_nnunet"]

_BACKGROUND = "background"
_COLOURS = ("R", "G", "B", "A")


def export_nnunet(datalist: Datalist, output: Path) -> list[str]:
    """Write a data set in nnU-Net's layout.

    Args:
        datalist: the data set.
        output: a new folder; nnU-Net wants it called ``Dataset001_NAME``.

    Returns:
        What to know of it, each in one line.

    Raises:
        MedsegError: if the data cannot be laid out so.
    """
    items = items_of(datalist)
    if "ignore" in datalist.labels.values():
        raise ExportError(
            f"{shown(datalist.path)}: a class is called ignore, which has a meaning to nnU-Net; rename it"
        )
    if _BACKGROUND in datalist.class_names[1:]:
        raise ExportError(
            f"{shown(datalist.path)}: class 0 must be nnU-Net's background, but another one is; rename it"
        )
    ignore = (datalist.ignore_index, None if datalist.ignore_index is None else datalist.num_classes)
    channels: list[int] = []
    endings: set[str] = set()
    with new_folder(output) as folder, progress_bar("writing") as update:
        for number, item in enumerate(items):
            ending, count = _write(item, folder, ignore)
            channels.append(count)
            endings.add(ending)
            if len(endings) > 1 or count != channels[0]:
                raise ExportError(
                    f"{shown(item.images[0])}: has {counted(count, 'channel')} and becomes {ending}, unlike "
                    f"{shown(items[0].images[0])} "
                    f"({channels[0]}); nnU-Net takes one kind of images"
                )
            update(number + 1, len(items))
        (folder / "dataset.json").write_text(
            json.dumps(_description(datalist, items, channels[0], endings.pop(), ignore[1]), indent=1) + "\n",
            encoding="utf-8",
        )
        splits = _splits(datalist, items)
        if splits:
            (folder / "splits_final.json").write_text(json.dumps(splits, indent=1) + "\n", encoding="utf-8")
    notes = []
    if datalist.labels[0] != _BACKGROUND:
        notes.append(f"class 0, {datalist.labels[0]}, is called background, as nnU-Net asks, which does not score it")
    if splits:
        notes.append(
            "splits_final.json: copy it into nnU-Net's preprocessed folder of the data set to train these folds"
        )
    if not output.name.startswith("Dataset"):
        notes.append(f"{output.name}: nnU-Net looks for folders such as Dataset001_{datalist.name}")
    return notes


def _write(item: Item, folder: Path, ignore: tuple[int | None, int | None]) -> tuple[str, int]:
    """Write image, label and instances of a case; return the file ending and the number of channels."""
    end = "Ts" if item.split == "test" else "Tr"
    places = {kind: folder / f"{kind}{end}" for kind in ("images", "labels", "instances")}
    places["images"].mkdir(exist_ok=True)
    first = read_image(item.images[0])
    volume = first.affine is not None
    ending = ".nii.gz" if volume else ".png"
    count = 0
    for path in item.images:
        image = first if path == item.images[0] else read_image(path)
        if image.shape != first.shape:
            raise ExportError(f"{shown(path)}: has another size than the other channels of its image; see medseg check")
        refuse_elsewhere(image, path, first, item.images[0])
        if len(item.images) > 1 and image.channels > 1:
            raise ExportError(
                f"{shown(path)}: is one of several channels, but has {image.channels} of its own; split it"
            )
        count += _image(image, path, places["images"], item.name, count)
    if item.label is not None:
        places["labels"].mkdir(exist_ok=True)
        mask = indices_of(item, first, ignore)
        target = places["labels"] / f"{item.name}{ending}"
        if volume:
            write_mask(mask, first, target, source=item.images[0])
        else:
            put_png(mask, target, item.label)
    if item.instances is not None:
        places["instances"].mkdir(exist_ok=True)
        shutil.copyfile(item.instances, places["instances"] / f"{item.name}{image_suffix(item.instances)}")
    return ending, count


def _image(image: ImageFile, path: Path, place: Path, name: str, channel: int) -> int:
    """Write the file or files of an image from a channel on; return its number of channels."""
    target = place / f"{name}_{channel:04d}"
    if image.affine is None:
        if image_suffix(path) == ".png" and not image.palette and image.orientation == 1:
            shutil.copyfile(path, target.with_name(f"{target.name}.png"))
        else:
            put_png(image.array, target.with_name(f"{target.name}.png"), path)
        return image.channels
    if image.channels == 1:
        put_nifti(image.array, image.affine, target.with_name(f"{target.name}.nii.gz"), path)
        return 1
    for number in range(image.channels):
        split = place / f"{name}_{channel + number:04d}.nii.gz"
        put_nifti(np.ascontiguousarray(image.array[..., number]), image.affine, split)
    return image.channels


def _description(
    datalist: Datalist, items: Sequence[Item], channels: int, ending: str, ignored: int | None
) -> dict[str, Any]:
    names = list(datalist.modality)
    if len(names) != channels:
        coloured = ending == ".png" and channels in (3, 4)
        names = list(_COLOURS[:channels]) if coloured else [f"channel_{number}" for number in range(channels)]
    named = {name: index for index, name in datalist.labels.items() if index}
    kept = kept_of(datalist)
    if ignored is not None:
        identity = {str(index): index for index in datalist.labels}
        kept["values"] = {**identity, str(ignored): datalist.ignore_index}
    kept["cases"] = {item.name: {"split": item.split, **item.rest} for item in items}
    return {
        "channel_names": {str(number): name for number, name in enumerate(names)},
        "labels": {_BACKGROUND: 0, **named} | ({"ignore": ignored} if ignored else {}),
        "numTraining": sum(item.split != "test" for item in items),
        "file_ending": ending,
        "name": datalist.name,
        "licence": datalist.licence,
        "reference": datalist.source,
        "medseg": kept,
    }


def _splits(datalist: Datalist, items: Sequence[Item]) -> list[dict[str, list[str]]]:
    """Return nnU-Net's folds: those of the datalist, or its validation list as the only one."""
    training = [item for item in items if item.split == "training"]
    fixed = [item.name for item in items if item.split == "validation"]
    if fixed:
        return [{"train": [item.name for item in training], "val": fixed}]
    if "fold" not in datalist.fold_keys:
        return []
    return [
        {
            "train": [item.name for item in training if item.rest["fold"] != fold],
            "val": [item.name for item in training if item.rest["fold"] == fold],
        }
        for fold in datalist.folds()
    ]
