"""What the trainer takes of a step, and whether loaders keep up with a device: part of `benchmarks.gpu`.

Every figure is images a second of one network (the paper's U-Net, batch 8 of 256 x 256, the trainer's own precision):
a bare loop over tensors that lie on the device, a bare loop that brings them there, the trainer on tensors in memory,
and on real crops: kept in memory, read anew, augmented, with and without loading processes. Loaders are timed alone
too. Then patches with nnU-Net's augmentation, by the loader and on the device (`augment_on`), of the sizes in
`PATCHES`; ``auto`` says what it measured and chose.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.transforms import RandAffined, RandFlipd, RandRotate90d, ScaleIntensityRanged

from benchmarks.gpu_device import DEVICE, wait
from benchmarks.trainer import InMemory
from medseg.data.datalist import Datalist
from medseg.engines.augmenting import RECORD
from medseg.engines.loading import SegmentationDataset, make_loader
from medseg.engines.patches import PatchDataset
from medseg.engines.precision import autocast, network_to_channels_last, resolve_precision
from medseg.engines.trainer import Trainer
from medseg.inferers.memory_format import to_memory_format
from medseg.io.load import LoadImagesd
from medseg.losses.focal_iou import FocalIoULoss
from medseg.networks.unet import UNet
from medseg.runs.run import Run
from medseg.transforms.augmentation import augmentation as nnunets

_KEYS = ["image", "label"]
BATCH = 8


def augmentation() -> list[Any]:
    """Return what a recipe of today does to a crop."""
    return [
        RandFlipd(keys=_KEYS, prob=0.5, spatial_axis=0),
        RandRotate90d(keys=_KEYS, prob=0.75),
        RandAffined(
            keys=_KEYS, prob=0.5, rotate_range=0.3, scale_range=[0.15, 0.15], mode=["bilinear", "nearest"],
            padding_mode="reflection",
        ),
    ]  # fmt: skip


def _network(channels: list[int], dims: int = 2, inputs: int = 1) -> tuple[UNet, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = UNet(dims, inputs, 5, channels=channels).to(DEVICE)
    network_to_channels_last(network)
    return network, torch.optim.Adam(network.parameters(), lr=1e-4)


def bare(samples: list[dict[str, torch.Tensor]], channels: list[int], *, on_device: bool) -> float:
    """Return images a second of a plain loop, from after its second step to its end."""
    network, optimizer = _network(channels)
    loss_function, precision = FocalIoULoss(), resolve_precision("auto", DEVICE)
    batches = [samples[first : first + BATCH] for first in range(0, len(samples), BATCH)]
    stacked = [tuple(torch.stack([s[key] for s in batch]) for key in _KEYS) for batch in batches]
    if on_device:
        stacked = [tuple(part.to(DEVICE) for part in pair) for pair in stacked]
    elif DEVICE.type == "cuda":
        stacked = [tuple(part.pin_memory() for part in pair) for pair in stacked]
    for number, pair in enumerate(stacked):
        image, label = (part.to(DEVICE, non_blocking=True) for part in pair)
        optimizer.zero_grad()
        with autocast(precision, DEVICE):
            output = network(to_memory_format(image))
        loss_function(output.float(), label).backward()
        optimizer.step()
        if number == 1:
            wait()
            start = time.perf_counter()
    wait()
    return BATCH * (len(stacked) - 2) / (time.perf_counter() - start)


def trained(
    dataset: SegmentationDataset, channels: list[int], *, dims: int = 2, inputs: int = 1, batch: int = BATCH,
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return images a second of one epoch of the trainer, from after its second step to its last."""
    network, optimizer = _network(channels, dims, inputs)
    stamps: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            1, DEVICE, dataset, network, FocalIoULoss(), optimizer, Run(folder, tracking=False), batch_size=batch,
            **options,
        )  # fmt: skip
        steps = len(trainer.data_loader)

        def note(engine: Trainer) -> None:
            if engine.state.iteration in (2, steps):
                wait()
                stamps["first" if engine.state.iteration == 2 else "last"] = time.perf_counter()

        trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
        trainer.run()
        ended = time.perf_counter()
        measured = Path(folder) / RECORD
        chosen = {"measured": json.loads(measured.read_text())} if measured.is_file() else {}
    seconds = stamps["last"] - stamps["first"]
    speed = batch * (steps - 2) / seconds
    return {"images_per_second": speed, "end_of_run_seconds": ended - stamps["last"], **chosen}


