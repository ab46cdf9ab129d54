"""What makes a run the run that it is: data, labels, split, network. What differs in one of them is another run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from medseg.data.datalist import Datalist
from medseg.runs.checkpoint import unwrap
from medseg.runs.run_folder import to_plain

_SHOWN = 4  # differences in one message
_NOTHING = "not there"


def identify(
    datalist: Datalist | None, split: Mapping[str, Any] | None = None, network: nn.Module | None = None
) -> dict[str, Any]:
    """Return plain data that tells one run from another.

    Args:
        datalist: gives fingerprint, labels and ignore label.
        split: ``fold_key``, ``fold`` and ``validation_fold``.
        network: gives its ``recipe``, a dict with ``name`` and ``arguments``, where it has one. Names and shapes of
            its weights are compared when they are loaded.
    """
    identity: dict[str, Any] = dict(split or {})
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


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one phrase for each thing that differs, with both values.

    Args:
        recorded: the identity of the run.
        now: of what is to continue it.
    """
    found = list(_differing(recorded, now, ""))
    more = [f"and {len(found) - _SHOWN} more differences"] if len(found) > _SHOWN else []
    return found[:_SHOWN] + more


def _differing(recorded: Mapping[str, Any], now: Mapping[str, Any], place: str) -> Iterator[str]:
    for key in dict.fromkeys([*recorded, *now]):
        before, after = recorded.get(key, _NOTHING), now.get(key, _NOTHING)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differing(before, after, f"{place}{key} ")
        elif before != after:
            yield f"{place}{key} was {before} and is {after} now"
