"""What can be refused before PyTorch is imported: keys, values, data, folds and folders that are not as they must be.

Importing PyTorch and MONAI takes seconds, which nobody should wait for to read that a folder's name was mistyped. Each
refusal stands where its matter does (`start`, `options`, `data`, `run_folder`); here they are only asked first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medseg.bundle.command import Command
from medseg.bundle.data import datalist, refuse_fold
from medseg.bundle.options import OptionError, Options
from medseg.bundle.start import check_names, folder
from medseg.caller import nearest
from medseg.runs.run_folder import refuse_taken

__all__ = ["refuse", "refuse_unread"]

_EXPRESSIONS = ("$", "@", "%")  # of MONAI's configuration: what they give is not known yet


def refuse(command: Command, *, begins: bool) -> None:
    """Refuse what a configuration cannot be evaluated with.

    Args:
        command: the files of a bundle, and what was asked for.
        begins: whether a run is to begin in a folder, which must not hold another.

    Raises:
        MedsegError: if a key is not there, a value of the wrong kind, the data set or its fold missing, or the folder
            taken.
    """
    check_names(command)
    found = {**command.plain, **command.overrides}
    known = {name: value for name, value in found.items() if name in Options.names() and _is_plain(value)}
    wanted = Options.of(known)
    refuse_fold(datalist({"datalist": wanted.datalist}, found["dataset_dir"], command), wanted, command)
    if begins and wanted.output_dir and not wanted.resume:
        refuse_taken(Path(folder(wanted.output_dir, "output_dir", command)))


def refuse_unread(what: str, given: Iterable[str], takes: Sequence[str], more: str = "") -> None:
    """Refuse keys that would have no effect.

    Args:
        what: is asked.
        given: keys.
        takes: those that it reads.
        more: is to be said where no key is near.

    Raises:
        OptionError: naming the nearest right key, or all.
    """
    for key in given:
        if key not in takes:
            near = nearest(key, takes)
            hint = f"did you mean {near}?" if near else f"it takes {', '.join(takes)}{more}"
            raise OptionError(f"{what} has no option {key!r}; {hint}")


def _is_plain(value: Any) -> bool:
    return not (isinstance(value, str) and value.startswith(_EXPRESSIONS))
