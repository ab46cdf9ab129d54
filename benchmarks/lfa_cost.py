"""What attention inside windows saves: LFA U-Net with windows of 7 pixels against attention over the whole map.

FLOPs (2 per multiply-add) are counted without computing; the counter's share of the attention is checked against
``4 L^2 C`` a window of L tokens. Seconds (the fastest of a few runs) and peak memory (of the tensors that a run makes)
are those of a fresh process each, one image, float32, channels-last. Two ways to compute attention are measured:
torch's fused kernel, which never holds the products of queries and keys, and the ``math`` backend, which does. At
256x256 the global variant's products alone take 65536^2 x 4 bytes = 17 GB a copy, so both variants are measured in this
way at the largest halving of the size that fits; at the whole size their memory is counted, with tensors that have no
values (``materialised, counted``: the most that is alive at a time beside the weights).

    python -m benchmarks.lfa_cost --json lfa_cost.json
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.studies.isolated import isolated

if TYPE_CHECKING:
    from torch import Tensor, nn

WINDOW = 7
PAPERS_CHANNELS = (64, 128, 256, 512, 1024)
PAPERS_RATIO = 0.0466  # section IV; the paper does not say what it counts
EXPECTED_FLOP_RATIO = 0.063  # of the whole network at 256x256 and the paper's widths
COPIES = 4  # of the products that the math backend holds at its peak, with some room
ENOUGH_SECONDS = 10.0
LEAST_RUNS, MOST_RUNS = 3, 8
TINY = 32  # edge of the image that warms a process up: with five levels, 2x2 pixels at the bottom, as training needs
VARIANTS = {"local": WINDOW, "global": None}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="edge of the image in pixels (256)")
    parser.add_argument("--channels", type=int, nargs="+", default=list(PAPERS_CHANNELS), help="widths (the paper's)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result there too")
    options = parser.parse_args()
    result = measure_all(options.size, options.channels)
    from medseg.runs.provenance import collect

    result |= {"command": shlex.join(["python", "-m", "benchmarks.lfa_cost", *sys.argv[1:]]), "provenance": collect()}
    show(result)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def measure_all(size: int, channels: list[int]) -> dict[str, Any]:
    """Return counts, measurements, and the ratios of local to global."""
    fitting = largest_materialised(size)
    flops: list[dict[str, Any]] = [
        {"size": edge} | {name: isolated(count, edge, channels, window) for name, window in VARIANTS.items()}
        for edge in dict.fromkeys((size, fitting))
    ]
    plan = [(variant, size, "fused", False) for variant in VARIANTS]
    plan += [("local", size, "fused", True)]
    plan += [(variant, fitting, "fused", False) for variant in VARIANTS if fitting != size]
    plan += [(variant, fitting, "materialised", False) for variant in VARIANTS]
    rows = [measure(channels, *step) for step in plan]
    ratios: list[dict[str, Any]] = []
    for counted in flops:
        for key, what in (("total", "FLOPs"), ("attention", "FLOPs of the attention alone")):
            ratio = counted["local"][key] / counted["global"][key]
            ratios.append({"what": what, "size": counted["size"], "ratio": ratio})
    for attention, edge in dict.fromkeys((row["attention"], row["size"]) for row in rows):
        pair = {
            row["variant"]: row
            for row in rows
            if (row["attention"], row["size"], row["pass"]) == (attention, edge, "forward")
        }
        for key, what in (("seconds", "seconds"), ("peak_mib", "peak memory")):
            ratio = pair["local"][key] / pair["global"][key]
            ratios.append({"what": f"{what}, {attention}", "size": edge, "ratio": ratio})
    counted_peaks = {name: isolated(count_peak, size, channels, window) for name, window in VARIANTS.items()}
    ratio = counted_peaks["local"] / counted_peaks["global"]
    ratios.append({"what": "peak memory, materialised, counted", "size": size, "ratio": ratio})
    return {
        "benchmark": "lfa_cost",
        "settings": {"size": size, "channels": channels, "in_channels": 1, "out_channels": 5, "window_size": WINDOW}
        | {"batch": 1, "dtype": "float32", "materialised_size": fitting},
        "paper_ratio": {"value": PAPERS_RATIO, "note": "stated in the paper; how it was counted is not"},
        "expected_flop_ratio": {"value": EXPECTED_FLOP_RATIO, "note": "whole network, 256x256, the paper's widths"},
        "flops": flops,
        "counted_peak_bytes": {"size": size, "attention": "materialised", **counted_peaks},
        "measurements": rows,
        "ratios": ratios,
    }


def measure(channels: list[int], variant: str, size: int, attention: str, backward: bool) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    found = isolated(work, channels, VARIANTS[variant], size, attention, backward)
    return {
        "variant": variant,
        "size": size,
        "attention": attention,
        "pass": "forward + backward" if backward else "forward",
        "seconds": min(found["seconds"]),  # other load only adds
        "runs": found["seconds"],
        "peak_mib": found["peak_bytes"] / 2**20,
        "kernel": found["kernel"],
    }


def largest_materialised(size: int) -> int:
    """Halve the size until the copies of all products of the global variant fit half of the free memory."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    while COPIES * 4 * size**4 > free / 2:
        size //= 2
    return size


