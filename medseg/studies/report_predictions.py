"""What the report of predicted masks says: volumes, what to look at first, and the masks over their images.

What a folder of predictions holds is read here alone: the masks by their record, how their images are unlike what the
model was trained on by the records of the runs, and, where they were asked for, the uncertainty of each
(``uncertainty.csv``). There is no truth: the report of the model's run says how good
they are.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medseg.affines import voxel_volume
from medseg.errors import MedsegError, counted, few, shown
from medseg.io.dicom_heads import is_dicom, read_head
from medseg.io.folder import MASK_RECORD, list_images, mask_targets, with_channels
from medseg.io.images import image_suffix, read_image
from medseg.io.parts import content_hash, parts_of
from medseg.prediction.audit import RUN_RECORD, records_in
from medseg.reports.page import Facts, Item, Legend, Section, Sortable, Text
from medseg.reports.palette import Colour, background_index, class_palette
from medseg.reports.slices import make_slices
from medseg.reports.tables import Table, csv_text
from medseg.reports.viewer import make_viewer
from medseg.reports.windows import Window, as_window, window_of
from medseg.studies.case_scores import all_alike

__all__ = ["sections"]

UNCERTAINTY = "uncertainty.csv"
_SHOWN = 6  # cases with pictures
_CHANNELS = 8  # that are looked for
_LONG = 1000  # rows of a table
_ODD = 20  # cases that are unlike the training
_MOST_BYTES = 3_200_000  # of all pictures


@dataclass(frozen=True)
class Mask:
    """One mask.

    Args:
        number: from 1, in the alphabetical order of the names in the record.
        path: of the file.
        name: of the file in the folder.
        amounts: of each class value, in ``unit``.
        unit: ``"ml"``, or ``"pixels"`` of pictures.
        uncertainty: NaN where it is not known.
        unlike: how the case is unlike what the model was trained on, a phrase each.
    """

    number: int
    path: Path
    name: str
    amounts: dict[int, float]
    unit: str
    uncertainty: float
    unlike: tuple[str, ...] = ()


@dataclass(frozen=True)
class Predictions:
    """A folder of masks.

    Args:
        folder: of the masks.
        images: folder of the images, where it is known.
        keep_identifiers: call cases by their names.
    """

    folder: Path
    images: Path | None
    keep_identifiers: bool

    @cached_property
    def record(self) -> dict[str, Any]:
        """What made the masks.

        Raises:
            MedsegError: if it cannot be read.
        """
        path = self.folder / MASK_RECORD
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            {name for each in content["made_by"] for name in each["masks"]}
            {name: source["sha256"] for name, source in content["images"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MedsegError(
                f"{shown(path)} cannot be read ({type(error).__name__}); predict into the folder again: medseg predict"
            ) from error
        return dict(content)

    @cached_property
    def masks(self) -> list[Mask]:
        """The masks that are there."""
        names = sorted({name for each in self.record["made_by"] for name in each["masks"]})
        unsure = self._uncertainty()
        there = [(n, name, self.folder / name) for n, name in enumerate(names, 1) if (self.folder / name).is_file()]
        cases = self._cases()
        masks = []
        for number, name, path in there:
            case, unlike = cases.get(name, (name, ()))
            value = unsure.get(case, unsure.get(_stem(case), math.nan))
            if "uncertainty" not in self.record["images"].get(name, {}).get("outputs", ()):  # it is another image's
                value = math.nan
            masks.append(replace(_measured(number, name, path, value), unlike=unlike))
        return masks

    def _cases(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Return names of cases and how they are unlike the training, by that of their mask: what its last run said."""
        try:
            cases = records_in(self.folder)
            made = [(str(file["name"]), case) for case in cases for file in case.get("outputs", ())]
            return {name: (str(case["name"]), tuple(map(str, case.get("unlike", ())))) for name, case in made}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MedsegError(
                f"{shown(self.folder)}: a record {RUN_RECORD} cannot be read ({type(error).__name__}); restore it, or "
                "take it away and lose what it says"
            ) from error

    def _uncertainty(self) -> dict[str, float]:
        path = self.folder / UNCERTAINTY
        if not path.is_file():
            return {}
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if row.get("uncertainty")]
            found = {csv_text(row["case"]): float(row["uncertainty"]) for row in rows}
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise MedsegError(
                f"{shown(path)} cannot be read ({type(error).__name__}); take it away, and predict there again"
            ) from error
        stems = Counter(map(_stem, found))
        return {_stem(case): value for case, value in found.items() if stems[_stem(case)] == 1} | found

    @cached_property
    def names(self) -> list[str]:
        """Names of the classes by index; of what is not named, its value.

        Raises:
            MedsegError: if masks of models with other classes lie there: one value is two things.
        """
        there = {mask.name for mask in self.masks}
        makers = [each for each in self.record["made_by"] if each.get("classes") and there & set(each["masks"])]
        named, *others = list(dict.fromkeys(tuple(map(str, each["classes"])) for each in makers)) or [()]
        if others:
            raise MedsegError(
                f"{shown(self.folder)} holds masks of models whose classes are not the same ({shown(few(named))}; "
                f"{shown(few(others[0]))}); predict with each into a folder of its own, and report that"
            )
        highest = max((value for mask in self.masks for value in mask.amounts), default=0)
        usual = ["background", *(f"class {value}" for value in range(1, highest + 1))]
        return [*named, *usual[len(named) :]]

    @cached_property
    def classes(self) -> list[int]:
        """Values of what is looked for: all that are named but the background, and what else occurs."""
        background = background_index(self.names)
        return [value for value in range(len(self.names)) if value != background]

    @cached_property
    def palette(self) -> list[Colour | None]:
        """A colour a class value; none of the background."""
        colours = next((each["colours"] for each in self.record["made_by"] if each.get("colours")), None)
        return class_palette(self.names, colours)

    def window(self, mask: Mask) -> Window | None:
        """Values that the model of a mask sees, where it cuts off others."""
        return as_window(next((e.get("window") for e in self.record["made_by"] if mask.name in e["masks"]), None))

    def called(self, mask: Mask) -> str:
        """Return what a mask is called in the report."""
        return mask.name if self.keep_identifiers else f"case {mask.number}"


