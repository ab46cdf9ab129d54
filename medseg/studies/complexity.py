"""Measure what networks cost: those of the package, or the rows of a paper's table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from medseg.bundle.discovery import UnknownNetworkError, find, load, networks
from medseg.engines.failures import out_of_memory
from medseg.engines.memory import keep_freed_memory
from medseg.engines.precision import resolve_precision
from medseg.errors import MedsegError
from medseg.studies.isolated import isolated
from medseg.studies.measures import StepSettings, TrainingStep, macs, parameters, peak_bytes
from medseg.studies.paper_figures import ROWS, Row

MEASURES = ("parameters", "macs", "memory", "training", "throughput")
QUICK = ("parameters", "macs")
"""Measures that compute nothing."""
IN_CHANNELS, OUT_CHANNELS = 1, 5  # what LFA U-Net's paper compares networks at
EDGES = {2: 256, 3: 64}  # of the image in pixels, by number of axes
Attempt = tuple[Any, str | None]
BATCH_SIZE = 2  # some networks normalise one value a channel and image, which takes two images


class ComplexityError(MedsegError):
    """A question that cannot be answered: an unknown network, table or device, or options that contradict."""


def choose_rows(
    names: Sequence[str] = (),
    *,
    table: str | None = None,
    size: Sequence[int] | None = None,
    spatial_dims: int | None = None,
    in_channels: int | None = None,
    out_channels: int | None = None,
) -> list[Row]:
    """Return what to measure: networks as their constructors have them by default, or rows of a paper's table.

    Args:
        names: of networks (class, module or dotted path); all if none is given.
        table: of a paper; see `medseg.studies.paper_figures`.
        size: of the image in pixels, an edge for each axis or one for all; by default 256 in 2D, 64 in 3D, or the
            table's.
        spatial_dims: 2 or 3; by default as many as there are edges, or 2.
        in_channels: channels of the image (1); not for a table, which says it.
        out_channels: classes (5); not for a table.

    Raises:
        ComplexityError: if nothing fits, or if options contradict.
    """
    edges = _edges(size, spatial_dims)
    try:
        found = find(names, networks()) if names else networks()
    except UnknownNetworkError as error:
        raise ComplexityError(str(error)) from error
    if table is None:
        channels = in_channels or IN_CHANNELS, out_channels or OUT_CHANNELS
        return [Row(network.name, network.target, *channels, edges) for network in found]
    if in_channels or out_channels or spatial_dims:
        raise ComplexityError(f"table {table} says channels and dimensions itself; leave those options out")
    rows = [row for row in ROWS if row.table == table]
    if not rows:
        tables = dict.fromkeys(row.table for row in ROWS)
        raise ComplexityError(f"there is no table {table!r}; choose from {', '.join(tables)}")
    targets = {network.target for network in found}
    rows = [row for row in rows if not names or row.target in targets]
    if not rows:
        raise ComplexityError(f"table {table} has no row of {', '.join(names)}; leave the table or the names out")
    return [replace(row, size=edges) for row in rows] if size is not None else rows


def _edges(size: Sequence[int] | None, spatial_dims: int | None) -> tuple[int, ...]:
    """Return an edge for each axis."""
    given = tuple(size or ())
    dims = spatial_dims or (len(given) if len(given) > 1 else 2)
    if dims not in EDGES:
        raise ComplexityError(f"the image has {dims} axes; networks take 2 or 3")
    if len(given) not in (0, 1, dims):
        raise ComplexityError(f"size {' '.join(map(str, given))} is no image of {dims} axes; give 1 or {dims} edges")
    return given if len(given) == dims else (given or (EDGES[dims],)) * dims


def measure(
    rows: Sequence[Row],
    measures: Sequence[str] = QUICK,
    *,
    batch_size: int = BATCH_SIZE,
    device: str | None = None,
    step: StepSettings | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, Any]:
    """Measure networks one by one; one that fails does not stop the others.

    What computes is measured in a process of a network's own, the memory first.

    Args:
        rows: what to measure.
        measures: some of `MEASURES`.
        batch_size: images at a time, for memory and speed.
        device: for memory and speed; by default a GPU where there is one.
        step: how a training takes its steps, for memory and speed.
        progress: called with what is done and what there is in all.

    Returns:
        ``settings`` and ``rows``, ready for JSON. A row has the fields of `Row` (the paper's under ``paper``) and a
        key for each measure: ``parameters``; ``macs`` of one image; ``memory_bytes``, the peak of a training step;
        ``training``, the images/s of it; ``throughput``, images/s ``forward`` and ``training``. What failed is
        ``None``, its reason under ``errors``.

    Raises:
        ComplexityError: if a measure or the device is unknown.
    """
    unknown = [name for name in measures if name not in MEASURES]
    if unknown:
        raise ComplexityError(f"there is no measure {unknown[0]!r}; choose from {', '.join(MEASURES)}")
    if batch_size < 1:
        raise ComplexityError(f"batch_size is {batch_size}; it must be at least 1")
    place = _device(device)
    taken = step or StepSettings()
    taken = replace(taken, precision=resolve_precision(taken.precision, place))
    results, total = [], len(rows) * len(measures)
    for number, row in enumerate(rows):
        record, done = _describe(row), number * len(measures)
        for found in _attempts(measures, row, batch_size, place, taken):
            if progress:
                progress(done, total)
            done += len(found)
            for name, (value, error) in found.items():
                record["memory_bytes" if name == "memory" else name] = value
                if error:
                    record["errors"][name] = error
        results.append(record)
    if progress:
        progress(total, total)
    return {"settings": _settings(measures, batch_size, place, taken), "rows": results}


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ComplexityError(f"there is no device {name!r}; choose cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise ComplexityError(f"the device is {device}; cpu and cuda can be measured")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ComplexityError(f"torch finds {torch.cuda.device_count()} GPUs, the device is {device}; choose cpu")
    return device


def _describe(row: Row) -> dict[str, Any]:
    figures = {"parameters": row.paper_parameters, "macs": row.paper_macs, "flops_as_printed": row.paper_flops}
    return {
        "name": row.name,
        "target": row.target,
        "kwargs": dict(row.kwargs),
        "in_channels": row.in_channels,
        "out_channels": row.out_channels,
        "size": list(row.size),
        "paper": {"source": row.source} | {key: float(value) if value else None for key, value in figures.items()}
        if row.source
        else None,
        "errors": {},
    }


def _settings(measures: Sequence[str], batch_size: int, device: torch.device, step: StepSettings) -> dict[str, Any]:
    settings: dict[str, Any] = {"measures": list(measures)}
    if set(measures) - set(QUICK):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        tf32 = device.type == "cuda" and torch.backends.cudnn.allow_tf32
        settings |= {"batch_size": batch_size, "device": str(device), "device_name": name}
        layout = "channels_last" if device.type == "cpu" else "channels_last, volumes plain"
        layout = layout if step.channels_last else "plain"
        settings |= {"threads": torch.get_num_threads(), "memory_format": layout, "optimizer": "Adam"}
        full = "float32, convolutions in TF32" if tf32 else "float32"
        settings["precision"] = full if step.precision == "fp32" else step.precision
        if step.compile:
            settings["compile"] = True
        if step.accumulation_steps > 1:
            settings["accumulation_steps"] = step.accumulation_steps
    return settings


def _attempts(
    measures: Sequence[str], row: Row, batch_size: int, device: torch.device, step: StepSettings
) -> Iterator[dict[str, Attempt]]:
    """Yield measures, those together that take a process: a value and ``None``, or ``None`` and why there is none."""
    for name in measures:
        if name in _QUICK:
            try:
                yield {name: (_QUICK[name](row), None)}
            except Exception as error:  # whatever is wrong with one network, the others are measured
                yield {name: (None, f"{type(error).__name__}: {error}")}
    slow = [name for name in _SLOW if name in measures]
    if not slow:
        return
    try:
        yield isolated(_slow, slow, row, batch_size, str(device), step)
    except Exception as error:
        yield dict.fromkeys(slow, (None, f"{type(error).__name__}: {error}"))


def _slow(measures: Sequence[str], row: Row, batch_size: int, device: str, step: StepSettings) -> dict[str, Attempt]:
    """Do what a process of its own is for; errors go back as text, since not all of them can be pickled."""
    found: dict[str, Attempt] = {}
    for name in measures:
        try:
            found[name] = _SLOW[name](row, batch_size, torch.device(device), step), None
        except Exception as error:
            found[name] = None, f"{type(error).__name__}: {error}"
            if out_of_memory(error):
                edges = " x ".join(map(str, row.size))
                where = f"in the memory of {device}"
                found[name] = None, f"a batch of {batch_size}, {edges} pixels, does not fit {where}; try a smaller one"
    return found


def build(row: Row, device: torch.device | str) -> nn.Module:
    """Construct the network of a row on a device."""
    network = load(row.target)
    with torch.device(device):
        return network(len(row.size), row.in_channels, row.out_channels, **row.kwargs)


def _parameters(row: Row) -> int:
    return parameters(build(row, "meta"))


def _macs(row: Row) -> int:
    return macs(build(row, "meta"), (1, row.in_channels, *row.size))


def training_step(row: Row, batch_size: int, device: torch.device, step: StepSettings | None = None) -> TrainingStep:
    """Return a step of a network on drawn images."""
    images = torch.rand(batch_size, row.in_channels, *row.size, device=device)
    return TrainingStep(build(row, "cpu").to(device), images, step)


def _memory(row: Row, batch_size: int, device: torch.device, step: StepSettings) -> int:
    def work() -> None:
        made = training_step(row, batch_size, device, step)
        made()
        made()  # from here on the optimiser's state is there in the forward pass too

    return peak_bytes(work, device)


def _training(row: Row, batch_size: int, device: torch.device, step: StepSettings) -> dict[str, float]:
    keep_freed_memory(device)
    seconds, runs = training_step(row, batch_size, device, step).seconds()
    return {"training": batch_size * step.accumulation_steps / seconds, "training_runs": runs}


def _throughput(row: Row, batch_size: int, device: torch.device, step: StepSettings) -> dict[str, float]:
    keep_freed_memory(device)
    seconds, runs = training_step(row, batch_size, device, step).forward_seconds()
    return {
        "forward": batch_size / seconds,
        "forward_runs": runs,
        **_training(row, batch_size, device, step),
    }


_QUICK: Mapping[str, Callable[[Row], int]] = {"parameters": _parameters, "macs": _macs}
_SLOW: Mapping[str, Callable[[Row, int, torch.device, StepSettings], Any]] = {
    "memory": _memory,
    "training": _training,
    "throughput": _throughput,
}
