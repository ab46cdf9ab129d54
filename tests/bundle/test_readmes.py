"""A bundle's README names the overlays that there are, and commands as they are typed."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from medseg.bundle import library
from medseg.cli import load_command

ROOT = Path(__file__).parents[2]
MOST = 110
MODES = {"train", "inference", "evaluate", "multi_gpu_train"}


def readme(name: str) -> str:
    return (ROOT / "bundles" / name / "docs" / "README.md").read_text(encoding="utf-8")


def overlays(name: str) -> set[str]:
    return {path.stem for path in (ROOT / "bundles" / name / "configs").glob("*.yaml")} - MODES


def commands(name: str) -> list[list[str]]:
    """Return the words of each line of the README's blocks of code."""
    text = readme(name).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("    ")]


@pytest.mark.parametrize("name", library.names())
def test_every_overlay_stands_in_the_table_and_no_other(name: str) -> None:
    cells = re.findall(r"^\| (`.*?) \|", readme(name), flags=re.MULTILINE)
    named = [overlay for cell in cells for overlay in re.findall(r"`([^`]+)`", cell)]
    assert sorted(named) == sorted(overlays(name))


@pytest.mark.parametrize("name", library.names())
def test_commands_are_those_that_there_are(name: str) -> None:
    typed = commands(name)
    ours = [words[1:] for words in typed if words[0] == "medseg"]
    assert {words[0] for words in ours} >= {"train", "evaluate", "predict"}
    for command, *words in ours:
        parser = argparse.ArgumentParser(exit_on_error=False)
        load_command(command).add_arguments(parser)
        options = parser.parse_args(words)
        assert set(getattr(options, "overlays", [])) <= overlays(name)
        if command == "train":
            assert options.bundle == name
    (monai,) = (words for words in typed if words[:4] == ["python", "-m", "monai.bundle", "run"])
    assert (ROOT / monai[monai.index("--config_file") + 1]).is_file()
    for script in (words[1] for words in typed if words[0] == "python" and words[1] != "-m"):
        assert (ROOT / script).is_file()


@pytest.mark.parametrize("name", library.names())
def test_lines_can_be_read_and_links_lead_somewhere(name: str) -> None:
    text = readme(name)
    assert all(len(line.strip()) <= MOST for line in text.splitlines() if line.startswith("    "))
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (ROOT / "bundles" / name / "docs" / target).exists(), target
