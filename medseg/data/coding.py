"""Codes of anatomy for classes: SNOMED CT proposed by name, for TotalSegmentator's and the decathlon's classes.

The table beside this file (`codes.csv`) has the names of TotalSegmentator (https://arxiv.org/abs/2208.05868) and of the
decathlon's tasks (https://arxiv.org/abs/1902.09063). Values and meanings are those of DICOM PS3.16's context groups, as
pydicom's dictionary has them; what they lack (ribs by number, some muscles, the first sacral vertebra, intervertebral
discs, myocardium, portal and splenic vein as one) is SNOMED CT's own. DICOM may use SNOMED CT without a fee.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from medseg.errors import MedsegError, few, shown
from medseg.io.yaml_file import read_yaml

__all__ = ["ABNORMAL", "ANATOMY", "CodeError", "code", "propose_codes", "read_codes"]

Code = dict[str, Any]


class CodeError(MedsegError):
    """A file of codes that cannot be used."""


def code(value: str, meaning: str, scheme: str = "SCT") -> Code:
    """Return a coded concept as a datalist has it."""
    return {"value": value, "scheme": scheme, "meaning": meaning}


ANATOMY = code("91723000", "Anatomical Structure")
ABNORMAL = code("49755003", "Morphologically Abnormal Structure")
"""Categories of what is segmented (PS3.16, CID 7150); the first is meant where none is said."""

_MODIFIERS = {
    "left": code("7771000", "Left"),
    "right": code("24028007", "Right"),
    "anterior": code("255549009", "Anterior"),
    "posterior": code("255551008", "Posterior"),
}
_SIDES = ("left", "right")
_FINDINGS = {"tumor": "tumor", "tumour": "tumor", "cancer": "tumor", "lesion": "lesion", "cyst": "cyst"}
_BACKGROUND = "background"


def propose_codes(labels: Mapping[int, str], dataset: str = "") -> dict[int, Code]:
    """Propose a coded concept for each class whose name is known; a person should look at them.

    A side in a name (``kidney_left``, ``rib_right_4``) becomes a modifier, a finding of an organ (``liver_tumor``) a
    finding with its region.

    Args:
        labels: index to name; spaces, hyphens and capitals do not matter.
        dataset: name of the data set, which tells the decathlon's bare names apart (``cancer`` of the liver or lung).

    Returns:
        Codes by index; classes of unknown names, and the background, are not among them.
    """
    found = {index: _propose(_key(name), _key(dataset).replace("_", "")) for index, name in labels.items()}
    return {index: made for index, made in found.items() if made is not None}


def read_codes(path: Path, classes: Sequence[str]) -> dict[str, Code]:
    """Read codes for the classes of a model: a datalist that has some, or a file that has nothing else (JSON, YAML).

    Args:
        path: of the file: by a class's index or name, its coded concept as in a datalist.
        classes: of the model, by index.

    Returns:
        Codes by index. What a coded concept must hold is looked at by the model that gets them.

    Raises:
        CodeError: if there is no such file, it holds no codes, or names a class that the model has not.
    """
    content = read_yaml(path, CodeError, "a file of codes, JSON or YAML")
    held = content.get("codes", content) if isinstance(content, dict) else None
    if not isinstance(held, dict) or not held or not all(isinstance(each, dict) for each in held.values()):
        raise CodeError(
            f'{shown(path)} holds no codes; give them by class, {{"{classes[-1]}": {{"value": "10200004", "scheme": '
            '"SCT", "meaning": "Liver"}}'
        )
    indices = {
        **{name: str(index) for index, name in enumerate(classes)},
        **{str(i): str(i) for i in range(len(classes))},
    }
    if strange := [str(key) for key in held if str(key) not in indices]:
        raise CodeError(f"{shown(path)} names the class {strange[0]!r}; the model has {few(classes)}")
    return {indices[str(key)]: each for key, each in held.items()}


def _key(name: str) -> str:
    return "_".join(re.findall(r"[a-z0-9]+", name.lower()))


@cache
def _table() -> tuple[dict[str, str], ...]:
    with Path(__file__).with_name("codes.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def _row(key: str, dataset: str) -> dict[str, str] | None:
    rows = [row for row in _table() if row["name"].lower() == key and row["dataset"] in dataset]
    rows = [row for row in rows if row["dataset"]] or rows
    meant = {(row["value"], row["modifier"], row["region"]) for row in rows}
    return rows[0] if len(meant) == 1 else None  # a data set of liver and lung does not tell whose cancer it is


def _propose(key: str, dataset: str) -> Code | None:
    if not key or key == _BACKGROUND:
        return None
    if row := _row(key, dataset):
        return _code_of(row)
    parts = key.split("_")
    sides = [part for part in parts if part in _SIDES]
    rest = [part for part in parts if part not in _SIDES]
    if len(sides) == 1 and rest:
        made = _propose("_".join(rest), dataset)
        if made is not None and "modifier" not in made:
            place = made.get("region", made)
            place["modifier"] = dict(_MODIFIERS[sides[0]])
            return made
        return None
    if len(rest) > 1 and rest[-1] in _FINDINGS:
        region, finding = _row("_".join(rest[:-1]), dataset), _row(_FINDINGS[rest[-1]], "")
        if region is not None and finding is not None and not region["category"]:
            return {**_code_of(finding), "region": code(region["value"], region["meaning"], region["scheme"])}
    return None


def _code_of(row: Mapping[str, str]) -> Code:
    made = code(row["value"], row["meaning"], row["scheme"])
    if row["category"]:
        made["category"] = dict(ABNORMAL)
    if row["modifier"]:
        made["modifier"] = dict(_MODIFIERS[row["modifier"]])
    if row["region"] and (region := _row(row["region"], "")):
        made["region"] = code(region["value"], region["meaning"], region["scheme"])
    return made