def work(channels: list[int], window: int | None, size: int, attention: str, backward: bool) -> dict[str, Any]:
    """Time one variant, then record the memory of one more run."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from medseg.studies.measures import peak_bytes

    network = build(channels, window).to(memory_format=torch.channels_last)
    image = torch.rand(1, 1, size, size)
    backends = [SDPBackend.MATH] if attention == "materialised" else [SDPBackend.FLASH_ATTENTION]
    with sdpa_kernel(backends):
        kernel = warm_up(network, backward)
        seconds: list[float] = []
        while wants_more(seconds):
            start = time.perf_counter()
            step(network, image, backward)
            seconds.append(time.perf_counter() - start)
        peak = peak_bytes(lambda: step(network, image, backward), image.device)
    return {"peak_bytes": peak, "seconds": seconds} | kernel


def wants_more(seconds: list[float]) -> bool:
    return len(seconds) < LEAST_RUNS or (len(seconds) < MOST_RUNS and sum(seconds) < ENOUGH_SECONDS)


def build(channels: list[int], window: int | None) -> nn.Module:
    from medseg.networks.lfa_unet import LFAUNet

    return LFAUNet(2, 1, 5, channels=channels, window_size=window)


def step(network: nn.Module, image: Tensor, backward: bool) -> None:
    import torch

    network.train(backward)
    with torch.inference_mode(not backward):
        logits = network(image)
        if backward:
            network.zero_grad(set_to_none=True)
            logits.square().mean().backward()


def warm_up(network: nn.Module, backward: bool) -> dict[str, str]:
    """Run a tiny image, so that gradients and the libraries' code are there before; name the kernel that ran."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step(network, torch.rand(1, 1, TINY, TINY), backward)
    names = [str(name) for name in counter.get_flop_counts()["Global"]]
    fused = [name for name in names if "attention" in name and "backward" not in name]
    return {"kernel": fused[0] if fused else "two matrix products and a softmax"}


def count(size: int, channels: list[int], window: int | None) -> dict[str, Any]:
    """Count FLOPs on the meta device, and check there that none of the attention is missed."""
    import torch

    from medseg.layers.windowed_attention import WindowedAttention
    from medseg.studies.measures import macs

    with torch.device("meta"):
        total = 2 * macs(build(channels, window), (1, 1, size, size))
        maps = [(math.ceil(size / 2**level), width) for level, width in enumerate(channels[:-1])]
        shapes = [(1, width, edge, edge) for edge, width in maps]
        layers = [WindowedAttention(width, window) for _, width in maps]
    alone = sum(2 * macs(layer, shape, shape) for layer, shape in zip(layers, shapes, strict=True))
    attention = sum(attention_flops(edge, width, window) for edge, width in maps)
    projections = sum(3 * 2 * edge**2 * width**2 for edge, width in maps)
    if alone != attention + projections:
        raise SystemExit(f"torch counts {alone} FLOPs where {attention + projections} are needed")
    return {"total": total, "attention": attention, "projections": projections}


def count_peak(size: int, channels: list[int], window: int | None) -> int:
    """Count the most bytes alive at a time, weights apart, where the products of attention are held."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with FakeTensorMode():
        network = build(channels, window).eval()
        tracker = MemTracker()
        tracker.track_external(network)
        with torch.no_grad(), sdpa_kernel([SDPBackend.MATH]), tracker:
            network(torch.empty(1, 1, size, size))
        (peak,) = tracker.get_tracker_snapshot("peak").values()
    weights = sum(tensor.numel() * tensor.element_size() for tensor in (*network.parameters(), *network.buffers()))
    return int(peak["Total"]) - weights


def attention_flops(edge: int, width: int, window: int | None) -> int:
    """Return ``4 L^2 C`` for each window of L tokens, padding included: queries by keys, weights by values."""
    if window is None:
        return 4 * edge**4 * width
    return int(math.ceil(edge / window) ** 2 * 4 * window**4 * width)


def show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"LFA U-Net, widths {result['settings']['channels']}, one image, 1 channel in, 5 classes out")
    table = Table("variant", "size", "FLOPs", "of which attention", title="counted")
    for counted in result["flops"]:
        for name in VARIANTS:
            gigas = (f"{counted[name][key] / 1e9:,.2f} G" for key in ("total", "attention"))
            table.add_row(name, str(counted["size"]), *gigas)
    console.print(table)
    table = Table(
        "variant",
        "size",
        "attention",
        "pass",
        "seconds",
        "peak MiB",
        "runs",
        title="measured (memory: of the tensors that a run makes)",
    )
    for row in result["measurements"]:
        numbers = (f"{row['seconds']:.3f}", f"{row['peak_mib']:,.0f}", str(len(row["runs"])))
        table.add_row(row["variant"], str(row["size"]), row["attention"], row["pass"], *numbers)
    console.print(table)
    table = Table("local / global", "size", "ours", title="ratios")
    for row in result["ratios"]:
        table.add_row(row["what"], str(row["size"]), f"{row['ratio']:.4f}")
    table.add_row("stated in the paper", "256", f"{PAPERS_RATIO}")
    table.add_row("expected FLOPs, the paper's widths", "256", f"{EXPECTED_FLOP_RATIO}")
    console.print(table)
    fitting = result["settings"]["materialised_size"]
    if fitting != result["settings"]["size"]:
        need = 4 * result["settings"]["size"] ** 4 / 1e9
        size = result["settings"]["size"]
        console.print(
            f"Materialised at {size}: {need:.1f} GB a copy of the global products do not fit; measured at {fitting}."
        )


if __name__ == "__main__":
    sys.exit(main())
