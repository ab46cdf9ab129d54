"""Every documented command is short enough to copy, parses, and names only what exists: bundles, overlays, options."""

import argparse
import ast
import contextlib
import importlib.util
import inspect
import re
import shlex
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from docs.pages import BUNDLES, PAGES, PROGRAMS, ROOT, commands, identify, mentioned, read, shell_lines

from medseg import cli
from medseg.bundle import library, ready
from medseg.bundle.command import Command
from medseg.bundle.description import Inference
from medseg.bundle.start import check_keys
from medseg.errors import MedsegError
from medseg.prediction import predict

LONGEST = 110
FREE = {"evaluate": {"device", *ready.EVALUATED}, "predict": set(predict.TAKES)}
load_command = cli.load_command


class ParsedError(Exception):
    """A data script has read its arguments: that is all that is asked here."""


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], argparse.Namespace]:
    """A function that lets ``medseg`` read a command line, which then is not carried out."""
    kept: list[argparse.Namespace] = []
    parse_args = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *arguments: Any, **named: Any) -> None:
        parse_args(self, *arguments, **named)
        raise ParsedError

    def stand_in(name: str) -> Any:
        command = load_command(name)
        if name == "data":
            return command
        return SimpleNamespace(
            __doc__=command.__doc__, add_arguments=command.add_arguments, run=lambda given: kept.append(given) or 0
        )

    monkeypatch.setattr(cli, "load_command", stand_in)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)

    def read_line(words: Sequence[str]) -> argparse.Namespace:
        assert words[0] in cli.names(), f"there is no medseg {words[0]}"
        kept.clear()
        with contextlib.suppress(ParsedError):
            assert cli.main(words) == 0
        return kept[0] if kept else argparse.Namespace()

    return read_line


def folder_of(name: str, copies: dict[str, str]) -> Path | None:
    """Return a bundle's folder; ``None`` where the page means any (``NAME``)."""
    name = copies.get(name, name)
    return library.find(name) if name in library.names() else None


def copied(text: str) -> dict[str, str]:
    """Return the bundles that a page lets its reader copy: new name to bundle; of data that it imports, to DATA."""
    words = [line.split() for line in commands(text)]
    found = {line[line.index("-o") + 1]: "DATA" for line in words if line[:2] == ["medseg", "import"] and "-o" in line}
    return found | {line[5]: line[3] for line in words if line[:3] == ["medseg", "bundle", "copy"]}


def check_settings(command: str, given: argparse.Namespace, copies: dict[str, str]) -> None:
    """Refuse a key or an overlay that the command would refuse."""
    overlays, settings = list(getattr(given, "overlays", [])), dict(getattr(given, "settings", []))
    if command in ("train", "check") and given.bundle is not None:
        folder = folder_of(given.bundle, copies)
        if folder is None:
            assert copies.get(given.bundle, given.bundle).isupper(), f"there is no bundle {given.bundle}"
            return
        check_keys(Command("medseg", library.config_files(folder, "train", overlays), settings))
    elif command in ("evaluate", "predict"):
        free = {key.partition("#")[2] for key in settings if key.startswith("inference#")}
        assert free <= {*inspect.signature(Inference).parameters}
        assert {key for key in settings if not key.startswith("inference#")} <= FREE[command]


def options_in(source: Path) -> set[str]:
    """Return the options of a script's parsers, as its source has them."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [call for call in calls if getattr(call.func, "attr", "") == "add_argument"]
    return {word.value for call in named for word in call.args if isinstance(word, ast.Constant)} | {"--help"}


def check_python(words: list[str], copies: dict[str, str]) -> None:
    """Check ``python -m MODULE ...`` and ``python SCRIPT ...``."""
    if words[:2] == ["-m", "monai.bundle"]:
        check_monai(words[2:], copies)
        return
    if words[0] == "-m":
        found = importlib.util.find_spec(words[1])
        assert found is not None, f"there is no module {words[1]}"
        assert found.origin is not None
        source, rest = Path(found.origin), words[2:]
    else:
        source, rest = ROOT / words[0], words[1:]
    assert {word for word in rest if word.startswith("--")} <= options_in(source)


def check_monai(words: list[str], copies: dict[str, str]) -> None:
    """Check a command of MONAI's: its options are its own or keys of the configuration."""
    import monai.bundle

    takes = set(inspect.signature(getattr(monai.bundle, words[0])).parameters)
    options = dict(zip((word.removeprefix("--") for word in words[1::2]), words[2::2], strict=True))
    files = options.pop("config_file", None)
    if files is None:
        assert set(options) <= takes
        return
    listed = ast.literal_eval(files) if files.startswith("[") else [files]
    paths = [ROOT / "bundles" / copies.get(name.split("/")[0], "..") / name.partition("/")[2] for name in listed]
    paths = [path if path.is_file() else ROOT / name for path, name in zip(paths, listed, strict=True)]
    assert [path for path in paths if not path.is_file()] == []
    check_keys(Command("monai.bundle", paths, {key: value for key, value in options.items() if key not in takes}))