@dataclass(frozen=True)
class Patches:
    """What is trained on patches.

    Attributes:
        patch: edges.
        inputs: channels of the image.
        batch: patches a step.
        channels: of the U-Net.
        case: edges of the cases that they are cut from.
    """

    patch: tuple[int, ...]
    inputs: int
    batch: int
    channels: tuple[int, ...]
    case: tuple[int, ...]


PATCHES = {
    "2D": Patches((160, 160), 3, 4, (16, 32, 64, 128, 256), (512, 512)),
    "3D": Patches((96, 96, 96), 1, 2, (32, 64, 128, 256), (160, 160, 160)),
}
TINY = {"2D": Patches((16, 16), 3, 2, (4, 8), (24, 24))}


def _case(kind: Patches, entry: dict[str, int]) -> dict[str, torch.Tensor]:
    numbers = torch.Generator().manual_seed(entry["number"])
    label = torch.randint(5, (1, *kind.case), generator=numbers).byte()
    return {"image": torch.randn((kind.inputs, *kind.case), generator=numbers), "label": label}


def patched(kind: Patches, steps: int, *, tries: bool = False, **options: Any) -> dict[str, Any]:
    """Return patches a second of the trainer with nnU-Net's augmentation, cuDNN's benchmark mode on or off."""
    torch.backends.cudnn.benchmark = tries
    cases = [{"number": number} for number in range(8)]
    dataset = PatchDataset(cases, partial(_case, kind), kind.patch, [nnunets(kind.patch)], fill=0)
    dims, inputs, batch = len(kind.patch), kind.inputs, kind.batch
    return trained(dataset, list(kind.channels), dims=dims, inputs=inputs, batch=batch, iterations=steps, **options)


def patch_rows(kinds: dict[str, Patches], workers: int, steps: int) -> dict[str, Callable[[], Any]]:
    """Return what is measured of patches, by name."""
    work: dict[str, Callable[[], Any]] = {}
    for name, kind in kinds.items():
        for number in (0, workers):
            by = f", {number} processes" if number else ""
            for place, where in (("loader", "by the loader"), ("device", "on the device"), ("auto", "as auto chose")):
                if place != "auto" or number:
                    row = f"trainer, {name} patches augmented {where}{by}"
                    work[row] = partial(patched, kind, steps, num_workers=number, augment_on=place)
        work[f"trainer, {name} patches augmented on the device, cuDNN tries"] = partial(
            patched, kind, steps, augment_on="device", tries=True
        )
    return work


def loaded(dataset: SegmentationDataset, workers: int) -> float:
    """Return images a second of a loader alone, after a first pass that fills caches and starts processes."""
    loader = make_loader(dataset, BATCH, shuffle=True, num_workers=workers, pin_memory=DEVICE.type == "cuda")
    for _ in loader:
        pass
    start = time.perf_counter()
    count = float(sum(batch["image"].shape[0] for batch in loader))
    return count / (time.perf_counter() - start)


_WORKERS = 8  # loading processes


