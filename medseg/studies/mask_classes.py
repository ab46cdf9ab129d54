"""What the values of masks mean that somebody else made: from a datalist, nnU-Net's JSON, names, or the truths."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.data.datalist import Datalist
from medseg.errors import MedsegError, counted, few, shown
from medseg.io.labels import map_values
from medseg.studies.mask_pairs import stem

__all__ = ["MaskClasses", "classes_of_datalist", "classes_of_truths", "read_classes", "read_groups"]

_MOST = 256
_LISTED = 8
_SECOND = (1, 255)  # of two classes, as masks and as pictures store it


@dataclass(frozen=True)
class MaskClasses:
    """Classes of masks.

    Args:
        names: by index.
        values: stored value to class index, or, in truths, to the ignore label.
        ignore_index: index of what counts for nothing in a truth.
        groups: of cases, by their file's name without suffix.
        or_indices: whether a prediction may hold class indices where truths hold other values (0 and 255).
        either: whether a prediction may hold the second of two classes as 1 or as 255, whichever truths hold.
    """

    names: Sequence[str]
    values: Mapping[int, int]
    ignore_index: int | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    or_indices: bool = False
    either: bool = False

    def indices(self, array: NDArray[Any], path: Path, *, truth: bool) -> NDArray[Any]:
        """Return a mask's stored values as class indices.

        Args:
            array: stored values.
            path: of the file, for messages.
            truth: whether the ignore label may occur.

        Raises:
            MedsegError: if a value is no class.
        """
        held = set(np.unique(array).tolist())
        known = {value: index for value, index in self.values.items() if truth or index != self.ignore_index}
        if not truth and self.or_indices:
            known = self._of_prediction(held, known, path)
        if not truth and self.either and any(held <= {0, second} for second in _SECOND):
            known = {0: 0, **dict.fromkeys(_SECOND, 1)}
        wrong = sorted(held - known.keys())
        if wrong:
            several = ", ".join(f"{value:g}" for value in wrong[:_LISTED]) + (" ..." if len(wrong) > _LISTED else "")
            named = [f"{v} {self.names[index]}" for v, index in known.items() if index != self.ignore_index]
            listed = shown(", ".join(named[:_LISTED])) + (" ..." if len(named) > _LISTED else "")
            what = ("value", "is") if len(wrong) == 1 else ("values", "are")
            raise MedsegError(
                f"{shown(path)}: holds {what[0]} {several}, which {what[1]} no class ({listed}); name all classes with "
                "--labels, or the datalist that says what values mean (--labels datalist.json), or correct the mask"
            )
        return map_values(array, known, path)

    def _of_prediction(self, held: set[Any], known: dict[int, int], path: Path) -> dict[int, int]:
        """Return what a prediction's values mean: those of labels, or class indices, whichever hold them all."""
        indices = {index: index for index in range(len(self.names))}
        stored = held <= known.keys()
        if stored and held <= indices.keys() and any(known[value] != value for value in held):
            raise MedsegError(
                f"{shown(path)}: its values are class indices, or stored values of the datalist that mean other "
                "classes; name the folder of the labels as truths, and --labels NAME ... in the order of the values"
            )
        return known if stored else indices


def read_classes(labels: Sequence[str], data: Datalist | None = None) -> MaskClasses:
    """Return what ``--labels`` says.

    Args:
        labels: names by value from 0; or one JSON file with ``labels``: a datalist or a decathlon's or nnU-Net's
            ``dataset.json``.
        data: datalist of the truths, if they have one: it says what values mean, and names are those of its classes.

    Raises:
        MedsegError: if the file says no classes, a name comes twice, or there are more or fewer than classes.
    """
    if len(labels) == 1 and labels[0].lower().endswith(".json"):
        return _of_file(Path(labels[0]))
    named = _named(dict(enumerate(labels)), "--labels")
    if data is None:
        return named
    if len(labels) != data.num_classes:
        raise MedsegError(
            f"--labels names {counted(len(labels), 'class', 'classes')}, {shown(data.path)} has {data.num_classes} "
            f"({shown(few(data.class_names))}); leave --labels out, or name each"
        )
    return replace(classes_of_datalist(data), names=named.names)


