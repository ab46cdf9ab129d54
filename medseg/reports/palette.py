"""Class colours that colour-blind readers can tell apart.

The first seven are those of M. Okabe, K. Ito, "Color Universal Design" (https://jfly.uni-koeln.de/color/), similar ones
last. The next thirteen were chosen one after another, each as far as possible from all before it in CIELAB as seen with
normal vision, protanopia and deuteranopia (simulated after Machado et al. 2009, doi:10.1109/TVCG.2009.113).
"""

from __future__ import annotations

import colorsys
import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medseg.errors import MedsegError

Colour = tuple[int, int, int]
Named = Mapping[Any, str | Sequence[int]]

LEAST_CONTRAST = 3.0
"""Of a line or a point on white (WCAG 2.2, success criterion 1.4.11)."""
WRONG: Colour = (224, 0, 80)
IGNORED: Colour = (128, 128, 128)

# fmt: off
_CHOSEN = (
    "E69F00", "0072B2", "F0E442", "009E73", "CC79A7", "56B4E9", "D55E00", "0000FF", "AAFFAA", "770000",
    "661144", "3322AA", "6677FF", "77FFFF", "66BB66", "99DDBB", "003377", "CCEE77", "BB3344", "0055FF",
)
# fmt: on
_BACKGROUNDS = ("background", "bg")
_GOLDEN = 0.618033988749895
_SHADES = ((0.65, 0.95), (0.9, 0.7), (0.45, 0.8), (0.8, 0.5))  # saturation, value


def class_colours(count: int, named: Named | None = None) -> list[Colour]:
    """Return the colour of each class, for masks, overlays and tables alike: it depends on the class's index alone.

    The first 20 are safe for the colour-blind; those beyond are generated and only distinct.

    Args:
        count: of classes.
        named: colours that classes name, by index; an index may be text, as in JSON. A class that would have got one
            of them gets another.

    Raises:
        ValueError: if a named colour is none, or its class does not exist.
    """
    wanted: dict[int, Colour] = {}
    for key, colour in (named or {}).items():
        try:
            index = int(key)
        except ValueError:
            index = -1
        if not 0 <= index < count:
            raise MedsegError(f"colour {colour!r} is named for class {key!r}, but the classes are 0 to {count - 1}")
        wanted[index] = parse_colour(colour)
    colours = [wanted.get(index, _colour(index)) for index in range(count)]
    taken = set(colours)
    spare = (colour for index in itertools.count(count) if (colour := _colour(index)) not in taken)
    for index in range(count):
        if index not in wanted and colours[index] in wanted.values():
            colours[index] = next(spare)
    return colours


def line_colours(count: int) -> list[Colour]:
    """Return a colour for each line or group of points on white: those of the palette that are dark enough for it.

    The first twelve are safe for the colour-blind.

    Args:
        count: of lines.
    """
    dark = (colour for index in itertools.count() if contrast_to_white(colour := _colour(index)) >= LEAST_CONTRAST)
    return list(itertools.islice(dark, count))


def on_white(colour: Colour) -> Colour:
    """Return the colour of a class for its line or points on white: its own, darkened as far as it is too faint.

    Args:
        colour: of its masks and overlays.
    """
    shades = (tuple(round(part * share / 100) for part in colour) for share in range(100, 0, -1))
    red, green, blue = next(
        shade for shade in shades if contrast_to_white((shade[0], shade[1], shade[2])) >= LEAST_CONTRAST
    )
    return red, green, blue


def contrast_to_white(colour: Colour) -> float:
    """Return the contrast ratio of a colour and white, 1 to 21, as WCAG 2.2 defines it.

    Args:
        colour: sRGB.
    """
    shares = [value / 255 for value in colour]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 1.05 / (luminance + 0.05)


def class_palette(names: Sequence[str], named: Named | None = None) -> list[Colour | None]:
    """Return a colour for each class, ``None`` for the background, which is shown as it is.

    Args:
        names: of the classes; the one called ``background`` has no colour unless it names one.
        named: colours that classes name, see `class_colours`.
    """
    chosen = {int(key) for key in named or {}}
    colours = class_colours(len(names), named)
    return [
        None if is_background(name) and index not in chosen else colour
        for index, (name, colour) in enumerate(zip(names, colours, strict=True))
    ]


def is_background(name: str) -> bool:
    """Return whether a class of this name is the background."""
    return re.sub(r"[\s_-]+", "", name.lower()) in _BACKGROUNDS


def background_index(names: Sequence[str]) -> int | None:
    """Return the index of the class that is the background, or ``None``."""
    return next((index for index, name in enumerate(names) if is_background(name)), None)


def object_indices(names: Sequence[str]) -> list[int]:
    """Return the indices of the classes without the background; all, where there is none or nothing else."""
    background = background_index(names)
    return [index for index in range(len(names)) if index != background] or [*range(len(names))]


def mean_dice_name(names: Sequence[str]) -> str:
    """Return what a case's mean Dice over `object_indices` is called."""
    return "mean Dice" if len(object_indices(names)) == len(names) else "mean Dice without background"


@functools.lru_cache(1024)  # a mask's palette takes 256, at every mask
def _colour(index: int) -> Colour:
    if index < len(_CHOSEN):
        return parse_colour(_CHOSEN[index])
    saturation, value = _SHADES[index % len(_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def parse_colour(colour: str | Sequence[int]) -> Colour:
    """Read ``"#E69F00"`` or three values from 0 to 255.

    Args:
        colour: to read.

    Raises:
        ValueError: if it is neither.
    """
    try:
        values = bytes.fromhex(colour.removeprefix("#")) if isinstance(colour, str) else bytes(colour)
    except (ValueError, TypeError):
        values = b""
    if len(values) != 3:
        raise MedsegError(f"colour {colour!r} is neither '#RRGGBB' nor three values from 0 to 255")
    return values[0], values[1], values[2]
