"""The decathlon's layout: ``imagesTr``, ``labelsTr``, ``imagesTs`` and ``dataset.json`` (https://arxiv.org/abs/1902.09063).

Files keep their bytes. Only what one file cannot hold is converted: a DICOM series, a header with its values in another
file, and channels in files of their own become one ``.nii.gz``. Groups, folds, the validation list and mapped values
stand where medseg and MONAI read them; the rest under ``medseg``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.datalist import SPLITS, Datalist
from medseg.errors import shown
from medseg.exporters.writing import ExportError, Item, items_of, kept_of, new_folder, put_nifti, refuse_elsewhere
from medseg.io.dicom import SUFFIXES as DICOM
from medseg.io.images import image_suffix, read_image
from medseg.reports.progress import progress_bar

__all__ = ["export_decathlon"]

_SEVERAL_FILES = (*DICOM, ".mhd", ".hdr", "")


def export_decathlon(datalist: Datalist, output: Path) -> list[str]:
    """Write a data set in the decathlon's layout.

    Args:
        datalist: the data set.
        output: a new folder.

    Returns:
        What to know of it, each in one line.

    Raises:
        MedsegError: if the data cannot be laid out so.
    """
    items = items_of(datalist)
    lists: dict[str, list[Any]] = {split: [] for split in SPLITS}
    with new_folder(output) as folder, progress_bar("writing") as update:
        for number, item in enumerate(items):
            entry = _write(item, folder)
            lists[item.split].append(entry["image"] if item.split == "test" and len(entry) == 1 else entry)
            update(number + 1, len(items))
        axes = len(read_image(items[0].images[0]).shape)
        (folder / "dataset.json").write_text(
            json.dumps(_description(datalist, lists, axes), indent=1) + "\n", encoding="utf-8"
        )
    return []


def _write(item: Item, folder: Path) -> dict[str, Any]:
    end = "Ts" if item.split == "test" else "Tr"
    made: dict[str, Any] = {"image": _image(item, folder, f"images{end}")}
    for key, path in (("label", item.label), ("instances", item.instances)):
        if path is not None:
            place = f"{key.rstrip('s')}s{end}"
            if image_suffix(path) in _SEVERAL_FILES:
                raise ExportError(
                    f"{shown(path)}: keeps its values in another file; store it as one file, such as .nii.gz"
                )
            made[key] = _copy(path, folder, place, item.name)
    return {**made, **item.rest}


def _copy(path: Path, folder: Path, place: str, name: str) -> str:
    target = folder / place / f"{name}{image_suffix(path)}"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, target)
    return f"{place}/{target.name}"


def _image(item: Item, folder: Path, place: str) -> str:
    if len(item.images) == 1 and image_suffix(item.images[0]) not in _SEVERAL_FILES:
        return _copy(item.images[0], folder, place, item.name)
    images = [read_image(path) for path in item.images]
    affine = images[0].affine
    if affine is None or any(image.affine is None or image.shape != images[0].shape for image in images):
        raise ExportError(
            f"{shown(item.images[0])}: {len(images)} files of pictures, or of several sizes, cannot be one NIfTI "
            "image; take "
            "--to nnunet, which keeps a file a channel"
        )
    for image, path in zip(images, item.images, strict=True):
        refuse_elsewhere(image, path, images[0], item.images[0])
    parts = [image.array if image.channels > 1 else image.array[..., None] for image in images]
    array = np.concatenate(parts, axis=-1) if len(parts) > 1 or images[0].channels > 1 else images[0].array
    target = folder / place / f"{item.name}.nii.gz"
    target.parent.mkdir(exist_ok=True)
    put_nifti(array, affine, target)
    return f"{place}/{target.name}"


def _description(datalist: Datalist, lists: dict[str, list[Any]], axes: int) -> dict[str, Any]:
    kept = kept_of(datalist)
    made: dict[str, Any] = {
        "name": datalist.name,
        "description": datalist.source,
        "reference": datalist.source,
        "licence": datalist.licence,
        "tensorImageSize": f"{axes}D",
        "modality": {str(index): name for index, name in enumerate(datalist.modality)},
        "labels": kept.pop("labels"),
        "numTraining": len(lists["training"]),
        "numTest": len(lists["test"]),
    }
    for key in ("codes", "colours"):
        made |= {key: value} if (value := kept.pop(key)) else {}
    if datalist.values:
        made["values"] = {str(stored): index for stored, index in datalist.values.items()}
    if datalist.ignore_index is not None:
        made["ignore_index"] = datalist.ignore_index
    made["medseg"] = {"version": datalist.version, "preparation": datalist.preparation}
    return made | {split: listed for split, listed in lists.items() if listed or split != "validation"}