def sections(folder: Path, images: Path | None, *, keep_identifiers: bool) -> tuple[str, str, list[Section]]:
    """Return title, subtitle and sections of the report.

    Args:
        folder: of the masks.
        images: their folder, without which no picture is shown.
        keep_identifiers: see `medseg.studies.report.make_report`.

    Raises:
        MedsegError: if the record or a mask cannot be read, or there is no image for any of the masks.
    """
    held = Predictions(folder, images, keep_identifiers)
    makers = ", ".join(each["name"] for each in held.record["made_by"]) or "no model"
    pictures = bool(held.masks) and all(mask.unit == "pixels" for mask in held.masks)
    subtitle = f"{counted(len(held.masks), 'case')}, by {makers}"
    return "Predictions", subtitle, [
        Section("summary", "In short", list(_summary(held))),
        Section("look", "What to look at first", list(_ranking(held))),
        Section("pictures", "Masks over their images", list(_pictures(held))),
        Section("volumes", f"{'Sizes in' if pictures else 'Volumes of'} every case", list(_volumes(held))),
        Section("origin", "Versions and hashes", [Facts(_origin(held), code=True)]),
    ]  # fmt: skip


def _measured(number: int, name: str, path: Path, uncertainty: float) -> Mask:
    image = read_image(path, label=True)
    values, counts = np.unique(image.array, return_counts=True)
    known = image.affine is not None
    size = voxel_volume(image.affine) / 1000 if image.affine is not None else 1.0  # mm^3 in a ml
    amounts = {int(value): float(count) * size for value, count in zip(values, counts, strict=True)}
    return Mask(number, path, name, amounts, "ml" if known else "pixels", uncertainty)


def _stem(name: str) -> str:
    """Return a name without the suffix of its format: a mask may have another one than its image."""
    return name[: len(name) - len(image_suffix(name))]


def _summary(held: Predictions) -> Iterator[Item]:
    without = [mask for mask in held.masks if not any(mask.amounts.get(value) for value in held.classes)]
    named = sum(len(each["masks"]) for each in held.record["made_by"])
    facts = [("masks", str(len(held.masks)))]
    if named > len(held.masks):
        facts.append(("not there any more", str(named - len(held.masks))))
    facts.append(("nothing found in", counted(len(without), "case")))
    nowhere = [held.names[value] for value in held.classes if not any(mask.amounts.get(value) for mask in held.masks)]
    if nowhere:
        facts.append(("found in no case", ", ".join(nowhere)))
    unlike = sum(bool(mask.unlike) for mask in held.masks)
    facts.append(("unlike what the model was trained on", counted(unlike, "case")))
    yield Facts(facts)
    yield Text(
        "There is no truth here: how good such masks are is in the report of the run that trained the model.", "note"
    )
    if len(held.record["made_by"]) > 1:
        yield Text("The masks were made by different models; see versions and hashes.", "warning")


def _ranked(held: Predictions) -> list[Mask]:
    """Return the masks to look at: those of cases unlike the training, then the most unsure, else those without any."""
    masks = sorted(held.masks, key=lambda mask: mask.number)
    if any(not math.isnan(mask.uncertainty) for mask in masks):
        masks.sort(key=lambda mask: (math.isnan(mask.uncertainty), -mask.uncertainty))
    else:
        masks.sort(key=lambda mask: sum(mask.amounts.get(value, 0) for value in held.classes) > 0)
    return sorted(masks, key=lambda mask: not mask.unlike)


