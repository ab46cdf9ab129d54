"""The one base class of errors that medseg raises for a fault of the input: their message says it all, in one line."""

from __future__ import annotations

__all__ = ["MedsegError"]


class MedsegError(ValueError):
    """Something given to medseg cannot be used; the message names the value, the place and the way out."""
