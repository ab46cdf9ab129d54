"""Who asks, and what an option is called there: a command of medseg, ``python -m monai.bundle``, or Python.

One key of a configuration has three names: ``--minutes 30`` is what `medseg train` has, ``--max_minutes 30`` MONAI's
command, ``max_minutes=30`` Python and every command that takes single keys. A message that names the way out names the
one that its reader can type.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["is_monais", "nearest", "speaking", "spelt"]

_MONAIS = ("monai.bundle.__main__", "monai.bundle")
_spelt: ContextVar[Mapping[str, str]] = ContextVar("spelt")
_own: ContextVar[tuple[str, ...]] = ContextVar("own")


def is_monais() -> bool:
    """Return whether this process is ``python -m monai.bundle``."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return getattr(spec, "name", "") in _MONAIS


@contextmanager
def speaking(options: Mapping[str, str], own: Iterable[str]) -> Iterator[None]:
    """Let messages speak as a command of medseg does.

    Args:
        options: what the command calls keys of the configuration, such as ``--minutes`` for ``max_minutes``.
        own: all its options, such as ``--overwrite``.
    """
    tokens = _spelt.set(options), _own.set(tuple(own))
    try:
        yield
    finally:
        _spelt.reset(tokens[0])
        _own.reset(tokens[1])


def spelt(key: str, value: object = None) -> str:
    """Return what a user types for a key of the configuration.

    Args:
        key: such as ``max_minutes``.
        value: that it is given; ``None`` names the key alone.
    """
    option = _spelt.get({}).get(key)
    if option is None and is_monais():
        option = f"--{key}"
        value = f'"{value}"' if isinstance(value, str) and value.startswith("[") else value
    if option is None:
        return key if value is None else f"{key}={value}"
    return option if value is None else f"{option} {value}"


def nearest(key: str, known: Iterable[str]) -> str | None:
    """Return what a mistyped key is nearest to, as a user types it: another key, or an option of the command.

    Args:
        key: as it was typed.
        known: keys that there are.
    """
    from difflib import get_close_matches

    names = {name: spelt(name) for name in known}
    names |= {option.lstrip("-"): option for option in _own.get(()) if option.startswith("--")}
    near = get_close_matches(key, list(names), 1)
    return names[near[0]] if near else None
