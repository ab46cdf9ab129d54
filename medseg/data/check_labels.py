"""What label values tell of the mistake behind them: instance ids, classes counted from 1."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from medseg.data.datalist import Datalist

__all__ = ["listed", "looks_raw", "remedy"]

_LISTED = 5
_ADE20K_CLASSES = 150


def listed(values: Sequence[int]) -> str:
    """Return values for a message: all, or the least and the greatest.

    Args:
        values: ascending.
    """
    if len(values) <= _LISTED:
        return ", ".join(map(str, values))
    return f"{', '.join(map(str, values[: _LISTED - 1]))} ... {values[-1]}"


def remedy(unknown: Sequence[int], datalist: Datalist) -> str:
    """Say what to do about values that are no classes.

    Args:
        unknown: values of one label that are neither a class nor the ignore label.
        datalist: names the classes.
    """
    classes = datalist.num_classes
    if max(unknown) > max(255, classes):
        return (
            "values above 255 look like instance ids (Cityscapes' instanceIds are class x 1000 + number); take the "
            "labels of classes, prepared with the data set's script in data_scripts/, or map each id to its class"
        )
    general = "map it to a class, or set ignore_index if these pixels count nowhere"
    if list(unknown) != [classes]:
        return general
    if classes == _ADE20K_CLASSES:
        return (
            "raw ADE20K annotations hold 0 to 150, where 0 = other and classes count from 1: prepare them with "
            "data_scripts/ade20k.py, or every class is one off"
        )
    return f"{general}; if classes count from 1 here and 0 is none of them, make 0 the ignore label and subtract 1"


def looks_raw(present: Collection[int], datalist: Datalist) -> bool:
    """Return whether labels could be raw ADE20K annotations of which none holds class 150, the rarest.

    Args:
        present: values of all labels.
        datalist: names the classes.
    """
    if datalist.num_classes != _ADE20K_CLASSES or datalist.ignore_index is None:
        return False
    return 0 in present and datalist.ignore_index not in present and _ADE20K_CLASSES not in present
