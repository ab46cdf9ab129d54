"""`bundle.yaml`: what a person writes of a bundle, and what it shares with others by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from medseg.bundle.description import Description, DescriptionError
from medseg.bundle.options import Options

__all__ = ["FILE", "Source", "read_source", "shared"]

FILE = "bundle.yaml"
_TEXTS = ("title", "task", "description", "data_source", "data_type", "modality")
_KEYS = (
    *_TEXTS, "base", "references", "classes", "colours", "ignored", "network", "input", "inference", "scores",
    "postprocess", "beside_paper", "train", "overlays", "overlay_sets", "networks", "imports",
)  # fmt: skip
_DESCRIBED = ("input", "inference", "classes", "colours", "scores", "postprocess", "beside_paper")


@dataclass(frozen=True)
class Source:
    """A bundle as it is written.

    Args:
        folder: of the bundle.
        texts: title, task, description, data_source, data_type, modality.
        references: papers.
        description: the model.
        ignored: label value that counts nowhere, for the description alone.
        train: top-level keys of the training: options, loss, optimizer, augmentation and what they refer to.
        overlays: changes by name; ``about`` says what for.
        imports: modules that expressions use, by their short name.
    """

    folder: Path
    texts: Mapping[str, str]
    references: list[str]
    description: Description
    ignored: int | None
    train: Mapping[str, Any]
    overlays: Mapping[str, Mapping[str, Any]]
    imports: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the bundle: its folder's."""
        return self.folder.name

    def options(self) -> dict[str, Any]:
        """Return every option with the bundle's value or its default."""
        return {**Options.defaults(), **{k: v for k, v in self.train.items() if k in Options.names()}}

    def extra(self) -> dict[str, Any]:
        """Return the training's keys that are no options."""
        return {key: value for key, value in self.train.items() if key not in Options.names()}


@cache
def shared() -> dict[str, Any]:
    """Return what several bundles share: ``bases`` to build on, ``overlays``, and the versions that were tested."""
    import yaml

    return dict(yaml.safe_load(Path(__file__).with_name("shared.yaml").read_text(encoding="utf-8")))


def read_source(folder: str | Path) -> Source:
    """Read a bundle's `bundle.yaml`.

    Raises:
        DescriptionError: if it is missing, no YAML, or holds what it must not.
    """
    import yaml

    folder = Path(folder).resolve()
    path = folder / FILE
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DescriptionError(f"{path} cannot be read ({error.strerror}); name the folder of a bundle") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DescriptionError(f"{path} is no valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise DescriptionError(f"{path} holds no mapping; see docs/reference of bundle.yaml")
    for key in content:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, 1)
            raise DescriptionError(f"{path} has no key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    base = content.pop("base", None)
    if base is not None:
        bases = shared()["bases"]
        if base not in bases:
            raise DescriptionError(f"{path}: there is no base {base!r}; choose one of {', '.join(bases)}")
        content = _merged(bases[base], content)
    return _source(folder, content, str(path))


def _source(folder: Path, content: dict[str, Any], where: str) -> Source:
    missing = [key for key in (*_TEXTS, "classes", "network") if key not in content]
    if missing:
        raise DescriptionError(f"{where} lacks {', '.join(missing)}")
    network = {"spatial_dims": 2, "out_channels": len(content["classes"]), **content["network"]}
    described: dict[str, Any] = {key: content[key] for key in _DESCRIBED if key in content}
    described |= {"name": folder.name, "network": network}
    overlays: dict[str, dict[str, Any]] = {}
    for network in content.get("networks") or []:  # others in its place, with their own defaults
        overlays[str(network)] = {"about": f"Another network - {network}", "network_def#name": network}
    for chosen in content.get("overlay_sets") or []:
        overlays |= shared()["overlay_sets"][chosen]
    for name, changes in (content.get("overlays") or {}).items():
        if isinstance(changes, str):  # one that several bundles share, by its name
            changes = shared()["overlays"][changes]
        overlays[str(name)] = dict(changes)
    return Source(
        folder=folder,
        texts={key: str(content[key]) for key in _TEXTS},
        references=list(content.get("references") or []),
        description=Description.of(described, where=where),
        ignored=content.get("ignored"),
        train=dict(content.get("train") or {}),
        overlays=overlays,
        imports=dict(content.get("imports") or {}),
    )


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``own`` laid over it, section by section."""
    result = dict(base)
    for key, value in own.items():
        below = result.get(key)
        result[key] = {**below, **value} if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result
