"""docs/reference/bundle_yaml.md names every key that the code accepts, its default, and no other key."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from medseg.bundle import library, source
from medseg.bundle.description import SCHEMES, Inference, Input
from medseg.bundle.generate import build, texts
from medseg.bundle.options import Options
from medseg.bundle.source import read_source, shared

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "bundle_yaml.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([^`]+)` \|(.*)\|$", re.MULTILINE)


def section(heading: str) -> str:
    """Return the text below a heading, up to the next one."""
    return re.split(r"^## ", TEXT.split(f"\n## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(heading: str, table: int = 0) -> dict[str, list[str]]:
    """Return a table of a section: the first cell to the others."""
    tables = [text for text in section(heading).split("\n\n") if text.lstrip().startswith("| ")]
    return {name: [cell.strip() for cell in cells.split(" | ")] for name, cells in ROW.findall(tables[table])}


def defaults(kind: type[Any]) -> dict[str, Any]:
    made = kind()
    return {field.name: getattr(made, field.name) for field in dataclasses.fields(kind)}


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_every_key_and_no_other() -> None:
    named = rows("Keys")
    assert sorted(named) == sorted(source.KEYS)
    assert {name for name, cells in named.items() if cells[1] == "required"} == set(source.REQUIRED)


@pytest.mark.parametrize(("heading", "kind"), [("input", Input), ("inference", Inference)])
def test_every_key_of_a_section_with_its_default(heading: str, kind: type[Any]) -> None:
    said = {name: yaml.safe_load(cells[1].strip("`")) for name, cells in rows(heading).items()}
    assert said == {name: plain(value) for name, value in defaults(kind).items()}


def test_every_scheme_with_its_parameters() -> None:
    assert {name: yaml.safe_load(cells[0].strip("`")) for name, cells in rows("input", 1).items()} == SCHEMES


def test_every_key_of_a_training_that_is_no_option() -> None:
    """They are options, which the reference lists, or of these; others are for expressions of the bundle itself."""
    named = rows("train")
    assert not set(named) & set(Options.names())
    assert {name for name, cells in named.items() if cells[1] == "required"} == set(source.COMPONENTS)
    generated = yaml.safe_load(texts(read_source(library.find("unet_drosophila")))["configs/train.yaml"])
    assert set(named) <= set(generated)


def test_every_name_that_is_shared() -> None:
    kinds = {"base": "bases", "overlay set": "overlay_sets", "overlay": "overlays"}
    named = {(kinds[cells[0]], name) for name, cells in rows("Shared by name").items()}
    assert named == {(kind, name) for kind in kinds.values() for name in shared()[kind]}


def test_every_generated_file() -> None:
    found = read_source(library.find("lfa_unet_drosophila"))
    overlays = {f"configs/{name}.yaml" for name in found.overlays}
    assert set(rows("What is generated")) - {"configs/OVERLAY.yaml"} == set(texts(found)) - overlays


def test_the_example_is_a_bundle(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    (tmp_path / "bundle.yaml").write_text(example)
    assert tmp_path / "configs" / "train.yaml" in build(tmp_path)
    assert set(read_source(tmp_path).overlays) == {"attention_unet", "modern", "small"}
    assert set(yaml.safe_load(example)) < set(source.KEYS)
