"""Class colours that colour-blind readers can tell apart.

The first seven are those of M. Okabe, K. Ito, "Color Universal Design" (https://jfly.uni-koeln.de/color/), similar ones
last. The next thirteen were chosen one after another, each as far as possible from all before it in CIELAB as seen with
normal vision, protanopia and deuteranopia (simulated after Machado et al. 2009, doi:10.1109/TVCG.2009.113).
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from medseg.errors import MedsegError

Colour = tuple[int, int, int]

WRONG: Colour = (224, 0, 80)
IGNORED: Colour = (128, 128, 128)

# fmt: off
_CHOSEN = (
    "E69F00", "0072B2", "F0E442", "009E73", "CC79A7", "56B4E9", "D55E00", "0000FF", "AAFFAA", "770000",
    "661144", "3322AA", "6677FF", "77FFFF", "66BB66", "99DDBB", "003377", "CCEE77", "BB3344", "0055FF",
)
# fmt: on
_GOLDEN = 0.618033988749895
_SHADES = ((0.65, 0.95), (0.9, 0.7), (0.45, 0.8), (0.8, 0.5))  # saturation, value


def class_colours(number: int) -> list[Colour]:
    """Return one colour a class: fixed up to 20, generated (distinct, not safe for the colour-blind) beyond.

    Args:
        number: of classes.
    """
    colours = [parse_colour(text) for text in _CHOSEN[:number]]
    for index in range(len(colours), number):
        saturation, value = _SHADES[index % len(_SHADES)]
        red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN % 1.0, saturation, value)
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colours


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
