"""What the stored values and colours of labels mean: what the layout or a person says, never a guess."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import counted, shown
from medseg.importers.layout import Draw, Found, ImportingError, Options, Question
from medseg.io.image_file import ImageFile, as_numbers
from medseg.io.images import read_image

__all__ = ["Classes", "map_colours", "resolve", "unnamed"]

IGNORE = "ignore"
_IGNORED = 255
_LISTED = 8
_GREY = 255
_FEW = 3  # classes of a layout with ids of its own
_MANY = 8  # objects in a picture, from which their numbers are told from classes
_SMOOTH = 16  # levels: more come from smoothing a mask of 0 and 255


@dataclass(frozen=True)
class Classes:
    """The classes of a datalist.

    Args:
        labels: class index to name.
        ignore: label value that counts nowhere.
        values: stored value to class index; empty where labels store class indices.
        colours: class index to colour.
    """

    labels: dict[int, str]
    ignore: int | None = None
    values: dict[int, int] = field(default_factory=dict)
    colours: dict[int, str] = field(default_factory=dict)

    def alike(self) -> list[str]:
        """Tell of names that differ by capitals or blanks alone: of one class each would be a part."""
        first: dict[str, str] = {}
        notes = []
        for name in self.labels.values():
            other = first.setdefault(re.sub(r"[\s_]+", " ", name).casefold(), name)
            if other != name:
                said = f"{shown(other)} and {shown(name)} are two classes"
                notes.append(f"{said}; if they are one, give them one name in the files")
        return notes


def resolve(
    found: Found,
    present: Counter[int],
    coloured: dict[Path, Counter[int]],
    options: Options,
    where: Path,
    held: Sequence[set[int]] = (),
) -> Classes:
    """Return the classes; colour-coded labels of `found` become drawn ones.

    Args:
        found: what the layout says.
        present: stored values of the label files.
        coloured: of `scan`.
        options: what a person says.
        where: the folder, for messages.
        held: stored values of each label file.

    Raises:
        Question: if only a person knows what values or colours mean.
        ImportingError: if what is said cannot be.
    """
    if coloured:
        return _resolve_colours(found, present, coloured, options, where)
    if found.values and not options.values:
        made = Classes(dict(found.labels), found.ignore, dict(found.values), dict(found.colours))
        unknown = sorted(set(present) - set(found.values))
        if unknown:
            raise _unknown(unknown, where)
        _refuse_void(found, present, where)
        return _named(made, options, where)
    if not present and not found.labels:
        raise ImportingError(f"{shown(where)}: no label can be used ({_reasons(found)})")
    targets = _targets(found, present, options, where, held)
    index_of: dict[str, int] = {}
    taken = {target for target in targets.values() if isinstance(target, int)}
    for target in targets.values():
        if isinstance(target, str) and target != IGNORE and target not in index_of:
            index_of[target] = next(index for index in range(len(targets) + 1) if index not in taken)
            taken.add(index_of[target])
    _refuse_displaced(targets, index_of, found, options, where)
    labels = {index: "background" if index == 0 else unnamed(index) for index in sorted(taken)}
    labels |= {index: name for name, index in index_of.items()}
    gaps = sorted(set(range(max(labels, default=0) + 1)) - labels.keys() - set(range(len(options.classes))))
    if gaps or not labels:
        raise ImportingError(
            f"{shown(where)}: --values leaves out class {gaps[0] if gaps else 0}; number them 0, 1, 2 ..."
            + _unsaid(targets, present, options)
        )
    if len(set(labels.values())) < len(labels):
        raise ImportingError(f"{shown(where)}: two classes would be called alike; name all of them with --classes")
    said = found.ignore is not None and targets.get(found.ignore, IGNORE) != IGNORE
    ignore = None if said else found.ignore  # it is a class
    if IGNORE in targets.values():
        ignore = ignore if ignore is not None and ignore not in labels else _IGNORED
    mapping = {
        stored: ignore if target == IGNORE else index_of[target] if isinstance(target, str) else target
        for stored, target in targets.items()
    }
    values = {stored: int(index or 0) for stored, index in mapping.items()}
    colours = {values[stored]: colour for stored, colour in found.colours.items() if stored in values}
    colours.pop(ignore if ignore is not None else -1, None)
    same = all(stored == index for stored, index in values.items())
    return _named(Classes(dict(sorted(labels.items())), ignore, {} if same else values, colours), options, where)


def unnamed(index: int) -> str:
    """Return what a class is called that nothing names."""
    return f"class_{index}"


def _targets(
    found: Found, present: Counter[int], options: Options, where: Path, held: Sequence[set[int]]
) -> dict[int, int | str]:
    """Return what each stored value means: an index, a name or `IGNORE`."""
    _refuse_usual(found, present, options, where, held)
    targets: dict[int, int | str] = {}
    open_ones = []
    for stored in sorted({*present, *options.values, *found.labels}):
        if stored in options.values:
            targets[stored] = options.values[stored]
        elif stored == found.ignore:
            targets[stored] = IGNORE
        elif stored in found.labels:
            targets[stored] = found.labels[stored]
        else:
            open_ones.append(stored)
    if found.labels and open_ones:
        raise _unknown(open_ones, where)
    said = options.ascending or options.values or options.classes or found.labels
    if not said and _numbers(held):
        raise _which_objects(open_ones, where)
    if options.ascending:
        free = (index for index in range(len(open_ones) + len(targets)) if index not in targets.values())
        targets |= dict(zip(open_ones, free, strict=False))
    elif (
        options.values
        or set(open_ones) <= set(range(max(len(options.classes), 0)))
        or (open_ones == list(range(len(open_ones))) and len(open_ones) > 1)
    ):
        targets |= {stored: stored for stored in open_ones}
    else:
        raise _which(open_ones, where, held)
    return dict(sorted(targets.items()))


def _refuse_void(found: Found, present: Counter[int], where: Path) -> None:
    """Ask where hardly a value is a class of the layout's: small numbers of own classes would count nowhere."""
    void = [value for value in sorted(present) if found.values[value] == found.ignore]
    if len(present) - len(void) < min(len(void), _FEW):
        raise Question(
            f"{shown(where)}: labels hold {_listed(sorted(present))}, of which {_listed(void)} count nowhere in "
            f"{found.layout}; if these are classes of your own, say --values ascending; if not, name those that are "
            f"classes, and the others, as in --values {void[0]}=ignore",
            "values",
            "ascending",
        )


