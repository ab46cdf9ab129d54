"""Which cases belong together: a proposal to look at."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from medseg.data.folds import one_spelling
from medseg.importers.layout import Case, ImportingError

__all__ = ["Grouping", "hidden_identity", "propose_groups"]

_WHOLE = r"(?:patient|pat|subject|subj|sub|case|volume|vol|scan|study|slide|specimen|animal|mouse|section)"
_PART = r"(?:slice|sl|frame|fr|tile|patch|crop|roi|view|img|im|image|[tzxy])"
_PATTERNS = (
    rf"^(?P<group>(?:.*[^a-z])?{_WHOLE}[-_ ]?\d+)[^0-9].*$",
    rf"^(?P<group>.+?)(?:[-_. ]+{_PART}[-_ ]?\d+)+$",
)
_VISITS = r"^(?P<group>\D*(?!(?:19|20)\d\d\D)\d+)[-_. ]\d+$"
"""A patient's number and a visit's, such as BraTS-GLI-00005-001: most patients have one visit."""


@dataclass(frozen=True)
class Grouping:
    """The group of each case.

    Args:
        groups: in the order of the cases.
        how: what the groups are, for a person to look at.
    """

    groups: list[str]
    how: str


def hidden_identity(identity: str) -> str:
    """Return a name for a patient's ID that does not show it: a hash.

    It hides the ID from eyes, not from somebody who can try all IDs.
    """
    return "patient_" + hashlib.sha256(f"medseg group {identity.strip()}".encode()).hexdigest()[:12]


def propose_groups(cases: Sequence[Case], grouped_by: str, pattern: str = "") -> Grouping:
    """Return the groups that a layout knows, a pattern gives, or names suggest; otherwise each case is its own.

    Groups that are alike but for the spelling, as of ``P1_a`` and ``p01_b``, are one (see `one_spelling`).

    Args:
        cases: in order.
        grouped_by: what `Case.group` is.
        pattern: regular expression with a group in brackets, searched in each name; ``none`` for no groups.

    Raises:
        ImportingError: if the pattern is none, or a name does not fit.
    """
    names = [case.name for case in cases]
    if pattern == "none":
        return Grouping(names, "each case is its own group, as said")
    if pattern:
        return _spelled(_by_pattern(names, pattern), f"by the pattern {pattern}")
    if grouped_by:
        return _spelled([case.name if case.group is None else case.group for case in cases], grouped_by)
    for proposal in (*_PATTERNS, _VISITS):
        found = [re.match(proposal, name, re.IGNORECASE) for name in names]
        groups = [match["group"] if match else name for match, name in zip(found, names, strict=True)]
        number = len(set(one_spelling(groups)))
        if proposal == _VISITS and not (all(found) and 2 * number >= len(names)):
            continue  # a class or a year is counted through
        example = next(((n, g) for n, g in zip(names, groups, strict=True) if n != g), None)
        if example is not None and 2 <= number < len(set(names)):
            name, group = example
            return _spelled(groups, f"proposed from the names, such as {group} of {name}")
    return Grouping(names, "each case is its own group: names tell no patients; say them with --group-pattern")


def _spelled(groups: list[str], how: str) -> Grouping:
    made = one_spelling(groups)
    other = next(((group, first) for group, first in zip(groups, made, strict=True) if group != first), None)
    return Grouping(made, how if other is None else f"{how}; spelled alike, such as {other[0]} and {other[1]}, are one")


def _by_pattern(names: Sequence[str], pattern: str) -> list[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ImportingError(f"--group-pattern {pattern!r} is no regular expression ({error}); correct it") from error
    if compiled.groups < 1:
        raise ImportingError(f"--group-pattern {pattern!r} has no group in brackets, such as '(patient[0-9]+)_'")
    groups = []
    for name in names:
        match = compiled.search(name)
        if match is None or not match[1]:
            raise ImportingError(f"--group-pattern {pattern!r} does not fit the case {name!r}; widen it")
        groups.append(match[1])
    return groups
