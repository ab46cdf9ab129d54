"""A study of two tiny networks on nine pictures of 32 x 32 in three folds, trained for a few steps."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from medseg.cli import main
from medseg.jobs.job import Job
from medseg.studies.executors import Done
from medseg.studies.study import Cell
from medseg.studies.study_cell import run_cell

NAMES = ("U-Net", "LFA U-Net")


def write_data(folder: Path, folds: int = 3, cases: int = 9, tested: int = 0) -> Path:
    """Write pictures with a bright square each, every case a group of its own; returns the folder.

    The test list has as many beside them as ``tested`` says.
    """
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for number in range(cases + tested):
        label = np.zeros((32, 32), np.uint8)
        top, left = rng.integers(0, 16, 2)
        label[top : top + 16, left : left + 16] = 1
        image = (60 + 120 * label + rng.integers(-40, 41, label.shape)).astype(np.uint8)
        for kind, pixels in (("image", image), ("label", label)):
            Image.fromarray(pixels).save(folder / f"{kind}_{number}.png")
        rows.append({"image": f"image_{number}.png", "label": f"label_{number}.png", "group": f"g{number}"})
        rows[-1] |= {"fold": number % folds}  # type: ignore[dict-item]
    content: dict[str, Any] = {
        "name": "squares", "version": 1, "modality": ["none"], "licence": "CC0-1.0", "source": "drawn by the tests",
        "labels": {"0": "background", "1": "square"}, "ignore_index": None, "training": rows[:cases], "validation": [],
        "test": [{key: value for key, value in row.items() if key != "fold"} for row in rows[cases:]],
    }  # fmt: skip
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


def write_study(path: Path, **changes: Any) -> Path:
    """Write the study; ``changes`` replace keys."""
    small = {"network_def#channels": [4, 8], "batch_size": 2, "device": "cpu", "learning_rate": 0.03, "iterations": 6}
    content: dict[str, Any] = {
        "title": "Squares", "data": "data", "folds": "all", "seeds": [0], "epochs": 2, "bundle": "lfa_unet_drosophila",
        "set": small, "show": ["dice"], "rows": [{"name": "U-Net", "with": ["unet"]}, {"name": "LFA U-Net"}],
    }  # fmt: skip
    content |= changes
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def in_this_process(folder: Path, cells: Sequence[Cell], mixed: bool) -> Iterator[Done]:
    """Make the cells one after the other, here."""
    for cell in cells:
        run_cell(folder, cell.name, mixed=mixed, patience=0)
        yield Done(cell.name)


def no_cells(folder: Path, cells: Sequence[Cell], mixed: bool) -> Iterator[Done]:
    """Make none: nothing is missing."""
    raise AssertionError(f"nothing is missing, but {cells} were to be made")
    yield


def jobs_in_this_process(jobs: Sequence[Job]) -> Iterator[Done]:
    """Do jobs one after the other, here."""
    for job in jobs:
        status = main([word for word in job.words if word != "--tied"])
        yield Done(job.name, "" if status == 0 and job.complete.is_file() else f"status {status}")
