"""How much memory ways of predicting add to a fresh process, as multiples of the logits of the whole image.

python -m inferers.peaks WAY ...        (in tests/)        prints a line of each: the ratio and its name

glibc keeps what is freed for later, up to 64 MiB of it in blocks of up to 32 MiB, more or less as the heap lies: a
quarter of these logits, of a volume's next to nothing. With `ENVIRONMENT` larger blocks go back as they are freed, so
that what is counted is what is held. Smaller ones, such as windows are, may leave holes, which count.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from medseg.bundle import feeding
from medseg.bundle.description import Description
from medseg.inferers.blocks import class_indices, finite
from medseg.inferers.multi_scale_flip import MultiScaleFlipInferer
from medseg.inferers.resize import ResizeInferer
from medseg.inferers.sliding_window import SlidingWindow
from medseg.inferers.whole_image import WholeImage
from medseg.io.placement import Grid
from medseg.prediction.case import Fed
from medseg.prediction.forward import Forward

CLASSES, SIZE = 16, (256, 128, 160)
STATUS = Path("/proc/self/status")
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(4 * 2**20)}  # bytes; a threshold that is given stays as it is


def resident(name: str) -> int:
    """Return the resident memory (``VmRSS``) or its peak (``VmHWM``) in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def growth(work: Callable[[], object]) -> int:
    """Return by how many bytes the resident memory grows while something works."""
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is that of now
    before = resident("VmRSS")
    kept = work()
    after = resident("VmHWM")
    del kept
    return after - before


@torch.inference_mode()
def ratio(way: str) -> float:
    """Return what a way of predicting adds, over what the logits take."""
    dims = 2 if "slices" in way else 3
    network = (nn.Conv2d if dims == 2 else nn.Conv3d)(1, CLASSES, 1).eval()
    window = SlidingWindow((64, 64) if dims == 2 else (32, 32, 32), 1, 0.25)
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))

    def placed(image: Tensor) -> MetaTensor:
        return MetaTensor(image, affine=affine)

    def described(spacing: Sequence[float] | None = None) -> Description:
        network_of = {"name": "toy", "spatial_dims": 3, "in_channels": 1, "out_channels": CLASSES}
        names = [f"class {number}" for number in range(CLASSES)]
        fed = {"spacing": spacing, "intensity": {"scheme": "zscore"}}
        return Description.of({"name": "toy", "network": network_of, "classes": names, "input": fed})

    def mask(image: Tensor, scale: int) -> object:
        shape = tuple(scale * (edge - 1) + 1 for edge in image.shape[2:])
        target = np.diag([2 / scale, 2 / scale, 2 / scale, 1.0])
        fed = Fed(placed(image[0]), Grid(shape, target))
        return Forward([network], described(), window, precision="fp32", device=torch.device("cpu"))([fed])

    def classes(image: Tensor) -> Tensor:
        return class_indices(finite(window.blocks(image, network)), (1, *image.shape[2:]))

    ways: dict[str, Callable[[Tensor], object]] = {
        "logits": lambda image: window(image, network),
        "logits of slices": lambda image: window(image, network),
        "logits of whole slices": lambda image: WholeImage(2)(image, network),
        "logits of resized": lambda image: ResizeInferer((96, 64, 64))(image, network),
        "logits of flips": lambda image: MultiScaleFlipInferer([1.0], (0,), window)(image, network),
        "classes": classes,
        "classes of slices": classes,
        "mask": lambda image: mask(image, 1),
        "mask of resampled": lambda image: mask(image, 2),
        "fed": lambda image: feeding.prediction(described((1.9, 1.9, 1.9)))({"image": placed(image[0])}, start=1),
        "monai": lambda image: SlidingWindowInferer(window.roi_size, 1, 0.25, "gaussian")(image, network),
    }
    ways[way](torch.rand(1, 1, 40, 34, 33))  # what a first call loads is not counted
    edges = tuple(edge // 2 for edge in SIZE) if way == "mask of resampled" else SIZE
    size = [2 * edge - 1 for edge in edges] if way == "mask of resampled" else SIZE
    image = torch.rand(1, 1, *edges)
    return growth(lambda: ways[way](image)) / (4 * CLASSES * float(np.prod(size)))


def main() -> None:
    torch.set_num_threads(1)
    for way in sys.argv[1:]:
        child = os.fork()  # each begins with the memory of one that has done nothing
        if not child:
            sys.stdout.write(f"{ratio(way):.3f} {way}\n")
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
