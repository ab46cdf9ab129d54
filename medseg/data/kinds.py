"""Kinds of images of a data set, told by their measurements, and how often each is drawn where some are rare.

Shares of kinds: B. Kang et al., "Decoupling representation and classifier for long-tailed recognition", ICLR 2020,
https://arxiv.org/abs/1910.09217, equation 1, with kinds of images in the place of classes: the share of a kind of n
images is as n ** q. Their q is 1 for images drawn alike, 0 for kinds drawn alike, 1/2 for the square root that D.
Mahajan et al., https://arxiv.org/abs/1805.00932, train with. ``balance`` is 1 - q.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medseg.data.case_facts import CaseFacts
from medseg.data.datalist import Datalist, Entry
from medseg.data.fingerprint import fingerprint, labelled

__all__ = ["UNKNOWN", "chances", "kind_of", "kinds_of", "never_shown"]

UNKNOWN = "not measured"
"""Kind of an image that the fingerprint does not hold: without a label, or of the test list."""

_LARGE = 512
"""Edge in pixels above which a picture counts as large."""


def kind_of(facts: CaseFacts) -> str:
    """Return the kind of an image in a few words.

    Pictures are told apart by colour, by whether the foreground is the brighter or the darker side, and by size;
    volumes by how they are stored and by thick slices.

    Args:
        facts: of the image.
    """
    if len(facts.shape) == 3:
        edges = sorted(facts.spacing or (1.0, 1.0, 1.0))
        thick = ", thick slices" if edges[-1] > 3 * edges[1] else ""
        return f"{facts.codes or 'no orientation'}{thick}"
    colour = "colour" if facts.seen == 3 and not facts.equal_channels else "grey"
    side = ""
    if facts.foreground:
        middle = len(facts.foreground[0]) // 2
        side = ", bright objects" if facts.foreground[0][middle] > facts.quantiles[0][middle] else ", dark objects"
    return f"{colour}{side}{', large' if max(facts.shape) > _LARGE else ''}"


def kinds_of(data: Datalist, entries: Sequence[Entry]) -> list[str]:
    """Return the kind of each of some images, by the data set's fingerprint.

    Args:
        data: the datalist.
        entries: of it, with absolute paths; one that is not measured there is `UNKNOWN`.
    """
    return [UNKNOWN if each is None else kind_of(each) for each in _measured(data, entries)]


def never_shown(data: Datalist, entries: Sequence[Entry]) -> list[str]:
    """Return the names of the classes that none of some images shows, by the data set's fingerprint.

    Args:
        data: the datalist.
        entries: of its training or validation list, with absolute paths.
    """
    held = [each for each in _measured(data, entries) if each is not None]
    return [name for index, name in enumerate(data.class_names) if not any(each.voxels[index] for each in held)]


def _measured(data: Datalist, entries: Sequence[Entry]) -> list[CaseFacts | None]:
    facts = {str(entry["image"]): case for entry, case in zip(labelled(data), fingerprint(data).cases, strict=True)}
    return [facts.get(str(entry["image"])) for entry in entries]


def chances(kinds: Sequence[str], balance: float) -> list[float]:
    """Return how often each image is drawn, as a share of all draws.

    Args:
        kinds: of the images that are drawn from, and of no others.
        balance: 0 draws images alike, 1 kinds alike, 0.5 kinds as the square roots of how many images they have.
    """
    number = Counter(kinds)
    held = [number[kind] ** -balance for kind in kinds]
    whole = sum(held)
    return [each / whole for each in held]
