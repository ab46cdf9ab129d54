"""What label values tell of the mistake behind them: instance ids, classes counted from 1."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from medseg.data.datalist import Datalist

__all__ = ["hidden_class", "listed", "looks_raw", "remedy"]

_LISTED = 5
_ADE20K_CLASSES = 150
_MOST_GREY_CLASSES = 8  # levels closer together are no longer told from indices that happen to be there


def listed(values: Sequence[int]) -> str:
    """Return values for a message: all, or the least and the greatest.

    Args:
        values: ascending.
    """
    if len(values) <= _LISTED:
        return ", ".join(map(str, values))
    return f"{', '.join(map(str, values[: _LISTED - 1]))} ... {values[-1]}"


def remedy(unknown: Sequence[int], datalist: Datalist, present: Sequence[int] = ()) -> str:
    """Say what to do about values that are no classes.

    Args:
        unknown: values of one label that are neither a class nor the ignore label.
        datalist: names the classes.
        present: all values of that label, ascending.
    """
    classes = datalist.num_classes
    if mapping := _mapping(present or unknown, datalist):
        return f'add "values": {mapping} to the datalist, which maps stored values to classes'
    if max(unknown) > max(255, classes):
        return (
            "values above 255 look like instance ids (Cityscapes' instanceIds are class x 1000 + number); take the "
            "labels of classes, prepared with the data set's script in data_scripts/, or map each id to its class"
        )
    general = 'map it to a class with "values" in the datalist, or set ignore_index if these pixels count nowhere'
    if list(unknown) != [classes]:
        return general
    if classes == _ADE20K_CLASSES:
        return (
            "raw ADE20K annotations hold 0 to 150, where 0 = other and classes count from 1: prepare them with "
            "data_scripts/ade20k.py, or every class is one off"
        )
    return f"{general}; if classes count from 1 here and 0 is none of them, make 0 the ignore label and subtract 1"


def hidden_class(present: Sequence[int], datalist: Datalist) -> str:
    """Return what to do where the ignore label may be the class that no label holds, as in masks of 0 and 255.

    Args:
        present: values of all labels, ascending.
        datalist: names the classes and the ignore label.
    """
    mapping = _mapping(present, datalist)
    if mapping is None or datalist.ignore_index not in present:
        return ""
    return (
        f"; if the stored {datalist.ignore_index} means a class here, not the ignore label, add "
        f'"values": {mapping} to the datalist and set ignore_index to null'
    )


def _mapping(present: Sequence[int], datalist: Datalist) -> str | None:
    """Return the JSON of the mapping that grey levels spread evenly over 0 to 255 (or 65535) ask for, such as 0/255."""
    last = datalist.num_classes - 1
    if not 1 <= last <= _MOST_GREY_CLASSES or datalist.values:
        return None
    for white in (255, 65535):
        levels = {_level(white, index, last): index for index in range(last + 1)}
        if white in present and all(value in levels or value == datalist.ignore_index for value in present):
            return json.dumps({str(value): index for value, index in levels.items()})
    return None


def _level(white: int, index: int, last: int) -> int:
    return (2 * white * index + last) // (2 * last)  # rounded


def looks_raw(present: Collection[int], datalist: Datalist) -> bool:
    """Return whether labels could be raw ADE20K annotations of which none holds class 150, the rarest.

    Args:
        present: values of all labels.
        datalist: names the classes.
    """
    if datalist.num_classes != _ADE20K_CLASSES or datalist.ignore_index is None:
        return False
    return 0 in present and datalist.ignore_index not in present and _ADE20K_CLASSES not in present
