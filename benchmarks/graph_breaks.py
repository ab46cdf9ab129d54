"""Whether ``torch.compile`` takes every network whole: graph breaks, and what it computes beside PyTorch itself.

    python -m benchmarks.graph_breaks --json docs/results/graph_breaks_cpu.json
    python -m benchmarks.graph_breaks --networks unet lfa_unet --json FILE

Each network as its constructor has it by default, two images of 64 x 64 pixels and, where it takes volumes, of
32 x 32 x 32, in evaluation and in a training step. A break costs speed, not correctness; the difference is that of
the logits in evaluation. ``aot_eager`` traces forward and backward as every backend does and generates no code, so that
any machine can run it. Each in a process of its own, whose end for want of memory is told of that network alone. Rows
are written as they come, in the place of earlier ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from benchmarks.common import merge_rows
from medseg.bundle import discovery, networks
from medseg.errors import MedsegError
from medseg.runs.provenance import collect
from medseg.studies.isolated import EndedError, isolated

SIZES = {2: (64, 64), 3: (32, 32, 32)}
CLASSES = 2


def asked(names: Sequence[str]) -> list[tuple[str, int]]:
    """Return networks and numbers of axes.

    Args:
        names: of networks; all that there are if none is given.
    """
    found = discovery.find(names, discovery.networks()) if names else discovery.networks()
    return [(each.target.removeprefix(f"{discovery.PACKAGE}."), dims) for each in found for dims in SIZES]


def tried(name: str, dims: int, backend: str) -> dict[str, Any] | None:
    """Return the row of a network; ``None`` of one that takes pictures alone and is asked for volumes.

    Args:
        name: of the network.
        dims: of its images.
        backend: of ``torch.compile``.
    """
    torch.manual_seed(0)
    try:
        network = networks.create(name, dims, _channels(dims), CLASSES)
    except (MedsegError, ValueError):
        if dims == 2:
            raise
        return None
    try:
        return row_of(network, dims, backend)
    except Exception as error:  # here, since not every error can be sent to another process
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def _channels(dims: int) -> int:
    return 3 if dims == 2 else 1


def row_of(network: nn.Module, dims: int, backend: str) -> dict[str, Any]:
    """Return the graph breaks of a network in evaluation and training, why, and how far its logits are off.

    Args:
        network: not compiled.
        dims: of its images.
        backend: of ``torch.compile``.
    """
    image = torch.randn(2, _channels(dims), *SIZES[dims], generator=torch.Generator().manual_seed(0))
    found: dict[str, Any] = {"backend": backend}
    network.eval()
    with torch.no_grad():
        expected = network(image)
        logits = _compiled(network, backend)(image)
    found["difference"] = float((logits - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    found |= _broken("evaluation")
    outputs = _compiled(network.train(), backend)(image)
    values = [outputs] if isinstance(outputs, Tensor) else list(outputs.values())
    loss = torch.stack([value.float().square().mean() for value in values]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    found |= _broken("training")
    gradients = [each.grad for each in network.parameters() if each.grad is not None]
    return found | {"gradients_finite": bool(gradients) and all(bool(each.isfinite().all()) for each in gradients)}


def _compiled(network: nn.Module, backend: str) -> Callable[[Tensor], Any]:
    torch._dynamo.reset()
    counters.clear()
    compiled: Callable[[Tensor], Any] = torch.compile(network, backend=backend)
    return compiled


def _broken(mode: str) -> dict[str, Any]:
    held = {str(why).splitlines()[0]: int(number) for why, number in counters["graph_break"].items()}
    return {f"{mode}_breaks": sum(held.values()), **({f"{mode}_reasons": held} if held else {})}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=[], help="default: all")
    parser.add_argument("--backend", default="aot_eager", help="of torch.compile (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    head = {"benchmark": "graph_breaks", "sizes": list(SIZES.values()), "environment": collect()}
    for name, dims in asked(options.networks):
        try:
            found = isolated(tried, name, dims, options.backend)
        except (EndedError, MemoryError) as error:  # what one network cannot do, the others are still asked
            found = {"error": f"{type(error).__name__}: {error}"}
        if found is None:
            continue
        row = {"network": name, "dims": dims, **found}
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
        if options.json is not None:
            merge_rows(options.json, head, [row], lambda each: (each["network"], each["dims"]))


if __name__ == "__main__":
    main()
