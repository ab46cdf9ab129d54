"""What a patch costs: read from memory-mapped or compressed arrays, and augmented.

    python -m benchmarks.patches                     a patch of 40 x 56 x 40 out of a volume of 256 x 256 x 192
    python -m benchmarks.patches --network           beside a training step of the hippocampus bundle's network

Compressed arrays are those of blosc2 (``pip install blosc2``; left out where it is not installed), with chunks of the
patch's size and zstd. The file is in the page cache for both, as after the first epoch; the smaller file of the
compressed one counts where the disk is the limit. Ratios are of one run.
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
from medseg.bundle.networks import create
from medseg.transforms.augmentation import augmentation
from medseg.transforms.spatial import RandSpatiald

PATCH = (40, 56, 40)
WIDTHS = (16, 32, 64, 128)


def seconds(call: Callable[[int], Any], times: int) -> list[float]:
    """Return how long each of so many calls took."""
    found = []
    for number in range(times):
        start = time.perf_counter()
        call(number)
        found.append(time.perf_counter() - start)
    return found


def volume(edges: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return a smooth volume with noise of 12 bits, as scanners give them, of mean 0 and deviation 1."""
    numbers = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(0, 9, edge) for edge in edges], indexing="ij")
    values = 1000 * np.sin(axes[0]) * np.cos(axes[1]) + 200 * axes[2] + numbers.normal(0, 20, edges)
    values = values.round()
    return np.asarray((values - values.mean()) / values.std(), np.float32)


def reading(edges: tuple[int, ...], times: int) -> dict[str, float]:
    """Return milliseconds a patch from each kind of file, and the files' sizes in MiB."""
    numbers = np.random.default_rng(1)
    starts = [[int(numbers.integers(edge - p + 1)) for edge, p in zip(edges, PATCH, strict=True)] for _ in range(times)]
    places = [tuple(slice(a, a + p) for a, p in zip(start, PATCH, strict=True)) for start in starts]
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
            blosc2.asarray(values, chunks=PATCH, urlpath=str(packed), mode="w", cparams=settings)
            opened = blosc2.open(str(packed), mode="r", dparams={"nthreads": 1})
            result["ms_blosc2"] = 1e3 * statistics.median(seconds(lambda n: opened[places[n]], times))
            result["mib_blosc2"] = packed.stat().st_size / 2**20
            result["blosc2_over_mapped"] = result["ms_blosc2"] / result["ms_mapped"]
    return result


def augmenting(times: int) -> dict[str, float]:
    """Return milliseconds a patch: the mean over the draws, and the costliest."""
    size = RandSpatiald(["image", "label"], PATCH).reads(PATCH)
    sample = {"image": torch.randn(1, *size), "label": torch.randint(3, (1, *size)).to(torch.uint8)}
    recipe = augmentation(PATCH, mirror_axes=[0])

    def once(number: int) -> None:
        recipe.set_random_state(seed=number)
        recipe(sample)

    found = seconds(once, times)
    copied = seconds(lambda _: sample["image"].clone(), 20)
    return {
        "ms_augmented_mean": 1e3 * statistics.mean(found),
        "ms_augmented_most": 1e3 * max(found),
        "ms_reading_around": 1e3 * statistics.median(copied),
    }


def step(steps: int) -> float:
    """Return milliseconds a patch of a training step at batch 2."""
    network = create("lfa_unet", 3, 1, 3, channels=WIDTHS, norm=("instance", {"affine": True}), seed=0).train()
    optimizer = torch.optim.AdamW(network.parameters())
    x, label = torch.randn(2, 1, *PATCH), torch.randint(3, (2, *PATCH))

    def once(_: int) -> None:
        optimizer.zero_grad()
        loss: torch.Tensor = torch.nn.functional.cross_entropy(network(x), label)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return 1e3 * statistics.median(seconds(once, steps + 1)[1:]) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, nargs=3, default=[256, 256, 192])
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--network", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"patch": PATCH, "edges": options.edges, "times": options.times}
    result |= reading(tuple(options.edges), options.times) | augmenting(options.times)
    if options.network:
        result["ms_step"] = step(4)
        result["augmented_over_step"] = result["ms_augmented_mean"] / result["ms_step"]
        result["target_augmented_over_step"] = 0.03
    report("patches", result, options.json)


if __name__ == "__main__":
    main()
