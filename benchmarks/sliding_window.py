"""A sliding window over a whole image, against the bare forwards that it needs and MONAI's, and the memory of each.

python -m benchmarks.sliding_window              LFA U-Net 16-32-64-128 over 1024 x 1024, window 256, overlap 0.25
python -m benchmarks.sliding_window --volume 512 512 300 --classes 20 --window 128 --overlap 0.5 --channels 4 8
                                                 classes of a volume; `--monai` adds MONAI's, which holds all logits
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.data.utils import dense_patch_slices
from monai.inferers import SlidingWindowInferer
from monai.inferers.utils import _get_scan_interval
from torch import Tensor, nn

from benchmarks.common import alternate, report
from medseg.engines.memory import keep_freed_memory
from medseg.engines.precision import network_to_channels_last
from medseg.inferers.blocks import class_indices, finite
from medseg.inferers.sliding_window import SlidingWindow
from medseg.networks.lfa_unet import LFAUNet
from medseg.networks.unet import UNet

CLASSES = 5
STATUS = Path("/proc/self/status")


def resident_mib(name: str) -> float:
    """Return the resident memory of this process (``VmRSS``), or its peak (``VmHWM``)."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(name)) / 1024


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Return seconds, and MiB by which the resident memory grew, of work in a process of its own."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        Path("/proc/self/clear_refs").write_text("5")
        before, start = resident_mib("VmRSS"), time.perf_counter()
        work()
        found = f"{time.perf_counter() - start} {resident_mib('VmHWM') - before}"
        os.write(write, found.encode())
        os._exit(0)
    os.waitpid(child, 0)
    seconds, mib = os.read(read, 100).decode().split()
    return float(seconds), float(mib)


def windows_of(size: tuple[int, ...], options: argparse.Namespace) -> list[int]:
    """Return how many windows each forward takes."""
    roi = (options.window,) * len(size)
    interval = _get_scan_interval(size, roi, len(size), (options.overlap,) * len(size))
    number = len(dense_patch_slices(size, roi, interval))
    return [min(options.sw_batch_size, number - n) for n in range(0, number, options.sw_batch_size)]


@torch.inference_mode()
def picture(options: argparse.Namespace) -> None:
    """Compare the logits of a picture with the bare forwards."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_freed_memory(device)
    network = LFAUNet(2, 1, CLASSES, channels=options.channels).to(device).eval()
    network_to_channels_last(network)
    size, window = (options.size,) * 2, (options.window,) * 2
    batches = windows_of(size, options)
    image = torch.rand(1, 1, *size, device=device)
    inputs = [torch.rand(n, 1, *window, device=device).contiguous(memory_format=torch.channels_last) for n in batches]
    inferer = SlidingWindow(window, options.sw_batch_size, options.overlap)

    def bare() -> None:
        for batch in inputs:
            network(batch)

    bare()
    before = resident_mib("VmHWM")
    inferer(image, network)
    after = resident_mib("VmHWM")
    result: dict[str, Any] = {"channels": options.channels, "size": options.size, "windows": sum(batches)}
    result |= alternate(lambda: inferer(image, network), bare, options.repeats)
    result["target_ratio"] = 1.10
    result["peak_above_forwards_mib"] = after - before
    result["logits_mib"] = 4 * options.size**2 * CLASSES / 2**20
    report("sliding window / bare forwards", result, options.json)


@torch.inference_mode()
def volume(options: argparse.Namespace) -> None:
    """Compare the classes of a volume with the bare forwards, and with MONAI's logits; on the CPU, each by itself."""
    torch.set_num_threads(1)  # processes are forked
    size, window = tuple(options.volume), (options.window,) * 3
    network: nn.Module = UNet(3, 1, options.classes, channels=options.channels).eval()
    network_to_channels_last(network)
    image = torch.rand(1, 1, *size)
    batches = windows_of(size, options)
    inferer = SlidingWindow(window, options.sw_batch_size, options.overlap)
    monai = SlidingWindowInferer(window, options.sw_batch_size, options.overlap, "gaussian")

    def bare() -> None:
        batch = torch.rand(max(batches), 1, *window).contiguous(memory_format=torch.channels_last_3d)
        for number in batches:
            network(batch[:number])

    def classes() -> Tensor:
        return class_indices(finite(inferer.blocks(image, network)), (1, *size))

    result: dict[str, Any] = {"size": size, "classes": options.classes, "window": options.window}
    result |= {"overlap": options.overlap, "channels": options.channels, "windows": sum(batches)}
    result["logits_mib"] = 4 * options.classes * image.numel() / 2**20
    works: dict[str, Callable[[], object]] = {"bare": bare, "classes": classes}
    if options.monai:
        works["monai"] = lambda: monai(image, network)
    for name, work in works.items():
        pairs = [measured(work) for _ in range(options.repeats)]
        result[f"seconds_{name}"] = min(seconds for seconds, _ in pairs)
        result[f"peak_mib_{name}"] = max(mib for _, mib in pairs)
    result["ratio"] = result["seconds_classes"] / result["seconds_bare"]
    result |= {
        "target_ratio": 1.10,
        "target_peak_mib": image.numel() / 2**20 + 1536,
    }  # labels of a byte; input is there
    report("classes of a volume / bare forwards", result, options.json)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--volume", type=int, nargs=3, help="edges of a volume, instead of a picture")
    parser.add_argument("--classes", type=int, default=20, help="of the volume")
    parser.add_argument("--monai", action="store_true", help="also MONAI's logits of the volume")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--sw-batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    (volume if options.volume else picture)(options)


if __name__ == "__main__":
    main()