def _refuse_displaced(
    targets: Mapping[int, int | str], index_of: Mapping[str, int], found: Found, options: Options, where: Path
) -> None:
    """Refuse a number of a class that the layout has a name for: that class would get another one beside it."""
    order = dict.fromkeys(target for target in targets.values() if target != IGNORE)
    moved = [name for place, name in enumerate(order) if isinstance(name, str) and index_of[name] != place]
    name = next((name for name in moved if name in found.labels.values()), None)
    if name is not None:
        stored, index = next((s, t) for s, t in options.values.items() if isinstance(t, int))
        raise ImportingError(
            f"{shown(where)}: --values {stored}={index} would make class {index} another one than those that the "
            f"layout names ({', '.join(map(shown, found.labels.values()))}); say --values {stored}={shown(name)}, or "
            "another name"
        )


def _refuse_usual(found: Found, present: Counter[int], options: Options, where: Path, held: Sequence[set[int]]) -> None:
    """Ask of a value that usually is the border of objects, but is never beside one: it may be the object."""
    value = found.ignore
    if not found.ignore_is_usual or value not in present or value in options.values:
        return
    if any(value in values and values - {0, value} for values in held):
        return
    proposal = f"{value}={found.labels.get(1, 1)}"
    raise Question(
        f"{shown(where)}: {value} counts nowhere in {found.layout}, as the border of objects, but no label holds it "
        f"beside an object; say --values {shown(proposal)} if it is the object, --values {value}={IGNORE} if not",
        "values",
        proposal,
    )


def _numbers(held: Sequence[set[int]]) -> bool:
    """Return whether labels number the objects of each picture: 1 to n without a gap, and n differs as it likes."""
    inside = [values - {0} for values in held if values - {0}]
    tops = {max(values) for values in inside}
    without_gaps = all(values == set(range(1, len(values) + 1)) for values in inside)
    return without_gaps and len(tops) >= max(3, len(inside) / 4) and max(tops) >= _MANY


