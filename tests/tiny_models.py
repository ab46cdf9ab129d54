"""Weights of tiny untrained networks of each kind, which give each of their three classes somewhere."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg.bundle.description import Description
from medseg.bundle.networks import create
from medseg.bundle.record import header_of
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.header import write_header

_CT = {"intensity": {"scheme": "range", "low": -200, "high": 300, "clip": True}, "spacing": [4, 4, 4]}
KINDS: dict[str, tuple[int, int, dict[str, Any], list[int] | None]] = {  # axes, channels, feeding, window
    "grey": (2, 1, {"intensity": {"scheme": "range", "low": 0, "high": 255}, "colour": "grey"}, None),
    "rgb": (2, 3, {"intensity": {"scheme": "imagenet"}, "colour": "rgb", "size": [64, 64]}, None),
    "ct": (3, 1, _CT, [32, 32, 16]),
    "mr": (3, 1, {"intensity": {"scheme": "zscore"}}, [64, 64, 16]),
    "slices": (2, 1, {"intensity": {"scheme": "image"}, "plane": "coronal", "spacing": [4, None, 4]}, [64, 64]),
}


def write_model(path: Path, kind: str, **described: Any) -> Path:
    """Write weights of a kind of model.

    Args:
        path: of the file.
        kind: of `KINDS`.
        described: further keys of the description.
    """
    dims, channels, fed, window = KINDS[kind]
    network = create("unet", dims, channels, 3, channels=[4, 8], seed=0).eval()
    *_, last = (module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    with torch.no_grad():
        draw = torch.randn if fed["intensity"]["scheme"] in ("zscore", "imagenet") else torch.rand
        image = draw(1, channels, *[16] * dims, generator=torch.Generator().manual_seed(0))
        last.bias -= network(image).flatten(2).median(2).values[0]
    content = {"name": kind, "classes": ["background", "b", "c"], "network": network.recipe, "input": fed}
    inference = {"window": window, "overlap": 0.0, "batch": 8}
    model = Description.of({**content, "inference": inference, **described})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(write_header(network.state_dict(), header_of(model)), path)
    return path
