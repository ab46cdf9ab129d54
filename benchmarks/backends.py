"""A forward of a trained network as `medseg predict` runs it, against its exports, on one batch of a real image.

python -m benchmarks.backends RUN                                the images that the run was trained on
python -m benchmarks.backends RUN --images DIR --json FILE
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor

from benchmarks.common import alternate, report
from medseg.bundle import feeding
from medseg.bundle.library import weights_file
from medseg.inferers.blocks import blocks_of
from medseg.prediction.backends import SUFFIXES, load_exported
from medseg.prediction.case import Feeder
from medseg.prediction.export import export, images_of
from medseg.prediction.model import Model, load


def batch_of(model: Model, image: Any) -> torch.Tensor:
    """Return the first batch that a prediction of an image gives the network."""
    seen: list[torch.Tensor] = []

    def network(batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch)
        logits: torch.Tensor = model.networks[0](batch)
        return logits

    fed = Feeder(model.description).read(image).image
    plain = fed.as_tensor() if isinstance(fed, MetaTensor) else fed
    next(iter(blocks_of(feeding.inferer(model.description), plain[None].float(), network)))
    return seen[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = load(options.run, device="cpu")
    image = images_of(options.images, weights_file(options.run), int(model.description.network["in_channels"]))[0]
    result: dict[str, Any] = {"network": dict(model.description.network), "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        batch = batch_of(model, image)
        result["batch"] = list(batch.shape)
        for backend, suffix in SUFFIXES.items():
            for half in (False, True):
                name = f"{backend}_half" if half else backend
                path = Path(folder) / f"{name}{suffix}"
                made = export(options.run, backend, path, half=half, images=options.images)
                network, _ = load_exported(path)
                times = alternate(partial(model.networks[0], batch), partial(network, batch), options.repeats)
                result |= {f"torch_over_{name}": times["ratio"], f"{name}_probability": made.probability, name: times}
    report("a forward in PyTorch / exported", result, options.json)


if __name__ == "__main__":
    main()
