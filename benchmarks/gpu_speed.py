"""How fast each network of the package trains and predicts on this device, and what loader and trainer take of it.

    python -m benchmarks.gpu_speed networks --json FILE --seconds 240
    python -m benchmarks.gpu_speed engine --json FILE --data DATA

`benchmarks.gpu` calls it, alone on the device. The file is written after every row; what is in it is not done again.
A step is forward, mean of the squared outputs, backward and Adam, on one batch that is there already. The operations
are twice the multiply-adds that `medseg.studies.measures.macs` counts, three times over for a training step; the
share of a peak (MFU) is that of NVIDIA's data sheet for dense products, beside what one of 8192 x 8192 reaches here.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_device import DEVICE, wait
from benchmarks.gpu_rows import MEASURED, Measured
from medseg.atomic import atomic_write
from medseg.engines.precision import autocast, network_to_channels_last
from medseg.studies.measures import macs, parameters

PEAKS = {"H100 80GB HBM3": {"bf16": 989.4e12, "fp32": 494.7e12}, "H200": {"bf16": 989.4e12, "fp32": 494.7e12}}
_FORMATS = {"fp32": ("fp32", False), "bf16": ("bf16", False), "bf16 channels-last": ("bf16", True)}
_LEAST, _MOST = 3, 20


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read JSON; what is not there is empty."""
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def timed(work: Callable[[], object], seconds: float) -> float:
    """Return the median seconds of some work that is repeated for some seconds, after three runs that do not count."""
    for _ in range(3):
        work()
    wait()
    times: list[float] = []
    while len(times) < _LEAST or (len(times) < _MOST and sum(times) < seconds):
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ceilings(edge: int, seconds: float) -> dict[str, float]:
    """Return operations a second of a square matrix product and bytes a second of a copy, read and written."""
    found = {}
    for name, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        one, two = (torch.randn(edge, edge, device=DEVICE, dtype=kind) for _ in range(2))
        found[f"matmul_{name}_flops"] = 2 * edge**3 / timed(lambda a=one, b=two: a @ b, seconds)  # type: ignore[misc]
    source = torch.randn(edge * edge * 8, device=DEVICE)
    target = torch.empty_like(source)
    found["copy_bytes"] = 2 * source.numel() * 4 / timed(lambda: target.copy_(source), seconds)
    return found


