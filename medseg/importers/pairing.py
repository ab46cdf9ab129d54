"""Pairs images and labels by their names: which rules there are, and how many pairs each makes.

A rule is a folder of images, a folder of labels, and what stands before and after the part of the name that both share:
``images/*.jpg`` and ``masks/*_segmentation.png``. Names that are numbers are the same if the numbers are (``00`` and
``00000000``).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from medseg.errors import counted
from medseg.importers.folder import stem_of

__all__ = [
    *(
        "Affix",
        "Rule",
        "all_labels",
        "is_image",
        "is_label",
        "labels_among",
        "part_of",
        "rules_between",
        "rules_within",
        "words",
    ),
]

_LABEL = frozenset(
    (
        *("mask", "masks", "label", "labels", "labelled", "lbl", "lbls", "seg", "segs", "segmentation"),
        "segmentations",
        *("segmented", "gt", "groundtruth", "truth", "annotation", "annotations", "annotated", "manual", "lesion"),
        *("lesions", "roi", "rois", "contour", "contours"),
    )
)  # fmt: skip
_IMAGE = frozenset(
    (
        *("image", "images", "img", "imgs", "imag", "raw", "input", "inputs", "scan", "scans"),
        *("picture", "pictures", "photo", "photos"),
    )
)
_SAMPLE = 200
_MOST_CUTS = 5


def words(text: str) -> list[str]:
    """Return the words of a name in lower case; capitals inside begin a new one."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", text)]


def is_label(text: str) -> bool:
    """Return whether a name, of a file or a folder, says that it is a label."""
    return any(word in _LABEL or word.endswith("seg") for word in words(text))


def is_image(text: str) -> bool:
    """Return whether a name, of a file or a folder, says that it is an image."""
    return any(word in _IMAGE for word in words(text))


@dataclass(frozen=True)
class Affix:
    """What stands before and after the shared part of a name."""

    before: str = ""
    after: str = ""

    def key(self, stem: str) -> str | None:
        """Return the shared part, ``None`` of a name that does not fit."""
        inside = stem[len(self.before) : len(stem) - len(self.after)]
        fits = stem.startswith(self.before) and stem.endswith(self.after)
        return inside if fits and len(stem) > len(self.before) + len(self.after) else None

    @property
    def length(self) -> int:
        """Number of characters."""
        return len(self.before) + len(self.after)


@dataclass(frozen=True)
class Rule:
    """A rule and the pairs that it makes.

    Args:
        images: folder of the images.
        labels: folder of the labels.
        image: what stands around the shared part of an image's name.
        label: of a label's name.
        pairs: shared part to image and label.
        twins: files that share their part with another one of their side.
    """

    images: Path
    labels: Path
    image: Affix
    label: Affix
    pairs: dict[str, tuple[Path, Path]]
    twins: tuple[Path, ...] = ()

    def describe(self, root: Path) -> str:
        """Return the rule in words."""

        def side(folder: Path, affix: Affix) -> str:
            place = folder.relative_to(root).as_posix()
            return f"{'' if place == '.' else place + '/'}{affix.before}*{affix.after}"

        return (
            f"{side(self.images, self.image)} with {side(self.labels, self.label)} ({counted(len(self.pairs), 'pair')})"
        )


def _number(key: str) -> str:
    """Return a shared part as it is compared: without zeros before a number, and with letters composed one way."""
    return str(int(key)) if key.isascii() and key.isdigit() else unicodedata.normalize("NFC", key)


