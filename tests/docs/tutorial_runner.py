"""Runs a tutorial from top to bottom: its blocks are the test, with substitutions that the test shows.

- ``yaml`` or ``json`` with ``# file: NAME`` in its first line (``"_file"`` needs none: yaml alone is used) is written.
- ``python`` is run; its names last until the end of the page.
- ``bash`` is run by `medseg.cli.main`, line by line, unless its first line says ``# not run``.
- ``text`` is what the block above it printed: its lines stand there in this order. ``...`` is whatever stands in its
  place; as a line of its own, any lines. What depends on machine and minutes stands in a block without a language.
"""

import contextlib
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from docs.pages import FENCE, ROOT, read
from docs.test_blocks import NOT_RUN

from medseg.cli import main

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
FILE = re.compile(r"# file: (\S+)\n")
Handler = Callable[[str], str]


class Walk:
    """A reader who types what a tutorial says.

    Args:
        page: name of the tutorial.
        changes: what is typed otherwise, so that it takes seconds; each stands in the page.
        capture: pytest's, of all that is printed.
        handlers: who runs a command instead, by its first words, such as one that stays; returns what it printed.
    """

    def __init__(
        self,
        page: str,
        changes: Mapping[str, str],
        capture: pytest.CaptureFixture[str],
        handlers: Mapping[str, Handler] | None = None,
    ) -> None:
        self.blocks = FENCE.findall(read(ROOT / "docs" / "tutorials" / f"{page}.md"))
        self.changes, self.capture, self.handlers = changes, capture, handlers or {}
        self.used: set[str] = set()
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.said = ""
        self.compared = 0

    def run(self) -> None:
        """Run all blocks; every change must have been made."""
        for language, block in self.blocks:
            if not NOT_RUN.match(block):
                getattr(self, f"_{language or 'seen'}")(self._changed(block))
        assert set(self.changes) == self.used, f"not in the page: {set(self.changes) - self.used}"

    def _changed(self, block: str) -> str:
        for old, new in self.changes.items():
            if old in block:
                self.used.add(old)
                block = block.replace(old, new)
        return block

    def _seen(self, _block: str) -> None:
        """What came out on another machine: nothing to compare."""

    def _yaml(self, block: str) -> None:
        named = FILE.match(block)
        assert named, "a YAML block of a tutorial begins with `# file: NAME`"
        Path(named[1]).write_text(block, encoding="utf-8")

    def _python(self, block: str) -> None:
        self.capture.readouterr()
        exec(compile(block, "tutorial", "exec"), self.names)
        self.said = "".join(self.capture.readouterr())

    def _bash(self, block: str) -> None:
        self.said = ""
        for line in block.replace("\\\n", " ").splitlines():
            words = _words(line)
            if not words:
                continue
            handler = next((run for start, run in self.handlers.items() if line.startswith(start)), self._command)
            self.said += handler(line)

    def _command(self, line: str) -> str:
        program, *arguments = _words(line)
        assert program == "medseg", f"{line}: only medseg's commands are run here; say '# not run: why'"
        self.capture.readouterr()
        try:
            status = main(arguments)
        finally:
            said = "".join(self.capture.readouterr())
        assert status == 0, f"{line}: {said}"
        return said

    def _text(self, block: str) -> None:
        """Find the lines of a block, in their order, in what was printed."""
        came = [" ".join(line.split()) for line in self.said.splitlines()]
        lines = [" ".join(line.split()) for line in block.splitlines()]
        place, free = 0, True
        for line in lines:
            if line == "...":
                free = True
                continue
            pattern = re.compile(".*?".join(map(re.escape, line.split("..."))) + r"\Z")
            last = len(came) if free else place + 1
            place = next((n + 1 for n in range(place, min(last, len(came))) if pattern.match(came[n])), 0)
            assert place, f"the page says {line!r}; what came is:\n{self.said}"
            free = False
            self.compared += 1


def _words(line: str) -> list[str]:
    """Return the words of a command, as a shell has them: ``network_def#name`` holds no comment."""
    return shlex.split(re.sub(r"(^|\s)#.*", "", line))


@contextlib.contextmanager
def walking(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    """Let a tutorial begin in an empty folder."""
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        yield patch
