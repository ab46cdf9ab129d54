"""What can be refused before PyTorch is imported: keys, values, data, folds and folders that are not as they must be.

Importing PyTorch and MONAI takes seconds, which nobody should wait for to read that a folder's name was mistyped. Each
refusal stands where its matter does (`start`, `options`, `data`, `run_folder`); here they are only asked first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.bundle.command import Command
from medseg.bundle.data import datalist, refuse_fold
from medseg.bundle.description import Inference, part
from medseg.bundle.networks import refuse_arguments
from medseg.bundle.options import OptionError, Options
from medseg.bundle.start import check_names, folder
from medseg.caller import nearest
from medseg.runs.run_folder import refuse_taken

__all__ = ["is_plain", "refuse", "refuse_inference", "refuse_unread"]

_NETWORKS = ("name", "seed")  # arguments of what makes a network, not of the network itself
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
    _refuse_arguments(command)
    found = {**command.plain, **command.overrides}
    known = {name: value for name, value in found.items() if name in Options.names() and is_plain(value)}
    wanted = Options.of(known)
    refuse_fold(datalist({"datalist": wanted.datalist}, found["dataset_dir"], command), wanted, command)
    if begins and wanted.output_dir and not wanted.resume:
        refuse_taken(Path(folder(wanted.output_dir, "output_dir", command)))


def _refuse_arguments(command: Command) -> None:
    """Refuse arguments that the network does not take, as far as its source tells."""
    held = command.united.get("network_def")
    name = command.overrides.get("network_def#name", held.get("name") if isinstance(held, dict) else None)
    if isinstance(name, str) and is_plain(name) and "network_def" not in command.overrides:
        keys = [key.split("#")[1] for key in command.own_keys() if key.startswith("network_def#")]
        refuse_arguments(name, [key for key in keys if key not in _NETWORKS and not key.startswith("_")])


def refuse_inference(changes: Mapping[str, Any]) -> None:
    """Refuse keys and values that say nothing of how whole images are predicted.

    Args:
        changes: ``inference#window`` and the like.

    Raises:
        DescriptionError: naming the key.
    """
    part(Inference, {key.removeprefix("inference#"): value for key, value in changes.items()}, "inference")


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


def is_plain(value: Any) -> bool:
    """Return whether a value is what it says, not an expression of MONAI's configuration."""
    return not (isinstance(value, str) and value.startswith(_EXPRESSIONS))
