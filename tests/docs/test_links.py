"""Whoever comes to the first page finds every other one."""

import re
from pathlib import Path
from typing import Any

import yaml
from docs.pages import ROOT, read

LINK = re.compile(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)")


def pages(nav: Any) -> set[str]:
    """Return the pages of a part of mkdocs.yml's ``nav``."""
    if isinstance(nav, str):
        return {nav}
    return {page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages(part)}


def linked(page: str, start: Path) -> set[str]:
    docs = ROOT / "docs"
    found = [start / place for place in LINK.findall(read(ROOT / page))]
    return {str(path.relative_to(docs)) for path in found if path.is_relative_to(docs)}


NAV = pages(yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=yaml.BaseLoader)["nav"])


def test_every_page_is_in_the_navigation() -> None:
    assert {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")} == NAV


def test_the_first_page_leads_to_every_other() -> None:
    assert NAV - {"index.md"} - linked("docs/index.md", ROOT / "docs") == set()


def test_the_readme_leads_to_the_first_page_and_the_tutorials() -> None:
    wanted = {page for page in NAV if page in ("index.md", "get-started.md") or page.startswith("tutorials/")}
    assert len(wanted) > 2
    assert wanted - linked("README.md", ROOT) == set()
