"""What the exports share: names of cases, images written in another format, and a folder that appears whole or not."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.data.datalist import SPLITS, Datalist, Entry
from medseg.errors import MedsegError, shown
from medseg.importers.folder import stem_of
from medseg.io.image_file import Affine, ImageFile
from medseg.io.images import image_suffix
from medseg.io.labels import read_label
from medseg.io.placement import compare, describe

__all__ = [
    *("ExportError", "Item", "indices_of", "items_of", "kept_of", "new_folder", "put_nifti", "put_png"),
    "refuse_elsewhere",
]

_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_CHANNEL = "_0000"
_OWN = ("image", "label", "instances")


class ExportError(MedsegError):
    """A datalist cannot be laid out as asked."""


@dataclass(frozen=True)
class Item:
    """One entry of a datalist on its way out.

    Args:
        name: unique, of letters, digits, ``_``, ``.`` and ``-``.
        split: its list.
        entry: with absolute paths.
        images: files of the image, one or one a channel.
        rest: the other keys of the entry, such as ``group`` and ``fold``.
    """

    name: str
    split: str
    entry: Entry
    images: tuple[Path, ...]
    rest: dict[str, Any]

    @property
    def label(self) -> Path | None:
        """File of the label."""
        return Path(self.entry["label"]) if "label" in self.entry else None

    @property
    def instances(self) -> Path | None:
        """File of the map of objects."""
        return Path(self.entry["instances"]) if "instances" in self.entry else None


def items_of(datalist: Datalist) -> list[Item]:
    """Return the entries, each with a name of its own, from the name of its image.

    Raises:
        ExportError: if a file is missing.
    """
    named: list[tuple[str, Path, Entry, tuple[Path, ...], Entry]] = []
    for split in SPLITS:
        for entry in getattr(datalist, split):
            absolute = datalist.absolute(entry)
            value = absolute["image"]
            images = tuple(Path(path) for path in (value if isinstance(value, list) else [value]))
            for path in (*images, *(Path(absolute[key]) for key in _OWN[1:] if key in absolute)):
                if not path.exists():
                    raise ExportError(f"{shown(path)}: no such file, but {shown(datalist.path)} names it; restore it")
            rest = {key: v for key, v in entry.items() if key not in _OWN}
            place = Path(entry["image"][0] if isinstance(value, list) else entry["image"])
            named.append((split, place.parent / stem_of(place), absolute, images, rest))
    if all(place.name.endswith(_CHANNEL) for _, place, *_ in named):  # nnU-Net's first channels, not cases' numbers
        named = [(each[0], each[1].with_name(each[1].name.removesuffix(_CHANNEL)), *each[2:]) for each in named]
    count = Counter(_plain(place.name) for _, place, *_ in named)
    made: list[Item] = []
    taken: set[str] = set()
    for split, place, entry, images, rest in named:
        name = _plain(place.name)
        if count[name] > 1:
            name = _plain("-".join(part for part in place.parts if part != ".."))
        number = 1
        unique = name
        while unique in taken:
            number += 1
            unique = f"{name}-{number}"
        taken.add(unique)
        made.append(Item(unique, split, entry, images, rest))
    return made


def _plain(stem: str) -> str:
    return _NO_NAME.sub("-", stem).strip("-.") or "case"


def kept_of(datalist: Datalist) -> dict[str, Any]:
    """Return what a foreign layout has no place for, for its JSON file under ``medseg``."""
    kept: dict[str, Any] = {"version": datalist.version, "preparation": datalist.preparation}
    kept |= {"name": datalist.name, "licence": datalist.licence, "source": datalist.source}
    kept |= {"modality": list(datalist.modality), "ignore_index": datalist.ignore_index}
    for key in ("labels", "codes", "colours"):
        kept[key] = {str(index): value for index, value in getattr(datalist, key).items()}
    return kept


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a hidden folder that becomes ``output`` when the block ends without an exception.

    Raises:
        ExportError: if ``output`` is there and not empty.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ExportError(f"{shown(output)}: is there already and not empty; name a new folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    outer = Path(tempfile.mkdtemp(dir=output.parent, prefix=".export."))
    inner = outer / "data"
    inner.mkdir()
    try:
        yield inner
        if output.exists():
            output.rmdir()
        os.replace(inner, output)
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def put_nifti(array: npt.NDArray[Any], affine: Affine, target: Path, source: Path | None = None) -> None:
    """Write a volume as ``.nii.gz``; a NIfTI file that holds just it keeps its bytes.

    Args:
        array: ``(X, Y, Z)`` or ``(X, Y, Z, C)``.
        affine: voxel to patient, RAS+.
        target: the file.
        source: the file that the array is the whole of.
    """
    import nibabel

    suffix = image_suffix(source) if source is not None else ""
    if source is not None and suffix == ".nii.gz":
        shutil.copyfile(source, target)
        return
    if source is not None and suffix == ".nii":
        with source.open("rb") as plain, gzip.open(target, "wb") as packed:
            shutil.copyfileobj(plain, packed)
        return
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        low, high = int(array.min()), int(array.max())
        if low < -(2**31) or high >= 2**31:
            raise ExportError(
                f"{shown(source or target)}: holds integers of more than 32 bits, which NIfTI readers lack; convert it"
            )
        array = array.astype(np.int32)
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, target)


def put_png(array: npt.NDArray[Any], target: Path, source: Path) -> None:
    """Write a picture of 8 or 16 bits as PNG, grey or RGB.

    Raises:
        ExportError: if PNG cannot hold its values.
    """
    import imagecodecs

    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or array.dtype not in (np.uint8, np.uint16):
        size = " x ".join(map(str, array.shape))
        raise ExportError(
            f"{shown(source)}: {array.dtype} of {size} cannot be a PNG (8 or 16 bits, one picture); store it as NIfTI"
        )
    target.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(array)))


def indices_of(item: Item, image: ImageFile, ignore: tuple[int | None, int | None]) -> npt.NDArray[Any]:
    """Return the label of an item as class indices.

    Args:
        item: with a label.
        image: its image, for its size.
        ignore: the value that counts nowhere, and what it becomes.

    Raises:
        ExportError: if the label has another size or place than the image, or is not of whole numbers.
    """
    label = read_label(item.entry)
    array = label.array
    if array.shape != image.shape or array.dtype.kind not in "iu":
        sizes = " and ".join("x".join(map(str, shape)) for shape in (array.shape, image.shape))
        raise ExportError(f"{shown(item.label)}: label and image are {sizes} ({array.dtype}); see medseg check")
    assert item.label is not None
    refuse_elsewhere(label, item.label, image, item.images[0])
    if ignore[0] is not None and ignore[1] is not None:
        array = np.where(array == ignore[0], ignore[1], array)
    if array.min() < 0 or array.max() > np.iinfo(np.uint16).max:
        raise ExportError(f"{shown(item.label)}: holds {array.min()} to {array.max()}; class indices are 0 to 65535")
    return array.astype(np.uint8 if array.max() <= np.iinfo(np.uint8).max else np.uint16)


def refuse_elsewhere(other: ImageFile, path: Path, image: ImageFile, image_path: Path) -> None:
    """Refuse a label or channel that is to be written where its image lies, but does not lie there.

    Args:
        other: of the image's shape.
        path: its file.
        image: the image.
        image_path: its file.

    Raises:
        ExportError: with both places.
    """
    if other.affine is None and image.affine is None:
        return
    if other.affine is not None and image.affine is not None:
        if compare(image.affine, other.affine, image.shape).same:
            return
        places = [describe(other.affine), describe(image.affine)]
    else:
        places = ["a picture" if each.affine is None else "a volume" for each in (other, image)]
    raise ExportError(
        f"{shown(path)}: is not where its image {shown(image_path.name)} is ({places[0]}; the image: {places[1]}), and "
        "would be written there; bring it to the image's grid, see medseg check"
    )