def _ranking(held: Predictions) -> Iterator[Item]:
    odd = [mask for mask in held.masks if mask.unlike]
    if odd:
        yield Text(
            f"{counted(len(odd), 'case')} of {len(held.masks)} unlike what the model was trained on: nobody tried such "
            "cases, and their masks may be wrong where they look sure.",
            "warning",
        )
        told = [{"case": held.called(mask), "unlike the training": "; ".join(mask.unlike)} for mask in odd[:_ODD]]
        more = [f"the first {_ODD} of {len(odd):,} cases; {RUN_RECORD} names all"] if len(odd) > _ODD else []
        yield Table.of(told, notes=more)
    known = sorted(
        (mask for mask in held.masks if not math.isnan(mask.uncertainty)),
        key=lambda mask: (-mask.uncertainty, mask.number),
    )
    if not known:
        why = "has none of these masks" if (held.folder / UNCERTAINTY).is_file() else "is not there"
        yield Text(
            f"No uncertainty was asked for ({UNCERTAINTY} {why}): masks with nothing in them come first.", "note"
        )
        return
    if (alike := all_alike([mask.uncertainty for mask in known])) is not None:
        yield Text(alike)
        return
    rows: list[dict[str, Any]] = [
        {"place": n, "case": held.called(mask), "uncertainty": mask.uncertainty} for n, mask in enumerate(known[:10], 1)
    ]
    note = f"As {UNCERTAINTY} has it: computed while the masks were predicted, 0 certain, 1 all classes alike."
    yield Table.of(rows, notes=[note])


def _pictures(held: Predictions) -> Iterator[Item]:
    if held.images is None:
        yield Text("The images were not named, so that none is shown: medseg report MASKS --data IMAGES", "note")
        return
    images = _images_of(held)
    chosen = [mask for mask in _ranked(held) if mask.path in images][:_SHOWN]
    if not chosen:
        raise MedsegError(
            f"{shown(held.images)} holds no image of the masks in {shown(held.folder)}; name the folder that was "
            "predicted"
        )
    yield Legend([(held.names[value], held.palette[value] or (0, 0, 0)) for value in held.classes])
    for mask in chosen:
        files = images[mask.path]
        made_of = str(held.record["images"].get(mask.name, {}).get("sha256", ""))
        if made_of and content_hash(files) != made_of:
            told = "its mask was made of another image than lies there now, so that none is shown; predict it again"
            yield Text(f"{held.called(mask)}: {told}", "warning")
            continue
        image, found = read_image(files[0] if len(files) == 1 else files), read_image(mask.path, label=True)
        pixels = np.moveaxis(image.array, -1, 0) if image.channels > 1 else image.array
        window = window_of(pixels, held.window(mask), _modality(files[0]))
        case = {"name": mask.name, "image": pixels, "prediction": found.array, "affine": image.affine, "window": window}
        unsure = "" if math.isnan(mask.uncertainty) else f", uncertainty {mask.uncertainty:.3f}"
        unsure += ", unlike the training" * bool(mask.unlike)
        yield make_viewer(
            make_slices(case, background=background_index(held.names)), held.palette,
            title=f"{held.called(mask)}{unsure}", most_bytes=_MOST_BYTES // len(chosen),
        )  # fmt: skip


def _modality(file: Path) -> str:
    """Return the modality that a DICOM file or series states; nothing of other files."""
    first = next(iter(parts_of(file)), file)
    return str(read_head(first, ["Modality"]).get("Modality", "")) if is_dicom(first) else ""


def _images_of(held: Predictions) -> dict[Path, list[Path]]:
    """Return the files of each mask's image; of how many channels it is, the names of the masks say."""
    assert held.images is not None
    wanted = {mask.path for mask in held.masks}
    best: dict[Path, list[Path]] = {}
    listed = list_images(held.images, leave=[held.folder])
    for channels in range(1, _CHANNELS + 1):
        try:
            listing = with_channels(listed, channels)
            targets = mask_targets(listing, held.folder)
        except MedsegError:  # not so many
            continue
        found = {mask: list(listing.channels.get(image, (image,))) for image, mask in targets.items() if mask in wanted}
        best = max(best, found, key=len)
    return best


def _volumes(held: Predictions) -> Iterator[Item]:
    rows: Sequence[dict[str, Any]] = [
        {
            "case": held.called(mask),
            **{
                f"{held.names[value]}, {mask.unit}": round(mask.amounts.get(value, 0.0), 3)
                if mask.unit == "ml"
                else round(mask.amounts.get(value, 0))
                for value in held.classes
            },
            **({} if math.isnan(mask.uncertainty) else {"uncertainty": mask.uncertainty}),
        }
        for mask in held.masks[:_LONG]
    ]
    if not held.keep_identifiers:
        yield Text(f"Case n is the nth mask in the alphabetical order of {MASK_RECORD}.", "note")
    more = [f"the first {_LONG:,} of {len(held.masks):,} cases"] if len(held.masks) > _LONG else []
    yield Sortable(Table.of(rows, notes=more))


def _origin(held: Predictions) -> list[tuple[str, str]]:
    facts = [("medseg", str(held.record.get("medseg", "")))]
    for each in held.record["made_by"]:
        facts.append((f"{each['name']}, weights, SHA-256 of their values", str(each.get("weights"))))
        facts.append((f"{each['name']}, model", str(each.get("model"))))
        facts.append((f"{each['name']}, masks", str(len(each["masks"]))))
    return facts
