"""What values tell together that no file tells alone: indices of unlike palettes, a CT with an offset."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from medseg.data.case_facts import QUANTILES
from medseg.data.check_findings import Case, Finding, names, warning
from medseg.data.datalist import Datalist
from medseg.errors import counted

__all__ = ["offsets", "palettes"]

_LOW = QUANTILES.index(0.005)
_FAT = -50.0  # Hounsfield


def palettes(cases: Sequence[Case]) -> Iterator[Finding]:
    """Tell of labels whose palette has another colour for a class than that of most others.

    Programs that number the colours which a picture has give one class several indices.

    Args:
        cases: with their facts.
    """
    labels = {case.label: facts for case in cases if case.label is not None and (facts := case.readable_label)}
    seen: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for facts in labels.values():
        for value, colour in zip(facts.values or (), facts.colours, strict=False):
            seen[value][colour] += 1
    usual = {value: colours.most_common(1)[0][0] for value, colours in seen.items()}
    unlike = {
        path: (value, colour)
        for path, facts in labels.items()
        for value, colour in zip(facts.values or (), facts.colours, strict=False)
        if colour != usual[value]
    }
    if unlike:
        value, colour = next(iter(unlike.values()))
        message = (
            f"{counted(len(unlike), 'label')} ({names(list(unlike))}) with another palette than most: {value} is "
            f"#{colour:06x} there, and #{usual[value]:06x} in most; where colours tell the classes, have "
            "`medseg import` map them with --colours"
        )
        yield warning("mixed-palettes", message, *unlike)


def offsets(datalist: Datalist, cases: Sequence[Case]) -> Iterator[Finding]:
    """Tell of volumes of a CT without air and fat: these are -1000 and -100 in Hounsfield units.

    Args:
        datalist: says the modality.
        cases: with their facts.
    """
    if not any("CT" in name.upper().replace("-", " ").split() for name in datalist.modality):
        return
    volumes = {case.image: facts for case in cases if (facts := case.readable_image) and facts.affine is not None}
    lows = {
        path: facts.quantiles[0][_LOW] for path, facts in volumes.items() if facts.channels == 1 and facts.quantiles
    }
    unlike = [path for path, low in lows.items() if low > _FAT]
    if unlike:
        message = (
            f"{counted(len(unlike), 'volume')} of {len(lows)} of a CT ({names(unlike)}) with hardly a value below "
            f"{_FAT:g}, as air and fat are in Hounsfield units: stored with an offset, such as 1024? A window, and one "
            "scale for all, would show something else in them; where it is so, subtract it"
        )
        yield warning("ct-offset", message, *unlike)
