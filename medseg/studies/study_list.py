"""What a study will take before it is begun: rows, cells, data, and hours on this device by a measured step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from medseg.bundle import library, networks
from medseg.bundle.source import Source, read_source
from medseg.data.datalist import Datalist
from medseg.errors import shown
from medseg.reports.tables import Cell, Table
from medseg.studies import complexity
from medseg.studies.measures import StepSettings
from medseg.studies.paper_figures import Row
from medseg.studies.study import Study, StudyError, StudyRow, read_study, shipped

__all__ = ["Recipe", "list_studies", "measured_row", "recipe"]

_CPU_IMAGES, _CPU_PIXELS = 2, 2**19  # least images and most pixels of a step that is measured on a CPU
_SIZE = 256  # edge in pixels of an image whose size neither bundle nor study names
_PLACES = ("name", "spatial_dims", "in_channels", "out_channels", "seed")  # of a network, that `Row` has of its own


@dataclass(frozen=True)
class Recipe:
    """What one training of a row computes.

    Args:
        row: network and image, as `medseg.studies.complexity` measures it.
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
    """Return network and image of a bundle's training, as `medseg.studies.complexity` measures it.

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
    paces = _Paces(say)
    for name in names or shipped():
        study = read_study(name, data)
        found = study.load() if study.data else None
        cells = study.number_of_cells(len(study.folds_of(found)) if found else 1)
        line: dict[str, Cell] = {"study": study.name, "rows": len(study.rows), "cells": cells}
        line |= {"budget": _budget(study), "hours": None}
        if study.minutes is not None:
            line["hours"] = cells * study.minutes / 60
        elif measured:
            line["hours"], doubts = _hours(study, found, cells, paces)
            notes += doubts
        rows.append(line | {"data": found.name if found else _source_of(study), "title": study.title})
    if not measured:
        notes.append("hours of schedules in epochs: --measure")
    else:
        notes.append("hours: the steps of all trainings, one after the other, by a step measured on this device")
        notes += paces.notes
    notes.append(
        "loading, validations and scoring come on top of the hours; where folds are not known, cells are of one"
    )
    return Table.of(rows, notes=notes, digits=1)


def _source_of(study: Study) -> str:
    named = [read_source(library.find(row.bundle)).texts["data_source"] for row in study.rows if not row.plan]
    return (named or ["not named"])[0].split(", http")[0]


def _budget(study: Study) -> str:
    if study.minutes is not None:
        return f"{study.minutes:g} minutes"
    if study.epochs is not None:
        return f"{study.epochs} epochs"
    epochs = {found.epochs for found in (recipe(study, row) for row in study.rows) if found is not None}
    return f"{' or '.join(map(str, sorted(epochs)))} epochs, the bundle's"


def _hours(study: Study, data: Datalist | None, cells: int, paces: _Paces) -> tuple[float | None, list[str]]:
    """Return the hours of all cells, and why there are none."""
    images = study.images if data is None else _trained_on(study, data)
    if images is None:
        return None, [f"{study.name}: how many images there are is not known; name them with --data DIR"]
    total = 0.0
    for row in study.rows:
        found = recipe(study, row)
        if found is None:
            return None, [f"{study.name}: row {row.name} is planned when the study begins; give it minutes"]
        pace = paces.of(found, f"{study.name}, {row.name}")
        if isinstance(pace, str):
            return None, [f"{study.name}, {row.name}: {shown(pace)}"]
        total += found.seconds(images, pace)
    return math.ceil(total / 360 * cells / len(study.rows)) / 10, []


class _Paces:
    """Images that are trained in a second, measured once for all rows with the same network, image and batch.

    On a CPU a step has fewer images where they are large, since it takes as long for each of a few as of many: those of
    the scenes' batches take minutes, and more memory than such a machine has.

    Args:
        say: called with a line of news.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._known: dict[str, float | str] = {}
        self.notes: list[str] = []
        self._cpu = not torch.cuda.is_available()

    def of(self, found: Recipe, name: str) -> float | str:
        """Return the images a second, or why there are none.

        Args:
            found: what is trained.
            name: of the row, for the news.
        """
        batch, row = found.batch, replace(found.row, name="", source="")
        if self._cpu:
            batch = min(batch, max(_CPU_IMAGES, _CPU_PIXELS // math.prod(row.size)))
        key = f"{row} {batch} {found.step}"
        if key not in self._known:
            fewer = f" by {batch} of its {found.batch} images a step" if batch < found.batch else ""
            self._say(f"measuring {name}{fewer}")
            (result,) = complexity.measure([row], ["training"], batch_size=batch, step=found.step)["rows"]
            held = result["training"]
            self._known[key] = result["errors"]["training"] if held is None else held["training"]
        if batch < found.batch and not self.notes:
            self.notes.append(
                f"where a step has more than {_CPU_PIXELS:,} pixels, one of fewer images ({_CPU_IMAGES} at least) was "
                "measured on this CPU; whether a whole step fits in its memory was not tried"
            )
        return self._known[key]


def _trained_on(study: Study, data: Datalist) -> int:
    return len(data.split(study.folds_of(data)[0], fold_key=study.fold_key)[0])
