"""What `benchmarks.cohort` and its sides share; nothing here imports PyTorch, so that the first stays small."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

NAME = "benchmarks.cohort_network.Network"
OVERLAP, BATCH = 0.5, 4  # share of a window that the next one covers, windows a forward
STAMPS = "COHORT_STAMPS"
"""Variable of the environment: file that gets a line a forward: begin, end by the monotonic clock, windows."""


@dataclass(frozen=True)
class Cohort:
    """Images of one kind and their model.

    Args:
        name: ``"pictures"``, ``"volumes"`` or ``"large_volumes"``.
        number: of images.
        spatial_dims: 2 or 3.
        in_channels: of the images.
        window: of the sliding window.
        channels: of the network's levels.
        classes: names by index.
        enlarged: factor by which volumes are interpolated, over every axis.
    """

    name: str
    number: int
    spatial_dims: int
    in_channels: int
    window: Sequence[int]
    channels: Sequence[int]
    classes: Sequence[str]
    enlarged: int = 1

    @property
    def suffix(self) -> str:
        """Of images and masks."""
        return ".png" if self.spatial_dims == 2 else ".nii.gz"


_VOLUMES = Cohort("volumes", 10, 3, 1, (40, 56, 40), (16, 32, 64, 128), ("background", "anterior", "posterior"))
COHORTS = (
    Cohort("pictures", 40, 2, 3, (256, 256), (16, 32, 64, 128), ("background", "nucleus")),
    _VOLUMES,
    replace(_VOLUMES, name="large_volumes", enlarged=2),
)


def stamps_of(file: Path) -> list[tuple[float, float, int]]:
    """Return begin, end and windows of each forward, in the order of their ends."""
    lines = (line.split() for line in file.read_text().splitlines()) if file.is_file() else ()
    return sorted(((float(begin), float(end), int(windows)) for begin, end, windows in lines), key=lambda each: each[1])


def commands(folder: Path, masks: Path) -> dict[str, list[str]]:
    """Return the command line of each side that predicts a cohort as its users do.

    Args:
        folder: as `lay_out` made it.
        masks: folder that is written.
    """
    python = [sys.executable, "-m"]
    medseg = [*python, "medseg.cli", "predict", str(folder / "model.pt")]
    return {
        "medseg": [*medseg, str(folder / "images"), str(masks), "--trust"],
        "medseg_one": [*medseg, str(folder / "one"), str(masks), "--trust"],
        "monai": [
            *python, "monai.bundle", "run", "--config_file", str(folder / "monai" / "inference.json"),
            "--output_dir", str(masks),
        ],
        "nnunet": [*python, "benchmarks.cohort_nnunet", "command", str(folder), str(masks)],
    }  # fmt: skip


def agreement(first: Path, second: Path) -> float:
    """Return the share of pixels that are equal in two folders of masks of the same names.

    Args:
        first: folder of masks.
        second: another; where a picture is turned over, it is turned back: MONAI writes what was read unturned so.
    """
    import numpy as np

    same = total = 0
    for path in sorted(path for path in first.iterdir() if path.name.startswith("image")):
        ours, theirs = _read(path), _read(second / path.name)
        if path.suffix == ".png" and "monai" in second.parts[-1]:
            theirs = theirs.T
        same += int(np.count_nonzero(ours == theirs))
        total += ours.size
    return same / total


def _read(path: Path) -> Any:
    import numpy as np

    if path.suffix == ".png":
        from PIL import Image

        with Image.open(path) as picture:
            return np.asarray(picture)
    import nibabel

    return np.asarray(nibabel.load(path).dataobj)