def _of_file(path: Path) -> MaskClasses:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MedsegError(f"{shown(path)} cannot be read ({error.strerror}); name a JSON file with labels") from error
    except ValueError as error:
        raise MedsegError(f"{shown(path)} is no valid JSON: {error}; correct it") from error
    held = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(held, dict) or not held:
        raise MedsegError(f"{shown(path)} holds no `labels`; name a datalist or a dataset.json")
    if "training" in content:
        return _of_datalist(Datalist.load(path))
    ignored: int | None = None
    if all(isinstance(value, int) for value in held.values()):  # nnU-Net: name to value
        by_value = {int(value): str(name) for name, value in held.items() if name != "ignore"}
        ignored = held.get("ignore")
    elif all(str(key).isdigit() and isinstance(name, str) for key, name in held.items()):
        by_value = {int(key): str(name) for key, name in held.items()}
    else:
        raise MedsegError(f"{shown(path)}: `labels` maps neither values to names nor names to values; regions overlap")
    return _named(by_value, str(path), ignored)


def classes_of_datalist(data: Datalist) -> MaskClasses:
    """Return the classes of a datalist, by the values that its labels hold."""
    same = {index: index for index in range(data.num_classes)}
    if data.ignore_index is not None:
        same[data.ignore_index] = data.ignore_index
    return MaskClasses(data.class_names, dict(data.values) or same, data.ignore_index, or_indices=bool(data.values))


def _of_datalist(data: Datalist) -> MaskClasses:
    groups: dict[str, str] = {}
    for _, entry in data.entries():
        for key in ("label", "image"):
            if key in entry and entry.get("group"):
                name = stem(PurePath(str(entry[key]))).rpartition("/")[2]
                if groups.setdefault(name, str(entry["group"])) != str(entry["group"]):
                    raise MedsegError(
                        f"{shown(data.path)}: files named {shown(name)} are of several groups; give --groups"
                    )
    return replace(classes_of_datalist(data), groups=groups)


def _named(by_value: Mapping[int, str], where: str, ignored: int | None = None) -> MaskClasses:
    names = [by_value[value] for value in sorted(by_value)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise MedsegError(f"{shown(where)} names the class {shown(twice[0])} twice; give each value a name of its own")
    values = {value: index for index, value in enumerate(sorted(by_value))}
    if ignored is None:
        return MaskClasses(names, values)
    return MaskClasses(names, {**values, ignored: len(names)}, len(names))


def classes_of_truths(held: Mapping[str, set[int]]) -> MaskClasses:
    """Return classes named after the values that truths hold, and after 0, the background, whether they hold it or not.

    Args:
        held: the values of each truth, by the name of its case.

    Raises:
        MedsegError: if they are more than classes are, one is negative, which no class is, or some truths hold 0 and 1,
            others 0 and 255, which may be one class or two.
    """
    values = set().union(*held.values())
    if len(values) > _MOST:
        raise MedsegError(f"the truths hold {len(values)} different values: those are no classes; are they masks?")
    if min(values, default=0) < 0:
        raise MedsegError(
            f"the truths hold {min(values)}, which names no class; if it is to count for nothing, give --labels with a "
            f'JSON file that says so: {{"labels": {{"background": 0, "one": 1, "ignore": {min(values)}}}}}'
        )
    of_second = {second: [name for name, its in held.items() if second in its] for second in _SECOND}
    if values - {0} == set(_SECOND) and not set(of_second[1]) & set(of_second[255]):
        raise MedsegError(
            f"the truths hold 1 (as {shown(of_second[1][0])}) or 255 (as {shown(of_second[255][0])}), and none holds "
            "both: they may be one class that is stored in two ways; store it in one, or give --labels with the "
            "datalist that says what values mean"
        )
    named = _named({value: str(value) for value in values | {0}}, "the truths")
    return replace(named, either=len(named.names) == 2 and max(values, default=0) in _SECOND)


def read_groups(path: Path) -> dict[str, str]:
    """Return the group of each case from a CSV file with the columns ``case`` and ``group``.

    Raises:
        MedsegError: if it cannot be read, lacks a column, or names a case twice.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MedsegError(f"{shown(path)} cannot be read as CSV ({error}); give columns case and group") from error
    groups: dict[str, str] = {}
    for row in rows:
        case, group = row.get("case"), row.get("group")
        if not case or not group:
            raise MedsegError(f"{shown(path)}: a row lacks case or group; give columns case and group, filled")
        name = stem(PurePath(case))
        if groups.setdefault(name, group) != group:
            raise MedsegError(
                f"{shown(path)}: {shown(name)} is in the groups {shown(groups[name])} and {shown(group)}; "
                "name one of them"
            )
    return groups