_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Work:
    """A network, its images, and what can be timed of it."""

    def __init__(self, row: Measured, form: str, *, compiled: bool = False) -> None:
        torch.manual_seed(0)
        self.precision, channels_last = _FORMATS[form]
        with DEVICE:
            network = resolve_name(row.path)(len(row.size), row.in_channels, row.out_channels, **row.kwargs)
        image = torch.rand(row.batch, row.in_channels, *row.size, device=DEVICE)
        if channels_last:
            network_to_channels_last(network)  # of volumes, what normalises alone: the layout is asked for below
            layout = _LAYOUTS[image.ndim]
            network.to(memory_format=layout)
            image = image.contiguous(memory_format=layout)
        self.image = image
        self.optimizer = torch.optim.Adam(network.parameters())
        self.network: nn.Module = network
        if compiled:
            self.network.compile()

    def step(self) -> None:
        """Train one step."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.precision, DEVICE):
            outputs = self.network(self.image)
        values = [outputs] if isinstance(outputs, Tensor) else list(outputs.values())
        torch.stack([value.float().square().mean() for value in values]).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def predict(self) -> None:
        """Predict once."""
        with torch.inference_mode(), autocast(self.precision, DEVICE):
            self.network(self.image)


def measure(row: Measured, seconds: float) -> dict[str, Any]:
    """Return parameters, multiply-adds, and by format images a second, memory and share of the peak."""
    with torch.device("meta"):
        empty = resolve_name(row.path)(len(row.size), row.in_channels, row.out_channels, **row.kwargs)
    result: dict[str, Any] = {"size": list(row.size), "batch": row.batch, "parameters": parameters(empty)}
    result |= {"macs": macs(empty, (1, row.in_channels, *row.size)), "formats": {}}
    for form in _FORMATS:
        try:
            result["formats"][form] = _of(Work(row, form), row, result["macs"], seconds)
        except Exception as error:  # one that fails does not stop the others
            result["formats"][form] = {"error": f"{type(error).__name__}: {error}"[:300]}
        gc.collect()
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
    return result


def _of(work: Work, row: Measured, multiply_adds: int, seconds: float) -> dict[str, Any]:
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    work.network.train()
    step = timed(work.step, seconds)
    memory = torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else None
    work.network.eval()
    forward = timed(work.predict, seconds / 2)
    flops = {"training": 6 * multiply_adds * row.batch / step, "inference": 2 * multiply_adds * row.batch / forward}
    found: dict[str, Any] = {"training_images_per_second": row.batch / step, "training_step_seconds": step}
    found |= {"inference_images_per_second": row.batch / forward, "training_peak_bytes": memory}
    peak = next((value for name, value in PEAKS.items() if DEVICE.type == "cuda" and name in _device()), None)
    if peak is not None:
        found |= {f"{name}_mfu": value / peak[work.precision] for name, value in flops.items()}
    return found


def _device() -> str:
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a lock between processes."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def compiled(row: Measured, seconds: float, lock: str, answer: Any) -> None:
    """Send what ``torch.compile`` makes of a network; several compile at a time, one at a time is timed."""
    try:
        started = time.perf_counter()
        work = Work(row, "bf16 channels-last", compiled=True)
        work.network.train()
        work.step()
        wait()
        first = time.perf_counter() - started
        with alone(Path(lock)):
            step = timed(work.step, seconds)
        answer.send({"first_step_seconds": first, "training_images_per_second": row.batch / step})
    except Exception as error:
        answer.send({"error": f"{type(error).__name__}: {error}"[:300]})


def compile_rows(rows: list[Measured], seconds: float, limit: float) -> dict[str, Any]:
    """Return what each compiled network reaches, each in a process of its own that may take ``limit`` seconds."""
    context = multiprocessing.get_context("spawn")
    found, running = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=compiled, args=(row, seconds, f"{folder}/lock", theirs), daemon=True)
            process.start()
            running.append((row, process, ours))
        until = time.monotonic() + limit
        for row, process, ours in running:
            came = ours.poll(max(0.0, until - time.monotonic()))
            try:
                found[row.name] = ours.recv() if came else {"error": f"not done after {limit:.0f} s"}
            except EOFError:
                found[row.name] = {"error": "the process ended without an answer"}
            process.kill()
            process.join()
    return found


def measure_networks(path: Path, options: argparse.Namespace) -> None:
    """Measure row by row until the time is over."""
    began = time.monotonic()
    content = read(path)
    rows = MEASURED if not options.dry_run else _tiny()
    content.setdefault("rows", {})
    content["settings"] = {
        "device": _device(),
        "data_sheet_peak_flops": next((v for k, v in PEAKS.items() if k in _device()), None),
        "fp32": "convolutions in TF32, matrix products in full" if torch.backends.cudnn.allow_tf32 else "full",
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "seconds_each": options.each,
    }
    if "ceilings" not in content:
        content["ceilings"] = ceilings(256 if options.dry_run else 8192, options.each)
    for row in rows:
        if row.name in content["rows"] or time.monotonic() - began > options.seconds:
            continue
        content["rows"][row.name] = {"formats": {}, "error": "the process ended in this row"}
        write(path, content)
        try:
            content["rows"][row.name] = measure(row, options.each)
        except Exception as error:
            content["rows"][row.name] = {"formats": {}, "error": f"{type(error).__name__}: {error}"[:300]}
        write(path, content)
    chosen = [row for row in rows if row.compiled and "compiled" not in content]
    if chosen and options.compile_seconds > 0:
        content["compiled"] = compile_rows(chosen, options.each, options.compile_seconds)
        write(path, content)


def _tiny() -> tuple[Measured, ...]:
    channels = {"channels": (4, 8)}
    tiny = Measured("Drosophila: U-Net", "unet.UNet", (32, 32), 2, 1, 5, channels)
    return tiny, Measured("fails", "unet.UNet", (32, 32), 2, 1, 5, {"channels": ()})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("networks", "engine", "patches"))
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of the Drosophila crops' datalist, for the engine")
    parser.add_argument("--seconds", type=float, default=240, help="after which no further row begins")
    parser.add_argument("--each", type=float, default=0.4, help="seconds of repeats of one figure")
    parser.add_argument("--compile_seconds", type=float, default=100, help="0 leaves torch.compile out")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args(arguments)
    if options.what == "networks":
        measure_networks(options.json, options)
    elif options.what == "patches":
        from benchmarks.gpu_engine import measure_patches

        measure_patches(options, lambda found: write(options.json, {**read(options.json), **found}))
    else:
        from benchmarks.gpu_engine import measure_engine

        write(options.json, {**read(options.json), **measure_engine(options)})


if __name__ == "__main__":
    main()