def check_click(group: Any, words: list[str]) -> None:
    """Check a command of a program that click reads."""
    command = group.get_command(click.Context(group), words[0])
    assert command is not None, f"there is no command {words[0]}"
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word.partition("=")[0] for word in words[1:] if word.startswith("--")} <= known


def check(line: str, parse: Callable[[Sequence[str]], argparse.Namespace], copies: dict[str, str]) -> None:
    program, *words = shlex.split(line)
    if program == "medseg":
        check_settings(words[0], parse(words), copies)
    elif program == "python":
        check_python(words, copies)
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        started, _ = get_args_parser().parse_known_args(words)
        check_python(["-m"] * started.module + [started.training_script, *started.training_script_args], copies)
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in words if "=" not in word)
    elif program == "pip":
        assert words[0] in ("install", "wheel")
    elif program == "mkdocs":
        from mkdocs.__main__ import cli as mkdocs

        check_click(mkdocs, words)
    elif program == "mlflow":
        with warnings.catch_warnings(action="ignore"):  # of its own server's, which its command imports
            from mlflow.cli import cli as mlflow

        check_click(mlflow, words)
    else:
        raise AssertionError(f"{line}: nothing here can check {program}; add it, or leave it out of the page")


@pytest.mark.parametrize("page", [*PAGES, *BUNDLES], ids=identify)
def test_no_command_is_long(page: Path) -> None:
    pieces = [
        piece for line in commands(read(page)) for piece in re.split(" {3,}", line)
    ]  # a long one is several lines
    assert [piece for piece in pieces if len(piece) > LONGEST] == []


@pytest.mark.parametrize("page", [*PAGES, *BUNDLES], ids=identify)
def test_every_command_can_be_typed(page: Path, parse: Callable[[Sequence[str]], argparse.Namespace]) -> None:
    copies = copied(read(page))
    for line in commands(read(page)):
        check(line, parse, copies)


@pytest.mark.parametrize("page", [*PAGES, *BUNDLES], ids=identify)
def test_what_is_mentioned_exists(page: Path) -> None:
    """In running text, `medseg COMMAND ... --option` leaves out what it must have: its options alone are looked up."""
    for line in mentioned(read(page)):
        program, *words = shlex.split(line)
        if program != "medseg":
            check(line, lambda words: argparse.Namespace(), {})
        elif words:
            assert words[0] in cli.names(), line
            if words[0] == "data":  # its scripts' options are theirs
                continue
            parser = argparse.ArgumentParser()
            load_command(words[0]).add_arguments(parser)
            known = {name for action in parser._actions for name in action.option_strings}
            assert {word for word in words if word.startswith("--")} <= known, line


def test_commands_are_found_at_all() -> None:
    assert len(list(commands(read(ROOT / "README.md")))) == 11
    assert "make docs" in mentioned(read(ROOT / "CONTRIBUTING.md"))
    assert {line.split(" ")[0] for page in PAGES for line in shell_lines(read(page))} <= set(PROGRAMS)


@pytest.mark.parametrize(
    "line",
    [
        "medseg trian lfa_unet_drosophila --data D",
        "medseg train lfa_unet_drosophila --dta D",
        "medseg train lfa_unet_drosophile --data D",
        "medseg train lfa_unet_drosophila --data D --with smal",
        "medseg train lfa_unet_drosophila --data D btach_size=1",
        "medseg train lfa_unet_drosophila --data D inference#overlap=0.5",
        "medseg evaluate runs/first scorde=test",
        "medseg predict runs/first IMAGES MASKS inference#windw=1",
        "medseg data synthetic --otput D",
        "medseg data synthetik --output D",
        "medseg bundle lst",
        "python -m benchmarks.startup --reapeats 3",
        "python -m benchmarks.nothing",
        "python -m monai.bundle run --config_file bundles/nothing/configs/train.yaml",
        "python -m monai.bundle run --config_file bundles/unet_drosophila/configs/train.yaml --datset_dir D",
        "python -m monai.bundle rum",
        "make coffee",
        "mlflow iu",
        "mlflow ui --backend-stroe-uri x",
        "wget x",
    ],
)
def test_what_is_wrong_is_found(line: str, parse: Callable[[Sequence[str]], argparse.Namespace]) -> None:
    with pytest.raises((AssertionError, AttributeError, MedsegError, SystemExit)):
        check(line, parse, {})
