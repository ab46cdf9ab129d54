"""One folder a patient: the same files in each, one of which is the label (KiTS, BraTS, TotalSegmentator and others).

A file's part is its name without the folder's: ``BraTS_001/BraTS_001_flair.nii.gz`` is ``flair``. Several parts that
are no labels are the channels of the image.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

from medseg.errors import shown
from medseg.importers.folder import Folder
from medseg.importers.layout import Case, Found, ImportingError, Layout, Options, Question
from medseg.importers.layouts.pairs import of_no_part, split_of
from medseg.importers.pairing import is_label, part_of, words

__all__ = ["Patients"]

Parts = dict[Path, dict[str, Path]]

_PATIENT = re.compile(
    r".*(?<![a-z])(?:patient|pat|subject|subj|sub|case|animal|mouse)(?:[-_ ]?id)?[-_ ]?\d+", re.IGNORECASE
)
_TIMED = re.compile(
    r"(?P<patient>.+?)[-_. /]+(?:(?:ses|session|visit|scan|exam|time[-_ ]?point|tp|week|day|month|year)[-_ ]?\d+"
    r"|baseline|follow[-_ ]?up|(?<=/)\d{4}[-_.]?\d\d[-_.]?\d\d)(?:[^A-Za-z0-9].*)?",
    re.IGNORECASE,
)


class Patients(Layout):
    """Folders of equal parts, one of which has a name that says label."""

    name = "patients"
    looks_for = "one folder a patient with equally named files, one of them a label"
    rank = 1

    def recognise(self, folder: Folder) -> str | None:
        """Look for two folders with an image and a label of the same part each."""
        parts = _parts(folder)
        usual = _usual(parts)
        labels = [part for part in usual if is_label(part)]
        if len(parts) < 2 or not labels or len(usual) == len(labels):
            return None
        return f"{len(parts)} folders with {', '.join(usual)}"

    def read(self, folder: Folder, options: Options) -> Found:
        """Take the parts that most folders have; a folder that lacks one is left out."""
        parts = _parts(folder)
        usual = _usual(parts)
        where = shown(folder.root)
        if not parts:
            raise ImportingError(f"{where}: holds no folder of images; name the folder above those of the patients")
        labels = [part for part in usual if is_label(part)]
        channels = [part for part in usual if not is_label(part)]
        if options.labels:
            labels = [part for part in usual if part == options.labels]
        if len(labels) != 1:
            known = ", ".join(map(shown, usual))
            raise Question(f"{where}: has {len(labels)} labels among {known}; name one with --labels", "labels")
        if options.images:
            channels = [name.strip() for name in options.images.split(",")]
            unknown = [name for name in channels if name not in usual]
            if unknown:
                raise ImportingError(f"{where}: no part {shown(unknown[0])} among {', '.join(usual)}; name these")
        if not channels:
            raise ImportingError(
                f"{where}: holds no image beside {labels[0]}; name the parts with --images and --labels"
            )
        found = Found(
            self.name, "folders of equal parts", [], modality=tuple(channels), grouped_by="one folder a patient"
        )
        found.notes.append(f"image: {', '.join(channels)}; label: {labels[0]}")
        for place, held in parts.items():
            missing = [part for part in channels if part not in held]
            if missing:
                found.left_out |= dict.fromkeys(held.values(), f"the patient lacks {', '.join(missing)}")
                continue
            split = split_of(folder.rel(place.parent)) if place.parent != folder.root else "training"
            label = held.get(labels[0])
            if label is None and split != "test":
                found.left_out |= dict.fromkeys(held.values(), f"the patient lacks {labels[0]}")
                continue
            images = tuple(held[part] for part in channels)
            found.cases.append(Case(folder.rel(place), images, label, split, folder.rel(place)))
        found.cases = of_no_part(found.cases)
        return _joined(found)


def _joined(found: Found) -> Found:
    """Group the folders of one patient at several times; where names tell nothing of it, each is a patient's."""
    patients = [_patient(case.name) for case in found.cases]
    if 2 <= len(set(patients)) < len(patients):
        case, patient = next((c, p) for c, p in zip(found.cases, patients, strict=True) if c.name != p)
        found.cases = [replace(case, group=group) for case, group in zip(found.cases, patients, strict=True)]
        found.grouped_by = f"a patient's folders together, such as {case.name} to {patient}"
    return found


def _patient(place: str) -> str:
    """Return the part of a folder's path that names the patient; all of it, where none is told from the time."""
    match = _PATIENT.match(place)
    if match:
        return match[0]
    timed = _TIMED.fullmatch(place)
    last = words(timed["patient"])[-1:] if timed else []
    if not timed or split_of(" ".join(last)) != "training" or last in (["train"], ["training"]):
        return place
    return timed["patient"]


def _parts(folder: Folder) -> Parts:
    """Return the images of each folder below by their part; folders with two of a part are no patients."""
    places: dict[Path, list[Path]] = defaultdict(list)
    for path in folder.images:
        if path.parent != folder.root:
            places[path.parent].append(path)
    made: Parts = {}
    for place, files in sorted(places.items()):
        held = {part_of(path): path for path in files}
        if len(held) == len(files):
            made[place] = held
    usual = _usual(made)
    return {place: held for place, held in made.items() if set(usual) & held.keys()}


def _usual(parts: Parts) -> list[str]:
    """Return the parts that at least half of the folders have."""
    counts = Counter(part for held in parts.values() for part in held)
    return sorted(part for part, count in counts.items() if 2 * count >= len(parts) and count > 1)
