"""The rules of the integrity check: each takes measured cases and yields findings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from medseg.data.case_facts import lone_said
from medseg.data.check_findings import (
    Case,
    Finding,
    Requirements,
    error,
    mixture,
    names,
    shape_text,
    warning,
)
from medseg.data.check_geometry import orientations, pair, stored_turned, told_by_reader
from medseg.data.check_labels import hidden_class, listed, looks_raw, remedy
from medseg.data.check_splits import groups, twins, untrained
from medseg.data.check_values import offsets, palettes
from medseg.data.datalist import Datalist
from medseg.data.file_facts import FileFacts
from medseg.errors import counted

__all__ = ["find_all"]


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
        findings += _instances(case)
        findings += pair(case)
    findings += _unfit(cases, requirements)
    findings += _padded(datalist, cases, requirements)
    findings += _classes(datalist, cases, requirements)
    findings += groups(cases, fold_keys)
    findings += twins(cases, fold_keys)
    findings += untrained(datalist, cases, fold_keys)
    findings += _mixtures(cases)
    findings += offsets(datalist, cases)
    findings += palettes(cases)
    findings += orientations(cases)
    findings += stored_turned(cases)
    findings += told_by_reader(cases)
    return findings


def _files(case: Case) -> Iterator[Finding]:
    for role, path, facts in case.files:
        if facts is None:
            remedy = "correct the path or restore the file"
            yield error("missing-file", f"{path}: no such file, but {case.place} names it as {role}; {remedy}", path)
        elif facts.error is not None:
            yield error("unreadable-file", facts.error, path)
    if case.label == case.image:
        message = f"{case.image}: {case.place} names it as image and as label; correct one of them"
        yield error("label-is-image", message, case.image)


def _image(case: Case, requirements: Requirements, ignore_index: int | None) -> Iterator[Finding]:
    facts = case.readable_image
    if facts is None:
        return
    if facts.not_finite:
        values = counted(facts.not_finite, "value")
        message = f"{case.image}: holds {values} of NaN or infinity; replace them or leave the image out"
        yield error("not-finite", message, case.image)
    if facts.lone:
        message = (
            f"{case.image}: {lone_said(facts.lone)}, so that scaled by it the rest is grey; replace them, such as by "
            "the median of their neighbours"
        )
        yield warning("lone-value", message, case.image)
    if facts.palette:
        message = f"{case.image}: palette image, read as its 3 colours; store it as grey or RGB to leave no doubt"
        yield warning("palette-image", message, case.image)
    if requirements.roi_size is not None:
        yield from _window(case, facts, requirements.roi_size, requirements.allow_smaller, ignore_index)


def _unfit(cases: Sequence[Case], requirements: Requirements) -> Iterator[Finding]:
    """Tell of images of a kind that the network does not take: many of one kind in one line."""
    channels, shapes = defaultdict[int, list[Path]](list), defaultdict[int, list[tuple[Path, tuple[int, ...]]]](list)
    for case in cases:
        if (facts := case.readable_image) is not None:
            channels[facts.channels].append(case.image)
            shapes[len(facts.shape)].append((case.image, facts.shape))
    wanted, roi_size = requirements.in_channels, requirements.roi_size
    for number, paths in channels.items():
        if wanted is not None and number != wanted:
            message = (
                f"{_such(paths)} {counted(number, 'channel')}, but the network takes {wanted}; convert "
                f"{'them' if len(paths) > 1 else 'the image'} or set in_channels to {number}"
            )
            yield error("wrong-channels", message, *paths)
    for axes, found in shapes.items():
        if roi_size is not None and axes != len(roi_size):
            paths = [path for path, _ in found]
            message = (
                f"{_such(paths)} {counted(axes, 'spatial axis', 'spatial axes')} ({shape_text(found[0][1])}), but the "
                f"window {shape_text(roi_size)} has {len(roi_size)}; give one edge for each axis"
            )
            yield error("wrong-dimensions", message, *paths)


def _such(paths: Sequence[Path]) -> str:
    more = len(paths) - 1
    return f"{paths[0]} and {counted(more, 'more image')}: have" if more else f"{paths[0]}: has"


def _smaller(shape: tuple[int, ...], roi_size: tuple[int, ...]) -> bool:
    return len(shape) == len(roi_size) and any(edge < roi for edge, roi in zip(shape, roi_size, strict=True))


def _window(
    case: Case, facts: FileFacts, roi_size: tuple[int, ...], allow_smaller: bool, ignore_index: int | None
) -> Iterator[Finding]:
    window = "x".join(map(str, roi_size))
    if ignore_index is None and _smaller(facts.shape, roi_size):
        message = (
            f"{case.image}: {shape_text(facts.shape)} is smaller than the window {window}, and without an ignore label "
            "padded pixels would count as a class; take a smaller roi_size, set the datalist's ignore_index, pad the "
            "image or leave it out"
        )
        make = warning if allow_smaller else error
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
            f"{counted(len(smaller), 'image')} of {len(shapes)} ({names(smaller)}) smaller than the window "
            f"{'x'.join(map(str, roi_size))}: what is missing must be padded with the ignore label "
            f"{datalist.ignore_index}, as RandPadCropd does"
        )
        yield warning("smaller-than-window", message, *smaller)


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
        yield error("label-channels", message, path)
        return
    if facts.not_finite or facts.fractions:
        what = f"{facts.not_finite} NaN or infinite values" if facts.not_finite else "values that are not integers"
        yield error("label-not-integer", f"{path}: label holds {what}; store class indices", path)
        return
    known = set(range(datalist.num_classes)) | ({datalist.ignore_index} - {None})
    unknown = [value for value in facts.values if value not in known]
    if unknown:
        ignored = "" if datalist.ignore_index is None else f" and the ignore label {datalist.ignore_index}"
        message = (
            f"{path}: label holds value{'s' * (len(unknown) > 1)} {listed(unknown)}, but the datalist names "
            f"{datalist.num_classes} classes (0-{datalist.num_classes - 1}){ignored}; "
            f"{remedy(unknown, datalist, facts.values)}"
        )
        yield error("label-value", message, path)
    present = [value for value in facts.values if value != datalist.ignore_index]
    if not present:
        message = f"{path}: every pixel has the ignore label {datalist.ignore_index}; nothing can be learned from it"
        yield warning("empty-label", message, path)
    elif len(present) == 1 and datalist.num_classes > 1 and not unknown:
        message = (
            f"{path}: holds only class {present[0]} ({datalist.labels[present[0]]}); "
            "fine for a negative case, otherwise look at the file"
        )
        yield warning("single-class-label", message, path)


def _instances(case: Case) -> Iterator[Finding]:
    for role, path, facts in case.readable_targets:
        if role != "instances":
            continue
        if facts.channels != 1:
            message = f"{path}: instances with {facts.channels} channels; store one channel of object numbers"
            yield error("instances-channels", message, path)
        elif facts.not_finite or facts.fractions or (facts.values and facts.values[0] < 0):
            message = f"{path}: instances are not whole numbers from 0; store 0 where there is no object, and 1 to n"
            yield error("instances-not-integer", message, path)


def _classes(datalist: Datalist, cases: Sequence[Case], requirements: Requirements) -> Iterator[Finding]:
    wanted = requirements.num_classes
    if wanted is not None and wanted != datalist.num_classes:
        message = (
            f"{datalist.path}: names {datalist.num_classes} classes, but the network gives {wanted}; "
            f"set out_channels to {datalist.num_classes}, or, for weights of {wanted} classes, take the datalist that "
            "they were trained with"
        )
        yield error("wrong-classes", message, datalist.path)
    labels = [facts for case in cases if (facts := case.readable_label) is not None]
    present = {value for facts in labels for value in facts.values or ()}
    absent = [f"{index} ({name})" for index, name in sorted(datalist.labels.items()) if index not in present]
    there = [f"{index} ({name})" for index, name in sorted(datalist.labels.items()) if index in present]
    if labels and len(there) == 1:
        message = f"{datalist.path}: no label holds anything but {there[0]}; there is nothing to learn"
        message += hidden_class(sorted(present), datalist)
        yield (warning if wanted is None else error)("one-class", message, datalist.path)
    elif labels and absent:
        message = f"{datalist.path}: no label holds class {', '.join(absent)}; it can be neither learned nor scored"
        message += hidden_class(sorted(present), datalist)
        yield warning("absent-class", message, datalist.path)
    if looks_raw(present, datalist):
        message = (
            f"{datalist.path}: no label holds the ignore label {datalist.ignore_index}, but 0; raw ADE20K annotations "
            "are so, with 0 = other and classes from 1, and would put every class one off: if these are raw, prepare "
            "them with data_scripts/ade20k.py"
        )
        yield warning("raw-ade20k", message, datalist.path)


def _mixtures(cases: Sequence[Case]) -> Iterator[Finding]:
    images = {case.image: case.readable_image for case in cases if case.readable_image is not None}
    channels = {path: facts.channels for path, facts in images.items()}
    yield from mixture("error", "mixed-channels", channels, "channels", "convert them to one kind")
    axes = {path: len(facts.shape) for path, facts in images.items()}
    yield from mixture("error", "mixed-dimensions", axes, "spatial axes", "put 2D and 3D images into two datalists")
    spacings = {path: _rounded(facts.spacing) for path, facts in images.items() if facts.spacing is not None}
    remedy = "resample to one spacing (in the transforms or beforehand)"
    yield from mixture("warning", "mixed-spacing", spacings, "spacing", remedy)


def _rounded(spacing: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(f"{edge:.3g}") for edge in spacing)
