"""What a plan is to keep to: single keys of the training that somebody has settled before there is a plan."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medseg.bundle import networks
from medseg.bundle.description import Inference, Input, part
from medseg.bundle.early import is_plain
from medseg.bundle.options import OF_A_RUN, Options
from medseg.caller import spelt
from medseg.errors import counted
from medseg.studies.measures import StepSettings
from medseg.studies.plan_network import Candidate
from medseg.studies.plan_rules import Chosen, PlanError

__all__ = ["Asked"]

_NETWORK = "network_def#"
_DESCRIBED = ("input", "inference", "scores", "postprocess")  # of a model: what a plan says of it
_WHY = "as it was asked for"
_PARTS = {"input": Input, "inference": Inference}
_SETTLED = {
    "name": "name it with --network",
    "spatial_dims": "--dimensions says it",
    "in_channels": "the images have them",
    "out_channels": "they are the classes of the labels",
}
_ORIENTATION = ("input", "orientation")
_ALONG = re.compile("[RL][AP][SI]")
_BESIDE = ("seed",)  # of the first weights: of no matter for what a step costs


@dataclass(frozen=True)
class Asked:
    """Keys that bound a plan: what it measures is what will be trained, and what it writes.

    Args:
        patch: edges of the training's patches, where they were given.
        batch: patches a step, where they were given.
        network: arguments of the network.
        values: of `bundle.yaml`, by section and key: ``("input", "spacing")``.
    """

    patch: tuple[int, ...] | None = None
    batch: int | None = None
    network: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[tuple[str, ...], Any] = field(default_factory=dict)

    @classmethod
    def of(cls, changes: Mapping[str, Any], network: str) -> Asked:
        """Read the keys of a configuration, before anything is measured.

        Args:
            changes: values by key, such as ``{"patch": [64, 64]}``; those of a run alone are left aside.
            network: its name.

        Raises:
            MedsegError: if a value is of the wrong kind, the network has no such argument, or the data settle it.
        """
        for key in StepSettings.names():
            if not is_plain(changes.get(key)):
                raise PlanError(f"{spelt(key, changes[key])}: a plan measures the step that is trained; give a value")
        plain = {key: value for key, value in changes.items() if key in Options.names() and is_plain(value)}
        wanted = Options.of(plain)
        inside = {key.removeprefix(_NETWORK): value for key, value in changes.items() if key.startswith(_NETWORK)}
        for key, value in inside.items():
            _refuse_argument(key, value)
        networks.refuse_arguments(network, [key for key in inside if key not in _BESIDE])
        arguments = {key: value for key, value in inside.items() if key not in _BESIDE}
        values = {
            _place(key, value): value
            for key, value in changes.items()
            if not key.startswith(_NETWORK) and key.partition("#")[0] not in (*OF_A_RUN, "max_minutes")
        }
        for name, kind in _PARTS.items():
            part(kind, {path[1]: value for path, value in values.items() if path[0] == name and len(path) == 2},
                 f"model#{name}")  # fmt: skip
        patch = plain.get("patch")
        return cls(tuple(patch) if patch is not None else None, wanted.batch_size if "batch_size" in plain else None,
                   arguments, values)  # fmt: skip

    def over(self, section: str, planned: Mapping[str, Chosen]) -> dict[str, Chosen]:
        """Return a section of a plan with what was asked for in its place.

        Args:
            section: of `bundle.yaml`.
            planned: its values by key.

        Raises:
            MedsegError: if a key lies inside what the plan has not, or the values do not go together.
        """
        found = dict(planned)
        for path, value in self.values.items():
            if path[0] != section:
                continue
            if len(path) == 2:
                found[path[1]] = Chosen(value, _WHY)
            else:
                held = found.get(path[1], Chosen({}, ""))
                why = f"{held.why}; " if held.why else ""
                found[path[1]] = Chosen(_with(held.value, path, value), f"{why}{'#'.join(path[2:])} {_WHY}")
        if section in _PARTS:
            part(_PARTS[section], {key: chosen.value for key, chosen in found.items()}, f"model#{section}")
        return found

    def plane(self, planned: Chosen | None) -> Chosen | None:
        """Return the plane that a network sees, as it was asked for.

        Args:
            planned: of the data; ``None`` where the network has the images' axes.

        Raises:
            PlanError: if a plane was asked for where no slices are seen.
        """
        wanted = self.value("input", "plane")
        if wanted is None:
            return planned
        if planned is None:
            raise PlanError(
                f"{spelt('model#input#plane', wanted)} is of slices, and the network sees images whole; leave it out, "
                "or plan for slices of volumes with --dimensions 2"
            )
        return Chosen(wanted, _WHY)

    def value(self, *path: str) -> Any:
        """Return a value that was asked for; ``None`` where none was.

        Args:
            path: section and key.
        """
        return self.values.get(path)

    @property
    def step(self) -> StepSettings:
        """How the training takes its steps."""
        return StepSettings.of({path[1]: value for path, value in self.values.items() if path[0] == "train"})

    def __str__(self) -> str:
        """Return them as they were given; nothing where there are none."""
        patch = {} if self.patch is None else {"patch": list(self.patch)}
        given = {**patch, **{_NETWORK + key: value for key, value in self.network.items()}}
        given |= {f"model#{'#'.join(path)}": value for path, value in self.values.items() if path[0] == "input"}
        return ", ".join(spelt(key, value) for key, value in given.items())

    def refuse_axes(self, axes: int) -> None:
        """Refuse a patch, a window or a size of other axes than the network's.

        Args:
            axes: of the network.

        Raises:
            PlanError: naming both.
        """
        sizes = {
            "model#input#size": self.value("input", "size"),
            "model#inference#window": self.value("inference", "window"),
        }
        for key, size in {"patch": self.patch, **sizes}.items():
            if size is not None and len(size) != axes:
                edges = counted(len(size), "edge")
                raise PlanError(f"{spelt(key, list(size))} has {edges}, the network {axes} axes; give one edge an axis")

    def refuse_turned(self, stored: Sequence[str]) -> None:
        """Refuse an orientation by which spacing, patches and mirrors of a plan, along R, A and S, would be of others.

        Args:
            stored: axis codes of the images, as ``orientation=null`` keeps them.

        Raises:
            PlanError: naming the orientation.
        """
        if _ORIENTATION not in self.values:
            return
        wanted = self.values[_ORIENTATION]
        turned = [codes for codes in ([wanted] if wanted else stored) if codes and not _ALONG.fullmatch(codes)]
        if turned:
            images = "" if wanted else f", and images are stored as {turned[0]}"
            raise PlanError(
                f"{spelt('model#input#orientation', wanted or 'null')}{images}: what a plan chooses is along R, A and "
                "S in this order; leave it out, or name the axes so, such as LPS"
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


def _refuse_argument(key: str, value: Any) -> None:
    """Refuse an argument of the network that a plan settles, or cannot measure."""
    given = spelt(_NETWORK + key, value)
    if key in _SETTLED:
        raise PlanError(f"{given}: a plan chooses that itself; leave it out, {_SETTLED[key]}")
    if "#" in key:
        whole = key.partition("#")[0]
        raise PlanError(f"{given}: a plan measures the network as it is built; give {_NETWORK}{whole} as a whole")
    if key.startswith("_"):
        raise PlanError(f"{given}: a plan builds the network itself; name it with --network")
    if not is_plain(value):
        raise PlanError(f"{given}: a plan measures the network before there is a configuration; give a value")


def _place(key: str, value: Any) -> tuple[str, ...]:
    """Return where in `bundle.yaml` a key of the configuration stands."""
    first, *rest = key.split("#")
    if first == "model":
        if len(rest) < 2 or rest[0] not in _DESCRIBED:
            raise PlanError(
                f"{spelt(key, value)}: the data and the plan say it; give keys of {', '.join(_DESCRIBED)} alone, such "
                "as model#inference#overlap"
            )
        return tuple(rest)
    if first == _NETWORK.removesuffix("#"):
        raise PlanError(
            f"{first}: a plan builds the network itself; give single arguments, such as network_def#channels"
        )
    return ("train", first, *rest)


def _with(held: Any, path: tuple[str, ...], value: Any) -> Any:
    """Return a value with another one at a place inside it."""
    made = copy.deepcopy(held)
    inner, *steps = made, *path[2:]
    for number, step in enumerate(steps, 1):
        at: Any = int(step) if isinstance(inner, list) and step.isdecimal() else step
        there = at < len(inner) if isinstance(inner, list) and isinstance(at, int) else isinstance(inner, dict)
        if not there or (number < len(steps) and isinstance(inner, dict) and at not in inner):
            raise PlanError(f"{'#'.join(path[1:])}: the configuration has no such key; give {path[1]} as a whole")
        if number == len(steps):
            inner[at] = value
        else:
            inner = inner[at]
    return made
