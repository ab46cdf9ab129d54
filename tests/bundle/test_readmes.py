"""A bundle's README names the overlays that there are, and how the bundle is used."""

import re
from pathlib import Path

import pytest
from docs.pages import commands

from medseg.bundle import library

ROOT = Path(__file__).parents[2]
MODES = {"train", "inference", "evaluate", "multi_gpu_train"}


def readme(name: str) -> str:
    return (ROOT / "bundles" / name / "docs" / "README.md").read_text(encoding="utf-8")


def overlays(name: str) -> set[str]:
    return {path.stem for path in (ROOT / "bundles" / name / "configs").glob("*.yaml")} - MODES


@pytest.mark.parametrize("name", library.names())
def test_every_overlay_stands_in_the_table_and_no_other(name: str) -> None:
    cells = re.findall(r"^\| (`.*?) \|", readme(name), flags=re.MULTILINE)
    named = [overlay for cell in cells for overlay in re.findall(r"`([^`]+)`", cell)]
    assert sorted(named) == sorted(overlays(name))


@pytest.mark.parametrize("name", library.names())
def test_it_says_how_the_bundle_is_used(name: str) -> None:
    """Whether the commands can be typed is tested with those of all pages, in tests/docs."""
    typed = [line.split() for line in commands(readme(name))]
    assert {words[1] for words in typed if words[0] == "medseg"} >= {"train", "evaluate", "predict"}
    assert {words[2] for words in typed if words[:2] == ["medseg", "train"]} == {name}
    (monai,) = (words for words in typed if words[:4] == ["python", "-m", "monai.bundle", "run"])
    assert monai[monai.index("--config_file") + 1] == f"bundles/{name}/configs/train.yaml"


@pytest.mark.parametrize("name", library.names())
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", readme(name)):
        assert (ROOT / "bundles" / name / "docs" / target).exists(), target
