"""A division into folds that keeps groups together: a proposal to look at, and the same one for the same data.

It does not depend on the order of the cases, nor on a random generator that another version may draw from otherwise.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

__all__ = ["FOLDS", "SEED", "one_spelling", "propose_folds"]

FOLDS = 5
SEED = 0
_TRIES = 8  # a class of two groups is in one fold in one of five divisions
_WORDS = re.compile(r"[^\W\d_]+|\d+")


def one_spelling(groups: Sequence[str]) -> list[str]:
    """Return each group as the first in the alphabet of those that are spelled alike is: ``P1`` for ``p_01`` too.

    Alike are names of the same words and numbers, whatever the case, the zeros before numbers, what stands between,
    and how Unicode composes letters. One patient in two groups would be on both sides of a split.

    Args:
        groups: of each case.
    """
    first: dict[tuple[str | int, ...], str] = {}
    keys = {group: _spelled(group) for group in sorted(set(groups))}
    for group, key in keys.items():
        first.setdefault(key, group)
    return [first[keys[group]] for group in groups]


def _spelled(group: str) -> tuple[str | int, ...]:
    words = _WORDS.findall(unicodedata.normalize("NFKC", group).casefold())
    return tuple(int(word) if word.isdecimal() else word for word in words) or (group,)


def propose_folds(
    groups: Sequence[str], classes: Sequence[Collection[int]] | None = None, folds: int = FOLDS, seed: int = SEED
) -> list[int] | None:
    """Return a fold for each case.

    Where classes are known, scikit-learn's ``StratifiedGroupKFold`` divides: a case counts for the rarest class that it
    holds, so that rare classes are spread over the folds. Where there is nothing to spread, each group goes to the fold
    that has fewest cases by then: scikit-learn would do the same, but for the rounding of its standard deviations,
    which decides between folds that are equally full, and folds that are proposed anew whenever a data set is read
    must not hang on that. Groups are dealt the largest first (by scikit-learn among those alike in their classes),
    equal ones in the order of a hash of seed and name. Where a class of several groups would be in one fold alone, and
    nothing be trained on it without that fold, equal groups are put in another order.

    Args:
        groups: of each case; those that `one_spelling` takes for one are kept together, too.
        classes: that each case holds; ``None`` where that is not known.
        folds: at most so many; fewer where there are fewer groups.
        seed: another one divides in another way.

    Returns:
        ``None`` if there are fewer than two groups or folds.
    """
    groups = one_spelling(groups)
    sizes = Counter(groups)
    number = min(folds, len(sizes))
    if number < 2:
        return None
    strata = [] if classes is None else _strata(classes, number)
    made: list[int] = []
    for attempt in range(_TRIES):
        tried = _divided(groups, strata, number, f"{seed}.{attempt}" if attempt else f"{seed}")
        made = made or tried
        if classes is None or not _keeps_together(groups, classes, tried):
            return tried
    return made


def _divided(groups: Sequence[str], strata: Sequence[int], number: int, order: str) -> list[int]:
    """Return a fold for each case, equal groups in the order of a hash of `order` and name."""
    sizes = Counter(groups)
    place = {name: hashlib.sha256(f"{order}:{name}".encode(errors="replace")).digest() for name in sizes}
    turns = {name: turn for turn, name in enumerate(sorted(sizes, key=lambda name: (-sizes[name], place[name])))}
    made = _stratified([turns[group] for group in groups], strata, number) if len(set(strata)) > 1 else []
    if len(set(made)) < number:  # none, or strata that leave a fold empty where groups are few and large
        filled, fold_of = [0] * number, {}
        for name in turns:
            fold_of[name] = filled.index(min(filled))
            filled[fold_of[name]] += sizes[name]
        made = [fold_of[group] for group in groups]
    return made


def _keeps_together(groups: Sequence[str], classes: Sequence[Collection[int]], folds: Sequence[int]) -> bool:
    """Return whether a class that several groups show is in one fold alone."""
    shown_by: dict[int, set[str]] = defaultdict(set)
    held_by: dict[int, set[int]] = defaultdict(set)
    for group, held, fold in zip(groups, classes, folds, strict=True):
        for index in held:
            shown_by[index].add(group)
            held_by[index].add(fold)
    return any(len(shown_by[index]) > 1 and len(held_by[index]) == 1 for index in shown_by)


def _stratified(groups: Sequence[int], strata: Sequence[int], number: int) -> list[int]:
    from sklearn.model_selection import StratifiedGroupKFold

    made = [0] * len(groups)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of strata that cannot be in every fold
        for fold, (_, held_out) in enumerate(StratifiedGroupKFold(number).split(made, strata, groups)):
            for index in held_out:
                made[int(index)] = fold
    return made


def _strata(classes: Sequence[Collection[int]], folds: int) -> list[int]:
    """Return a class for each case, of which each is held by as many cases as there are folds, or more."""
    frequency = Counter(index for held in classes for index in set(held))
    strata = [min(held, key=lambda index: (frequency[index], index)) if held else -1 for held in classes]
    many = Counter(strata)
    strata = [stratum if many[stratum] >= folds else -2 for stratum in strata]  # too rare to be in every fold
    if Counter(strata)[-2] < folds:
        usual = min(many, key=lambda stratum: (-many[stratum], stratum))  # of equals not the one that comes first
        strata = [usual if stratum == -2 else stratum for stratum in strata]
    return strata if max(Counter(strata).values()) >= folds else [0] * len(strata)
