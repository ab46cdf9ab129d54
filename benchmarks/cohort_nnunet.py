"""nnU-Net's side of `benchmarks.cohort`: its own predictor, as its command runs it and in one process.

F. Isensee et al., https://arxiv.org/abs/1809.10486, version 2 (package nnunetv2). Its command takes as many threads as
there are cores, whatever the environment asks for; here it is as many as the other sides have. Preprocessing and export
have three processes each, the command's default.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.cohort_parts import OVERLAP

PROCESSES = 3


def predictor_of(folder: Path) -> Any:
    """Return nnU-Net's predictor of a folder as its training leaves it."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=1 - OVERLAP, use_gaussian=True, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
    return predictor


def command(folder: Path, masks: Path) -> None:
    """Predict a cohort as ``nnUNetv2_predict`` does."""
    masks.mkdir(parents=True, exist_ok=True)
    predictor_of(folder / "nnunet").predict_from_files(
        str(folder / "nnunet_images"), str(masks), num_processes_preprocessing=PROCESSES,
        num_processes_segmentation_export=PROCESSES,
    )  # fmt: skip


def inside(folder: Path, masks: Path) -> dict[str, Any]:
    """Predict a cohort in this process, which has predicted one before; return how long it took."""
    masks.mkdir(parents=True, exist_ok=True)
    predictor = predictor_of(folder / "nnunet")
    files = sorted(str(path) for path in (folder / "nnunet_images").iterdir())
    predictor.predict_from_files_sequential([[files[0]]], [str(masks / "warm")])
    wall, cpu = time.perf_counter(), time.process_time()
    predictor.predict_from_files_sequential([[file] for file in files], [
        str(masks / Path(file).name.split("_0000")[0]) for file in files
    ])  # fmt: skip
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "threads": torch.get_num_threads(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", choices=("command", "inside"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("output", type=Path, nargs="?", help="JSON of what `inside` measured")
    options = parser.parse_args(arguments)
    if options.how == "command":
        command(options.folder, options.masks)
    else:
        options.output.write_text(json.dumps(inside(options.folder, options.masks)))


if __name__ == "__main__":
    main()
