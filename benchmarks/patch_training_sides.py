"""The sides of `benchmarks.patch_training_gpu`: each trains for some counted steps and says what they took."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler

from benchmarks.gpu_device import DEVICE, wait
from benchmarks.gpu_speed import write
from benchmarks.patch_training import network_of
from benchmarks.patch_training_data import cases_of
from medseg.engines.precision import autocast, network_to_channels_last, resolve_precision
from medseg.studies.measures import macs

COMPILED = "nnunet_compiled"

_CLASSES = 3
_PROFILED = 5  # steps
_MOST = 12.0  # seconds after which no further step is warmed up, or counted


@dataclass(frozen=True)
class Setting:
    """What all sides train.

    Attributes:
        patch: edges in voxels.
        batch: patches a step.
        widths: channels of the network, a level each.
        edge: of the drawn volumes; 0 for the hippocampus's own.
        share: of the steps asked for.
        warm: steps that are not counted: the loading processes' batches that lay ready are used up.
    """

    patch: tuple[int, int, int]
    batch: int
    widths: tuple[int, ...]
    edge: int = 0
    share: float = 1.0
    warm: int = 30

    def shrunk(self) -> Setting:
        """Return the same with a small network, and small patches where nnU-Net's plan does not say them."""
        small = tuple(4 * 2**level for level in range(min(len(self.widths), 4)))
        patch = (32, 32, 32) if self.edge else self.patch
        return dataclasses.replace(self, patch=patch, batch=2, widths=small, edge=40 if self.edge else 0, warm=2)

    def described(self) -> dict[str, Any]:
        """Return patch, batch, widths and the multiply-adds of a patch."""
        with torch.device("meta"):
            network = network_of(_CLASSES, self.widths)
        found = {"patch": list(self.patch), "batch": self.batch, "widths": list(self.widths)}
        return found | {"macs": macs(network, (1, 1, *self.patch))}


SETTINGS = {
    "hippocampus": Setting((40, 56, 40), 9, (32, 64, 128, 256)),
    "large": Setting((128, 128, 128), 2, (32, 64, 128, 256, 320), edge=160, share=0.4),
}


class Span:
    """The counted steps of a training.

    Args:
        setting: what is trained.
        steps: to count, unless they take too long.
        profile: whether some more steps follow, whose operations are counted.
    """

    def __init__(self, setting: Setting, steps: int, *, profile: bool = False) -> None:
        self.setting = setting
        self.warm, self.steps = setting.warm, max(2, round(setting.share * steps))
        self.count = 0
        self.first = 0.0
        self.begun: tuple[float, float, float] | None = None
        self.found: dict[str, Any] = {}
        self.profiled = _PROFILED if profile else 0
        self._profile: torch.profiler.profile | None = None

    @property
    def all_steps(self) -> int:
        """Steps at most."""
        return self.warm + self.steps + self.profiled

    def __call__(self, waited: float | None = None) -> bool:
        """End a step.

        Args:
            waited: seconds for data since the first step; ``None`` where there is nothing to wait for.

        Returns:
            Whether the training is over.
        """
        self.count += 1
        now = time.perf_counter()
        self.first = self.first or now
        if self.begun is None:
            if self.count >= self.warm or now - self.first > _MOST:
                wait()
                if DEVICE.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                self.count = 0
                self.begun = (time.perf_counter(), waited or 0.0, processor_seconds())
            return False
        if self._profile is not None:
            return self._profiled()
        if self.count < self.steps and (now - self.begun[0] < _MOST or self.count < 2):
            return False
        wait()
        seconds, used = time.perf_counter() - self.begun[0], processor_seconds() - self.begun[2]
        patches = self.setting.batch * self.count
        self.found = {"seconds": seconds / patches, "steps": self.count, "cpu_seconds": used / patches}
        if waited is not None:
            self.found["data_wait_share"] = (waited - self.begun[1]) / seconds
        if DEVICE.type == "cuda":
            self.found |= {"peak_bytes": torch.cuda.max_memory_allocated(), "device": torch.cuda.get_device_name()}
        if self.profiled:
            self.count = 0
            self._profile = torch.profiler.profile()
            self._profile.start()
        return not self.profiled

    def _profiled(self) -> bool:
        """Count what the last steps asked for, when they are over."""
        assert self._profile is not None
        if self.count < self.profiled:
            return False
        wait()
        self._profile.stop()
        self.found["a_step"] = asked(self._profile.key_averages(), self.count)
        return True

    def over(self, batches: Iterator[Any], step: Callable[[Any], object]) -> dict[str, Any]:
        """Take steps until all are counted, and return what they took."""
        waited = 0.0
        while True:
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            step(batch)
            if self(waited):
                return self.found


