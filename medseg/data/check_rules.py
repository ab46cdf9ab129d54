"""The rules of the integrity check: each takes measured cases and yields findings."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medseg.data.check_labels import listed, looks_raw, remedy
from medseg.data.datalist import Datalist, Entry
from medseg.data.file_facts import FileFacts

__all__ = ["Case", "Finding", "Requirements", "find_all"]

_SPACING_TOLERANCE = 1e-3
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

    @classmethod
    def build(cls, split: str, index: int, entry: Entry, facts: dict[tuple[Path, bool], FileFacts]) -> Case:
        """Join an entry (absolute paths) with the facts of its files."""
        image = Path(entry["image"])
        label = Path(entry["label"]) if "label" in entry else None
        label_facts = facts.get((label, True)) if label is not None else None
        return cls(split, index, entry, image, label, facts.get((image, False)), label_facts)

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


def find_all(
    datalist: Datalist, cases: Sequence[Case], fold_keys: Sequence[str], requirements: Requirements
) -> list[Finding]:
    """Apply every rule.

    Args:
        datalist: names the classes and the ignore label.
        cases: all entries with their facts.
        fold_keys: fold schemes in which a group must not be split.
        requirements: what the training demands.
    """
    findings: list[Finding] = []
    for case in cases:
        findings += _files(case)
        findings += _image(case, requirements, datalist.ignore_index)
        findings += _label(case, datalist)
        findings += _pair(case)
    findings += _padded(datalist, cases, requirements)
    findings += _classes(datalist, cases, requirements)
    findings += _groups(cases, fold_keys)
    findings += _twins(cases, fold_keys)
    findings += _mixtures(cases)
    return findings


def _error(code: str, message: str, *files: Path) -> Finding:
    return Finding("error", code, message, tuple(map(str, files)))


def _warning(code: str, message: str, *files: Path) -> Finding:
    return Finding("warning", code, message, tuple(map(str, files)))


def _files(case: Case) -> Iterator[Finding]:
    for role, path, facts in (("image", case.image, case.image_facts), ("label", case.label, case.label_facts)):
        if path is None:
            continue
        if facts is None:
            remedy = "correct the path or restore the file"
            yield _error("missing-file", f"{path}: no such file, but {case.place} names it as {role}; {remedy}", path)
        elif facts.error is not None:
            yield _error("unreadable-file", facts.error, path)
    if case.label == case.image:
        message = f"{case.image}: {case.place} names it as image and as label; correct one of them"
        yield _error("label-is-image", message, case.image)


def _image(case: Case, requirements: Requirements, ignore_index: int | None) -> Iterator[Finding]:
    facts = case.readable_image
    if facts is None:
        return
    if facts.not_finite:
        message = f"{case.image}: {facts.not_finite} values are NaN or infinite; replace them or leave the image out"
        yield _error("not-finite", message, case.image)
    if facts.palette:
        message = f"{case.image}: palette image, read as its 3 colours; store it as grey or RGB to leave no doubt"
        yield _warning("palette-image", message, case.image)
    wanted = requirements.in_channels
    if wanted is not None and facts.channels != wanted:
        message = (
            f"{case.image}: has {_count(facts.channels, 'channel')}, but the network takes {wanted}; "
            f"convert the image or set in_channels to {facts.channels}"
        )
        yield _error("wrong-channels", message, case.image)
    if requirements.roi_size is not None:
        yield from _window(case, facts, requirements.roi_size, requirements.allow_smaller, ignore_index)


def _smaller(shape: tuple[int, ...], roi_size: tuple[int, ...]) -> bool:
    return len(shape) == len(roi_size) and any(edge < roi for edge, roi in zip(shape, roi_size, strict=True))


def _window(
    case: Case, facts: FileFacts, roi_size: tuple[int, ...], allow_smaller: bool, ignore_index: int | None
) -> Iterator[Finding]:
    window = "x".join(map(str, roi_size))
    if len(roi_size) != len(facts.shape):
        message = (
            f"{case.image}: has {len(facts.shape)} spatial axes ({_shape(facts.shape)}), but the window {window} has "
            f"{len(roi_size)}; give one edge for each axis"
        )
        yield _error("wrong-dimensions", message, case.image)
    elif ignore_index is None and _smaller(facts.shape, roi_size):
        message = (
            f"{case.image}: {_shape(facts.shape)} is smaller than the window {window}, and without an ignore label "
            "padded pixels would count as a class; take a smaller roi_size, set the datalist's ignore_index, pad the "
            "image or leave it out"
        )
        make = _warning if allow_smaller else _error
        yield make("smaller-than-window", message, case.image)


def _padded(datalist: Datalist, cases: Sequence[Case], requirements: Requirements) -> Iterator[Finding]:
    """Tell once of images smaller than the window where an ignore label allows to pad them."""
    roi_size = requirements.roi_size
    if roi_size is None or datalist.ignore_index is None:
        return
    shapes = {case.image: facts.shape for case in cases if (facts := case.readable_image) is not None}
    smaller = [path for path, shape in shapes.items() if _smaller(shape, roi_size)]
    if smaller:
        message = (
            f"{_count(len(smaller), 'image')} of {len(shapes)} ({_names(smaller)}) smaller than the window "
            f"{'x'.join(map(str, roi_size))}: what is missing must be padded with the ignore label "
            f"{datalist.ignore_index}, as RandPadCropd does"
        )
        yield _warning("smaller-than-window", message, *smaller)


def _label(case: Case, datalist: Datalist) -> Iterator[Finding]:
    facts, path = case.readable_label, case.label
    if facts is None or facts.values is None or path is None:
        return
    if facts.channels != 1:
        message = (
            f"{path}: label with {facts.channels} channels, as a coloured picture has; store one channel of class "
            f"indices (0-{datalist.num_classes - 1}): map each colour to its class, or prepare a public data set with "
            "its script in data_scripts/"
        )
        yield _error("label-channels", message, path)
        return
    if facts.not_finite or facts.fractions:
        what = f"{facts.not_finite} NaN or infinite values" if facts.not_finite else "values that are not integers"
        yield _error("label-not-integer", f"{path}: label holds {what}; store class indices", path)
        return
    known = set(range(datalist.num_classes)) | ({datalist.ignore_index} - {None})
    unknown = [value for value in facts.values if value not in known]
    if unknown:
        ignored = "" if datalist.ignore_index is None else f" and the ignore label {datalist.ignore_index}"
        message = (
            f"{path}: label holds value{'s' * (len(unknown) > 1)} {listed(unknown)}, but the datalist names "
            f"{datalist.num_classes} classes (0-{datalist.num_classes - 1}){ignored}; {remedy(unknown, datalist)}"
        )
        yield _error("label-value", message, path)
    present = [value for value in facts.values if value != datalist.ignore_index]
    if not present:
        message = f"{path}: every pixel has the ignore label {datalist.ignore_index}; nothing can be learned from it"
        yield _warning("empty-label", message, path)
    elif len(present) == 1 and datalist.num_classes > 1 and not unknown:
        message = (
            f"{path}: holds only class {present[0]} ({datalist.labels[present[0]]}); "
            "fine for a negative case, otherwise look at the file"
        )
        yield _warning("single-class-label", message, path)


def _pair(case: Case) -> Iterator[Finding]:
    image, label = case.readable_image, case.readable_label
    if image is None or label is None or case.label is None:
        return
    if image.shape != label.shape:
        message = (
            f"{case.label}: label is {_shape(label.shape)}, but its image {case.image.name} is {_shape(image.shape)}; "
            "label and image must have the same size"
        )
        yield _error("shape-mismatch", message, case.image, case.label)
    elif (
        image.spacing and label.spacing and not np.allclose(image.spacing, label.spacing, rtol=10 * _SPACING_TOLERANCE)
    ):
        message = (
            f"{case.label}: spacing {_spacing(label.spacing)}, but its image {case.image.name} has "
            f"{_spacing(image.spacing)}; resample one of them or correct the header"
        )
        yield _error("spacing-mismatch", message, case.image, case.label)


def _classes(datalist: Datalist, cases: Sequence[Case], requirements: Requirements) -> Iterator[Finding]:
    wanted = requirements.num_classes
    if wanted is not None and wanted != datalist.num_classes:
        message = (
            f"{datalist.path}: names {datalist.num_classes} classes, but the network gives {wanted}; "
            f"set out_channels to {datalist.num_classes}, or, for weights of {wanted} classes, take the datalist that "
            "they were trained with"
        )
        yield _error("wrong-classes", message, datalist.path)
    labels = [facts for case in cases if (facts := case.readable_label) is not None]
    present = {value for facts in labels for value in facts.values or ()}
    absent = [f"{index} ({name})" for index, name in sorted(datalist.labels.items()) if index not in present]
    if labels and absent:
        message = f"{datalist.path}: no label holds class {', '.join(absent)}; it can be neither learned nor scored"
        yield _warning("absent-class", message, datalist.path)
    if looks_raw(present, datalist):
        message = (
            f"{datalist.path}: no label holds the ignore label {datalist.ignore_index}, but 0; raw ADE20K annotations "
            "are so, with 0 = other and classes from 1, and would put every class one off: if these are raw, prepare "
            "them with data_scripts/ade20k.py"
        )
        yield _warning("raw-ade20k", message, datalist.path)


def _sides(case: Case, fold_keys: Sequence[str]) -> Iterator[tuple[str, Hashable]]:
    """Yield the side of each division that the case stands on."""
    yield "list", case.split
    for key in fold_keys:
        if case.split == "training":
            yield key, case.entry[key]


def _groups(cases: Sequence[Case], fold_keys: Sequence[str]) -> Iterator[Finding]:
    members: dict[tuple[str, str], dict[Hashable, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for case in cases:
        if "group" in case.entry:
            for division, side in _sides(case, fold_keys):
                members[division, case.entry["group"]][side].append(case.image)
    for (division, group), sides in members.items():
        if len(sides) < 2:
            continue
        names = ", ".join(sorted(map(str, sides)))
        where = f"the lists {names}" if division == "list" else f"{division} {names}"
        examples = [paths[0] for paths in sides.values()]
        message = (
            f"group {group!r} is on both sides of a split ({where}; e.g. {_names(examples)}): scores would be too "
            "good; keep a group's images together"
        )
        yield _error("group-on-both-sides", message, *(path for paths in sides.values() for path in paths))


def _twins(cases: Sequence[Case], fold_keys: Sequence[str]) -> Iterator[Finding]:
    by_path: dict[Path, list[Case]] = defaultdict(list)
    by_label: dict[Path, list[Case]] = defaultdict(list)
    by_content: dict[str, dict[Path, Case]] = defaultdict(dict)
    for case in cases:
        by_path[case.image].append(case)
        if case.label is not None:
            by_label[case.label].append(case)
        if case.readable_image is not None:
            by_content[case.readable_image.sha256].setdefault(case.image, case)
    for path, twins in by_path.items():
        if len(twins) > 1:
            places = ", ".join(case.place for case in twins)
            yield _error("listed-twice", f"{path}: is the image of {places}; keep one entry", path)
    for path, twins in by_label.items():
        images = list(dict.fromkeys(case.image for case in twins))
        if len(images) > 1:
            message = f"{path}: is the label of {len(images)} images ({_names(images)}); correct the entries"
            yield _error("label-used-twice", message, path, *images)
    for same in by_content.values():
        if len(same) > 1:
            yield _same_content(list(same.values()), fold_keys)


def _same_content(cases: Sequence[Case], fold_keys: Sequence[str]) -> Finding:
    images = [case.image for case in cases]
    first = f"{images[0]}: same content as {_names(images[1:])}"
    sides: dict[str, set[Hashable]] = defaultdict(set)
    for case in cases:
        for division, side in _sides(case, fold_keys):
            sides[division].add(side)
    divided = [division for division, found in sides.items() if len(found) > 1]
    if divided:
        names = " and ".join(f"{division}s {', '.join(sorted(map(str, sides[division])))}" for division in divided)
        return _error("duplicate-image", f"{first}, on both sides of a split ({names}); keep one of them", *images)
    return _warning("duplicate-image", f"{first}; keep one of them", *images)


def _mixtures(cases: Sequence[Case]) -> Iterator[Finding]:
    images = {case.image: case.readable_image for case in cases if case.readable_image is not None}
    channels = {path: facts.channels for path, facts in images.items()}
    yield from _mixture("error", "mixed-channels", channels, "channels", "convert them to one kind")
    axes = {path: len(facts.shape) for path, facts in images.items()}
    yield from _mixture("error", "mixed-dimensions", axes, "spatial axes", "put 2D and 3D images into two datalists")
    spacings = {path: _rounded(facts.spacing) for path, facts in images.items() if facts.spacing is not None}
    remedy = "resample to one spacing (in the transforms or beforehand)"
    yield from _mixture("warning", "mixed-spacing", spacings, "spacing", remedy)


def _mixture(
    severity: Literal["error", "warning"], code: str, values: dict[Path, Any], what: str, remedy: str
) -> Iterator[Finding]:
    counts = Counter(values.values()).most_common()
    if len(counts) < 2:
        return
    usual = counts[0][0]
    others = [path for path, value in values.items() if value != usual]
    kinds = "; ".join(f"{_value(value)} in {_count(count, 'image')}" for value, count in counts[:_LISTED])
    message = f"images differ in {what}: {kinds} (unlike most: {_names(others)}); {remedy}"
    yield Finding(severity, code, message, tuple(map(str, others)))


def _rounded(spacing: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(f"{edge:.3g}") for edge in spacing)


def _value(value: Any) -> str:
    return _spacing(value) if isinstance(value, tuple) else str(value)


def _spacing(spacing: Iterable[float]) -> str:
    return " x ".join(f"{edge:g}" for edge in spacing)


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _names(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(map(str, paths[:_LISTED])) + more
