"""Validation of a datalist's JSON content: every message names the file, the value and the remedy."""

from __future__ import annotations

import json
import math
import re
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import MedsegError, meant, shown
from medseg.io.labels import VALUES_KEY

__all__ = ["FILES", "PATH_KEYS", "DatalistError", "read_json", "validate"]

PATH_KEYS = ("image", "label", "instances")
"""Entry keys that name a file (``image``: or the folder of a DICOM series, or a list of such, one a channel);
``instances`` is a map of object numbers 1 to n, 0 where there is none."""

FILES = ("datalist.json", "dataset.json")
"""What a datalist is called in its folder."""

MAX_BYTES = 2**30
"""Largest datalist that is read: some five million entries."""

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
_OPTIONAL = ("preparation", "codes", "colours", "values")
_JSON_NAMES = {str: "a string", int: "an integer", list: "a list", dict: "an object", type(None): "null"}
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_STORED = re.compile(r"0|-?[1-9][0-9]{0,8}", re.ASCII)
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}", re.ASCII)
_CODE_KEYS = {"value": 16, "scheme": 16, "meaning": 64}  # and the longest that DICOM allows (PS3.3, table 8.8-1)
_CODE_PARTS: dict[str, Any] = {"category": {}, "modifier": {}, "region": {"modifier": {}}}  # codes beside a code
_MOST_DIGITS = 18  # what fits an int64
_DEEPEST = 32
_LISTED = 8


class DatalistError(MedsegError):
    """A datalist, or what it names, cannot be used."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; a byte order mark is passed over.

    Raises:
        DatalistError: if the file is missing or unreadable, is not UTF-8 JSON, repeats a key, holds a number that is
            not finite or has more than 18 digits, or is not an object.
    """
    where = shown(path)

    def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            twin = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise DatalistError(f"{where}: key {_quoted(twin)} stands twice in one object; keep one of them")
        return content

    def integer(digits: str) -> int:
        if len(digits.lstrip("-")) > _MOST_DIGITS:
            raise DatalistError(
                f"{where}: holds an integer of {len(digits)} digits ({digits[:12]}...); write a smaller one"
            )
        return int(digits)

    def real(digits: str) -> float:
        if not math.isfinite(number := float(digits)):
            raise DatalistError(f"{where}: holds the number {digits[:20]}; only finite numbers can be used")
        return number

    text = _read_text(path, where)
    try:
        content = json.loads(
            text, object_pairs_hook=without_twins, parse_int=integer, parse_float=real, parse_constant=real
        )
    except json.JSONDecodeError as error:
        raise DatalistError(f"{where}: not valid JSON ({error}); correct the file or prepare it again") from error
    except RecursionError as error:
        raise DatalistError(f"{where}: not valid JSON for a datalist (nested too deeply); correct the file") from error
    if not isinstance(content, dict):
        raise DatalistError(f"{where}: holds {_name(content)} at the top, but a datalist is an object; correct it")
    return content


def _read_text(path: Path, where: str) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DatalistError(f"{where}: cannot be read, it is no file; name the datalist's JSON file")
        if status.st_size > MAX_BYTES:
            raise DatalistError(f"{where}: has {status.st_size} bytes, too many for a datalist (at most {MAX_BYTES})")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        otherwise = "correct the path, or make one: medseg import FOLDER -o DIR, medseg data NAME"
        way = meant(path, otherwise, lambda near: any(each.is_file() for each in (near, *(near / n for n in FILES))))
        raise DatalistError(f"{where}: no such datalist; {way}") from error
    except UnicodeDecodeError as error:
        raise DatalistError(f"{where}: not UTF-8 text ({error.reason}); a datalist is a JSON file") from error
    except OSError as error:
        raise DatalistError(f"{where}: cannot be read ({error.strerror}); a datalist is a JSON file") from error
    except DatalistError:
        raise
    except ValueError as error:  # a path that no system call takes: a null byte, a lone surrogate
        raise DatalistError(f"{where}: cannot be a path ({error}); correct it") from error


