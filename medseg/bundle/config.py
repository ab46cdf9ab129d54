"""A configuration that would not do what it says: keys that nothing reads, arguments that nothing takes."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from medseg.bundle.options import Options
from medseg.errors import MedsegError

_REFERENCE = re.compile(r"@((?:\w+|#|::)+)")
# ids that other programs read, or MONAI itself
_STANDARD = {
    "imports", "initialize", "run", "finalize", "_meta_", "bundle_root", "dataset_dir", "output_dir", "device",
    "network_def", "network", "inferer", "preprocessing", "postprocessing", "dataset", "dataloader", "evaluator",
    "handlers", "train", "validate", "val_interval",
}  # fmt: skip
_SECTIONS = ("train", "validate")
_TRAINER = "train#trainer"
_ENGINES = (_TRAINER, "validate#evaluator")  # what an overlay may leave aside without making its keys unknown


class ConfigError(MedsegError):
    """A bundle configuration that would not do what it says."""


def declared_keys(folder: Path) -> set[str]:
    """Return the keys that a bundle's own configuration files declare: ``a``, and ``a#b`` of sections.

    An override may leave one of them unread (``--output_dir`` leaves the run's name), which is no mistake.

    Args:
        folder: of the configuration files.
    """
    import yaml

    keys: set[str] = set()
    for path in sorted(folder.glob("*.*")):
        if path.suffix not in (".yaml", ".yml", ".json") or path.name == "metadata.json":
            continue
        content = yaml.safe_load(path.read_text())
        for key, value in (content if isinstance(content, Mapping) else {}).items():
            key = str(key).lstrip("+").replace("::", "#")
            keys |= {key, key.split("#")[0]}
            keys |= {f"{key}#{child}" for child in value} if isinstance(value, Mapping) else set()
    return keys


def check_config(
    config: Mapping[str, Any], entry_points: tuple[str, ...], declared: Collection[str] = frozenset()
) -> None:
    """Find keys that nothing reads and arguments that a component does not take.

    Args:
        config: the merged configuration, not yet evaluated.
        entry_points: ids that are run.
        declared: keys that may stay unread, see `declared_keys`.

    Raises:
        ConfigError: naming the key and the nearest right one.
    """
    used = _references(config, (*entry_points, *_ENGINES))
    options = set(Options.names()) if _TRAINER in used else set()
    known = {name.split("#")[0] for name in used} | _STANDARD | options | set(declared)
    for key in config:
        if key not in known:
            raise ConfigError(_unknown(f"key `{key}`", key, sorted((known & set(config)) | options)))
    for section in _SECTIONS:
        children = config.get(section)
        if not isinstance(children, Mapping) or section in used:
            continue
        from monai.bundle.properties import TrainProperties

        standard = {p["id"].replace("::", "#") for p in TrainProperties.values()}
        for child in children:
            name = f"{section}#{child}"
            fine = used | standard | set(declared)
            if name not in fine and not any(other.startswith(f"{name}#") for other in fine):
                raise ConfigError(_unknown(f"key `{name}`", name, [f"{section}#{c}" for c in children if c != child]))
    for name in sorted(known & set(config)):
        _check_arguments(config[name], name)


def _references(config: Mapping[str, Any], entry_points: tuple[str, ...]) -> set[str]:
    """Return the ids that are read, starting from the entry points: ``a`` and ``a#b`` of every ``@a#b#c``."""
    used: set[str] = set()
    waiting = [name for name in entry_points if name.split("#")[0] in config]
    while waiting:
        name = waiting.pop()
        if name in used:
            continue
        used.add(name)
        used.update("#".join(name.split("#")[: n + 1]) for n in range(1, name.count("#")))
        value: Any = config
        for part in name.split("#"):
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
        for text in _strings(value):
            for match in _REFERENCE.findall(text):
                waiting.append(match.replace("::", "#").strip("#"))
    return used


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _unknown(what: str, name: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    meant = f"did you mean `{near[0]}`?" if near else f"known are: {', '.join(sorted(choices))}"
    return f"unknown configuration {what}: nothing reads it; {meant}"


def _check_arguments(value: Any, place: str) -> None:
    if isinstance(value, list):
        for number, inner in enumerate(value):
            _check_arguments(inner, f"{place}#{number}")
    if not isinstance(value, Mapping):
        return
    for key, inner in value.items():
        _check_arguments(inner, f"{place}#{key}")
    target = value.get("_target_")
    if not isinstance(target, str) or target.startswith(("$", "@")):
        return
    parameters = _parameters(dict(value), place)
    if parameters is None:
        return
    for key in value:
        if not key.startswith("_") and key not in parameters:
            raise ConfigError(_unknown(f"key `{place}#{key}` ({target} takes no `{key}`)", key, sorted(parameters)))


def _parameters(component: dict[str, Any], place: str) -> set[str] | None:
    """Return the names of a component's arguments, ``None`` where it takes any."""
    from pydoc import locate

    from monai.bundle import ComponentLocator, ConfigComponent

    name = ConfigComponent(component, id=place, locator=ComponentLocator()).resolve_module_name()
    found = locate(name) if isinstance(name, str) else name
    if found is None:
        raise ConfigError(f"`{place}` names {component['_target_']}, which cannot be imported; check the spelling")
    try:
        parameters = inspect.signature(found).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):  # written in C, without a signature
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return set(parameters)
