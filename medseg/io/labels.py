"""Labels of a datalist's entries: the one place where stored values become class indices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import shown
from medseg.io.images import LABEL_ROUNDING, ImageError, ImageFile, read_image

__all__ = ["VALUES_KEY", "map_values", "read_label"]

VALUES_KEY = "label_values"
"""Key of an entry under which `Datalist.absolute` puts the datalist's ``values``: stored value to class index."""

_LISTED = 5
_TABLE_BITS = 16


def read_label(entry: Mapping[str, Any], key: str = "label") -> ImageFile:
    """Read an entry's label as class indices.

    Args:
        entry: with the label's path under ``label`` and, where the datalist has one, its mapping of stored values.
        key: of another map of numbers in the entry, such as ``instances``; these are no classes and stay as stored.

    Raises:
        ImageError: if the file cannot be read, or holds a value that the mapping does not name.
    """
    image = read_image(entry[key], label=True)
    values = entry.get(VALUES_KEY) if key == "label" else None
    return image if not values else replace(image, array=map_values(image.array, values, entry[key]))


def map_values(
    array: npt.NDArray[Any], values: Mapping[int, int], path: str | os.PathLike[str]
) -> npt.NDArray[np.integer[Any]]:
    """Replace stored label values by class indices.

    Args:
        array: stored values, integers or floats that are integers.
        values: stored value to class index (or ignore label); every value that occurs must be named.
        path: of the file, for messages.

    Shape:
        ``(*S)`` to ``(*S)``; uint8 where every index is 0 to 255, int32 elsewhere.

    Raises:
        ImageError: if a value is not named, or is no integer.
    """
    if array.dtype.kind == "f":
        array = array.astype(np.float32) if array.dtype.itemsize < 4 else array  # float16 ends before the limits below
        with np.errstate(invalid="ignore"):
            whole = np.rint(array)
            wrong = ~(np.abs(array - whole) <= LABEL_ROUNDING)  # NaN and infinity too
        wrong |= np.abs(whole) >= 2.0**62
        _refuse(array[wrong], values, path)
        array = whole.astype(np.int64)
    elif array.dtype == np.uint64:
        _refuse(array[array >= 2**62], values, path)
        array = array.astype(np.int64)
    kind = np.uint8 if all(0 <= index <= 255 for index in values.values()) else np.int32
    keys = np.array(sorted(values), np.int64)
    targets: npt.NDArray[np.integer[Any]] = np.array([values[int(key)] for key in keys], kind)
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind == "u" and array.dtype.itemsize * 8 <= _TABLE_BITS:
        size = 2 ** (array.dtype.itemsize * 8)
        inside = (keys >= 0) & (keys < size)
        named = np.zeros(size, bool)
        table: npt.NDArray[np.integer[Any]] = np.zeros(size, kind)
        named[keys[inside]], table[keys[inside]] = True, targets[inside]
        _refuse(array[~named[array]], values, path)
        looked_up: npt.NDArray[np.integer[Any]] = table[array]
        return looked_up
    place = np.minimum(np.searchsorted(keys, array), len(keys) - 1)
    _refuse(array[keys[place] != array], values, path)
    return targets[place]


def _refuse(wrong: npt.NDArray[Any], values: Mapping[int, int], path: str | os.PathLike[str]) -> None:
    if not wrong.size:
        return
    found = np.unique(wrong)
    several = ", ".join(f"{value:.10g}" if wrong.dtype.kind == "f" else str(value) for value in found[:_LISTED])
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    known = sorted(values)
    named = ", ".join(map(str, known[:_LISTED])) + (" ..." if len(known) > _LISTED else "")
    raise ImageError(
        f'{shown(path)}: label holds value{"s" * (len(found) > 1)} {several}{more}, which "values" of the datalist '
        f"does not name ({named}); add what is meant there, or correct the label"
    )
