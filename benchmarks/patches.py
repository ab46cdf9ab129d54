"""What a patch costs: read from memory-mapped or compressed arrays, cut and augmented.

    python -m benchmarks.patches                     a patch of 40 x 56 x 40 out of a volume of 256 x 256 x 192
    python -m benchmarks.patches --network           beside a training step of a U-Net
    python -m benchmarks.patches --network --patch 160 160 --edges 512 512 --channels 3 --batch 4

Compressed arrays are those of blosc2 (``pip install blosc2``; left out where it is not installed), with chunks of the
patch's size and zstd. The file is in the page cache for both, as after the first epoch; the smaller file of the
compressed one counts where the disk is the limit. Times are the processor's; ratios are of one run.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import report
from medseg.engines.loading import Draw
from medseg.engines.memory import keep_freed_memory
from medseg.engines.patches import PatchDataset
from medseg.engines.precision import network_to_channels_last
from medseg.inferers.memory_format import to_memory_format
from medseg.networks.unet import UNet
from medseg.transforms.augmentation import augmentation

PATCH = (40, 56, 40)
WIDTHS = {2: [16, 32, 64, 128, 256], 3: [16, 32, 64, 128]}


def seconds(call: Callable[[int], Any], times: int) -> list[float]:
    """Return how many seconds of the processor each of so many calls took."""
    found = []
    for number in range(times):
        start = time.process_time()
        call(number)
        found.append(time.process_time() - start)
    return found


def volume(edges: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return a smooth volume with noise of 12 bits, as scanners give them, of mean 0 and deviation 1."""
    numbers = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(0, 9, edge) for edge in edges], indexing="ij")
    values = 1000 * np.sin(axes[0]) * np.cos(axes[1]) + 200 * axes[-1] + numbers.normal(0, 20, edges)
    values = values.round()
    return np.asarray((values - values.mean()) / values.std(), np.float32)


def reading(patch: tuple[int, ...], edges: tuple[int, ...], times: int) -> dict[str, float]:
    """Return milliseconds a patch from each kind of file, and the files' sizes in MiB."""
    numbers = np.random.default_rng(1)
    starts = [[int(numbers.integers(edge - p + 1)) for edge, p in zip(edges, patch, strict=True)] for _ in range(times)]
    places = [tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True)) for start in starts]
    values = volume(edges)
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.npy"
        np.save(plain, values)
        mapped = np.load(plain, mmap_mode="r")
        result["ms_mapped"] = 1e3 * statistics.median(seconds(lambda n: np.array(mapped[places[n]]), times))
        result["mib_mapped"] = plain.stat().st_size / 2**20
        if importlib.util.find_spec("blosc2") is not None:
            import blosc2  # type: ignore[import-not-found]

            packed = Path(folder) / "packed.b2nd"
            settings = {"codec": blosc2.Codec.ZSTD, "clevel": 8}
            blosc2.asarray(values, chunks=patch, urlpath=str(packed), mode="w", cparams=settings)
            opened = blosc2.open(str(packed), mode="r", dparams={"nthreads": 1})
            result["ms_blosc2"] = 1e3 * statistics.median(seconds(lambda n: opened[places[n]], times))
            result["mib_blosc2"] = packed.stat().st_size / 2**20
            result["blosc2_over_mapped"] = result["ms_blosc2"] / result["ms_mapped"]
    return result


def drawing(patch: tuple[int, ...], edges: tuple[int, ...], channels: int, times: int) -> dict[str, float]:
    """Return milliseconds of the processor a patch that is cut, drawn and augmented: the mean, and the costliest."""
    numbers = torch.Generator().manual_seed(0)
    case = {
        "image": torch.randn((channels, *edges), generator=numbers),
        "label": torch.randint(3, (1, *edges), generator=numbers).to(torch.uint8),
    }
    recipe = augmentation(patch, mirror_axes=[0])
    dataset = PatchDataset([{}], lambda _: dict(case), patch, [recipe], foreground=0.33, without=[0], fill=0)
    whole = seconds(lambda number: dataset[Draw(number, 0, foreground=number % 3 == 0)], times + 1)[1:]
    drawn = {"image": case["image"], "label": case["label"]}
    drawn = {key: value[(slice(None), *[slice(edge) for edge in dataset.read])] for key, value in drawn.items()}
    alone = []
    if drawn["image"].shape[1:] == dataset.read:
        for number in range(times):
            recipe.set_random_state(seed=number)
            alone.append(seconds(lambda _: recipe(drawn), 1)[0])
    return {
        "ms_patch_mean": 1e3 * statistics.mean(whole),
        "ms_patch_most": 1e3 * max(whole),
        **({"ms_augmented_mean": 1e3 * statistics.mean(alone)} if alone else {}),
    }


def step(patch: tuple[int, ...], channels: int, widths: list[int], batch: int, steps: int) -> float:
    """Return milliseconds of the processor a patch of a training step."""
    network = UNet(len(patch), channels, 3, channels=widths, norm=("instance", {"affine": True})).train()
    network_to_channels_last(network)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    x, label = to_memory_format(torch.randn(batch, channels, *patch)), torch.randint(3, (batch, *patch))

    def once(_: int) -> None:
        optimizer.zero_grad()
        loss: torch.Tensor = torch.nn.functional.cross_entropy(network(x), label)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return 1e3 * statistics.median(seconds(once, steps + 2)[2:]) / batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs="+", default=PATCH)
    parser.add_argument("--edges", type=int, nargs="+", default=[256, 256, 192])
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--widths", type=int, nargs="+", help="by default 16 to 128, in 2D to 256")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--network", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory(torch.device("cpu"))
    patch, edges = tuple(options.patch), tuple(options.edges)
    result: dict[str, Any] = {"patch": patch, "edges": edges, "channels": options.channels, "times": options.times}
    result |= reading(patch, edges, options.times) | drawing(patch, edges, options.channels, options.times)
    if options.network:
        widths = options.widths or WIDTHS[len(patch)]
        result["ms_step"] = step(patch, options.channels, widths, options.batch, 6)
        result["patch_share"] = result["ms_patch_mean"] / (result["ms_patch_mean"] + result["ms_step"])
        result |= {"widths": widths, "batch": options.batch, "target_patch_share": 0.03}
    report("patches", result, options.json)


if __name__ == "__main__":
    main()
