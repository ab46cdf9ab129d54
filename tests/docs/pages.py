"""The pages that tell a reader what to type, and the commands on them."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# docs/results are records of what was run, with the options of its day
PAGES = sorted([*ROOT.glob("*.md"), *(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "results")])
BUNDLES = sorted((ROOT / "bundles").glob("*/docs/README.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = ("medseg", "python", "pip", "make", "mkdocs", "mlflow", "torchrun")


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def shell_lines(text: str) -> Iterator[str]:
    """Yield the lines of bash blocks, continued ones as one, without their comments."""
    for language, block in FENCE.findall(text):
        if language == "bash":
            lines = block.replace("\\\n", " ").splitlines()
            yield from (line.split("  #")[0].rstrip() for line in lines if line and not line.startswith("#"))


def commands(text: str) -> Iterator[str]:
    """Yield the commands of a page: those of bash blocks and of indented ones."""
    yield from shell_lines(text)
    indented = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))
    for line in indented.replace("\\\n", " ").splitlines():
        if line.split(" ")[0] in PROGRAMS:
            yield line.split("  #")[0].rstrip()


def mentioned(text: str) -> list[str]:
    """Return the commands in running text, which may leave out what does not matter there."""
    outside = FENCE.sub("", text)
    return re.findall(rf"`((?:{'|'.join(PROGRAMS)})(?: [^`\n]+)?)`", outside)
