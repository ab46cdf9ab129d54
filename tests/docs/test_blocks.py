"""The code blocks of the docs work; README's steps are those of tests/test_wheel.py."""

import re
import shlex

import pytest
from docs.pages import FENCE, PAGES, identify

from medseg.cli import main

NOT_RUN = re.compile(r"# not run\b.*: \S|# not run here: \S")


def blocks_to_run(text):
    """Return the blocks of a page that are run; each of the others says why in its first line."""
    found = [(language, block) for language, block in FENCE.findall(text) if language in ("bash", "python")]
    return [(language, block) for language, block in found if not NOT_RUN.match(block)]


@pytest.mark.parametrize(
    "page",
    [  # tutorials go on from block to block, on real data: test_tutorials.py
        page for page in PAGES if page.parent.name != "tutorials" and blocks_to_run(page.read_text(encoding="utf-8"))
    ],
    ids=identify,
)
def test_blocks_work(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for language, block in blocks_to_run(page.read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(block, str(page), "exec"), {"__name__": "__main__"})  # with the names that it makes itself
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "medseg", f"{line}: only medseg's commands are run here; say '# not run: why'"
            assert main(arguments) == 0, line