def _keyed(paths: Iterable[Path], affix: Affix) -> tuple[dict[str, Path], list[Path]]:
    """Return the files by the shared part of their names, and those that share it with another."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        key = affix.key(stem_of(path))
        if key is not None:
            found[_number(key)].append(path)
    twins = [path for several in found.values() if len(several) > 1 for path in several]
    return {key: several[0] for key, several in found.items() if len(several) == 1}, twins


def _join(images: Sequence[Path], labels: Sequence[Path], image: Affix, label: Affix) -> Rule:
    left, twins = _keyed(images, image)
    right, more = _keyed(labels, label)
    pairs = {key: (left[key], right[key]) for key in sorted(left.keys() & right.keys())}
    return Rule(images[0].parent, labels[0].parent, image, label, pairs, (*twins, *more))


def _common_start(texts: Sequence[str]) -> str:
    """Return what all texts begin with, but no part of a number: of 100 to 199, the 1 is not what they share."""
    low, high = min(texts), max(texts)
    end = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    cut = any(text[end : end + 1].isdigit() for text in texts)
    return low[:end].rstrip("0123456789") if cut else low[:end]


def _cuts(text: str) -> list[str]:
    """Return the beginnings of a text that end where a word or number does, the shortest first; an empty one is."""
    kinds = ["d" if c.isdigit() else "a" if c.isalpha() else c for c in text]
    ends = [i for i in range(1, len(text) + 1) if i == len(text) or kinds[i] != kinds[i - 1]]
    return ["", *(text[:end] for end in ends if not text[:end].isdigit())][: _MOST_CUTS + 1]


def _affixes(stems: Sequence[str], after: str | None) -> list[Affix]:
    """Return what may stand around the shared part of the names of one folder, the shortest first."""
    starts = _cuts(_common_start(stems)) if len(stems) > 1 else ["", *_cuts(_single_start(stems[0]))[1:]]
    ends = [each[::-1] for each in _cuts(_common_start([stem[::-1] for stem in stems]))]
    if len(stems) == 1:
        ends = ["", *(stems[0][match.start() :] for match in re.finditer(r"[-_. ]", stems[0]))]
    ends = ends if after is None else [after]
    return sorted({Affix(start, end) for start in starts for end in ends}, key=lambda affix: affix.length)


def _single_start(stem: str) -> str:
    match = re.match(r"[A-Za-z]+[-_. ]?", stem)
    return match[0] if match else ""


@dataclass(frozen=True)
class _Sides:
    """Shared parts of a folder's names, by what may stand around them, and all of them together."""

    keys: dict[Affix, frozenset[str]]
    every: frozenset[str]


@lru_cache(maxsize=4096)
def _sides(paths: tuple[Path, ...], after: str | None, most: int | None = None) -> _Sides:
    """Look at a folder's names once, however many others it is tried with; at the first ``most`` of them."""
    affixes = _affixes([stem_of(path) for path in paths], after)
    keys = {affix: frozenset(_keyed(paths[:most], affix)[0]) for affix in affixes}
    return _Sides(keys, frozenset().union(*keys.values()))


def rules_between(
    images: Sequence[Path], labels: Sequence[Path], image_suffix: str | None = None, label_suffix: str | None = None
) -> Rule | None:
    """Return the rule that makes most pairs of the images of one folder and the labels of another.

    Of rules that make equally many, the one that strips least counts.

    Args:
        images: files of one folder.
        labels: files of another.
        image_suffix: end of the images' names, if it is known.
        label_suffix: end of the labels' names, if it is known.
    """
    left, right = _sides(tuple(images), image_suffix), _sides(tuple(labels), label_suffix, _SAMPLE)
    if left.every.isdisjoint(right.every):
        return None
    best: tuple[int, int, Affix, Affix] | None = None
    for label, keys in right.keys.items():
        for image, others in left.keys.items():
            score = (len(keys & others), -image.length - label.length, image, label)
            if best is None or score[:2] > best[:2]:
                best = score
    if best is None or not best[0]:
        return None
    return _join(images, labels, best[2], best[3])


def rules_within(files: Sequence[Path], image_suffix: str | None = None, label_suffix: str | None = None) -> list[Rule]:
    """Return the rules by which labels lie beside their images in one folder, such as ``a.png`` and ``a_mask.png``.

    Args:
        files: of one folder.
        image_suffix: see `rules_between`.
        label_suffix: see `rules_between`; otherwise the ends that a word for labels begins.
    """
    stems = {path: stem_of(path) for path in files}
    if label_suffix is not None:
        ends = {label_suffix}
        labels = [path for path in files if stems[path].endswith(label_suffix)]
    else:
        labels = [path for path in files if _label_end(stems[path])]
        ends = {_label_end(stems[path]) for path in labels}
    known = set(labels)
    images = [path for path in files if path not in known]
    made = []
    for end in sorted(ends) if images and labels else ():
        ours = [path for path in labels if stems[path].endswith(end)]
        starts = {"", *(_image_end(stems[path]) for path in images)} if image_suffix is None else {image_suffix}
        rules = [_join(images, ours, Affix(after=start), Affix(after=end)) for start in sorted(starts)]
        rules = [rule for rule in rules if rule.pairs]
        if rules:
            made.append(max(rules, key=lambda rule: (len(rule.pairs), -rule.image.length)))
    return made


