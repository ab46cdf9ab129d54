"""What was asked for: files, overlays and values of ``python -m monai.bundle run`` or of medseg's own commands.

MONAI evaluates a bundle without telling it what was typed. A run must record that, must refuse a mistyped option
(MONAI ignores it), and must read ``--dataset_dir 2024_01_05`` as the folder that it names (MONAI's command line makes a
number of it). So where this process is MONAI's command, its arguments are read once more here; in any other process
(``create_workflow``, MONAI Label, a notebook) nothing is known, and nothing is assumed.
"""

from __future__ import annotations

import ast
import copy
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.caller import is_monais
from medseg.errors import MedsegError
from medseg.io.yaml_file import read_yaml

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

__all__ = ["Command", "claim_process", "owns_process", "release_process", "typed"]

_MONAIS = {"config_file", "meta_file", "logging_file", "run_id", "init_id", "final_id", "tracking", "args_file"}


@dataclass(frozen=True)
class Command:
    """What a run was started with.

    Args:
        program: ``"monai.bundle"``, ``"medseg"`` or ``""`` where it is not known.
        files: configuration files, the first and its overlays.
        overrides: values by key, as typed (text) or given (any).
        words: of the command line.
    """

    program: str = ""
    files: Sequence[Path] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    words: Sequence[str] = ()

    @property
    def known(self) -> bool:
        """Whether there is anything to record."""
        return bool(self.program)

    def overlays(self) -> list[str]:
        """Return the overlays' names: those of the files after the first."""
        return [path.stem for path in self.files[1:]]

    def text(self, name: str, value: Any) -> Any:
        """Return an option as it was typed, where it was and has become another on the way; else ``value``.

        MONAI's command line makes numbers of names such as ``2024_01_05``, and its configuration ``a::1`` of ``a#1``.

        Args:
            name: of the option.
            value: what the configuration holds.
        """
        given = self.overrides.get(name)
        given = os.fspath(given) if isinstance(given, os.PathLike) else given
        if not isinstance(given, str):
            return value
        same = isinstance(value, int | float) or (isinstance(value, str) and value == given.replace("#", "::"))
        return given if same else value

    @cached_property
    def plain(self) -> dict[str, Any]:
        """The files' top-level keys with their values as they stand there, later files before earlier ones.

        What is said of a key that stands in none needs no more, and so neither MONAI nor PyTorch.
        """
        found: dict[str, Any] = {}
        for content in self._contents:
            for key, value in content.items():
                top, inside, _ = str(key).lstrip("+").partition("#")
                found[top] = found.get(top) if inside else value
        return found

    @cached_property
    def _contents(self) -> list[Mapping[str, Any]]:
        found = [read_yaml(path, MedsegError, "a configuration") for path in self.files]
        return [content if isinstance(content, Mapping) else {} for content in found]

    @cached_property
    def united(self) -> dict[str, Any]:
        """Everything that the files name, nested, values of later files before earlier ones; nothing is taken away.

        A key inside another that is not here is in no configuration that MONAI makes of the files.
        """
        found: dict[str, Any] = {}
        for content in self._contents:
            for key, value in content.items():
                nested = value
                for part in reversed(str(key).lstrip("+").split("#")):
                    nested = {part: nested}
                _unite(found, nested)
        return found

    @cached_property
    def merged(self) -> dict[str, Any]:
        """What the files say together, without the overrides and not evaluated; read once, not to be changed."""
        if not self.files:
            return {}
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config([str(path) for path in self.files])
        return dict(parser.get())

    def parser(self) -> ConfigParser:
        """Return MONAI's parser of the files, without the overrides, to change and evaluate."""
        from monai.bundle import ConfigParser

        return ConfigParser(copy.deepcopy(self.merged))

    def config(self) -> dict[str, Any]:
        """Return the configuration with the overrides, not evaluated; empty where nothing is known."""
        if not self.files:
            return {}
        parser = self.parser()
        parser.update({key: _value(self.overrides[key]) for key in self.own_keys()})
        return {key: value for key, value in parser.get().items() if key != "_meta_"}

    def own_keys(self) -> list[str]:
        """Return the keys of the overrides that are the configuration's, not MONAI's."""
        return [key for key in self.overrides if key not in _MONAIS]


_claimed: list[bool] = []


def claim_process() -> None:
    """Say that this process is one of medseg's own commands."""
    _claimed.append(True)


def release_process() -> None:
    """Take back one `claim_process`: the command has ended, its caller's process goes on."""
    _claimed.pop()


def owns_process() -> bool:
    """Return whether this process is medseg's or ``python -m monai.bundle``: its errors and signals are ours."""
    return bool(_claimed) or is_monais()


def typed() -> Command:
    """Return what was typed, where this process is ``python -m monai.bundle run``; else an unknown command."""
    words = sys.argv[1:]
    if _claimed or not owns_process() or not words or words[0] != "run":
        return Command()
    options: dict[str, Any] = {}
    rest = words[1:]
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            options.setdefault("run_id", word)
            continue
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not _is_flag(rest[0]) else "True"
        options[key.replace("-", "_") if key.replace("-", "_") in _MONAIS else key] = value
    if "args_file" in options:
        from monai.bundle import ConfigParser

        options = {**ConfigParser.load_config_file(options["args_file"]), **options}
    files = _value(options.pop("config_file", []))
    listed = [files] if isinstance(files, str) else list(files)
    options = {key.replace("::", "#"): value for key, value in options.items()}
    paths = tuple(Path(str(path)) for path in listed)
    return Command("monai.bundle", paths, options, ("python", "-m", "monai.bundle", *words))


def _unite(found: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        held = found.get(key)
        if isinstance(held, dict) and isinstance(value, Mapping):
            _unite(held, value)
        elif not isinstance(held, dict):  # of a mapping and another value nobody knows which is left
            found[key] = copy.deepcopy(value)


def _is_flag(word: str) -> bool:
    return word.startswith("--")


def _value(text: Any) -> Any:
    """Return what MONAI's command line (fire) makes of a word: a literal where it is one, else the word."""
    if not isinstance(text, str):
        return text
    try:
        from fire.parser import DefaultParseValue

        return DefaultParseValue(text)
    except ImportError:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
