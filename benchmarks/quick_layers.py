"""A training step of a 3D U-Net with the layers that `medseg.layers.quicken` puts in, against PyTorch's.

python -m benchmarks.quick_layers                U-Net of 16 to 128 channels, batch 2 of 40 x 56 x 40, channels-last
python -m benchmarks.quick_layers --plain        in the plain layout
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.common import alternate, report
from benchmarks.hippocampus_monai import BATCH, PATCH, WIDTHS
from medseg.engines.memory import keep_freed_memory
from medseg.inferers.memory_format import to_memory_format
from medseg.layers.quicken import quicken
from medseg.networks.unet import UNet


def step_of(*, ours: bool, plain: bool) -> Callable[[], None]:
    """Return a training step."""
    torch.manual_seed(0)
    network = UNet(3, 1, 3, channels=WIDTHS, norm=("instance", {"affine": True})).train()
    image, label = torch.randn(BATCH, 1, *PATCH), torch.randint(3, (BATCH, *PATCH))
    if not plain:
        network.to(memory_format=torch.channels_last_3d)
        image = to_memory_format(image)
    if ours:
        quicken(network)
    optimizer = torch.optim.AdamW(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        loss: torch.Tensor = nn.functional.cross_entropy(network(image), label)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory(torch.device("cpu"))
    theirs, ours = (step_of(ours=ours, plain=options.plain) for ours in (False, True))
    result = {"widths": WIDTHS, "patch": PATCH, "batch": BATCH, "layout": "plain" if options.plain else "channels-last"}
    result |= alternate(theirs, ours, options.repeats)
    report("step with PyTorch's layers / with medseg's", result, options.json)


if __name__ == "__main__":
    main()
