"""What a rule of the integrity check takes and gives: measured cases, findings, and words for both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medseg.data.datalist import Entry
from medseg.data.file_facts import FileFacts
from medseg.errors import counted, few
from medseg.io.channels import paths_of
from medseg.io.placement import compare

__all__ = [
    "Case",
    "Finding",
    "Requirements",
    "error",
    "mixture",
    "names",
    "shape_text",
    "spacing_text",
    "warning",
]

_LISTED = 5


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or doubtful.

    Args:
        severity: ``"error"`` (training must not start) or ``"warning"``.
        code: stable short name of the rule.
        message: file, value and remedy.
        files: the files concerned.
    """

    severity: Literal["error", "warning"]
    code: str
    message: str
    files: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"severity": self.severity, "code": self.code, "message": self.message, "files": list(self.files)}


@dataclass(frozen=True)
class Requirements:
    """What a training demands of the data; ``None`` demands nothing."""

    in_channels: int | None = None
    num_classes: int | None = None
    roi_size: tuple[int, ...] | None = None
    allow_smaller: bool = False


@dataclass(frozen=True)
class Case:
    """One entry of the datalist with the facts of its files; facts are ``None`` where a file is missing."""

    split: str
    index: int
    entry: Entry
    image: Path
    label: Path | None
    image_facts: FileFacts | None
    label_facts: FileFacts | None
    instances: Path | None = None
    instances_facts: FileFacts | None = None

    @classmethod
    def build(cls, split: str, index: int, entry: Entry, facts: dict[tuple[Path, bool], FileFacts]) -> Case:
        """Join an entry (absolute paths) with the facts of its files."""
        image, image_facts = _joined(paths_of(entry["image"]), facts)
        label = Path(entry["label"]) if "label" in entry else None
        instances = Path(entry["instances"]) if "instances" in entry else None
        found = [facts.get((path, True)) if path is not None else None for path in (label, instances)]
        return cls(split, index, entry, image, label, image_facts, found[0], instances, found[1])

    @property
    def place(self) -> str:
        """Where the entry stands in the datalist."""
        return f"{self.split}[{self.index}]"

    @property
    def readable_image(self) -> FileFacts | None:
        """Facts of the image if it could be read."""
        return self.image_facts if self.image_facts is not None and self.image_facts.error is None else None

    @property
    def readable_label(self) -> FileFacts | None:
        """Facts of the label if it could be read."""
        return self.label_facts if self.label_facts is not None and self.label_facts.error is None else None

    @property
    def files(self) -> list[tuple[str, Path, FileFacts | None]]:
        """Role, path and facts of every file that the entry names."""
        named = (
            ("image", self.image, self.image_facts),
            ("label", self.label, self.label_facts),
            ("instances", self.instances, self.instances_facts),
        )
        return [(role, path, facts) for role, path, facts in named if path is not None]

    @property
    def readable_targets(self) -> list[tuple[str, Path, FileFacts]]:
        """Role, path and facts of label and instances, where they could be read."""
        return [(r, p, f) for r, p, f in self.files if r != "image" and f is not None and f.error is None]


def _joined(paths: Sequence[Path], facts: Mapping[tuple[Path, bool], FileFacts]) -> tuple[Path, FileFacts | None]:
    """Return what is known of an image: of several files their channels together, or the file at fault."""
    first = facts.get((paths[0], False))
    if len(paths) == 1 or first is None:
        return paths[0], first
    if first.error is not None:
        return paths[0], replace(first, error=f"{first.error}{_spread(paths)}")
    joined = first
    for path in paths[1:]:
        more = facts.get((path, False))
        if more is None:
            return path, more
        if more.error is not None:
            return path, replace(more, error=f"{more.error}{_spread(paths)}")
        fault = f"{path}: is {shape_text(more.shape)}, but the channel {paths[0].name} is {shape_text(first.shape)}"
        if more.shape == first.shape:
            fault = _apart(path, more, paths[0], first)
        if fault:
            return path, FileFacts(error=f"{fault}; bring all channels of the image to one grid{_spread(paths)}")
        joined = replace(
            joined,
            channels=joined.channels + more.channels,
            not_finite=joined.not_finite + more.not_finite,
            lone=joined.lone or more.lone,
            notes=tuple(dict.fromkeys((*joined.notes, *more.notes))),
            lossy=joined.lossy or more.lossy,
            sha256=f"{joined.sha256}{more.sha256}",
            pixels=f"{joined.pixels}{more.pixels}",
        )
    return paths[0], joined


def _spread(paths: Sequence[Path]) -> str:
    """Return what to do where folders were not meant as channels, an empty text where files are named."""
    if not all(path.is_dir() for path in paths):
        return ""
    return (
        f" (each of the {len(paths)} folders is a channel; of a series that is spread over them, put all files into "
        "one folder and name that)"
    )


def _apart(path: Path, more: FileFacts, start: Path, first: FileFacts) -> str:
    """Return how two channels of one shape lie apart, an empty text where they do not."""
    if more.affine is None or first.affine is None:
        same = more.affine is first.affine and more.orientation == first.orientation
        return "" if same else f"{path}: is placed otherwise than the channel {start.name}"
    affines = [np.reshape(facts.affine or (), (4, 4)) for facts in (first, more)]
    difference = compare(affines[0], affines[1], first.shape)
    return "" if difference.same else f"{path}: lies {difference.mm:.3g} mm from the channel {start.name}"


def error(code: str, message: str, *files: Path) -> Finding:
    """Return a finding that forbids training."""
    return Finding("error", code, message, tuple(map(str, files)))


def warning(code: str, message: str, *files: Path) -> Finding:
    """Return a finding that a person should look at."""
    return Finding("warning", code, message, tuple(map(str, files)))


def mixture(
    severity: Literal["error", "warning"], code: str, values: dict[Path, Any], what: str, remedy: str
) -> Iterator[Finding]:
    """Yield a finding where images differ in something that a set should have in common.

    Args:
        severity: of the finding.
        code: of the finding.
        values: by image.
        what: they differ in.
        remedy: what to do.
    """
    counts = Counter(values.values()).most_common()
    if len(counts) < 2:
        return
    usual = counts[0][0]
    others = [path for path, value in values.items() if value != usual]
    kinds = "; ".join(f"{_value(value)} in {counted(count, 'image')}" for value, count in counts[:_LISTED])
    message = f"images differ in {what}: {kinds} (unlike most: {names(others)}); {remedy}"
    yield Finding(severity, code, message, tuple(map(str, others)))


def _value(value: Any) -> str:
    return spacing_text(value) if isinstance(value, tuple) else str(value)


def spacing_text(spacing: Iterable[float]) -> str:
    """Return a spacing for a message."""
    return " x ".join(f"{edge:g}" for edge in spacing)


def shape_text(shape: Iterable[int]) -> str:
    """Return a shape for a message."""
    return "x".join(map(str, shape))


def names(paths: Sequence[Path]) -> str:
    """Return the first few paths for a message, and how many more there are."""
    return few(paths, _LISTED)
