"""What label files hold, each read once: values, or colours where these tell the classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseg.data.file_facts import usual_workers
from medseg.errors import shown
from medseg.importers.layout import Case, Found, ImportingError
from medseg.io.image_file import ImageError, as_numbers
from medseg.io.images import read_image

__all__ = ["scan"]

_MOST_VALUES = 1024
_LISTED = 8
_LEVEL = 0x010101  # a level of grey as a colour

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class _Seen:
    """What a label file holds: values, or colours as 24-bit numbers, each with its number of pixels.

    Args:
        values: or colours.
        coloured: whether they are colours.
        equal: whether the values are those of three equal channels: grey, or black and white among colours.
        palette: of indices of a palette, the colour of each.
    """

    values: Mapping[int, int]
    coloured: bool
    equal: bool = False
    palette: Mapping[int, int] = field(default_factory=dict)

    def as_colours(self) -> Counter[int]:
        """Return the pixels of each colour."""
        if self.coloured:
            return Counter(self.values)
        found: Counter[int] = Counter()
        for value, number in self.values.items():
            found[self.palette.get(value, value * _LEVEL)] += number
        return found


def scan(
    found: Found, progress: Progress, *, coded: bool = False, indexed: bool = False
) -> tuple[list[set[int]], Counter[int], dict[Path, Counter[int]]]:
    """Read every label file once; a case whose label cannot be used is left out, and said so.

    Args:
        found: its cases lose those.
        progress: called with the labels read and all.
        coded: whether somebody, or the layout, says what colours mean.
        indexed: whether somebody says what indices mean, whatever colours a palette gives them.

    Raises:
        ImportingError: if palettes differ, so that neither indices nor colours are known to be the classes.

    Returns:
        The stored values of each case (none where the label is drawn or missing), the values of all with the number of
        labels that hold them, and the pixels of each colour of the labels that are coloured, by file.
    """
    with ThreadPoolExecutor(usual_workers()) as pool:
        jobs = [pool.submit(_look, case.label) if isinstance(case.label, Path) else None for case in found.cases]
        kept: list[Case] = []
        found_in: list[_Seen] = []
        for number, (case, job) in enumerate(zip(found.cases, jobs, strict=True), start=1):
            try:
                seen = job.result() if job is not None else _Seen({}, False)
            except (ImageError, ImportingError) as error:
                assert isinstance(case.label, Path)
                found.left_out[case.label] = str(error).removeprefix(f"{case.label}: ")
                found.left_out |= dict.fromkeys(case.images, "its label cannot be used")
                continue
            kept.append(case)
            found_in.append(seen)
            progress(number, len(jobs))
    found.cases = kept
    if not indexed and (unlike := _unlike_palettes(kept, found_in)):
        if not coded:
            raise ImportingError(unlike)
        found_in = [_Seen(seen.as_colours(), True) if seen.palette else seen for seen in found_in]
    return _told_apart(kept, found_in, coded=coded)


def _unlike_palettes(cases: list[Case], found_in: list[_Seen]) -> str:
    """Say which index has two colours in two files, as where each program numbers the colours that a file has."""
    first: dict[int, tuple[int, Path]] = {}
    for case, seen in zip(cases, found_in, strict=True):
        for index, colour in seen.palette.items():
            assert isinstance(case.label, Path)
            other, path = first.setdefault(index, (colour, case.label))
            if other != colour:
                values = sorted({value for each in found_in for value in each.values})[:_LISTED]
                return (
                    f"{shown(path)}: its palette has #{other:06x} for {index}, that of {shown(case.label)} "
                    f"#{colour:06x}, so that indices do not tell the classes; say which class each colour is with "
                    f"--colours '#{other:06x}=NAME' '#{colour:06x}=NAME', or, if the indices count all the same, "
                    f"--values {' '.join(f'{value}={value}' for value in values)}"
                )
    return ""


def _told_apart(
    cases: list[Case], found_in: list[_Seen], *, coded: bool
) -> tuple[list[set[int]], Counter[int], dict[Path, Counter[int]]]:
    """Return what `scan` does; among coloured labels, one of three equal channels is black and white, not grey."""
    held: list[set[int]] = []
    present: Counter[int] = Counter()
    coloured: dict[Path, Counter[int]] = {}
    coded = coded or any(seen.coloured for seen in found_in)
    for case, seen in zip(cases, found_in, strict=True):
        if seen.coloured or (coded and seen.equal):
            assert isinstance(case.label, Path)
            coloured[case.label] = seen.as_colours()
            held.append(set())
        else:
            present.update(seen.values.keys())
            held.append(set(seen.values))
    return held, present, coloured


def _look(path: Path) -> _Seen:
    label = read_image(path, label=True)
    if label.lossy:
        raise ImportingError(f"{path}: is compressed with loss, which changes class indices; export it as PNG")
    array = label.array
    coloured = label.channels in (3, 4) and label.kind == "picture" and array.dtype == np.uint8
    equal = coloured and bool(np.all(array[..., :3] == array[..., :1]))
    if equal:
        array, coloured = array[..., 0], False  # three equal channels are grey
    elif label.channels > 1 and not coloured:
        raise ImportingError(f"{path}: has {label.channels} channels; a label has one")
    numbers = as_numbers(array) if coloured else array
    if numbers.dtype.kind == "f":
        raise ImportingError(f"{path}: holds values that are not whole numbers; a label is class indices")
    found, counts = np.unique(numbers, return_counts=True)
    if len(found) > _MOST_VALUES:
        kind = "colours" if coloured else "values"
        raise ImportingError(f"{path}: holds {len(found)} {kind}; is it a picture, or are these numbers of objects?")
    table = label.palette if found[-1] < len(label.palette) else ()
    palette = {value: table[value] for value in found.tolist()} if table else {}
    return _Seen(dict(zip(found.tolist(), counts.tolist(), strict=True)), coloured, equal, palette)
