"""Which cases belong together, and a division into folds that keeps them together: proposals to look at."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from medseg.importers.layout import Case, ImportingError

__all__ = ["FOLDS", "Grouping", "hidden_identity", "propose_folds", "propose_groups"]

FOLDS = 5

_WHOLE = r"(?:patient|pat|subject|subj|sub|case|volume|vol|scan|study|slide|specimen|animal|mouse|section)"
_PART = r"(?:slice|sl|frame|fr|tile|patch|crop|roi|view|img|im|image|[tzxy])"
_PATTERNS = (
    rf"^(?P<group>(?:.*[^a-z])?{_WHOLE}[-_ ]?\d+)[^0-9].*$",
    rf"^(?P<group>.+?)(?:[-_. ]+{_PART}[-_ ]?\d+)+$",
)


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
        return Grouping(_by_pattern(names, pattern), f"by the pattern {pattern}")
    if grouped_by:
        return Grouping([case.name if case.group is None else case.group for case in cases], grouped_by)
    for proposal in _PATTERNS:
        found = [re.match(proposal, name, re.IGNORECASE) for name in names]
        groups = [match["group"] if match else name for match, name in zip(found, names, strict=True)]
        if 2 <= len(set(groups)) < len(groups):
            name, group = next((n, g) for n, g in zip(names, groups, strict=True) if n != g)
            return Grouping(groups, f"proposed from the names, such as {group} of {name}")
    return Grouping(names, "each case is its own group: names tell no patients; say them with --group-pattern")


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


def propose_folds(
    groups: Sequence[str], classes: Sequence[Collection[int]], folds: int = FOLDS, seed: int = 0
) -> list[int] | None:
    """Return a fold for each case, by scikit-learn's ``StratifiedGroupKFold``.

    A case counts for the rarest class that it holds, so that rare classes are spread over the folds.

    Args:
        groups: of each case.
        classes: that each case holds.
        folds: at most so many; fewer where there are fewer groups.
        seed: of the shuffling.

    Returns:
        ``None`` if there are fewer than two groups or folds.
    """
    number = min(folds, len(set(groups)))
    if number < 2:
        return None
    from sklearn.model_selection import StratifiedGroupKFold

    frequency = Counter(index for held in classes for index in set(held))
    strata = [min(held, key=lambda index: (frequency[index], index)) if held else -1 for held in classes]
    many = Counter(strata)
    strata = [stratum if many[stratum] >= number else -2 for stratum in strata]  # too rare to be in every fold
    if Counter(strata)[-2] < number:
        strata = [many.most_common(1)[0][0] if stratum == -2 else stratum for stratum in strata]
    if max(Counter(strata).values()) < number:
        strata = [0] * len(strata)
    made = [0] * len(groups)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of strata that cannot be in every fold
        splitter = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
        for fold, (_, held_out) in enumerate(splitter.split(made, strata, groups)):
            for index in held_out:
                made[int(index)] = fold
    if len(set(made)) < number:  # the strata leave a fold empty where groups are few and large
        for index, group in enumerate(groups):
            made[index] = sorted(set(groups)).index(group) % number
    return made
