"""Which prediction belongs to which truth: of two folders by name, of a datalist by the names of its images.

In two folders a pair has one name in one subfolder, whatever the formats: ``p/a.nii.gz`` and ``p/a.nrrd`` are one,
``a_seg.nii.gz`` and ``a.nii.gz`` are not. A datalist knows which label is of which image; a mask is called as its
image, as `medseg predict` calls it, with as many of the image's folders before it as there are, or as its label.
"""

from __future__ import annotations

import fnmatch
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from medseg.data.datalist import Datalist
from medseg.errors import MedsegError, shown
from medseg.io.channels import paths_of, standing_for
from medseg.io.folder import Listing, list_images
from medseg.io.images import image_suffix
from medseg.prediction.audit import PUSH_RECORD, RUN_RECORD
from medseg.prediction.cases import datalist_of
from medseg.prediction.measurements import FILE as MEASUREMENTS
from medseg.prediction.uncertainty import FILE as UNCERTAINTY

__all__ = ["MaskPairs", "pair_masks", "stem", "truths_of"]

_OURS = (RUN_RECORD, PUSH_RECORD, MEASUREMENTS, UNCERTAINTY, ".medseg_*")
_FIRST_CHANNEL = "_0000"

Parts = tuple[str, ...]


@dataclass(frozen=True)
class MaskPairs:
    """Predictions and truths by the name of their case; what both have is a pair.

    Args:
        predictions: files of masks.
        truths: files of true masks.
        groups: of cases, where the truths say so.
        left_out: of each folder, what is no mask, in one line.
    """

    predictions: Mapping[str, Path]
    truths: Mapping[str, Path]
    groups: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the cases that have both."""
        return sorted(self.predictions.keys() & self.truths.keys())


def truths_of(path: Path) -> Path | Datalist:
    """Return the datalist that a path names or, as a folder, holds; any other path as it is.

    Raises:
        DatalistError: if the datalist is not sound.
    """
    found = datalist_of(path)
    return path if found is None else Datalist.load(found)


def pair_masks(predictions: Path, truths: Path | Datalist) -> MaskPairs:
    """Find the truth of each prediction.

    Args:
        predictions: folder of masks, or one mask.
        truths: the same, or a datalist.

    Raises:
        MedsegError: if no prediction has a truth, or which one it has is not certain.
    """
    found = list_images(predictions, masks=True)
    if isinstance(truths, Datalist):
        return _by_datalist(found, predictions, truths)
    wanted = list_images(truths, masks=True)
    ours, theirs = _by_name(found), _by_name(wanted)
    if predictions.is_file() and truths.is_file():  # one against one, whatever they are called
        ours = dict(zip(theirs, ours.values(), strict=True))
    if not ours.keys() & theirs.keys():
        raise MedsegError(
            f"no prediction of {shown(predictions)} is called as a truth of {shown(truths)}: there are "
            f"{_some(ours.values())} and {_some(theirs.values())}; name both alike, but for the suffix, or give as "
            "truths the datalist that pairs images and labels"
        )
    return MaskPairs(ours, theirs, left_out=_left_out(found, wanted))


def _by_datalist(found: Listing, predictions: Path, data: Datalist) -> MaskPairs:
    cases = _Cases(data)
    ours: dict[str, Path] = {}
    masks = _by_name(found)
    names = {PurePath(name).parts for name in masks}
    for name, path in masks.items():
        case = cases.of_mask(PurePath(name).parts, names, path)
        if case in ours:
            raise MedsegError(
                f"{shown(ours[case])} and {shown(path)} are both called as {shown(case)} of {shown(data.path)}; "
                "name the folder of one of them"
            )
        ours[case] = path
    if not ours.keys() & cases.truths.keys():
        wanted = [cases.images[case] for case in cases.truths]
        raise MedsegError(
            f"no prediction of {shown(predictions)} is called as a labelled image of {shown(data.path)}: there are "
            f"{_some(masks.values())} and {_some(wanted)}; call masks as their images, but for the suffix"
        )
    return MaskPairs(ours, cases.truths, cases.groups, _left_out(found))


class _Cases:
    """The cases of a datalist, and which of them a mask's name means.

    Args:
        data: the datalist.

    Raises:
        MedsegError: if two images have one name.
    """

    def __init__(self, data: Datalist) -> None:
        self.path = data.path
        entries = [data.absolute(entry) for _, entry in data.entries()]
        first = standing_for(entry["image"] for entry in entries)
        base = Path(os.path.commonpath([image.parent for image in first])) if first else data.root
        self.images: dict[str, Path] = {}
        self.truths: dict[str, Path] = {}
        self.groups: dict[str, str] = {}
        self._by_image: dict[str, list[tuple[Parts, str]]] = defaultdict(list)
        self._by_label: dict[str, list[tuple[Parts, str]]] = defaultdict(list)
        for entry, image in zip(entries, first, strict=True):
            many = len(paths_of(entry["image"])) > 1
            name = _called(image.relative_to(base), many)
            if name in self.images:
                raise MedsegError(
                    f"{shown(data.path)}: {shown(self.images[name])} and {shown(image)} are both {shown(name)}; a mask "
                    "cannot say which it is of"
                )
            self.images[name] = image
            _put(self._by_image, _called(image, many), name)
            if "label" in entry:
                self.truths[name] = Path(entry["label"])
                _put(self._by_label, stem(self.truths[name]), name)
            if entry.get("group"):
                self.groups[name] = str(entry["group"])

    def of_mask(self, parts: Parts, others: set[Parts], path: Path) -> str:
        """Return the name of the case that a mask is of; of none, the mask's own name.

        Args:
            parts: of the mask's name, below the folder of all masks.
            others: names of all masks.
            path: of the mask, for messages.

        Raises:
            MedsegError: if several cases are called so.
        """
        for index in (self._by_image, self._by_label):
            cases = [case for whole, case in index[parts[-1]] if whole[-len(parts) :] == parts]
            exact = "/".join(parts)
            if exact in cases and all(PurePath(case).parts in others for case in cases):
                return exact  # each of them has a mask that is called in full
            if len(cases) > 1:
                images = " and ".join(shown(self.images[case]) for case in cases[:2])
                raise MedsegError(
                    f"{shown(path)} could be of {images}, which {shown(self.path)} names; keep the folders of the "
                    "images among the masks, as medseg predict does"
                )
            if cases:
                return cases[0]
        return "/".join(parts)


def _put(index: dict[str, list[tuple[Parts, str]]], text: str, name: str) -> None:
    parts = PurePath(text).parts
    index[parts[-1]].append((parts, name))


def _called(image: PurePath, many: bool) -> str:
    """Return what the mask of an image is called, without its suffix: of files of one channel, without its number."""
    name = stem(image)
    return name.removesuffix(_FIRST_CHANNEL) if many else name


def _by_name(listing: Listing) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in listing.images:
        inner = path.relative_to(listing.folder)
        name = stem(inner) if inner.parts else path.name
        if name in found:
            raise MedsegError(
                f"{shown(listing.folder)}: {shown(found[name].name)} and {shown(path.name)} are both {shown(name)}; "
                "remove one"
            )
        found[name] = path
    return found


def _some(files: Iterable[Path]) -> str:
    named = [shown(path.name) for path in files]
    return (", ".join(named[:2]) + (" ..." if len(named) > 2 else "")) or "no masks"


def _left_out(*listings: Listing) -> tuple[str, ...]:
    """Return what of folders is no mask, but for what medseg writes beside masks."""
    lines = []
    for listing in listings:
        missed = tuple(each for each in listing.left_out if not (each.ours or _is_ours(each.path)))
        if missed:
            lines.append(f"{shown(listing.folder)}: {replace(listing, left_out=missed).describe()}")
    return tuple(lines)


def _is_ours(path: Path) -> bool:
    return any(fnmatch.fnmatch(path.name, name) for name in _OURS)


def stem(path: PurePath) -> str:
    """Return a path without the suffix of an image's format, ``.nii.gz`` as a whole; other dots stay.

    Args:
        path: inside its folder.
    """
    suffix = image_suffix(path)
    text = path.as_posix()
    return text[: -len(suffix)] if suffix else text