def _which_objects(stored: list[int], where: Path) -> Question:
    return Question(
        f"{shown(where)}: labels hold {stored[0]} to {stored[-1]}, each picture its own from 1 on without a gap: these "
        f"look like numbers of objects, not classes; if all objects are of one class, say --values 1-{stored[-1]}=1, "
        "if each number is a class, --values ascending",
        "values",
        f"1-{stored[-1]}=1",
    )


def _unsaid(targets: Mapping[int, int | str], present: Counter[int], options: Options) -> str:
    """Return how to say what the values are that are stored and not named; empty where each is."""
    left = sorted(stored for stored in present if stored not in options.values and targets.get(stored) == stored)
    named = {stored: str(target) for stored, target in options.values.items() if target != "background"}
    if not left or not named or not all(isinstance(target, str) for target in options.values.values()):
        return ""
    said = " ".join(f"{stored}={target}" for stored, target in list(named.items())[:_LISTED])
    return (
        f", or say what the other values ({_listed(left)}) are: of a value that is named twice the last name counts, "
        f"as in --values {min(present)}-{max(present)}=background {said}"
    )


def _listed(stored: Sequence[int]) -> str:
    """Return the first values, and that there are more."""
    return ", ".join(map(str, stored[:_LISTED])) + " ..." * (len(stored) > _LISTED)


def _reasons(found: Found) -> str:
    return "; ".join(f"{path.name}: {reason}" for path, reason in list(found.left_out.items())[:2]) or "there is none"


def _unknown(stored: list[int], where: Path) -> Question:
    return Question(
        f"{shown(where)}: labels hold {_listed(stored)}, of which the layout names no class; say what is meant: "
        f"--values {stored[0]}=ignore or {stored[0]}=NAME",
        "values",
        " ".join(f"{value}=ignore" for value in stored[:_LISTED]),
    )


def _which(stored: list[int], where: Path, held: Sequence[set[int]] = ()) -> ImportingError:
    listed = ", ".join(map(str, stored[:_LISTED])) + (f" ... {stored[-1]}" if len(stored) > _LISTED else "")
    if stored == [0]:
        return ImportingError(f"{shown(where)}: every label is 0 throughout; name at least two with --classes a,b")
    without = [value for value in stored if value != _GREY]
    said = ""
    if stored == [0, 1, _GREY] and not any({1, _GREY} <= values for values in held):
        proposal = f"{_GREY}=1"
        said = f" (no label holds 1 and {_GREY} together: they may be the same class)"
    elif len(stored) <= 2:
        proposal = f"{stored[-1]}=1"
    elif _GREY in stored and without == list(range(len(without))):
        proposal = f"{_GREY}={IGNORE}"
    elif len(stored) > _LISTED:
        smooth = len(stored) > _SMOOTH and stored[-1] == _GREY
        proposal = "1-255=1" if smooth and 0 in stored else "ascending"
    else:
        proposal = " ".join(f"{value}={index}" for index, value in enumerate(stored) if value != index)
        said = f" ({_GREY} may be a class, or mean what counts nowhere: {_GREY}={IGNORE})" * (_GREY in stored)
    number = f"{len(stored)} values, " if len(stored) > 1 else "only the value "
    some = f" (or {stored[0]}-{stored[-1]}=background {stored[1]}=NAME, for one of them alone)" if stored[1:] else ""
    return Question(
        f"{shown(where)}: labels hold {number}{listed}, which do not count 0, 1, 2 ...{said}; say which class each "
        "one is, such "
        f"as --values {proposal}" + (some if proposal == "ascending" else " (or --values ascending)"),
        "values",
        proposal,
    )


