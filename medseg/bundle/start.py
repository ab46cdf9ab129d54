"""What a bundle's YAML calls before work starts: requirements, overlays that fit, no mistyped option, folders as typed.

In a process that is ``python -m monai.bundle``, medseg is the command and may set the process up: short errors, quiet
helpers, signals. In any other process (``create_workflow``, MONAI Label, a notebook) nothing of the process is touched.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from medseg.bundle.command import Command, owns_process, typed
from medseg.bundle.options import Options
from medseg.bundle.overlays import refuse_clashes
from medseg.caller import nearest, spelt
from medseg.errors import MedsegError, one_line
from medseg.runs.paths import resolve_path
from medseg.runs.processes import (
    first_to_say,
    leave_failed,
    pick_device,
    rank,
    start_processes,
    stop_processes,
    world_size,
)

__all__ = [
    "ConfigError", "check_keys", "check_names", "check_requirements", "command", "folder", "pick_device",
    "run_folder", "set_up_process", "start", "start_processes", "stop_processes",
]  # fmt: skip

logger = logging.getLogger(__name__)

_OF_WEIGHTS = (["model", "postprocess"], ["model", "temperature"])  # whatever a configuration says, see `record`
_PACKAGE = re.compile(r"^([A-Za-z0-9._-]+)\s*(.*)$")


class ConfigError(MedsegError):
    """A configuration that would not do what it says, or that this installation cannot run."""


def command() -> Command:
    """Return what was typed in this process, see `medseg.bundle.command`."""
    return typed()


def start(
    metadata: Mapping[str, Any], command: Command, overlays: Mapping[str, Mapping[str, str]], seed: int | None = None
) -> None:
    """Prepare a run.

    Args:
        metadata: of the bundle.
        command: what was typed.
        overlays: what each overlay that was put on sets.
        seed: of the process's random numbers, where the process is ours.

    Raises:
        ConfigError: if a package is missing or too old, or an option has no effect.
        OverlayError: if two overlays contradict each other.
    """
    if owns_process():
        set_up_process()
    check_requirements(metadata)
    refuse_clashes(overlays)
    check_keys(command)
    if seed is not None and owns_process():
        from monai.utils import set_determinism

        set_determinism(int(seed), use_deterministic_algorithms=None)


def check_names(command: Command) -> None:
    """Refuse options that nothing reads: MONAI ignores them. Needs neither MONAI nor PyTorch.

    Args:
        command: what was typed.

    Raises:
        ConfigError: naming the key and the nearest right one.
    """
    for key in command.own_keys() if command.files else ():
        top = key.split("#")[0]
        if top not in command.plain:
            near = spelt(f"model#{key}") if top in ("input", "inference") else nearest(top, command.plain)
            hint = f"did you mean {near}?" if near else "see docs/reference for the options"
            raise ConfigError(
                f"{spelt(key)}: the configuration has no {top!r}, so that it would have no effect; {hint}"
            )
        if "#" in key and top != "network_def":
            _refuse_inside(command.united, key, lists=False)
        if "ckpt" in command.plain and key.split("#")[:2] in _OF_WEIGHTS:
            raise ConfigError(
                f"{spelt(key)}: comes with the weights, so that it would have no effect; predict with other steps by "
                "medseg predict (postprocess=...), or change the weights': medseg evaluate --choose-postprocessing, "
                "--calibrate"
            )


def check_keys(command: Command) -> None:
    """Refuse options that nothing reads, and keys inside one that are not there.

    Args:
        command: what was typed.

    Raises:
        ConfigError: naming the key and the right ones.
    """
    check_names(command)
    for key in command.own_keys() if command.files else ():
        if "#" in key and key.split("#")[0] != "network_def":
            _refuse_inside(command.merged, key)


def _refuse_inside(config: Mapping[str, Any], key: str, *, lists: bool = True) -> None:
    if not _holds(config, key.split("#"), lists):
        raise ConfigError(f"{spelt(key)}: the configuration has no such key; {_siblings(config, key.split('#'))}")


def _holds(config: Any, path: list[str], lists: bool) -> bool:
    """Return whether a key is there, or may be: where ``lists`` is false, nothing is known of what stands in lists."""
    for number, part in enumerate(path, 1):
        if isinstance(config, Mapping) and part in config:
            config = config[part]
        elif isinstance(config, list) and not lists:
            return True
        elif isinstance(config, list) and part.isdecimal() and int(part) < len(config):
            config = config[int(part)]
        else:  # an argument of a component, which refuses what it does not take
            return isinstance(config, Mapping) and "_target_" in config and number == len(path)
    return True


def _siblings(config: Any, path: list[str]) -> str:
    for part in path[:-1]:
        inner = config.get(part) if isinstance(config, Mapping) else None
        if not isinstance(inner, Mapping):
            break
        config = inner
    return f"there are {', '.join(map(str, config))}" if isinstance(config, Mapping) else "correct it"


def check_requirements(metadata: Mapping[str, Any]) -> None:
    """Compare the packages that a bundle names with what is installed; the least versions are those of medseg itself.

    Args:
        metadata: the bundle's metadata, whose ``required_packages_version`` holds the versions it was tested with.

    Raises:
        ConfigError: naming what to install.
    """
    from packaging.requirements import Requirement

    least = {}
    for line in _required():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            least[requirement.name.lower()] = requirement.specifier
    wanting = []
    for package in metadata.get("required_packages_version", {}):
        if package == "medseg":  # is what runs here: of a checkout that is not installed nothing is recorded
            continue
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            wanting.append(f"{package} (not installed)")
            continue
        specifier = least.get(package.lower())
        if specifier is not None and not specifier.contains(installed, prereleases=True):
            wanting.append(f"{package}{specifier} (installed: {installed})")
    if wanting:
        names = " ".join(f"'{wanted.split(' ')[0]}'" for wanted in wanting)
        raise ConfigError(f"this bundle needs {', '.join(wanting)}: pip install {names}")


# ---------------------------------------------------------------------------------------------- folders


def folder(value: Any, name: str, command: Command | None = None) -> str:
    """Return a path as the user means it: as typed, with ``~`` and ``..`` resolved against the working directory.

    Args:
        value: what the configuration holds; MONAI's command line makes numbers of names such as ``2024_01_05``.
        name: of the option.
        command: what was typed.

    Raises:
        MedsegError: if it is no path.
    """
    return str(resolve_path((command or Command()).text(name, value)))


def run_folder(options: Options, name: str, command: Command) -> Path:
    """Return the run's folder, the same in all processes, by ``output_dir``, ``resume``, ``runs_dir``, ``run_name``.

    Args:
        options: of the configuration.
        name: of the bundle.
        command: what was typed.
    """
    if options.output_dir:
        return Path(folder(options.output_dir, "output_dir", command))
    if isinstance(options.resume, str):
        return Path(folder(options.resume, "resume", command))
    runs = Path(folder(options.runs_dir, "runs_dir", command))
    if options.resume:
        begun = sorted(runs.glob("*/checkpoints/last.pt"), key=lambda path: path.stat().st_mtime_ns)
        unfinished = [last.parent.parent for last in begun if not _finished(last)]
        if unfinished:
            return unfinished[-1]
        logger.warning("%s: no unfinished run in %s; starting a new one", spelt("resume"), runs.name)
    return runs / (str(command.text("run_name", options.run_name)) if options.run_name else _new_name(name))


def _new_name(name: str) -> str:
    names = [f"{name}_{time.strftime('%Y%m%d_%H%M%S')}_{time.time_ns() // 1000 % 1000:03d}"]
    if world_size() > 1:
        import torch.distributed as dist

        dist.broadcast_object_list(names, src=0)
    return names[0]


def _finished(last: Path) -> bool:
    weights = last.parent.parent / "model.pt"  # the last file that a run writes
    return weights.is_file() and weights.stat().st_mtime_ns >= last.stat().st_mtime_ns


# ---------------------------------------------------------------------------------------------- the process


def set_up_process() -> ExitStack:
    """Set up a process that is medseg's own: errors of the input in one line, quiet helpers, signals that end a run.

    Returns:
        What, closed, leaves the process as it was: Python may have called the command, and goes on after it.
    """
    from medseg.bundle.command import claim_process, release_process
    from medseg.runs import signals

    undo = ExitStack()
    if not owns_process():
        claim_process()
        undo.callback(release_process)
    undo.callback(setattr, sys, "excepthook", sys.excepthook)
    sys.excepthook = _short_errors
    for number, handler in signals.handle().items():
        undo.callback(signal.signal, number, handler)
    ours = logging.getLogger("medseg")
    if not ours.hasHandlers():  # a bundle that came without its logging.conf
        stream = logging.StreamHandler(sys.stdout)
        stream.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        ours.addHandler(stream)
        undo.callback(ours.removeHandler, stream)
    for name, level in _levels().items():
        each = logging.getLogger(name)
        undo.callback(each.setLevel, each.level)
        each.setLevel(level)
    undo.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", message=".*nvImageCodec.*")
    return undo


def _levels() -> dict[str | None, int]:
    """Return the least level of each logger that a command shows."""
    return {
        **({None: logging.WARNING} if rank() else {}),
        "medseg": logging.WARNING if rank() else logging.INFO,
        **dict.fromkeys(("ignite", "alembic", "monai.bundle.config_parser"), logging.WARNING),
        "ignite.engine.engine": logging.CRITICAL,  # tells of an error before it is told in one line
    }


def _short_errors(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line for an error of the input, the trace for anything else; of several processes the first does."""
    said = one_line(error)
    if not first_to_say():
        pass
    elif said is None:
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stderr.write(f"error: {said}\n")
    sys.stderr.flush()
    leave_failed()


def _required() -> list[str]:
    """Return what this package needs, by its metadata; nothing of a checkout that is not installed."""
    try:
        return importlib.metadata.requires("medseg") or []
    except importlib.metadata.PackageNotFoundError:
        return []
