"""A sliding window over a whole section, against the bare forwards that it needs, and its memory.

python -m benchmarks.sliding_window              LFA U-Net 16-32-64-128 over 1024 x 1024, window 256, overlap 0.25
"""

from __future__ import annotations

import argparse
import resource
from pathlib import Path
from typing import Any

import torch
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import _get_scan_interval

from benchmarks.common import alternate, report
from medseg.engines.memory import keep_freed_memory
from medseg.engines.precision import network_to_channels_last
from medseg.inferers.sliding_window import SlidingWindow
from medseg.networks.lfa_unet import LFAUNet

CLASSES = 5


def peak_mib() -> float:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--sw-batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_freed_memory(device)
    network = LFAUNet(2, 1, CLASSES, channels=options.channels).to(device).eval()
    network_to_channels_last(network)
    size, window = (options.size,) * 2, (options.window,) * 2
    interval = _get_scan_interval(size, window, 2, (options.overlap,) * 2)
    windows = len(dense_patch_slices(size, window, interval))
    image = torch.rand(1, 1, *size, device=device)
    batches = [min(options.sw_batch_size, windows - n) for n in range(0, windows, options.sw_batch_size)]
    inputs = [torch.rand(n, 1, *window, device=device).contiguous(memory_format=torch.channels_last) for n in batches]
    inferer = SlidingWindow(window, options.sw_batch_size, options.overlap)

    def bare() -> None:
        for batch in inputs:
            network(batch)

    bare()
    before = peak_mib()
    inferer(image, network)
    after = peak_mib()
    result: dict[str, Any] = {"channels": options.channels, "size": options.size, "windows": windows}
    result |= alternate(lambda: inferer(image, network), bare, options.repeats)
    result["target_ratio"] = 1.10
    pixels = options.size**2
    result["peak_above_forwards_mib"] = after - before
    result["buffers_mib"] = 4 * pixels * (CLASSES + 1) / 2**20  # fp32: the sum of logits and the sum of weights
    report("sliding window / bare forwards", result, options.json)


if __name__ == "__main__":
    main()