def _named(classes: Classes, options: Options, where: Path) -> Classes:
    if not options.classes:
        return classes
    given = options.classes
    if len(given) < len(classes.labels) or len(set(given)) < len(given):
        number = counted(len(classes.labels), "class", "classes")
        raise ImportingError(
            f"{shown(where)}: --classes names {len(set(given))}, but the labels have {number} "
            f"({', '.join(map(shown, classes.labels.values()))}); give each its own name"
        )
    moved = [(name, index) for index, name in classes.labels.items() if name in given and given[index] != name]
    if moved:
        name, index = moved[0]
        raise ImportingError(
            f"{shown(where)}: --classes names {shown(name)!r} as {given.index(name)}, but the labels hold it as "
            f"{index}; keep "
            "the order of the labels"
        )
    return replace(classes, labels=dict(enumerate(given)))


def _resolve_colours(
    found: Found, present: Counter[int], coloured: dict[Path, Counter[int]], options: Options, where: Path
) -> Classes:
    if present:
        grey = next(c.label for c in found.cases if isinstance(c.label, Path) and c.label not in coloured)
        raise ImportingError(
            f"{shown(where)}: labels are coloured ({shown(next(iter(coloured)))}) and grey ({shown(grey)}); name a "
            "folder of one kind with --labels"
        )
    codes = dict(options.colours or found.colour_codes)
    pixels: Counter[int] = Counter()
    for counts in coloured.values():
        pixels.update(counts)
    everything = sum(pixels.values())
    unnamed = [number for number, _ in pixels.most_common() if f"#{number:06x}" not in codes]
    if unnamed:
        listed = ", ".join(f"#{n:06x} ({100 * pixels[n] / everything:.2g} %)" for n in unnamed[:_LISTED])
        more = " ..." * (len(unnamed) > _LISTED)
        file = next(path for path, counts in coloured.items() if unnamed[0] in counts)
        raise Question(
            f"{shown(where)}: labels are colour-coded, and {len(unnamed)} of {len(pixels)} colours have no class: "
            f"{listed}"
            f"{more}, as in {shown(file.name)}; say which class each one is with --colours '#{unnamed[0]:06x}=NAME' "
            "... "
            "or a file of names and colours",
            "colours",
        )
    names = list(dict.fromkeys(name for name in codes.values() if name != IGNORE))
    index_of = {name: index for index, name in enumerate(names)}
    ignore = _IGNORED if IGNORE in codes.values() else None
    if ignore is not None and len(names) > _IGNORED:
        raise ImportingError(f"{shown(where)}: more than 255 colours and an ignored one; leave the ignored one out")
    table = {int(c[1:], 16): _IGNORED if name == IGNORE else index_of[name] for c, name in codes.items()}
    found.cases = [
        replace(case, label=_colour_drawer(case.label, table)) if case.label in coloured else case
        for case in found.cases
        if isinstance(case.label, Path) or case.label is None
    ]
    found.used |= coloured.keys()
    colours = {index_of[name]: colour for colour, name in reversed(codes.items()) if name != IGNORE}
    return _named(Classes(dict(enumerate(names)), ignore, {}, colours), options, where)


def _colour_drawer(path: Path | Draw | None, table: Mapping[int, int]) -> Draw:
    assert isinstance(path, Path)

    def draw(image: ImageFile) -> npt.NDArray[np.integer[Any]]:
        stored = read_image(path, label=True)
        return map_colours(read_image(path, label=False).array if stored.palette else stored.array, table, path)

    return draw


def map_colours(pixels: npt.NDArray[Any], table: Mapping[int, int], path: Path) -> npt.NDArray[np.integer[Any]]:
    """Replace colours by class indices.

    Args:
        pixels: red, green and blue of 8 bits, alpha is passed over.
        table: 24-bit colour to index.
        path: of the label, for messages.

    Shape:
        ``(H, W, 3)`` or ``(H, W, 4)``, or a grey ``(H, W)``, to ``(H, W)`` uint16.

    Raises:
        ImportingError: if a colour is not in the table.
    """
    numbers = as_numbers(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1))
    colours, inverse = np.unique(numbers, return_inverse=True)
    missing = [int(colour) for colour in colours if int(colour) not in table]
    if missing:
        raise ImportingError(
            f"{shown(path)}: holds the colour #{missing[0]:06x}, which has no class; name it in --colours"
        )
    indices = np.array([table[int(colour)] for colour in colours], np.uint16)
    drawn: npt.NDArray[np.integer[Any]] = indices[inverse.reshape(numbers.shape)]
    return drawn