def asked(events: Iterable[Any], steps: int) -> dict[str, float]:
    """Return what a step asks for, out of a profile's rows.

    Args:
        events: of the profiler's ``key_averages``.
        steps: that they are of.
    """
    found = dict.fromkeys(("kernels", "copies", "waits", "operations", "device_seconds"), 0.0)
    for event in events:
        if event.device_type.name != "CPU":  # an operation's row has the time of its kernels once more
            found["device_seconds"] += event.self_device_time_total / 1e6
            continue
        key = event.key
        found["kernels"] += event.count * key.startswith(("cudaLaunch", "cuLaunch"))
        found["copies"] += event.count * key.startswith("cudaMemcpy")
        found["waits"] += event.count * key.endswith("Synchronize")
        found["operations"] += event.count * key.startswith("aten::")
    return {name: value / steps for name, value in found.items()}


def processor_seconds() -> float:
    """Return the processor's seconds of this process and of its loading processes."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        try:
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended, or there is no such folder
            continue
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system
    return total


@dataclass(frozen=True)
class Task:
    """One side's work.

    Attributes:
        setting: what is trained.
        work: folder with cases.json.
        steps: to count.
        workers: loading processes.
        profile: whether operations of some steps are counted.
    """

    setting: Setting
    work: Path
    steps: int
    workers: int
    profile: bool = False

    def span(self) -> Span:
        """Return an own count."""
        return Span(self.setting, self.steps, profile=self.profile)

    def network(self) -> nn.Module:
        """Return the network on the device."""
        torch.manual_seed(0)
        return network_of(_CLASSES, self.setting.widths).to(DEVICE).train()


def bare(task: Task, *, precision: str = "auto", channels_last: bool = True, benchmark: bool = False) -> dict[str, Any]:
    """Take steps on tensors that lie on the device.

    Args:
        task: what is trained.
        precision: medseg's, or ``"fp32"``, in which convolutions are TF32 where PyTorch's defaults are kept.
        channels_last: the memory's order.
        benchmark: whether cuDNN tries its algorithms out.
    """
    size = (task.setting.batch, *task.setting.patch)
    network, span = task.network(), task.span()
    x, label = torch.randn(size, device=DEVICE)[:, None], torch.randint(_CLASSES, size, device=DEVICE)
    if channels_last:
        network_to_channels_last(network)
        network.to(memory_format=torch.channels_last_3d)
        x = x.contiguous(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    kind = resolve_precision(precision, DEVICE)

    def step(_: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(kind, DEVICE):
            output = network(x)
        nn.functional.cross_entropy(output.float(), label).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    torch.backends.cudnn.benchmark = benchmark
    try:
        found = span.over(itertools.repeat(None), step)
    finally:
        torch.backends.cudnn.benchmark = False
    del found["data_wait_share"]
    return found


def medseg(task: Task, place: str) -> dict[str, Any]:
    """Train by medseg's trainer, with what a plan asks for; augmented in one place, or where ``auto`` finds."""
    from ignite.engine import Events
    from monai.transforms import NormalizeIntensityd

    from medseg.engines.augmenting import RECORD
    from medseg.engines.patches import PatchDataset
    from medseg.engines.trainer import Trainer
    from medseg.io.load import LoadImagesd
    from medseg.losses.focal_iou import FocalIoULoss
    from medseg.runs.run import Run
    from medseg.transforms.augmentation import augmentation

    patch, span = task.setting.patch, task.span()
    fixed = [LoadImagesd(keys=["image", "label"]), NormalizeIntensityd(keys="image", channel_wise=True)]
    random = [augmentation(patch, mirror_axes=[])]
    entries = cases_of(task.work)["training"]
    dataset = PatchDataset(entries, fixed, patch, random, foreground=0.33, without=[0], fill=0)
    network = task.network()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            1, DEVICE, dataset, network, FocalIoULoss(gamma=0.0), optimizer, Run(folder, tracking=False),
            batch_size=task.setting.batch, iterations=span.all_steps, num_workers=task.workers, augment_on=place,
            clip_grad_norm=1.0, ema_decay=0.99, process_owner=True,
        )  # fmt: skip

        def stepped(engine: Trainer) -> None:
            if span(engine._meter.waited):
                engine.terminate_epoch()

        trainer.add_event_handler(Events.ITERATION_COMPLETED, stepped)
        trainer.run()
        record = Path(folder) / RECORD
        chosen = {"measured": json.loads(record.read_text())} if record.is_file() else {}
    return span.found | chosen


