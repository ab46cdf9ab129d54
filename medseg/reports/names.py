"""What a case is called where its name must not show."""

from __future__ import annotations

import hashlib

__all__ = ["hidden_name"]


def hidden_name(name: str) -> str:
    """Return a short name that tells cases apart without saying whose they are: the same in tables and pictures.

    Args:
        name: of a case, such as its image's file name.

    Returns:
        ``"case "`` and the first eight digits of the name's SHA-256; without the word, a table's reader
        would take some for numbers (``12e45678``).
    """
    return f"case {hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
