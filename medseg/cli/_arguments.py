"""What several commands parse or say alike."""

from __future__ import annotations

import argparse
import json
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from medseg.errors import MedsegError, shown

__all__ = [
    "add_output", "add_outputs", "add_overlays", "add_plan", "add_plan_size", "add_scores", "add_settings",
    "end_with_input", "give_process_back", "number_above_zero", "overrides_of", "own_process", "positive", "same_again",
    "say", "say_foreign", "scores_of", "setting", "write_json",
]  # fmt: skip

_DIGITS = re.compile(r"^\d+(_\d+)+$")
_borrowed: list[ExitStack] = []


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def number_above_zero(text: str) -> float:
    """Read a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def setting(text: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE``, the value as a bundle's YAML would have it, but ``1e-3`` as the number it looks like."""
    import yaml

    key, sign, value = text.partition("=")
    if not sign or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    if _DIGITS.match(value):  # YAML 1.1 takes 2024_01_05 for a number; it is a name
        return key, value
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {value!r} is not YAML; quote it") from error
    if isinstance(read, str) and read == value.strip():
        try:
            return key, float(read)  # YAML 1.1 takes 1e-3 for a word
        except ValueError:
            return key, read
    return key, read


def add_output(parser: argparse._ActionsContainer, what: str, *, metavar: str = "DIR", required: bool = False) -> None:
    """Add ``--output``, for short ``-o``, which every command has that writes a folder.

    Args:
        parser: of a command, or a group of its options.
        what: the folder is.
        metavar: what stands for it.
        required: whether it must be given.
    """
    parser.add_argument("-o", "--output", type=Path, required=required, metavar=metavar, help=what)


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Add what is written beside masks, an option each; `outputs` names those that were given, ``None`` of none."""
    from medseg.prediction.outputs import OUTPUTS

    for name, output in OUTPUTS.items():
        parser.add_argument(f"--{name}", dest="outputs", action="append_const", const=name, help=output.about)


def add_overlays(parser: argparse.ArgumentParser) -> None:
    """Add ``--with NAME ...``."""
    parser.add_argument(
        "--with",
        dest="overlays",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="overlays of the bundle, such as small",
    )


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Add what a plan can be told: ``--network``, ``--dimensions``, ``--memory``."""
    parser.add_argument("--network", metavar="NAME", help="of the plan, from medseg or MONAI (default: unet)")
    add_plan_size(parser)


def add_plan_size(parser: argparse.ArgumentParser) -> None:
    """Add what plans of any network can be told: ``--dimensions``, ``--memory``."""
    parser.add_argument(
        "--dimensions", type=int, choices=(2, 3), help="of the plan (default: the images'); 2: slices of volumes"
    )
    parser.add_argument(
        "--memory", type=number_above_zero, metavar="GiB", help="that a step of the plan may take (default: measured)"
    )


def add_settings(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``KEY=VALUE ...``.

    Args:
        parser: of a command.
        what: the keys are.
    """
    # what stands after an option comes back from the parser unread: `medseg.cli.main` adds it
    parser.add_argument("settings", type=setting, nargs="*", default=[], metavar="KEY=VALUE", help=what)


def add_scores(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """Add ``--scores NAME ...``.

    Args:
        parser: of a command.
        otherwise: what is scored where none is named.
    """
    about = f"scores beside overlap ({otherwise}), and their options as distances#tolerance=2"
    parser.add_argument("--scores", nargs="+", default=[], metavar="NAME", help=about)


def scores_of(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return what ``--scores`` names: options by score.

    Args:
        options: parsed arguments.

    Raises:
        MedsegError: if a word is neither a name nor ``NAME#OPTION=VALUE``.
    """
    found: dict[str, dict[str, Any]] = {}
    for word in options.scores:
        if "=" not in word:
            found.setdefault(word, {})
            continue
        try:
            key, value = setting(word)
        except argparse.ArgumentTypeError as error:
            raise MedsegError(f"--scores {error}") from error
        name, sign, option = key.partition("#")
        if not sign:
            raise MedsegError(f"--scores {word}: options are given as NAME#OPTION=VALUE, such as distances#tolerance=2")
        found.setdefault(name, {})[option] = value
    return found


def overrides_of(options: argparse.Namespace, **named: Any) -> dict[str, Any]:
    """Return what the command line changes, key to value.

    Args:
        options: parsed arguments with ``settings``.
        named: what options with a name of their own say; ``None`` says nothing.

    Raises:
        MedsegError: if a key is given twice.
    """
    changes = {key: value for key, value in named.items() if value is not None}
    for key, value in options.settings:
        if key in changes:
            raise MedsegError(f"{key} is given twice, as {changes[key]!r} and {value!r}; give it once")
        changes[key] = value
    return changes


def same_again(options: argparse.Namespace, error: BaseException) -> list[str] | None:
    """Return how a command goes on that was broken off: as it was typed, once its folder is there.

    Args:
        options: parsed arguments with ``output``.
        error: that broke it off.
    """
    output: Path | None = getattr(options, "output", None)
    return list(options.typed) if output is not None and output.is_dir() else None


def own_process(*, lean: bool = False) -> None:
    """Set the process up for work: it is the command's, not a caller's (log lines, signals, quiet helpers).

    Args:
        lean: whether MONAI is imported without what it only tries, see `medseg.cli._lean`.
    """
    from medseg.bundle.start import set_up_process

    _borrowed.append(set_up_process())
    if lean:
        from medseg.cli._lean import lean_monai

        _borrowed.append(lean_monai())


def give_process_back() -> None:
    """Leave the process as it was before `own_process`: the command has ended, what called it may go on."""
    while _borrowed:
        _borrowed.pop().close()


def end_with_input() -> None:
    """End this process when its standard input closes, which it does with the process that started it."""
    import os
    from threading import Thread

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os._exit(1)  # what it has made so far is whole, whenever it ends

    Thread(target=wait, daemon=True).start()


def say(line: str) -> None:
    """Write a line of news to standard error."""
    sys.stderr.write(f"{shown(line)}\n")


def say_foreign(bundle: Path) -> None:
    """Say in one line that a bundle is code, where it neither came with medseg nor is as medseg wrote it here."""
    from medseg.bundle.library import is_ours

    if not is_ours(bundle):
        sys.stderr.write(f"medseg: {shown(bundle)} is not as medseg wrote it: a bundle is code, and it runs now\n")


def write_json(value: Any) -> None:
    """Print a value as JSON."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")
