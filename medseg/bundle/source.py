"""`bundle.yaml`: what a person writes of a bundle, and what it shares with others by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from medseg.bundle.description import BESIDE_PAPER, Description, DescriptionError
from medseg.bundle.options import Options
from medseg.io.yaml_file import read_yaml
from medseg.resources import BUNDLE_FILE

__all__ = ["COMPONENTS", "KEYS", "REQUIRED", "Source", "read_source", "shared"]

_TEXTS = ("title", "task", "description", "data_source", "data_type", "modality")
_LISTS = ("references", "classes", "overlay_sets", "networks")
_MAPPINGS = (
    "colours",
    "codes",
    "network",
    "input",
    "inference",
    "scores",
    "postprocess",
    "train",
    "overlays",
    "imports",
)
KEYS = (*_TEXTS, "name", "base", *_LISTS, *_MAPPINGS, "ignored", "beside_paper")
"""Every key of a `bundle.yaml`; docs/reference/bundle_yaml.md says what each is."""
REQUIRED = (*_TEXTS, "classes", "network")
COMPONENTS = ("loss", "optimizer")
"""What ``train`` must hold, in the bundle's own file or its base's."""
_CROP = "Crop"
_DESCRIBED = ("input", "inference", "classes", "colours", "codes", "scores", "postprocess", "beside_paper")


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
        window_is_patch: whether whole images are predicted in windows of the size of the training's patches, which they
            are where the bundle names no window and the images are not resized.
    """

    folder: Path
    texts: Mapping[str, str]
    references: list[str]
    description: Description
    ignored: int | None
    train: Mapping[str, Any]
    overlays: Mapping[str, Mapping[str, Any]]
    imports: Mapping[str, str] = field(default_factory=dict)
    window_is_patch: bool = False

    @property
    def cuts_patches(self) -> bool:
        """Whether the loader cuts the patches; else a transform of the augmentation does (after scaling, say)."""
        return not _crops(self.train)

    @property
    def name(self) -> str:
        """Name of the model: the bundle's own, or its folder's."""
        return self.description.name

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
    folder = Path(folder).resolve()
    path = folder / BUNDLE_FILE
    content = read_yaml(path, DescriptionError, "the folder of a bundle")
    if not isinstance(content, dict):
        raise DescriptionError(f"{path} holds no mapping; see docs/reference/bundle_yaml.md")
    for key in content:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            raise DescriptionError(f"{path} has no key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    _refuse_kinds(content, str(path))
    base = content.pop("base", None)
    if base is not None:
        content = _merged(_shared("bases", base, str(path)), content)
    return _source(folder, content, str(path))


def _refuse_kinds(content: Mapping[str, Any], where: str) -> None:
    """Refuse values of another kind than their key's."""
    for key, value in content.items():
        wrong = ""
        if key in REQUIRED and not value:
            wrong = "it must not be empty"
        elif key in (*_TEXTS, "name") and not isinstance(value, str):
            wrong = "give text, quoted where YAML takes it for something else"
        elif key == "name" and not re.fullmatch(r"[A-Za-z0-9_.-]+", value):
            wrong = "give letters, digits, -, _ and ."
        elif key in _LISTS and not _are_texts(value or []):
            wrong = "give a list of texts, quoted where YAML takes one for something else"
        elif key in _MAPPINGS and not isinstance(value or {}, Mapping):
            wrong = "give keys with their values"
        elif key == "ignored" and value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            wrong = "give a whole number, or null"
        elif key == "beside_paper" and value is not None and value not in BESIDE_PAPER:
            wrong = f"choose one of {', '.join(BESIDE_PAPER)}, or null"
        if wrong:
            raise DescriptionError(f"{where}: {key} is {value!r}; {wrong}")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _shared(kind: str, name: Any, where: str) -> dict[str, Any]:
    """Return one of what several bundles share by its name."""
    there: dict[str, dict[str, Any]] = shared()[kind]
    if not isinstance(name, str) or name not in there:
        what = kind.removesuffix("s").replace("_", " ")
        raise DescriptionError(f"{where}: there is no {what} {name!r}; choose one of {', '.join(there)}")
    return there[name]


def _source(folder: Path, content: dict[str, Any], where: str) -> Source:
    missing = [key for key in REQUIRED if key not in content]
    missing += [f"train#{key}" for key in COMPONENTS if key not in (content.get("train") or {})]
    if missing:
        raise DescriptionError(f"{where} lacks {', '.join(missing)}; add what docs/reference/bundle_yaml.md says")
    network = {"spatial_dims": 2, "out_channels": len(content["classes"]), **content["network"]}
    described: dict[str, Any] = {key: content[key] for key in _DESCRIBED if key in content}
    described |= {"name": content.get("name") or folder.name, "network": network}
    train = dict(content.get("train") or {})
    fed, predicted = dict(content.get("input") or {}), dict(content.get("inference") or {})
    window_is_patch = not (_crops(train) or fed.get("size") or "window" in predicted)
    if window_is_patch:
        described["inference"] = {**predicted, "window": train.get("patch")}
    overlays: dict[str, dict[str, Any]] = {}
    for network in content.get("networks") or []:  # others in its place, with their own defaults
        overlays[str(network)] = {"about": f"Another network - {network}", "network_def#name": network}
    for chosen in content.get("overlay_sets") or []:
        overlays |= _shared("overlay_sets", chosen, where)
    for name, changes in (content.get("overlays") or {}).items():
        if isinstance(changes, str):  # one that several bundles share, by its name
            changes = _shared("overlays", changes, where)
        elif not isinstance(changes, Mapping):
            raise DescriptionError(
                f"{where}: overlay {name} is {changes!r}; give keys with their values, or the name of a shared one"
            )
        overlays[str(name)] = dict(changes)
    return Source(
        folder=folder,
        texts={key: str(content[key]) for key in _TEXTS},
        references=list(content.get("references") or []),
        description=Description.of(described, where=where),
        ignored=content.get("ignored"),
        train=train,
        overlays=overlays,
        imports=dict(content.get("imports") or {}),
        window_is_patch=window_is_patch,
    )


def _crops(train: Mapping[str, Any]) -> bool:
    """Return whether one of the training's own transforms is told to cut the patches."""
    steps = [step for step in train.get("augmentation") or [] if isinstance(step, Mapping)]
    return any(_CROP in str(step.get("_target_", "")) and "@patch" in step.values() for step in steps)


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``own`` laid over it, section by section."""
    result = dict(base)
    for key, value in own.items():
        below = result.get(key)
        result[key] = {**below, **value} if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result
