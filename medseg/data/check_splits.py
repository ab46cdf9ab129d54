"""Rules on who stands on which side of a split: groups, images listed twice, copies of one image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path

from medseg.data.check_findings import Case, Finding, error, names, warning
from medseg.data.datalist import Datalist
from medseg.data.folds import one_spelling
from medseg.errors import few

__all__ = ["groups", "twins", "untrained", "untrained_folds"]

_SPREAD = "spread its cases over the folds, as far as there are several"


def _sides(case: Case, fold_keys: Sequence[str]) -> Iterator[tuple[str, Hashable]]:
    """Yield the side of each division that the case stands on."""
    yield "list", case.split
    for key in fold_keys:
        if case.split == "training":
            yield key, case.entry[key]


def groups(cases: Sequence[Case], fold_keys: Sequence[str]) -> Iterator[Finding]:
    """Find groups (patients, sections) on both sides of a split.

    Args:
        cases: all entries.
        fold_keys: fold schemes to look at, besides the three lists.
    """
    members: dict[tuple[str, str], dict[Hashable, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for case in cases:
        if "group" in case.entry:
            for division, side in _sides(case, fold_keys):
                members[division, case.entry["group"]][side].append(case.image)
    for (division, group), sides in members.items():
        if len(sides) < 2:
            continue
        parts = ", ".join(sorted(map(str, sides)))
        where = f"the lists {parts}" if division == "list" else f"{division} {parts}"
        examples = [paths[0] for paths in sides.values()]
        message = (
            f"group {group!r} is on both sides of a split ({where}; e.g. {names(examples)}): scores would be too "
            "good; keep a group's images together"
        )
        yield error("group-on-both-sides", message, *(path for paths in sides.values() for path in paths))
    yield from _spelled_alike(members)


def _spelled_alike(members: Mapping[tuple[str, str], Mapping[Hashable, Sequence[Path]]]) -> Iterator[Finding]:
    """Find groups that are one but for the spelling, and on two sides of a split."""
    spelled: dict[str, dict[str, dict[str, Sequence[Path]]]] = defaultdict(lambda: defaultdict(dict))
    names_of = sorted({group for _, group in members})
    first = dict(zip(names_of, one_spelling(names_of), strict=True))
    sides: dict[tuple[str, str], set[Hashable]] = defaultdict(set)
    for (division, group), found in members.items():
        sides[division, first[group]] |= found.keys()
        spelled[division][first[group]][group] = [path for paths in found.values() for path in paths]
    told: set[str] = set()
    for division, held in spelled.items():
        for same, each in held.items():
            if len(each) > 1 and len(sides[division, same]) > 1 and same not in told:
                told.add(same)
                images = [path for paths in each.values() for path in paths]
                message = (
                    f"groups {' and '.join(map(repr, sorted(each)))} are on different sides of a split ({division}; "
                    f"e.g. {names([paths[0] for paths in each.values()])}); if they are one but for the spelling, "
                    "scores would be too good: spell it in one way, and keep its images together"
                )
                yield warning("groups-spelled-alike", message, *images)


def twins(cases: Sequence[Case], fold_keys: Sequence[str]) -> Iterator[Finding]:
    """Find images listed twice, labels used twice and copies of one image, also as another file than it.

    Args:
        cases: all entries.
        fold_keys: fold schemes to look at, besides the three lists.
    """
    by_path: dict[Path, list[Case]] = defaultdict(list)
    by_label: dict[Path, list[Case]] = defaultdict(list)
    by_content: dict[str, dict[Path, Case]] = defaultdict(dict)
    for case in cases:
        by_path[case.image].append(case)
        if case.label is not None:
            by_label[case.label].append(case)
        if case.readable_image is not None:
            by_content[case.readable_image.pixels].setdefault(case.image, case)
    for path, same in by_path.items():
        if len(same) > 1:
            places = ", ".join(case.place for case in same)
            yield error("listed-twice", f"{path}: is the image of {places}; keep one entry", path)
    for path, same in by_label.items():
        images = list(dict.fromkeys(case.image for case in same))
        if len(images) > 1:
            message = f"{path}: is the label of {len(images)} images ({names(images)}); correct the entries"
            yield error("label-used-twice", message, path, *images)
    for copies in by_content.values():
        if len(copies) > 1:
            yield _same_content(list(copies.values()), fold_keys)


def _same_content(cases: Sequence[Case], fold_keys: Sequence[str]) -> Finding:
    images = [case.image for case in cases]
    first = f"{images[0]}: same content as {names(images[1:])}"
    sides: dict[str, set[Hashable]] = defaultdict(set)
    for case in cases:
        for division, side in _sides(case, fold_keys):
            sides[division].add(side)
    divided = [division for division, found in sides.items() if len(found) > 1]
    if divided:
        parts = " and ".join(f"{division}s {', '.join(sorted(map(str, sides[division])))}" for division in divided)
        return error("duplicate-image", f"{first}, on both sides of a split ({parts}); keep one of them", *images)
    return warning("duplicate-image", f"{first}; keep one of them", *images)


def untrained(datalist: Datalist, cases: Sequence[Case], fold_keys: Sequence[str]) -> Iterator[Finding]:
    """Find classes that a split keeps out of what is trained on.

    Args:
        datalist: names the classes.
        cases: all entries with their facts.
        fold_keys: fold schemes to look at, besides the three lists.
    """
    listed = [case for case in cases if case.split == "training"]
    if listed:
        trained = _classes_of(listed)
        others = sorted(_classes_of([case for case in cases if case.split != "training"]) - trained)
        if trained and (missing := _named(datalist, others)):
            message = (
                f"{datalist.path}: no label of the training list holds {missing}, other lists do: nothing is trained "
                "on it, and its scores say nothing; move some of its cases to the training list"
            )
            yield warning("untrained-class", message, datalist.path)
    for key in fold_keys:
        for message in untrained_folds(datalist, key, [(case.entry[key], _classes_of([case])) for case in listed]):
            yield warning("untrained-class", f"{datalist.path}: {message}; {_SPREAD}", datalist.path)


def untrained_folds(datalist: Datalist, key: str, held: Sequence[tuple[int, Collection[int]]]) -> Iterator[str]:
    """Find classes that a scheme keeps together in its test fold, or in that and the next, which validates.

    Args:
        datalist: names the classes.
        key: the scheme.
        held: of each case of the training list, its fold and the classes that it shows.
    """
    folds = sorted({fold for fold, _ in held})
    parts = {fold: set().union(*(classes for other, classes in held if other == fold)) for fold in folds}
    where = {index: [fold for fold in folds if index in parts[fold]] for index in sorted(set().union(*parts.values()))}
    if len(folds) < 2:
        return
    for number, fold in enumerate(folds):
        after = folds[(number + 1) % len(folds)]
        alone = _named(datalist, [index for index, found in where.items() if found == [fold]])
        pair = sorted((fold, after))
        both = _named(datalist, [index for index, found in where.items() if found == pair])
        if alone:
            yield f"every label that holds {alone} is in {key} {fold}: with it as test nothing is trained on that"
        if both and len(folds) > 2:
            yield (
                f"every label that holds {both} is in {key} {fold} or {after}: with {fold} as test and {after} as "
                "validation nothing is trained on that"
            )


def _classes_of(cases: Sequence[Case]) -> set[int]:
    return {value for case in cases if case.readable_label is not None for value in case.readable_label.values or ()}


def _named(datalist: Datalist, indices: Sequence[int]) -> str:
    """Return classes by name for a message; the ignore label and unknown values are none."""
    known = [f"class {index} ({datalist.labels[index]})" for index in indices if index in datalist.labels]
    return few(known)
