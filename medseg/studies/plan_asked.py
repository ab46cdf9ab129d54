"""What a plan is to keep to: single keys of the training that somebody has settled before there is a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medseg.bundle import networks
from medseg.bundle.early import is_plain
from medseg.bundle.options import Options
from medseg.caller import spelt
from medseg.errors import counted
from medseg.studies.plan_network import Candidate
from medseg.studies.plan_rules import PlanError

__all__ = ["Asked"]

_NETWORK = "network_def#"
_SETTLED = {
    "name": "name it with --network",
    "spatial_dims": "--dimensions says it",
    "in_channels": "the images have them",
    "out_channels": "they are the classes of the labels",
}
_BESIDE = ("seed",)  # of the first weights: of no matter for what a step costs


@dataclass(frozen=True)
class Asked:
    """Keys that bound a plan: what it measures is what will be trained.

    Args:
        patch: edges of the training's patches, where they were given.
        batch: patches a step, where they were given.
        network: arguments of the network.
    """

    patch: tuple[int, ...] | None = None
    batch: int | None = None
    network: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, changes: Mapping[str, Any], network: str) -> Asked:
        """Read the keys of a configuration, before anything is measured.

        Args:
            changes: values by key, such as ``{"patch": [64, 64]}``.
            network: its name.

        Raises:
            MedsegError: if a value is of the wrong kind, the network has no such argument, or the data settle it.
        """
        plain = {key: value for key, value in changes.items() if key in Options.names() and is_plain(value)}
        wanted = Options.of(plain)
        inside = [key.removeprefix(_NETWORK) for key in changes if key.startswith(_NETWORK)]
        for key in inside:
            if key in _SETTLED:
                raise PlanError(
                    f"{spelt(_NETWORK + key, changes[_NETWORK + key])}: a plan chooses that itself; leave it out, "
                    f"{_SETTLED[key]}"
                )
        networks.refuse_arguments(
            network, [key.split("#")[0] for key in inside if key not in _BESIDE and not key.startswith("_")]
        )
        arguments = {
            key: changes[_NETWORK + key]
            for key in inside
            if "#" not in key and not key.startswith("_") and key not in _BESIDE and is_plain(changes[_NETWORK + key])
        }
        patch = plain.get("patch")
        return cls(tuple(patch) if patch is not None else None, wanted.batch_size if "batch_size" in plain else None,
                   arguments)  # fmt: skip

    def __str__(self) -> str:
        """Return them as they were given; nothing where there are none."""
        patch = {} if self.patch is None else {"patch": list(self.patch)}
        given = {**patch, **{_NETWORK + key: value for key, value in self.network.items()}}
        return ", ".join(spelt(key, value) for key, value in given.items())

    def refuse_axes(self, axes: int) -> None:
        """Refuse a patch of other axes than the network's.

        Args:
            axes: of the network.

        Raises:
            PlanError: naming both.
        """
        if self.patch is not None and len(self.patch) != axes:
            edges = counted(len(self.patch), "edge")
            raise PlanError(
                f"{spelt('patch', list(self.patch))} has {edges}, the network {axes} axes; give one edge an axis"
            )

    def kept(self, tried: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates as they were asked for.

        Args:
            tried: candidates, those of the patch that was asked for first.
        """
        found: list[Candidate] = []
        for each in tried:
            if self.patch is not None and each.patch != tried[0].patch:
                break
            network = {**each.network, **self.network}
            channels = self.network.get("channels")
            if isinstance(channels, list | tuple) and "strides" in each.network and "strides" not in self.network:
                network["strides"] = _strides(network["strides"], len(channels) - 1, self.patch or each.patch)
            made = replace(
                each,
                network=network,
                patch=self.patch or each.patch,
                batch=self.batch or each.batch,
                base=0 if "channels" in self.network else each.base,
            )
            if made not in found:
                found.append(made)
        return found


def _strides(planned: Sequence[Sequence[int]], number: int, patch: Sequence[int]) -> list[list[int]]:
    """Return so many strides: of fewer levels the finest, of more than planned as long as there is what to halve."""
    strides = [list(stride) for stride in planned[: max(1, number)]]
    while len(strides) < number:
        edges = [edge // math.prod(steps) for edge, steps in zip(patch, zip(*strides, strict=True), strict=True)]
        if max(edges) < 2:
            break
        strides.append([2 if edge >= 2 else 1 for edge in edges])
    return strides