def monai(task: Task) -> dict[str, Any]:
    """Train by a plain script: a cache in memory, loading processes, mixed precision."""
    from monai.data import CacheDataset, DataLoader
    from monai.losses import DiceCELoss
    from monai.transforms import Compose, SpatialPadd

    from benchmarks.hippocampus_monai import LEARNING_RATE, augmentation, endless, fixed

    keys, patch = ["image", "label"], task.setting.patch
    steps = Compose([*fixed(keys), SpatialPadd(keys=keys, spatial_size=patch), *augmentation(patch)])
    dataset = CacheDataset(cases_of(task.work)["training"], steps, num_workers=4, progress=False)
    network, span, loss_function = task.network(), task.span(), DiceCELoss(to_onehot_y=True, softmax=True)
    # one long epoch: between short ones, of few cases, loading processes would stand idle
    drawn = RandomSampler(dataset, replacement=True, num_samples=task.setting.batch * span.all_steps)
    loader = DataLoader(
        dataset, batch_size=task.setting.batch, sampler=drawn, num_workers=task.workers,
        persistent_workers=task.workers > 0, pin_memory=DEVICE.type == "cuda",
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)

    def step(batch: Mapping[str, Tensor]) -> None:
        image, label = (batch[key].to(DEVICE, non_blocking=True) for key in keys)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            output = network(image)
        loss_function(output.float(), label).backward()
        optimizer.step()

    return span.over(endless(loader), step)


def nnunet(task: Task) -> dict[str, Any]:
    """Train by nnU-Net's trainer, without deep supervision; cuDNN tries out, as in its own command."""
    from benchmarks import hippocampus_nnunet

    torch.backends.cudnn.benchmark = True
    plan = hippocampus_nnunet.fitted(task.setting.widths, task.setting.batch)
    trainer = hippocampus_nnunet.trainer_of(plan, 0, deep_supervision=False, device=DEVICE.type)
    assert tuple(trainer.configuration_manager.patch_size) == task.setting.patch
    return task.span().over(iter(lambda: next(trainer.dataloader_train), None), trainer.train_step)


SIDES: dict[str, Callable[[Task], dict[str, Any]]] = {
    "bare, bf16, channels-last": bare,
    "bare, bf16, channels-last, cudnn.benchmark": lambda task: bare(task, benchmark=True),
    "bare, bf16": lambda task: bare(task, channels_last=False),
    "bare, fp32": lambda task: bare(task, precision="fp32", channels_last=False),
    "medseg, auto": lambda task: medseg(task, "auto"),
    "medseg, loader": lambda task: medseg(task, "loader"),
    "medseg, device": lambda task: medseg(task, "device"),
    "monai": monai,
    "nnunet": nnunet,
    COMPILED: nnunet,
}
"""By name; each runs in a process of its own."""

GROUPS: dict[str, tuple[str, ...]] = {
    "bare": ("bare, bf16",),
    "medseg": ("medseg, auto", "medseg, loader", "medseg, device"),
}
"""Short names on the command line; the bare step is that in the layout which the trainer has on a GPU."""


def run_side(side: str, task: Task, json_path: Path) -> None:
    """Run a side, and write what it took.

    Args:
        side: by name.
        task: what it trains.
        json_path: where to.
    """
    try:
        row = SIDES[side](task)
    except Exception as error:  # it is said, and does not stop the others
        row = {"error": f"{type(error).__name__}: {error}"[:300]}
    write(json_path, row)
