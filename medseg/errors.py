"""The one base class of errors that medseg raises for a fault of the input, and how one is shown: in one line."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath

__all__ = ["MedsegError", "counted", "few", "meant", "near_path", "one_line", "shown", "together"]

_NUMBER = re.compile(r"[-+]?\d[\d.e+-]*")
_NEAR = 0.53  # of difflib, at least: hipo is near hippocampus
_EACH = 2  # files of one fault that are named each
_KEPT_SPACES = "Zs"  # such as the ideographic space of Japanese file names


class MedsegError(ValueError):
    """Something given to medseg cannot be used; the message names the value, the place and the way out."""

    def __str__(self) -> str:
        """Return the message; whatever a name smuggled into it, it moves no cursor and hides no text."""
        return "\n".join(shown(line) for line in super().__str__().split("\n"))


def shown(text: object) -> str:
    r"""Return text from outside, such as a file's name, so that a terminal or a log shows it and obeys none of it.

    Control characters (newline and ESC among them), characters that turn the direction of writing or have no width,
    and lone surrogates are written as Python writes them (``\n``, ``\x1b``, ``\u202e``); every other one is kept. A
    backslash stays one: what is shown is for eyes, not to be read back.

    Args:
        text: the text, or what `str` makes text of, such as a path.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == _KEPT_SPACES
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def counted(number: float, noun: str, plural: str = "") -> str:
    """Return a number with its noun, in the plural where it is.

    Args:
        number: of the things.
        noun: what one is called.
        plural: what several are, where that is not the noun with an s.
    """
    said = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{said} {noun if number == 1 else plural or f'{noun}s'}"


def few(names: Sequence[object], most: int = 5) -> str:
    """Return the first few names for a message, and how many more there are.

    Args:
        names: of things.
        most: how many are named.
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def meant(path: PurePath, otherwise: str, takes: Callable[[Path], bool] = Path.exists) -> str:
    """Return which path may have been meant by one that is not there, for a message; else what to do.

    Args:
        path: that is not there.
        otherwise: what to do where nothing is called nearly so.
        takes: as of `near_path`.
    """
    near = near_path(path, takes)
    return otherwise if near is None else f"did you mean {shown(near)}?"


def near_path(path: PurePath, takes: Callable[[Path], bool] = Path.exists) -> Path | None:
    """Return what is there and is called nearly as a path that is not, folder by folder, for a message.

    Args:
        path: that is not there.
        takes: what the last part may be; those above it are folders.
    """
    try:
        return _near(path, takes)
    except OSError:  # of a folder that may not be looked into
        return None


def _near(path: PurePath, takes: Callable[[Path], bool]) -> Path | None:
    found, parts = Path(path.anchor), path.parts[bool(path.anchor) :]
    for number, part in enumerate(parts, 1):
        allowed = takes if number == len(parts) else Path.is_dir
        name = part
        if not ((found / part).exists() and allowed(found / part)):
            names = [each.name for each in found.iterdir() if not each.name.startswith(".") and allowed(each)]
            near = difflib.get_close_matches(part, names, 1, _NEAR)
            if not near:
                return None
            name = near[0]
        found /= name
    return found


def together(faults: Iterable[tuple[object, str]], noun: str = "file") -> list[str]:
    """Return a line for each fault, or one for many files that have the same but for numbers in it.

    Args:
        faults: file and reason.
        noun: what one is called.
    """
    by_kind: dict[str, list[tuple[object, str]]] = {}
    for name, reason in faults:
        named = PurePath(str(name)).name in reason
        by_kind.setdefault(reason if named else _NUMBER.sub("#", reason), []).append((name, reason))
    lines = []
    for held in by_kind.values():
        if len(held) > _EACH:
            name, reason = held[0]
            lines.append(f"{counted(len(held), noun)}, such as {shown(name)}: {shown(reason)}")
        else:
            lines += [f"{shown(name)}: {shown(reason)}" for name, reason in held]
    return lines


def one_line(error: BaseException | None) -> str | None:
    """Return what an error says to a user if medseg raised it, whatever other programs wrapped around it.

    Args:
        error: such as MONAI's ``RuntimeError`` around the fault that medseg found.

    Returns:
        The message of the first `MedsegError` in the chain of causes; ``None`` without one.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, MedsegError):
            return str(error)
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None
