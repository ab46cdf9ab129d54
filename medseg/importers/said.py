"""Reads what a person says of values, colours and classes: words of the command line, or a small file."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

from medseg.errors import shown
from medseg.importers.layout import ImportingError

__all__ = ["class_names", "colour_table", "read_colours", "stored_values"]

_COLOUR = re.compile(r"#[0-9a-f]{6}")
_RANGE = re.compile(r"(-?\d+)(?:-(\d+))?")
_NEXT_VALUE = re.compile(r"[\s,]+(?=-?\d+(?:-\d+)?=|ascending\b)")  # what else a name holds belongs to it
_NEXT_COLOUR = re.compile(r"[\s,]+(?=#[0-9a-fA-F]{6}=)")
_WIDEST = 65536
IGNORE = "ignore"


def stored_values(words: Sequence[str]) -> tuple[dict[int, int | str], bool]:
    """Read ``VALUE=CLASS`` words: a stored value or a range of them, and an index, a name or ``ignore``.

    Args:
        words: such as ``["255=1"]``, ``["1-255=lesion"]`` or ``["ascending"]``; several may be in one, separated by
            spaces or commas, which a name may hold too.

    Returns:
        Value to class, and whether to number the others in ascending order.

    Raises:
        ImportingError: if a word is none of these.
    """
    values: dict[int, int | str] = {}
    parts = [part.strip(" ,") for text in words for part in _NEXT_VALUE.split(text)]
    for word in (part for part in parts if part and part != "ascending"):
        stored, sign, name = word.partition("=")
        match = _RANGE.fullmatch(stored)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not sign or not name or not 0 <= last - first < _WIDEST:
            names = "" if sign else "; names in the order of the classes go with --classes"
            raise ImportingError(
                f"--values {shown(word)!r} is not VALUE=CLASS; write 255=1, 255=lesion, 255=ignore, 1-255=1 or "
                f"ascending{names}"
            )
        target: int | str = int(name) if name.isascii() and name.isdigit() else name
        values |= dict.fromkeys(range(first, last + 1), target)
    return values, "ascending" in parts


def colour_table(words: Sequence[str]) -> dict[str, str]:
    """Read ``#rrggbb=NAME`` words, or the names of files that `read_colours` reads.

    Raises:
        ImportingError: if a word is neither.
    """
    table: dict[str, str] = {}
    for word in words:
        for part in [word] if Path(word).is_file() else _NEXT_COLOUR.split(word.strip(" ,")):
            colour, sign, name = part.partition("=")
            if sign and name and _COLOUR.fullmatch(colour.lower()):
                table[colour.lower()] = name
            elif Path(part).is_file():
                table |= read_colours(Path(part))
            else:
                raise ImportingError(
                    f"--colours {shown(part)!r} is neither #rrggbb=NAME nor a file of names and colours"
                )
    return table


def read_colours(path: Path) -> dict[str, str]:
    """Read a file of class names and colours: CSV (``name,r,g,b``), CVAT's ``name:r,g,b::``, or JSON of either order.

    Args:
        path: the file.

    Returns:
        Colour to name, in the order of the file.

    Raises:
        ImportingError: if it holds none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ImportingError(f"{shown(path)}: cannot be read ({error}); write lines name,r,g,b") from error
    table: dict[str, str] = {}
    if path.suffix.lower() == ".json":
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ImportingError(f"{shown(path)}: not valid JSON ({error}); correct it") from error
        pairs = content.items() if isinstance(content, dict) else ()
        for name, colour in pairs:
            name, colour = (colour, name) if _COLOUR.fullmatch(str(name).lower()) else (name, colour)
            table[_as_colour(colour, path)] = str(name)
    else:
        for row in csv.reader(line.replace(":", ",") for line in text.splitlines() if not line.startswith("#")):
            cells = [cell.strip() for cell in row]
            numbers = [cell for cell in cells if cell.isascii() and cell.isdigit()]
            named = [cell for cell in cells if cell and not (cell.isascii() and cell.isdigit())]
            if len(numbers) >= 3 and named:
                table[_as_colour([int(number) for number in numbers[-3:]], path)] = named[0]
    if not table:
        raise ImportingError(f"{shown(path)}: names no colours; write lines name,r,g,b or a JSON object")
    return table


def _as_colour(value: object, path: Path) -> str:
    if isinstance(value, str) and _COLOUR.fullmatch(value.lower()):
        return value.lower()
    if isinstance(value, list) and len(value) >= 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in value[:3]):
        return "#" + "".join(f"{v:02x}" for v in value[:3])
    raise ImportingError(f"{shown(path)}: {shown(value)!r} is no colour; write #rrggbb, or red, green and blue to 255")


def class_names(path: Path) -> list[str]:
    """Read one class name a line, in the order of the indices; labelme's ``__ignore__`` is passed over.

    Raises:
        ImportingError: if it is no such file.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImportingError(f"{shown(path)}: cannot be read ({error}); write one class name a line") from error
    names = [line.strip() for line in lines if line.strip() and line.strip() != "__ignore__"]
    names = ["background" if name == "_background_" else name for name in names]
    if not names or len(set(names)) < len(names):
        raise ImportingError(f"{shown(path)}: holds no class name, or one twice; write one a line")
    return names
