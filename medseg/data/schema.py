"""Validation of a datalist's JSON content: every message names the file, the value and the remedy."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from medseg.errors import MedsegError

__all__ = ["PATH_KEYS", "DatalistError", "read_json", "validate"]

PATH_KEYS = ("image", "label", "instances")
"""Entry keys that name a file: ``instances`` is a map of object numbers 1 to n, 0 where there is none."""

_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "version": (int,),
    "modality": (list,),
    "licence": (str,),
    "source": (str,),
    "labels": (dict,),
    "ignore_index": (int, type(None)),
    "training": (list,),
    "validation": (list,),
    "test": (list,),
}
_JSON_NAMES = {str: "a string", int: "an integer", list: "a list", dict: "an object", type(None): "null"}


class DatalistError(MedsegError):
    """A datalist, or what it names, cannot be used."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        DatalistError: if the file is missing or unreadable, is not UTF-8 JSON, repeats a key, or is not an object.
    """

    def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            seen = [key for key, _ in pairs]
            twins = sorted({key for key in seen if seen.count(key) > 1})
            raise DatalistError(f"{path}: key {twins[0]!r} stands twice in one object; keep one of them")
        return content

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DatalistError(
            f"{path}: no such datalist; prepare the data set with a script of data_scripts/ or correct the path"
        ) from error
    except UnicodeDecodeError as error:
        raise DatalistError(f"{path}: not UTF-8 text ({error.reason}); a datalist is a JSON file") from error
    except OSError as error:
        raise DatalistError(f"{path}: cannot be read ({error.strerror}); a datalist is a JSON file") from error
    try:
        content = json.loads(text, object_pairs_hook=without_twins)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DatalistError(f"{path}: not valid JSON ({error}); correct the file or prepare it again") from error
    if not isinstance(content, dict):
        raise DatalistError(f"{path}: holds {_name(content)} at the top, but a datalist is an object")
    return content


def validate(content: dict[str, Any], where: str) -> None:
    """Check a datalist's content; files are not opened.

    Args:
        content: the parsed JSON.
        where: name of the file, for messages.

    Raises:
        DatalistError: at the first wrong value.
    """
    missing = [key for key in _TYPES if key not in content]
    if missing:
        raise DatalistError(f"{where}: lacks {', '.join(map(repr, missing))}; add the key{'s' * (len(missing) > 1)}")
    for key, types in _TYPES.items():
        _require(content[key], types, where, key)
    _require(content.get("preparation", {}), (dict,), where, "preparation")
    for index, value in enumerate(content["modality"]):
        _require(value, (str,), where, f"modality[{index}]")
    _validate_labels(content["labels"], content["ignore_index"], where)
    for split in ("training", "validation", "test"):
        for index, entry in enumerate(content[split]):
            _validate_entry(entry, split, f"{where}: {split}[{index}]")
        _validate_folds(content[split], f"{where}: {split}")
    if not any(content[split] for split in ("training", "validation", "test")):
        raise DatalistError(f"{where}: training, validation and test are all empty; list at least one image")


def _validate_labels(labels: dict[str, Any], ignore_index: int | None, where: str) -> None:
    for key, name in labels.items():
        if not key.isascii() or not key.isdecimal() or str(int(key)) != key:
            raise DatalistError(f'{where}: labels has the key {key!r}; keys are class indices such as "0"')
        _require(name, (str,), where, f"labels[{key!r}]")
    if sorted(map(int, labels)) != list(range(len(labels))) or not labels:
        found = ", ".join(sorted(labels, key=int)) or "none"
        raise DatalistError(f"{where}: labels has the indices {found}; number the classes 0, 1, 2 ... without gaps")
    names = list(labels.values())
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise DatalistError(f"{where}: labels names {twins[0]!r} twice; give every class its own name")
    if ignore_index is not None and 0 <= ignore_index < len(labels):
        raise DatalistError(
            f"{where}: ignore_index {ignore_index} is also the class {labels[str(ignore_index)]!r}; "
            "take a value outside the classes, such as 255"
        )


def _validate_entry(entry: Any, split: str, where: str) -> None:
    _require(entry, (dict,), where, "the entry")
    required = ["image"] if split == "test" else ["image", "label"]
    for key in required:
        if key not in entry:
            raise DatalistError(f"{where} lacks {key!r}; every {split} entry needs {' and '.join(required)}")
    for key in PATH_KEYS:
        if key in entry:
            _validate_path(entry[key], where, key)
    if "group" in entry:
        _require(entry["group"], (str,), where, "group")
    for key, value in entry.items():
        if key.startswith("fold"):
            _require(value, (int,), where, key)
            if value < 0:
                raise DatalistError(f"{where}: {key} is {value}; folds are numbered from 0")


def _validate_path(value: Any, where: str, key: str) -> None:
    _require(value, (str,), where, key)
    if not value or "\0" in value:
        raise DatalistError(f"{where}: {key} is {value!r}; give a path relative to the datalist")
    if PurePosixPath(value).is_absolute():
        raise DatalistError(f"{where}: {key} {value!r} is absolute; give it relative to the datalist's folder")
    depth = 0
    for part in PurePosixPath(value).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise DatalistError(
                f"{where}: {key} {value!r} leaves the datalist's folder; put the datalist above all its files"
            )


def _validate_folds(entries: Iterable[dict[str, Any]], where: str) -> None:
    entries = list(entries)
    for key in sorted({key for entry in entries for key in entry if key.startswith("fold")}):
        for index, entry in enumerate(entries):
            if key not in entry:
                raise DatalistError(
                    f"{where}[{index}] lacks {key!r}, which other entries have; give every entry a fold"
                )


def _require(value: Any, types: tuple[type, ...], where: str, key: str) -> None:
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        wanted = " or ".join(_JSON_NAMES[kind] for kind in types)
        raise DatalistError(f"{where}: {key} is {_name(value)} ({str(value)[:60]!r}), but must be {wanted}")


def _name(value: Any) -> str:
    if isinstance(value, bool):
        return "a boolean"
    return _JSON_NAMES.get(type(value), f"a {type(value).__name__}")