def validate(content: dict[str, Any], where: str) -> None:
    """Check a datalist's content; files are not opened.

    The time taken grows as the content does, whatever it is.

    Args:
        content: the parsed JSON.
        where: name of the file, for messages.

    Raises:
        DatalistError: at the first wrong value.
    """
    where = shown(where)
    missing = [key for key in _TYPES if key not in content]
    if missing:
        raise DatalistError(f"{where}: lacks {', '.join(map(repr, missing))}; add the key{'s' * (len(missing) > 1)}")
    _validate_plain(content, where)
    for key, types in _TYPES.items():
        _require(content[key], types, where, key)
    for key in _OPTIONAL:
        _require(content.get(key, {}), (dict,), where, key)
    for index, value in enumerate(content["modality"]):
        _require(value, (str,), where, f"modality[{index}]")
    _validate_labels(content["labels"], content["ignore_index"], where)
    validate_codes(content.get("codes", {}), content["labels"], where)
    _validate_colours(content.get("colours", {}), content["labels"], where)
    _validate_values(content.get("values", {}), content["labels"], content["ignore_index"], where)
    for split in ("training", "validation", "test"):
        for index, entry in enumerate(content[split]):
            _validate_entry(entry, split, f"{where}: {split}[{index}]")
        _validate_folds(content[split], f"{where}: {split}")
    if not any(content[split] for split in ("training", "validation", "test")):
        raise DatalistError(f"{where}: training, validation and test are all empty; list at least one image")


def _validate_plain(content: dict[str, Any], where: str) -> None:
    """Refuse text that is no Unicode, numbers that no JSON has, and what is nested too deeply to be written again."""
    waiting: list[tuple[Any, str, int]] = [(value, str(key)[:40], 1) for key, value in content.items()]
    waiting += [(key, "a key", 1) for key in content]
    while waiting:
        value, place, depth = waiting.pop()
        if isinstance(value, dict | list | tuple):
            if depth > _DEEPEST:
                raise DatalistError(f"{where}: {shown(place)} is nested more than {_DEEPEST} deep; make it flat")
            waiting.extend((inner, place, depth + 1) for inner in value)
            if isinstance(value, dict):
                waiting.extend((inner, place, depth + 1) for inner in value.values())
        elif fault := _fault(value):
            raise DatalistError(f"{where}: {shown(place)} holds {fault}")