def measure_engine(options: argparse.Namespace) -> dict[str, Any]:
    """Return images a second by kind; what fails says why."""
    channels = [4, 8] if options.dry_run else [64, 128, 256, 512, 1024]
    count, edge = (3 * BATCH, 32) if options.dry_run else (64 * BATCH, 256)
    tensors = [
        {"image": torch.rand(1, edge, edge), "label": torch.randint(5, (1, edge, edge)).byte()} for _ in range(count)
    ]
    data = Datalist.load(options.data / "datalist.json")
    entries = [data.absolute(entry) for entry in data.training]
    entries = [{key: entry[key] for key in _KEYS} for entry in (entries * (count // len(entries) + 1))[:count]]
    fixed = [LoadImagesd(keys=_KEYS), ScaleIntensityRanged(keys="image", a_min=0, a_max=255, b_min=0, b_max=1)]

    def crops(*, cache: bool = True, augment: bool = False) -> SegmentationDataset:
        return SegmentationDataset(entries, fixed, augmentation() if augment else None, cache=cache)

    workers = _WORKERS
    work: dict[str, Callable[[], Any]] = {
        "bare loop, tensors on the device": lambda: bare(tensors, channels, on_device=True),
        "bare loop, tensors in memory": lambda: bare(tensors, channels, on_device=False),
        "trainer, tensors in memory": lambda: trained(InMemory(tensors), channels),
        "trainer, crops kept in memory": lambda: trained(crops(), channels),
        "trainer, crops kept and augmented": lambda: trained(crops(augment=True), channels),
        f"trainer, crops kept and augmented, {workers} processes": lambda: trained(
            crops(augment=True), channels, num_workers=workers
        ),
        f"trainer, crops read anew, {workers} processes": lambda: trained(
            crops(cache=False), channels, num_workers=workers
        ),
        "loader alone, crops kept": lambda: loaded(crops(), 0),
        "loader alone, crops read anew": lambda: loaded(crops(cache=False), 0),
        "loader alone, crops kept and augmented": lambda: loaded(crops(augment=True), 0),
        f"loader alone, crops kept and augmented, {workers} processes": lambda: loaded(crops(augment=True), workers),
    }
    work |= patches_of(options, workers)
    if options.dry_run:  # each function once
        names = ("bare loop, tensors in memory", "trainer, tensors in memory", "loader alone, crops kept and augmented")
        work = {name: work[name] for name in (*names, "trainer, 2D patches augmented on the device")}
    else:
        trained(InMemory(tensors[: 4 * BATCH]), channels)  # loads libraries
    rows = measured(work)
    compared = {
        "bare_over_trainer": ("bare loop, tensors in memory", "trainer, tensors in memory"),
        "trainer_synthetic_over_real": ("trainer, tensors in memory", "trainer, crops kept in memory"),
    }
    ratios = ratios_of(rows, compared) | ratios_of(rows, _patches_compared(workers))
    return {"network": "U-Net", "channels": channels, "batch": BATCH, "images": count, "rows": rows, "ratios": ratios}


def patches_of(options: argparse.Namespace, workers: int) -> dict[str, Callable[[], Any]]:
    """Return what is measured of patches, by name; tiny for a dry run."""
    return patch_rows(TINY if options.dry_run else PATCHES, workers, 4 if options.dry_run else 30)


def measure_patches(options: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> None:
    """Measure training on patches alone, which needs no data.

    Args:
        options: with ``dry_run``.
        keep: is handed all rows after each.
    """
    work = patches_of(options, _WORKERS)
    measured(work, lambda rows: keep({"rows": rows, "ratios": ratios_of(rows, _patches_compared(_WORKERS))}))


def measured(
    work: dict[str, Callable[[], Any]], keep: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Measure row by row; what fails says why."""
    rows: dict[str, Any] = {}
    for name, measure in work.items():
        try:
            value = measure()
            rows[name] = value if isinstance(value, dict) else {"images_per_second": value}
        except Exception as error:
            rows[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
        if keep is not None:
            keep(rows)
    return rows


def _patches_compared(workers: int) -> dict[str, tuple[str, str]]:
    compared = {}
    for kind in PATCHES:
        for name, by in (("", ""), (f"_{workers}_processes", f", {workers} processes")):
            on, over = (f"trainer, {kind} patches augmented {w}{by}" for w in ("on the device", "by the loader"))
            compared[f"{kind}_on_the_device_over_by_the_loader{name}"] = (on, over)
    return compared


def ratios_of(rows: dict[str, Any], compared: dict[str, tuple[str, str]]) -> dict[str, float]:
    """Return ratios of images a second, of rows that have them."""
    ratios = {}
    for ratio, pair in compared.items():
        one, two = (rows.get(name, {}).get("images_per_second") for name in pair)
        if one and two:
            ratios[ratio] = one / two
    return ratios
