"""What makes a run the run that it is: data, labels, split, network, feeding. What differs in one is another run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from medseg.data.datalist import Datalist
from medseg.errors import counted, shown
from medseg.runs.checkpoint import unwrap
from medseg.runs.run_folder import to_plain

_SHOWN = 4  # differences in one message
_DIGITS = 16  # of a hash, in the record of the files
_NOTHING = "not there"


def identify(
    datalist: Datalist | None,
    split: Mapping[str, Any] | None = None,
    network: nn.Module | None = None,
    fed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return plain data that tells one run from another.

    Args:
        datalist: gives fingerprint, labels and ignore label.
        split: ``fold_key``, ``fold`` and ``validation_fold``.
        network: gives its ``recipe``, a dict with ``name`` and ``arguments``, where it has one. Names and shapes of
            its weights are compared when they are loaded.
        fed: how images are brought to the network's input.
    """
    identity: dict[str, Any] = dict(split or {})
    if fed is not None:
        identity["input"] = fed
    if datalist is not None:
        identity |= {
            "fingerprint": datalist.fingerprint(),
            "labels": datalist.labels,
            "ignore_index": datalist.ignore_index,
        }
    recipe = None if network is None else getattr(unwrap(network), "recipe", None)
    if isinstance(recipe, Mapping):
        identity["network"] = recipe
    return dict(to_plain(identity))


def file_record(datalist: Datalist) -> dict[str, str]:
    """Return the beginning of each file's content hash by that of its name's, to say later which file has changed.

    Args:
        datalist: names the files.
    """
    return {_name_hash(name): content[:_DIGITS] for name, content in datalist.contents().items()}


def changed_files(recorded: Mapping[str, str], datalist: Datalist) -> list[str]:
    """Return one phrase for each way in which the files of a run are others now.

    Args:
        recorded: what `file_record` returned when the run began; empty where there is no record.
        datalist: as it is now.
    """
    if not recorded:
        return ["the datalist or a file that it names is another one now, or the run was begun by another medseg"]
    now = {name: content[:_DIGITS] for name, content in datalist.contents().items()}
    known = {name: recorded.get(_name_hash(name)) for name in now}
    gone = len(recorded) - sum(found is not None for found in known.values())
    found = [
        _of_some([name for name, before in known.items() if before not in (None, now[name])], "has changed"),
        _of_some([name for name, before in known.items() if before is None], "is new"),
        f"{counted(gone, 'file')} that it began with not named any more" if gone else "",
    ]
    where = shown(datalist.path)
    return [each for each in found if each] or [f"{where} has changed since it began, the files that it names have not"]


def _of_some(names: list[str], what: str) -> str:
    more = f" (and {counted(len(names) - 1, 'more file')})" if len(names) > 1 else ""
    return f"{shown(names[0])} {what} since it began{more}" if names else ""


def _name_hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one phrase for each thing that differs, with both values.

    Args:
        recorded: the identity of the run.
        now: of what is to continue it.
    """
    found = list(_differing(recorded, now, ""))
    more = [f"and {counted(len(found) - _SHOWN, 'more difference')}"] if len(found) > _SHOWN else []
    return found[:_SHOWN] + more


def _differing(recorded: Mapping[str, Any], now: Mapping[str, Any], place: str) -> Iterator[str]:
    for key in dict.fromkeys([*recorded, *now]):
        before, after = recorded.get(key, _NOTHING), now.get(key, _NOTHING)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differing(before, after, f"{place}{key} ")
        elif before != after:
            yield f"{place}{key} was {before} and is {after} now"