def _fault(value: Any) -> str:
    """Return what is wrong with a value that holds no others, and what to do."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}; only finite numbers can be used"
    if isinstance(value, int) and abs(value) >= 10**_MOST_DIGITS:
        return f"an integer of more than {_MOST_DIGITS} digits; write a smaller one"
    if isinstance(value, str) and not value.isascii() and not _is_unicode(value):
        return f"{_quoted(value)}, which is no Unicode text (a lone surrogate); give files and classes names in UTF-8"
    return ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _validate_labels(labels: dict[str, Any], ignore_index: int | None, where: str) -> None:
    for key, name in labels.items():
        if not _INDEX.fullmatch(key):
            raise DatalistError(f'{where}: labels has the key {_quoted(key)}; keys are class indices such as "0"')
        _require(name, (str,), where, f"labels[{key!r}]")
    if sorted(map(int, labels)) != list(range(len(labels))) or not labels:
        found = _listed(sorted(labels, key=int)) or "none"
        raise DatalistError(f"{where}: labels has the indices {found}; number the classes 0, 1, 2 ... without gaps")
    twins = [name for name, count in Counter(labels.values()).items() if count > 1]
    if twins:
        raise DatalistError(f"{where}: labels names {_quoted(twins[0])} twice; give every class its own name")
    if ignore_index is None:
        return
    if not -(2**31) <= ignore_index < 2**31:
        raise DatalistError(f"{where}: ignore_index {ignore_index} does not fit 32 bits; take a value such as 255")
    if 0 <= ignore_index < len(labels):
        raise DatalistError(
            f"{where}: ignore_index {ignore_index} is also the class {_quoted(labels[str(ignore_index)])}; "
            "take a value outside the classes, such as 255"
        )


def validate_codes(codes: Mapping[str, Any], labels: Mapping[str, Any], where: str) -> None:
    """Check the coded concepts of classes.

    Args:
        codes: by class index, as text.
        labels: the classes, likewise.
        where: for messages.

    Raises:
        DatalistError: if a class does not exist, or a code is none.
    """
    for key, code in codes.items():
        _require_class(key, labels, where, "codes")
        _validate_code(code, _CODE_PARTS, where, f"codes[{key!r}]")


def _validate_code(code: Any, parts: Mapping[str, Any], where: str, place: str) -> None:
    _require(code, (dict,), where, place)
    if not set(_CODE_KEYS) <= set(code) <= {*_CODE_KEYS, *parts}:
        raise DatalistError(
            f"{where}: {place} has the keys {_listed(sorted(code)) or 'none'}; give an object such as "
            '{"value": "10200004", "scheme": "SCT", "meaning": "Liver"}'
            + (f", and beside them {', '.join(parts)} where they are known" if parts else "")
        )
    for name, longest in _CODE_KEYS.items():
        _require(code[name], (str,), where, f"{place} {name}")
        if not 0 < len(code[name]) <= longest or not code[name].isprintable():
            raise DatalistError(
                f"{where}: {place} {name} is {_quoted(code[name])}; DICOM takes 1 to {longest} printable characters"
            )
    for name in parts.keys() & code.keys():
        _validate_code(code[name], parts[name], where, f"{place} {name}")


def _validate_colours(colours: dict[str, Any], labels: Mapping[str, Any], where: str) -> None:
    for key, colour in colours.items():
        _require_class(key, labels, where, "colours")
        if not isinstance(colour, str) or not _COLOUR.fullmatch(colour):
            raise DatalistError(
                f'{where}: colours[{key!r}] is {_quoted(colour)}; write red, green and blue as in "#ff8000"'
            )


def _validate_values(values: dict[str, Any], labels: Mapping[str, Any], ignore_index: int | None, where: str) -> None:
    for key, index in values.items():
        if not _STORED.fullmatch(key):
            raise DatalistError(f'{where}: values has the key {_quoted(key)}; keys are stored values such as "255"')
        _require(index, (int,), where, f"values[{key!r}]")
        if index != ignore_index and not 0 <= index < len(labels):
            ignored = "" if ignore_index is None else f" or the ignore label {ignore_index}"
            raise DatalistError(
                f"{where}: values maps {key} to {index}, which is no class; name one of 0-{len(labels) - 1}{ignored}"
            )


def _require_class(key: str, labels: Mapping[str, Any], where: str, name: str) -> None:
    if key not in labels:
        raise DatalistError(
            f"{where}: {name} names the class {_quoted(key)}, but labels has {_listed(sorted(labels, key=int))}; "
            "take one of these"
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
    if VALUES_KEY in entry:
        raise DatalistError(f'{where}: {VALUES_KEY} is no key of an entry; write "values" once, beside "labels"')
    if "group" in entry:
        _require(entry["group"], (str,), where, "group")
    for key, value in entry.items():
        if key.startswith("fold"):
            _require(value, (int,), where, shown(key))
            if value < 0:
                raise DatalistError(f"{where}: {shown(key)} is {value}; folds are numbered from 0")


def _validate_path(value: Any, where: str, key: str) -> None:
    if key == "image" and isinstance(value, list):  # one file a channel
        if not value:
            raise DatalistError(f"{where}: image is an empty list; name one file a channel")
        if len(set(map(str, value))) < len(value):
            raise DatalistError(f"{where}: image names a file twice; name each channel's file once")
        for channel, path in enumerate(value):
            _validate_path(path, where, f"image[{channel}]")
        return
    _require(value, (str,), where, key)
    if "\0" in value or not (value.strip("./") or value.startswith("/")):
        raise DatalistError(f"{where}: {key} is {_quoted(value)}; give a path relative to the datalist")
    if value.startswith("/"):
        raise DatalistError(f"{where}: {key} {_quoted(value)} is absolute; give it relative to the datalist's folder")


def _validate_folds(entries: Sequence[dict[str, Any]], where: str) -> None:
    for key in dict.fromkeys(key for entry in entries for key in entry if key.startswith("fold")):
        for index, entry in enumerate(entries):
            if key not in entry:
                raise DatalistError(
                    f"{where}[{index}] lacks {_quoted(key)}, which other entries have; give every entry a fold"
                )


def _require(value: Any, types: tuple[type, ...], where: str, key: str) -> None:
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        wanted = " or ".join(_JSON_NAMES[kind] for kind in types)
        raise DatalistError(f"{where}: {key} is {_name(value)} ({_quoted(value)}), but must be {wanted}")


def _name(value: Any) -> str:
    if isinstance(value, bool):
        return "a boolean"
    return _JSON_NAMES.get(type(value), f"a {type(value).__name__}")


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return f"{text[:80]!r}" + ("..." if len(text) > 80 else "")


def _listed(items: Sequence[str]) -> str:
    more = f" ... {shown(items[-1])[:80]}" if len(items) > _LISTED else ""
    return ", ".join(shown(item)[:80] for item in items[:_LISTED]) + more
