"""What the fourth axis of volumes is taken for: channels, and where a header says that it is time, a refusal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from medseg.errors import counted, shown
from medseg.importers.layout import Case, ImportingError
from medseg.io.image_file import FourthAxis, ImageError
from medseg.io.images import fourth_axis

__all__ = ["explain_fourth_axes"]

_NAMED = 6  # channels that a message spells out


def explain_fourth_axes(cases: Sequence[Case], modality: Sequence[str]) -> list[str]:
    """Say what the fourth axis of the images is taken for.

    Args:
        cases: their headers are read, and no values; a file that cannot be read is the check's to tell.
        modality: what the channels are; as many names as an axis is long say that it is channels.

    Raises:
        ImportingError: if an image's header says that the axis is time, and nobody that it is channels.

    Returns:
        One line, or none where no image has such an axis.
    """
    axes: list[FourthAxis] = []
    files = list(chain.from_iterable(case.images for case in cases))
    for path in files:
        try:
            axis = fourth_axis(path)
        except (ImageError, OSError):
            continue
        if axis is None:
            continue
        if axis.time and len(modality) != axis.length:
            names = ",".join(f"T{number}" for number in range(min(axis.length, _NAMED)))
            raise ImportingError(
                f"{shown(path)}: its fourth axis is time, {axis.length} steps ({shown(axis.time)}), and a case is one "
                f"volume; store each as a file of its own, or, if all images have these {axis.length} steps and they "
                f"shall be channels, name each with --modality {names}{',...' * (axis.length > _NAMED)}"
            )
        axes.append(axis)
    if not axes:
        return []
    lengths = sorted({axis.length for axis in axes})
    several = str(lengths[0]) if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
    of = "every image" if len(axes) == len(files) else f"{len(axes)} of {counted(len(files), 'image')}"
    known = len(lengths) == 1 and len(modality) == lengths[0]
    names = f": {', '.join(modality)}" if known else "; --modality names them"
    return [f"the fourth axis of {of} is taken as {several} channels{names}"]
