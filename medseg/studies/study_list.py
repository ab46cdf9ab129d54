"""What a study will take before it is begun: rows, cells, data, and hours on this device by a measured step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.bundle import library, networks
from medseg.bundle.source import Source, read_source
from medseg.data.datalist import Datalist
from medseg.errors import MedsegError, counted, shown
from medseg.reports.tables import Cell, Table
from medseg.studies.measures import StepSettings
from medseg.studies.paces import Pace, Paces
from medseg.studies.paper_figures import Row
from medseg.studies.study import Study, StudyError, StudyRow, read_study, shipped

__all__ = ["Recipe", "list_studies", "measured_row", "recipe"]

_SIZE = 256  # edge in pixels of an image whose size neither bundle nor study names
_PLACES = ("name", "spatial_dims", "in_channels", "out_channels", "seed")  # of a network, that `Row` has of its own


@dataclass(frozen=True)
class Recipe:
    """What one training of a row computes.

    Args:
        row: network and image, as `medseg.studies.paces` measures it.
        batch: images a step.
        epochs: of the training.
        iterations: steps an epoch; ``None`` for a pass over the images.
        step: how it takes them.
    """

    row: Row
    batch: int
    epochs: int
    iterations: int | None
    step: StepSettings

    def seconds(self, images: int, per_second: float) -> float:
        """Return how long the training's steps take.

        Args:
            images: that are trained on.
            per_second: images that are trained in a second.
        """
        steps = self.iterations or max(1, images // self.batch)  # the last, incomplete batch is dropped
        return self.epochs * steps * self.batch / per_second


def recipe(study: Study, row: StudyRow) -> Recipe | None:
    """Return what a training of a row computes, by its bundle, overlays and settings; ``None`` for a plan.

    Args:
        study: of the row.
        row: which.

    Raises:
        MedsegError: if there is no such bundle or overlay.
    """
    if row.plan:
        return None
    folder = library.find(row.bundle)
    library.config_files(folder, "train", list(row.overlays))
    source = read_source(folder)
    changes: dict[str, Any] = {}
    for name in row.overlays:
        if name not in source.overlays:
            raise StudyError(f"{row.name}: overlay {name} is a file of its own; its steps cannot be told beforehand")
        changes |= source.overlays[name]
    changes |= row.settings
    measured, options = measured_row(row.name, source, changes), _options(source, changes)
    epochs = study.epochs or int(options["max_epochs"])
    step = StepSettings.of({name: value for name, value in options.items() if _is_plain(value)})
    return Recipe(measured, int(options["batch_size"]), epochs, options["iterations"], step)


def measured_row(name: str, source: Source, changes: Mapping[str, Any]) -> Row:
    """Return network and image of a bundle's training, as `medseg.studies.paces` measures it.

    Args:
        name: of the row.
        source: the bundle.
        changes: of overlays and settings.
    """
    described = {key.split("#", 1)[1]: value for key, value in changes.items() if key.startswith("network_def#")}
    network = {**source.description.network, **described}
    built = networks.resolve(str(network["name"]))
    arguments = {key: value for key, value in network.items() if key not in _PLACES and _is_plain(value)}
    return Row(
        name, f"{built.__module__}.{built.__qualname__}", _channels(source, network), int(network["out_channels"]),
        _size(source, _options(source, changes), changes, int(network["spatial_dims"])), arguments,
    )  # fmt: skip


def _options(source: Source, changes: Mapping[str, Any]) -> dict[str, Any]:
    return {**source.options(), **{key: value for key, value in changes.items() if "#" not in key}}


def _is_plain(value: Any) -> bool:
    return value != networks.DEFAULT and not (isinstance(value, str) and value.startswith(("$", "@", "%")))


def _channels(source: Source, network: Mapping[str, Any]) -> int:
    known = network.get("in_channels")
    return int(known) if known is not None else 3 if source.description.input.colour == "rgb" else 1


def _size(source: Source, options: Mapping[str, Any], changes: Mapping[str, Any], dims: int) -> tuple[int, ...]:
    resized = changes.get("model#input#size", source.description.input.size)
    for size in (options.get("patch"), resized, source.description.inference.window):
        if size:
            return tuple(int(edge) for edge in size)
    return (_SIZE,) * dims


def list_studies(
    names: Sequence[str] = (),
    *,
    data: Path | None = None,
    measured: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Table:
    """Return a row a study: rows, cells, data, budget and, where they are measured, hours.

    Args:
        names: of studies, or their files; all that come with medseg if none is given.
        data: folder of the datalist, to count folds and images.
        measured: whether to measure a step of each row on this device.
        say: called with a line of news.

    Raises:
        MedsegError: if there is no such study, or it cannot be read.
    """
    rows: list[dict[str, Cell]] = []
    notes: list[str] = []
    studies = [read_study(name, data) for name in names or shipped()]
    paces = Paces(say) if measured else None
    made = [_recipes(study, measured) for study in studies]
    if paces is not None:
        paces.missing((each.row, each.batch, each.step) for held in made for each in held if each is not None)
    used: list[tuple[Pace, int]] = []
    for study, recipes in zip(studies, made, strict=True):
        found = study.load() if study.data else None
        cells = study.number_of_cells(len(study.folds_of(found)) if found else 1)
        line: dict[str, Cell] = {"study": study.name, "rows": len(study.rows), "cells": cells}
        line |= {"budget": _budget(study, recipes), "hours": None}
        if study.minutes is not None:
            line["hours"] = cells * study.minutes / 60
        elif paces is not None:
            line["hours"], doubts = _hours(study, recipes, found, cells, paces, used)
            notes += doubts
        rows.append(line | {"data": found.name if found else _source_of(study), "title": study.title})
    if not measured:
        notes.append("hours of schedules in epochs: --measure")
    else:
        notes.append("hours: the steps of all trainings, one after the other, by a step measured on this device")
        notes += _fewer(used)
    notes.append(
        "loading, validations and scoring come on top of the hours; where folds are not known, cells are of one"
    )
    return Table.of(rows, notes=notes, digits=1)


def _recipes(study: Study, measured: bool) -> list[Recipe | None]:
    """Return what each row computes, where its epochs or its steps are to be told."""
    asked = study.minutes is None and (measured or study.epochs is None)
    return [recipe(study, row) for row in study.rows] if asked else []


def _source_of(study: Study) -> str:
    named = [read_source(library.find(row.bundle)).texts["data_source"] for row in study.rows if not row.plan]
    return (named or ["not named"])[0].split(", http")[0]


def _budget(study: Study, recipes: Sequence[Recipe | None]) -> str:
    if study.minutes is not None:
        return counted(study.minutes, "minute")
    if study.epochs is not None:
        return f"{study.epochs} epochs"
    epochs = {found.epochs for found in recipes if found is not None}
    return f"{' or '.join(map(str, sorted(epochs)))} epochs, the bundle's"


def _hours(
    study: Study, recipes: Sequence[Recipe | None], data: Datalist | None, cells: int, paces: Paces,
    used: list[tuple[Pace, int]],
) -> tuple[float | None, list[str]]:  # fmt: skip
    """Return the hours of all cells, and why there are none; add each pace, and the images of a step, to ``used``."""
    images = study.images if data is None else _trained_on(study, data)
    if images is None:
        return None, [f"{study.name}: how many images there are is not known; name them with --data DIR"]
    total = 0.0
    for row, found in zip(study.rows, recipes, strict=True):
        if found is None:
            return None, [f"{study.name}: row {row.name} is planned when the study begins; give it minutes"]
        try:
            pace = paces.of(found.row, found.batch, found.step, f"{study.name}, {row.name}")
        except MedsegError as error:
            return None, [f"{study.name}, {row.name}: {shown(error)}"]
        used.append((pace, found.batch))
        total += found.seconds(images, pace.images_per_second)
    return math.ceil(total / 360 * cells / len(study.rows)) / 10, []


def _fewer(used: Sequence[tuple[Pace, int]]) -> list[str]:
    fewer = [pace.images for pace, batch in used if pace.images < batch]
    if not fewer:
        return []
    images = " or ".join(map(str, sorted(set(fewer))))
    return [
        f"of {len(fewer)} of {len(used)} rows a step of {images} of a batch's images was measured and "
        "taken times the batch, as one of the whole batch takes long on this CPU; whether that fits in its memory "
        "was not tried"
    ]


def _trained_on(study: Study, data: Datalist) -> int:
    return len(data.split(study.folds_of(data)[0], fold_key=study.fold_key)[0])
