"""The code blocks of the docs work; README's steps are those of tests/test_wheel.py."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from docs.pages import FENCE, PAGES, ROOT, identify

NOT_RUN = re.compile(r"# not run\b.*: \S|# not run here: \S")


def blocks_to_run(text):
    """Return the blocks of a page that are run; each of the others says why in its first line."""
    found = [(language, block) for language, block in FENCE.findall(text) if language in ("bash", "python")]
    return [(language, block) for language, block in found if not NOT_RUN.match(block)]


def run(arguments, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MEDSEG_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}: {done.stdout[-500:]}{done.stderr[-1500:]}"
    return done.stdout


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks_to_run(page.read_text(encoding="utf-8"))], ids=identify
)
def test_blocks_work(page, tmp_path):
    for language, block in blocks_to_run(page.read_text(encoding="utf-8")):
        if language == "python":
            run(["-c", block], tmp_path)
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "medseg", f"{line}: only medseg's commands are run here; say '# not run: why'"
            run(["-m", "medseg.cli", *arguments], tmp_path)
