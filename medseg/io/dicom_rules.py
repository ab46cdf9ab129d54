"""Which DICOM series a model takes: a rule file, and what becomes of each series by it.

```yaml
take:                          # a series is taken if it fits one of these
  - modality: [MR]             # any of them
    description: t1|mprage     # a regular expression somewhere in description, protocol or body part; case is ignored
    orientation: [axial]       # the nearest: axial, coronal, sagittal
    slice_distance: [0.8, 1.2] # mm
    slices: [10, 600]
    tilt: 1.0                  # most degrees that the slices may be sheared by (a tilted gantry); 1 by default
    colour: false              # whether pixels are in colour; either by default
```
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from medseg.errors import MedsegError, shown
from medseg.io.dicom_planes import TILT
from medseg.io.dicom_series import Series
from medseg.io.yaml_file import read_yaml

__all__ = ["ANY", "Choice", "Rule", "RuleError", "choose_series", "read_rules", "refuses_kind", "rules_of"]

_PLANES = ("axial", "coronal", "sagittal")
_TAKE = "take"
_Range = tuple[float, float]


class RuleError(MedsegError):
    """A rule file that cannot be used."""


@dataclass(frozen=True)
class Rule:
    """What a series must be; what is not said may be anything.

    Args:
        modality: one of these.
        description: regular expression that is found in its description, whatever the case.
        orientation: one of these.
        slice_distance: least and most, mm.
        slices: least and most.
        tilt: most degrees of shear.
        colour: whether it is in colour; ``None`` for either.
    """

    modality: Sequence[str] = ()
    description: str = ""
    orientation: Sequence[str] = ()
    slice_distance: _Range | None = None
    slices: _Range | None = None
    tilt: float = TILT
    colour: bool | None = None

    def refuses(self, series: Series) -> tuple[int, str]:
        """Return how many properties fit before one does not, and what is wrong with that, without its description.

        Returns:
            The number and a few words, which are empty where the series fits.
        """
        faults = (
            self._of_kind(series),
            self.description
            and not re.search(self.description, series.description, re.IGNORECASE)
            and f"its description does not fit {self.description!r}",
            self.colour not in (None, series.colour)
            and ("its pixels are in colour" if series.colour else "its pixels are grey, colour is wanted"),
            series.problem,
            self.orientation
            and series.orientation not in self.orientation
            and f"{series.orientation} slices, wanted {' or '.join(self.orientation)}",
            _outside(f"slices {series.distance:.4g} mm apart", series.distance, self.slice_distance),
            _outside(f"{series.slices} slices", series.slices, self.slices),
            series.tilt > self.tilt
            and f"slices sheared by {series.tilt:.1f} degrees (a tilted gantry), at most {self.tilt:g} are taken; "
            "resample it, or raise tilt in the rule",
        )
        return next(((number, str(fault)) for number, fault in enumerate(faults) if fault), (len(faults), ""))

    def _of_kind(self, series: Series) -> str:
        if not self.modality or series.modality.upper() in self.modality:
            return ""
        return f"modality {shown(series.modality[:16]) or 'unstated'}, wanted {' or '.join(self.modality)}"


def _outside(what: str, value: float, wanted: _Range | None) -> str:
    if wanted is None or wanted[0] - 1e-3 <= value <= wanted[1] + 1e-3:
        return ""
    return f"{what}, wanted {wanted[0]:g} to {wanted[1]:g}"


ANY = (Rule(),)
"""Takes every volume whose slices are not sheared."""


@dataclass(frozen=True)
class Choice:
    """What becomes of series.

    Args:
        taken: those that fit a rule.
        refused: the others, with the reason.
    """

    taken: tuple[Series, ...]
    refused: tuple[tuple[Series, str], ...] = field(default=())


def choose_series(series: Sequence[Series], rules: Sequence[Rule] = ANY) -> Choice:
    """Tell the series that a model takes from those that it does not.

    Args:
        series: from `medseg.io.dicom_series.list_series`.
        rules: one must fit.

    Returns:
        Every series is in one part of it; the reason is that of the rule that got furthest.
    """
    taken, refused = [], []
    for each in series:
        _, reason = max((rule.refuses(each) for rule in rules), key=lambda found: found[0])
        if reason:
            refused.append((each, reason))
        else:
            taken.append(each)
    return Choice(tuple(taken), tuple(refused))


def refuses_kind(rules: Sequence[Rule], modality: str, description: str) -> str:
    """Return why no rule takes a series, by what an archive says before any file is read; empty where one may.

    Args:
        rules: one must fit.
        modality: of the series.
        description: of the series, its protocol and body part.
    """
    said = Series("", "", (), modality, description, 0)
    rest: dict[str, Any] = {"colour": None, "orientation": (), "slice_distance": None, "slices": None}
    reasons = [replace(rule, **rest).refuses(said) for rule in rules]
    return "" if any(not reason for _, reason in reasons) else max(reasons, key=lambda found: found[0])[1]


def read_rules(path: Path) -> tuple[Rule, ...]:
    """Read a rule file.

    Raises:
        RuleError: if it is missing, no YAML, or says what no rule knows.
    """
    content = read_yaml(path, RuleError, "a rule file")
    if not isinstance(content, Mapping) or _TAKE not in content:
        raise RuleError(f"{path}: has no list {_TAKE!r}; write the rules below it")
    return rules_of(content[_TAKE], str(path))


def rules_of(content: Any, where: str) -> tuple[Rule, ...]:
    """Build rules from plain data.

    Args:
        content: a list of mappings.
        where: for messages.

    Raises:
        RuleError: naming the rule, the key and what it takes.
    """
    if not isinstance(content, list) or not content:
        raise RuleError(f"{where}: {_TAKE} is {content!r}; give a list of at least one rule")
    return tuple(_rule(each, f"{where}: rule {number + 1}") for number, each in enumerate(content))


def _rule(content: Any, where: str) -> Rule:
    if not isinstance(content, Mapping):
        raise RuleError(f"{where} is {content!r}; give keys such as modality: [CT]")
    known = [each.name for each in fields(Rule)]
    made: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise RuleError(f"{where} has no key {key!r}; {f'did you mean {near[0]!r}?' if near else known}")
        made[key] = _value(key, value, f"{where}, {key}")
    return Rule(**made)


def _value(key: str, value: Any, where: str) -> Any:
    if key in ("slice_distance", "slices"):
        if not (isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value[0] <= value[1]):
            raise RuleError(f"{where} is {value!r}; give the least and the most, such as [1, 3]")
        return float(value[0]), float(value[1])
    if key == "tilt":
        if not _is_number(value) or value < 0:
            raise RuleError(f"{where} is {value!r}; give degrees, at least 0")
        return float(value)
    if key == "colour":
        if not isinstance(value, bool):
            raise RuleError(f"{where} is {value!r}; give true or false")
        return value
    return _pattern(value, where) if key == "description" else _texts(key, value, where)


def _pattern(value: Any, where: str) -> str:
    try:
        re.compile(value)
    except (re.error, TypeError) as error:
        raise RuleError(f"{where} is {value!r}, no regular expression ({error}); correct it") from error
    return str(value)


def _texts(key: str, value: Any, where: str) -> tuple[str, ...]:
    several = [value] if isinstance(value, str) else value
    if not isinstance(several, list) or not several or not all(isinstance(text, str) for text in several):
        raise RuleError(f"{where} is {value!r}; give one name or a list of names")
    if key == "modality":
        return tuple(text.upper() for text in several)
    for plane in several:
        if plane.lower() not in _PLANES:
            raise RuleError(f"{where} is {plane!r}; choose of {', '.join(_PLANES)}")
    return tuple(plane.lower() for plane in several)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