def labels_among(files: Iterable[Path]) -> dict[Path, Path]:
    """Return files that, by their names, are labels of others among them, each with the image that it is of.

    They lie in one folder, such as ``a.png`` and ``a_mask.png`` or a patient's ``t1.nii.gz`` and ``seg.nii.gz``, or in
    two: ``images/a.png`` and ``labels/a_mask.png``, ``train/images/a.png`` and ``train/labels/a.png``.

    Args:
        files: of any folders.
    """
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        folders[path.parent].append(path)
    found = _labels_of_folders(folders) | _labels_of_patients(folders)
    for here in folders.values():
        for rule in rules_within(here):
            found |= {label: image for image, label in rule.pairs.values()}
    return found


def all_labels(files: Iterable[Path]) -> bool:
    """Return whether every file is a label by its name or its folder's: ``labels/a.png``, ``a_mask.png``, ``seg.nii``.

    Args:
        files: below the folder that is looked at, whose own name says nothing.
    """
    return all(
        any(map(is_label, path.parts[:-1])) or bool(_label_end(stem_of(path))) or _says_no_more(part_of(path))
        for path in files
    )


def _labels_of_patients(folders: Mapping[Path, Sequence[Path]]) -> dict[Path, Path]:
    """Return files that their folder's images lie beside: ``seg`` in one folder, ``t1_seg`` where several have it."""
    parts = {place: {path: part_of(path) for path in here} for place, here in folders.items()}
    counts = Counter(part for held in parts.values() for part in set(held.values()))
    found: dict[Path, Path] = {}
    for held in parts.values():
        image = next((path for path, part in held.items() if not is_label(part)), None)
        if image is not None:
            labels = [
                path for path, part in held.items() if is_label(part) and (counts[part] > 1 or _says_no_more(part))
            ]
            found |= dict.fromkeys(labels, image)
    return found


def _says_no_more(part: str) -> bool:
    """Return whether a name says label and nothing else: of ``01_lesion_photo`` it is not known."""
    return is_label(part) and all(word.isdigit() or is_label(word) for word in words(part))


def _labels_of_folders(folders: Mapping[Path, Sequence[Path]]) -> dict[Path, Path]:
    """Return files of folders that are called as labels are, where one of another name has their images."""
    images: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for place in folders:
        for above, name, rest in _levels(place):
            if not is_label(name):
                images[above, rest].append(place)
    found: dict[Path, Path] = {}
    for place, here in folders.items():
        sides = [side for above, name, rest in _levels(place) if is_label(name) for side in images[above, rest]]
        rules = [rule for side in sides if (rule := rules_between(folders[side], here))]
        best = max(rules, key=lambda rule: len(rule.pairs), default=None)
        if best is not None and 2 * len(best.pairs) >= len(here):
            found |= {label: image for image, label in best.pairs.values()}
    return found


def _levels(place: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield each folder of a path: what is above it, its name, what is below it."""
    rest = ""
    for folder in (place, *place.parents):
        if folder.name:
            yield folder.parent, folder.name, rest
            rest = f"{folder.name}/{rest}"


def part_of(path: Path) -> str:
    """Return what a file of a patient's folder is: its name without the folder's, ``image`` where nothing is left."""
    stem, patient = stem_of(path), path.parent.name
    rest = stem.replace(patient, "", 1).strip("-_. ") if patient and patient in stem else stem
    return rest or "image"


def _label_end(stem: str) -> str:
    """Return the end of a name from its first word for a label on, with the separator before it."""
    for match in re.finditer(r"[-_. ]+([A-Za-z]+)", stem):
        if is_label(match[1]):
            return stem[match.start() :]
    return ""


def _image_end(stem: str) -> str:
    match = re.search(r"[-_. ]+([A-Za-z]+)$", stem)
    return match[0] if match and match[1].lower() in _IMAGE else ""
