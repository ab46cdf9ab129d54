"""BIDS: images in ``sub-*/``, masks in ``derivatives/PIPELINE/sub-*/`` as ``_dseg`` or ``_mask``.

https://bids-specification.readthedocs.io: a mask belongs to the image of its subject, session and run; ``_dseg`` holds
classes, which ``dseg.tsv`` names, ``_mask`` one of them. Masks in a template's space (``space-MNI...``) lie elsewhere
than the image and are left out.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import counted, shown
from medseg.importers.folder import Folder, stem_of
from medseg.importers.layout import Case, Found, ImportingError, Layout, Options, Question

__all__ = ["Bids"]

_KINDS = ("dseg", "mask")
_OWN_SPACES = ("orig", "native", "individual", "scanner")
_SHARED = ("sub", "ses", "acq", "run", "task", "echo")
_OF_IMAGES = (*_SHARED, "space", *("ce", "trc", "stain", "rec", "dir", "mod", "inv", "flip", "mt", "part", "sample"))
_FILE = "dataset_description.json"


@dataclass(frozen=True)
class _Name:
    """A file's name in BIDS: what its entities say, and its suffix."""

    path: Path
    entities: dict[str, str]
    suffix: str

    @classmethod
    def of(cls, path: Path) -> _Name:
        *pairs, suffix = stem_of(path).split("_")
        return cls(path, dict(re.findall(r"(?:^|_)([A-Za-z]+)-([A-Za-z0-9+]+)", "_".join(pairs))), suffix)

    def agrees(self, other: _Name) -> bool:
        """Return whether subject and session are the other's, and acquisition, run and so on where both say one."""
        both = [(self.entities.get(key), other.entities.get(key)) for key in _SHARED]
        return both[0][0] == both[0][1] and both[1][0] == both[1][1] and all(a == b for a, b in both if a and b)


class Bids(Layout):
    """A BIDS data set with masks among its derivatives."""

    name = "bids"
    looks_for = f"{_FILE} and masks (_dseg, _mask) below derivatives"

    def recognise(self, folder: Folder) -> str | None:
        """Look for the description and for masks."""
        described = (folder.root / _FILE).is_file() and "BIDSVersion" in folder.peek_json(folder.root / _FILE)
        masks = _masks(folder) if described else []
        return f"{_FILE}, and {counted(len(masks), 'mask')} below derivatives" if masks else None

    def read(self, folder: Folder, options: Options) -> Found:
        """Pair each mask with the image of its subject and session."""
        masks = _chosen(folder, _masks(folder), options)
        images = [_Name.of(path) for path in folder.images if folder.rel(path).startswith("sub-")]
        found = Found(self.name, "said so", [], grouped_by="a subject (sub-)")
        found.used |= {folder.root / _FILE} & set(folder.files)
        found.about = {"name": str(folder.peek_json(folder.root / _FILE).get("Name") or "")}
        found.about["licence"] = str(folder.peek_json(folder.root / _FILE).get("License") or "not stated")
        wanted = [name.strip() for name in options.images.split(",") if name.strip()]
        for mask in masks:
            space = mask.entities.get("space", "orig")
            fitting = [image for image in images if mask.agrees(image)]
            if space not in (*_OWN_SPACES, *(image.suffix for image in fitting)):
                found.left_out[mask.path] = f"lies in the space {space}, not its image's"
                continue
            chosen = _channels(mask, fitting, wanted, folder)
            if space not in (*_OWN_SPACES, *(image.suffix for image in chosen or fitting)):
                found.left_out[mask.path] = f"lies in the space of {space}, which is no channel of its image"
                continue
            if not chosen:
                found.left_out[mask.path] = f"no image {' or '.join(wanted) or 'of its subject and session'}"
                continue
            modality = tuple(image.suffix for image in chosen)
            if found.cases and modality != found.modality:
                known = [", ".join(map(shown, names)) for names in (modality, found.modality)]
                raise Question(
                    f"{shown(folder.root)}: {shown(mask.path.name)} has the image {known[0]}, and those before have "
                    f"{known[1]}: one channel would be of several kinds; name one with --images",
                    "images",
                    found.modality[0],
                )
            found.modality = modality
            name = "_".join(f"{key}-{mask.entities[key]}" for key in _SHARED if key in mask.entities)
            group = f"sub-{mask.entities['sub']}"
            found.cases.append(Case(name, tuple(image.path for image in chosen), mask.path, "training", group))
        found.labels = _classes(folder, masks, found)
        return found


