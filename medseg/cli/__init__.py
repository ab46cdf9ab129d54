"""The command ``medseg``: finds a command's file, parses, runs it, and prints its error.

A command is one module of this folder whose name has no underscore in front, with two functions:
``add_arguments(parser)`` and ``run(options)``, which returns the exit status (0 done, 1 done with errors in the data, 2
wrong usage or input). It is called as its module, but for underscores, which are hyphens, and one at the end, which
only tells the module from a word of Python (``import_``). The first line of its docstring is its help. No command
imports anything heavy before it runs, and only the one asked for is imported.
"""

from __future__ import annotations

import argparse
import importlib
import keyword
import os
import pkgutil
import select
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, cast

from medseg import __version__
from medseg.caller import speaking
from medseg.cli._arguments import give_process_back, setting
from medseg.errors import one_line, shown

__all__ = ["Command", "load_command", "main", "names"]

_DESCRIPTION = "Attention networks for image segmentation."
_NAMED = ("overlays", "networks", "ensemble", "maps")  # options of several names, behind which keys may stand
_INTERRUPTED = 130  # 128 + SIGINT and 128 + SIGPIPE, as shells count
_READER_GONE = 141


class Command(Protocol):
    """What a module of this folder offers."""

    __doc__: str | None
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def names() -> list[str]:
    """Return the commands' names, sorted."""
    modules = (module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    return sorted(name.removesuffix("_").replace("_", "-") for name in modules)


def load_command(name: str) -> Command:
    """Import one command's module."""
    return cast(Command, importlib.import_module(f"{__name__}.{_module(name)}"))


def _module(name: str) -> str:
    return name.replace("-", "_") + "_" * keyword.iskeyword(name)


def _first_line(name: str) -> str:
    """Return a command's help without importing it: the first line of its module, which is that of its docstring."""
    with open(os.path.join(__path__[0], f"{_module(name)}.py"), encoding="utf-8") as source:
        return source.readline().strip().strip('"').rstrip(".")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: the command line without the program's name; by default that of the process.

    Returns:
        The exit status.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    known = names()
    if not given or given[0] not in known:
        _parse_without_command(given, known)
    command = load_command(given[0])
    parser = argparse.ArgumentParser(prog=f"medseg {given[0]}", description=command.__doc__)
    command.add_arguments(parser)
    options, more = parser.parse_known_args(given[1:])
    _read_settings(parser, options, more)
    options.typed = given
    return _guarded(command, options, list(parser._option_string_actions))


def _parse_without_command(given: list[str], known: list[str]) -> None:
    """Print the help or version, or say what is wrong; always ends the program."""
    parser = argparse.ArgumentParser(prog="medseg", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"medseg {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for name in known:
        commands.add_parser(name, help=_first_line(name))
    parser.parse_args(given)
    parser.error("the command comes first: medseg COMMAND ...")


def _read_settings(parser: argparse.ArgumentParser, options: argparse.Namespace, more: Sequence[str]) -> None:
    """Add each ``KEY=VALUE`` that argparse left over, or took for a name of an option; refuse what else is over."""
    if not hasattr(options, "settings"):
        if more:
            parser.error(f"unrecognized arguments: {' '.join(more)}{_meant(more, parser)}")
        return
    words = list(more)
    for name in _NAMED:
        given: list[str] = getattr(options, name, [])
        own = [text for text in given if "=" not in text or Path(text).exists()]  # a folder may be called lr=0.1
        words = [*(text for text in given if text not in own), *words]
        setattr(options, name, own)
    scores: list[str] = getattr(options, "scores", [])
    if any("=" in text for text in scores):
        own = _of_scores(scores)
        words = [*(text for text in scores if text not in own), *words]
        options.scores = own
    while words:
        text = words.pop(0)
        if text.startswith("--") and len(text) > 2:  # as MONAI's command has it: --batch_size 2
            text = text[2:] if "=" in text else f"{text[2:]}={words.pop(0) if words else ''}"
        elif text.startswith("-"):
            parser.error(f"unrecognized arguments: {text}{_meant([text], parser)}")
        try:
            options.settings.append(setting(text))
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))


def _of_scores(words: Sequence[str]) -> list[str]:
    """Return which words behind ``--scores`` are of scores: names, and ``NAME#OPTION=VALUE`` of a name that is one."""
    from medseg.metrics.score import score_names

    known = {*score_names(), *(text for text in words if "=" not in text)}
    return [text for text in words if "=" not in text or text.partition("=")[0].partition("#")[0] in known]


def _meant(words: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """Return which of a command's options the first unknown one is near to."""
    from difflib import get_close_matches

    text = next((word for word in words if word.startswith("-")), "").partition("=")[0]
    near = get_close_matches(text, list(parser._option_string_actions), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _guarded(command: Command, options: argparse.Namespace, own: Sequence[str]) -> int:
    """Run a command, which has options of its own; the one place where an error becomes a line and a status."""
    try:
        with speaking(getattr(options, "spelt", {}), own):
            status = command.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        sys.stderr.write(f"medseg: interrupted{_way_on(options, error)}\n")
        return _INTERRUPTED
    except SystemExit as error:  # asked to end by a signal, as a cluster does
        if way := _way_on(options, error):
            sys.stderr.write(f"medseg: ended{way}\n")
        raise
    except BrokenPipeError:
        if not _reader_is_gone():
            raise  # some other pipe: not for us to hide
        return _READER_GONE
    except Exception as error:
        said = one_line(error)
        if said is None:
            from medseg.cli._disk import refused

            output = getattr(options, "output", None)
            said = refused(error, [] if output is None else [Path(output)])
            if said is None:
                raise
            said += _way_on(options, error)
        lines = map(shown, said.split("\n  "))  # a list of faults stands indented below its head
        sys.stderr.write("medseg: error: " + "\n  ".join(lines) + "\n")
        return 2
    finally:
        give_process_back()
    return status


def _way_on(options: argparse.Namespace, error: BaseException) -> str:
    """Return how a command goes on that was broken off: what it says of itself, or nothing."""
    way: Callable[[argparse.Namespace, BaseException], Sequence[str] | None] | None = getattr(options, "goes_on", None)
    words = None if way is None else way(options, error)
    return "" if words is None else f"; go on with: medseg {shlex.join(words)}"


def _reader_is_gone() -> bool:
    """Tell whether what reads our output has ended; then let the interpreter flush into nothing, without a word."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not poll.poll(0):  # an error or hang-up is told unasked
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
