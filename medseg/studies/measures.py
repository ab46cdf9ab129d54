"""What a network costs: parameters, multiply-adds, peak memory, seconds."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from medseg.engines.precision import autocast, network_to_channels_last, network_to_device, resolve_precision
from medseg.errors import MedsegError
from medseg.inferers.memory_format import to_memory_format

_WARM_UP = 2
_LEAST, _MOST, _ENOUGH_SECONDS = 3, 20, 5.0
_LONG_SECONDS = 30.0
_NORMS = {functional.batch_norm, functional.instance_norm, functional.group_norm, functional.layer_norm}
_CPU = 0  # number of the device type in torch's traces


def parameters(network: nn.Module) -> int:
    """Return the number of learned values; running statistics are not among them."""
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network: nn.Module, *shapes: Sequence[int]) -> int:
    """Count the multiply-adds of one forward pass in evaluation, without computing.

    Those of convolutions, linear layers, matrix products and attention are counted, half of what torch's counter
    gives. Element-wise work, normalisation, pooling and interpolation are not.

    Args:
        network: on the ``meta`` device.
        shapes: of its inputs.

    Raises:
        ValueError: if the network is not on the ``meta`` device.
    """
    devices = {str(tensor.device) for tensor in (*network.parameters(), *network.buffers())} - {"meta"}
    if devices:
        raise MedsegError(f"the network is on {', '.join(devices)}; build it under torch.device('meta')")
    inputs = [torch.empty(*shape, device="meta") for shape in shapes]
    with torch.no_grad(), FlopCounterMode(display=False) as counter, _WithoutNorms():
        network.eval()(*inputs)
    return int(counter.get_total_flops()) // 2


class _WithoutNorms(TorchFunctionMode):
    """Normalisations give what they get: nothing of them is counted, and on ``meta`` they take half of the time."""

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if args and function in _NORMS else function(*args, **(kwargs or {}))


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Return how much memory tensors take at most while ``work`` runs, above what they took before.

    Counted is what is asked of torch's allocator: tensors and the scratch memory of torch's own kernels, not that of
    libraries (oneDNN) nor the process itself.

    Args:
        work: called once.
        device: where it allocates, CPU or CUDA.

    Raises:
        ValueError: if the device keeps no such record.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    if device.type != "cpu":
        raise MedsegError(f"memory is measured on cpu and cuda; the device is {device}")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        record.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [e for e in events if e["name"] == "[memory]" and e["args"]["Device Type"] == _CPU]
    if not changes:
        return 0
    first = min(changes, key=lambda event: float(event["ts"]))["args"]
    before = first["Total Allocated"] - first["Bytes"]
    return int(max(event["args"]["Total Allocated"] for event in changes) - before)


def seconds(work: Callable[[], object], device: torch.device) -> tuple[float, int]:
    """Time work that has been warmed up.

    Args:
        work: called twice uncounted, then 3 to 20 times, fewer the longer it takes; once each where the first call took
            more than 5 seconds, of which warming up is little, and once in all where it took more than 30 on a CPU.
        device: waited for where it computes by itself.

    Returns:
        Median in seconds and the number of runs.
    """

    def once() -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    first = once()
    if first > _LONG_SECONDS and device.type == "cpu":
        return first, 1
    if first > _ENOUGH_SECONDS:
        return once(), 1
    for _ in range(_WARM_UP - 1):
        once()
    times: list[float] = []
    while len(times) < _LEAST or (len(times) < _MOST and sum(times) < _ENOUGH_SECONDS):
        times.append(once())
    return statistics.median(times), len(times)


@dataclass(frozen=True)
class StepSettings:
    """How a training takes its steps, as far as it costs: options of a bundle by their names.

    Args:
        precision: of the forward pass, see `resolve_precision`.
        channels_last: whether activations are kept channels-last.
        compile: whether the network is compiled.
        accumulation_steps: batches a step of the optimiser.
    """

    precision: str = "fp32"
    channels_last: bool = True
    compile: bool = False
    accumulation_steps: int = 1

    @classmethod
    def names(cls) -> list[str]:
        """Return the options' names."""
        return [each.name for each in fields(cls)]

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> StepSettings:
        """Return those of a training; what the options do not name is as a training has it by itself.

        Args:
            options: by name, others among them.
        """
        named = {name: options[name] for name in cls.names() if options.get(name) is not None}
        return cls(**{"precision": "auto", **named})


class TrainingStep:
    """Forward and backward of batches, and one step of Adam, on the same images each time.

    The loss is the mean of the squared outputs, so that the figures are the network's. Of accumulated batches a call
    takes two: the second has the gradients of those before it in memory, as each later one has.

    Args:
        network: on the device of the image; put into the memory format, and into training.
        image: batch ``(B, C, *S)``.
        settings: of the step.
    """

    def __init__(self, network: nn.Module, image: Tensor, settings: StepSettings | None = None) -> None:
        self.settings = settings or StepSettings()
        network_to_device(network)
        if self.settings.channels_last:
            network_to_channels_last(network)
            image = to_memory_format(image)
        self.image = image
        self.precision = resolve_precision(self.settings.precision, image.device)
        self.optimizer = torch.optim.Adam(network.parameters())
        network.train()
        self.network = cast(nn.Module, torch.compile(network)) if self.settings.compile else network

    def __call__(self) -> None:
        """Train one step."""
        self.optimizer.zero_grad(set_to_none=True)
        for _ in range(min(self.settings.accumulation_steps, 2)):
            self.batch()
        self.optimizer.step()

    def batch(self) -> None:
        """Go forward and backward through one batch."""
        with autocast(self.precision, self.image.device):
            outputs = self.network(self.image)
        values = [outputs] if isinstance(outputs, Tensor) else list(outputs.values())
        loss = torch.stack([value.float().square().mean() for value in values]).sum()
        loss.backward()  # type: ignore[no-untyped-call]

    def forward(self) -> None:
        """Predict one batch."""
        with torch.inference_mode(), autocast(self.precision, self.image.device):
            self.network(self.image)

    def forward_seconds(self) -> tuple[float, int]:
        """Time a batch's prediction, see `seconds`."""
        self.network.eval()
        found = self._seconds(self.forward)
        self.network.train()
        return found

    def seconds(self) -> tuple[float, int]:
        """Time a step with all of its batches, see `seconds`; of several, each has the time of one."""
        if self.settings.accumulation_steps == 1:
            return self._seconds(self)
        self.optimizer.zero_grad(set_to_none=True)
        batch, runs = self._seconds(self.batch)
        update, _ = seconds(self.optimizer.step, self.image.device)
        return self.settings.accumulation_steps * batch + update, runs

    def _seconds(self, work: Callable[[], object]) -> tuple[float, int]:
        if self.settings.compile:
            work()  # compiles, which is no step
        return seconds(work, self.image.device)