def _masks(folder: Folder) -> list[_Name]:
    below = [path for path in folder.images if folder.rel(path).startswith("derivatives/")]
    names = [_Name.of(path) for path in below]
    return [name for name in names if name.suffix in _KINDS and "sub" in name.entities]


def _kind(mask: _Name, folder: Folder) -> str:
    pipeline = folder.rel(mask.path).split("/")[1]
    more = [f"{key}-{value}" for key, value in mask.entities.items() if key not in _OF_IMAGES]  # hemi, atlas, label ...
    return "/".join([pipeline, *more, mask.suffix])


def _chosen(folder: Folder, masks: list[_Name], options: Options) -> list[_Name]:
    """Return the masks of one kind."""
    wanted = set(options.labels.split("/")) - {""}
    fitting = [
        mask for mask in masks if wanted <= set(re.split(r"[/-]", _kind(mask, folder)) + _kind(mask, folder).split("/"))
    ]
    kinds = Counter(_kind(mask, folder) for mask in fitting)
    if len(kinds) > 1:
        raise Question(
            f"{shown(folder.root)}: has masks of {len(kinds)} kinds ({', '.join(map(shown, kinds))}); name one, or a "
            "part of "
            "its name, with --labels",
            "labels",
            kinds.most_common(1)[0][0],
        )
    if not fitting:
        known = ", ".join(sorted({_kind(mask, folder) for mask in masks})) or "no mask at all"
        raise ImportingError(
            f"{shown(folder.root)}: has no mask of the kind {shown(options.labels)!r}; there is {known}"
        )
    return fitting


def _channels(mask: _Name, fitting: list[_Name], wanted: list[str], folder: Folder) -> list[_Name]:
    by_suffix: dict[str, _Name] = {}
    for image in fitting:
        other = by_suffix.setdefault(image.suffix, image)
        if other is not image and image.suffix in (wanted or [image.suffix]):
            raise ImportingError(
                f"{shown(folder.rel(mask.path))}: does not say whether it is of {shown(other.path.name)} or of "
                f"{shown(image.path.name)}; name it by the entity (run, acq) in which they differ, or leave one out"
            )
    if not wanted and len(by_suffix) > 1:
        raise Question(
            f"{shown(folder.root)}: {shown(mask.path.name)} has the images {', '.join(sorted(by_suffix))}; name the "
            "channels "
            f"with --images, such as {sorted(by_suffix)[0]}",
            "images",
        )
    names = wanted or list(by_suffix)
    return [by_suffix[name] for name in names] if set(names) <= by_suffix.keys() else []


def _classes(folder: Folder, masks: list[_Name], found: Found) -> dict[int, str]:
    """Return the classes of ``dseg.tsv``, or of a mask its label; nothing where neither says."""
    if masks[0].suffix == "mask":
        return {0: "background", 1: masks[0].entities.get("label", masks[0].entities.get("desc", "foreground"))}
    pipeline = folder.root / "derivatives" / folder.rel(masks[0].path).split("/")[1]
    tables = [path for path in folder.files if path.name.endswith("dseg.tsv")]
    near = [path for path in tables if path.is_relative_to(pipeline)] or tables
    labels: dict[int, str] = {}
    for table in near:  # one for all, or one beside each mask
        labels = labels or _named(table)
        if _named(table) != labels:
            raise ImportingError(
                f"{shown(folder.rel(table))}: names other classes than {shown(folder.rel(near[0]))}; classes are the "
                "same in all cases: make them agree"
            )
        found.used.add(table)
    return labels


def _named(table: Path) -> dict[int, str]:
    labels = {0: "background"}
    with table.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if not (row.get("index") or "").isdigit() or not row.get("name"):
                raise ImportingError(f"{shown(table)}: a line lacks index or name; BIDS asks for both")
            labels[int(row["index"])] = row["name"]
    return labels
