"""What `benchmarks.patch_training_gpu` trains on: a part of the hippocampus that may be moved, and large drawn volumes.

    python -m benchmarks.patch_training_data --work build/hippocampus --output build/patches_gpu --cases 20

writes volumes, labels and what nnU-Net has prepared of them into one folder, whose paths are relative: some MB that can
be taken to the machine with the GPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

PREPARED = Path("nnunet/preprocessed/Dataset004_Hippocampus")
RAW = Path("nnunet/raw/Dataset004_Hippocampus")
VOLUMES = "nnUNetPlans_3d_fullres"
DRAWN_CASES = 4
_LOCATIONS = 10000  # of a class and case, as many as nnU-Net keeps
_DESCRIBED = ("dataset.json", "dataset_fingerprint.json", "nnUNetPlans.json")


def cases_of(work: Path, count: int | None = None) -> dict[str, Any]:
    """Return what `benchmarks.hippocampus` has laid out; paths that are relative start at the folder.

    Args:
        work: the folder with cases.json.
        count: volumes to train on; ``None`` for all.
    """
    cases: dict[str, Any] = json.loads((work / "cases.json").read_text())
    cases["training"] = [{key: str(work / path) for key, path in entry.items()} for entry in cases["training"][:count]]
    return cases


def _name(path: str) -> str:
    return Path(path).name.removesuffix(".nii.gz").removesuffix(".nii")


def _write(folder: Path, cases: dict[str, Any], described: Path) -> Path:
    """Write cases.json and nnU-Net's descriptions and split; return the folder for its volumes."""
    (folder / "cases.json").write_text(json.dumps(cases))
    prepared = folder / PREPARED / VOLUMES
    prepared.mkdir(parents=True, exist_ok=True)
    (folder / RAW).mkdir(parents=True, exist_ok=True)
    for name in _DESCRIBED:
        shutil.copyfile(described / name, folder / PREPARED / name)
    shutil.copyfile(described / "dataset.json", folder / RAW / "dataset.json")
    names = [_name(entry["image"]) for entry in cases["training"]]  # nobody is scored: some are looked at for nothing
    (folder / PREPARED / "splits_final.json").write_text(json.dumps([{"train": names, "val": names[:2]}]))
    return prepared


def copy_part(work: Path, output: Path, count: int) -> None:
    """Copy some of the training's volumes and what nnU-Net has prepared of them.

    Args:
        work: folder of `benchmarks.hippocampus`.
        output: new folder.
        count: volumes.
    """
    cases = cases_of(work, count)
    entries = []
    for entry in cases["training"]:
        for key, path in entry.items():
            (output / key).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, output / key / Path(path).name)
        entries.append({key: f"{key}/{Path(path).name}" for key, path in entry.items()})
    moved = {"training": entries, "held_out": [], "classes": cases["classes"]}
    prepared = _write(output, moved, work / PREPARED)
    for entry in entries:
        for end in (".b2nd", "_seg.b2nd", ".pkl"):
            name = f"{_name(entry['image'])}{end}"
            shutil.copyfile(work / PREPARED / VOLUMES / name, prepared / name)


def drawn(edge: int, number: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return an image and its labels, blobs of two classes in noise.

    Args:
        edge: of the cube.
        number: of the case.
    """
    numbers = torch.Generator().manual_seed(number)
    coarse = torch.randn(1, 1, 10, 10, 10, generator=numbers)
    field = torch.nn.functional.interpolate(coarse, size=(edge,) * 3, mode="trilinear")[0, 0]
    label = (field > 0.5).byte() + (field > 1.0).byte()
    image = label + torch.randn(label.shape, generator=numbers)
    return image.numpy(), label.numpy()


def draw(folder: Path, edge: int, patch: Sequence[int], widths: Sequence[int], source: Path) -> None:
    """Write drawn volumes as NIfTI, and as nnU-Net prepares them where its package is there.

    Args:
        folder: new.
        edge: of a volume.
        patch: edges; nnU-Net's blocks are laid out for it.
        widths: of nnU-Net's network, a level each.
        source: folder whose plan and description of the data are taken over: its classes are the same in number.
    """
    entries = []
    for number in range(DRAWN_CASES):
        entry = {}
        for key, array in zip(("image", "label"), drawn(edge, number), strict=True):
            (folder / key).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / key / f"drawn_{number}.nii")
            entry[key] = f"{key}/drawn_{number}.nii"
        entries.append(entry)
    classes = json.loads((source / "cases.json").read_text())["classes"]
    cases = {"training": entries, "held_out": [], "classes": classes}
    if not (source / PREPARED).is_dir():
        (folder / "cases.json").write_text(json.dumps(cases))
        return
    prepared = _write(folder, cases, source / PREPARED)
    plan = json.loads((folder / PREPARED / "nnUNetPlans.json").read_text())
    chosen, levels = plan["configurations"]["3d_fullres"], len(widths)
    chosen["patch_size"] = list(patch)
    chosen["architecture"]["arch_kwargs"] |= {
        "n_stages": levels, "features_per_stage": list(widths), "kernel_sizes": [[3, 3, 3]] * levels,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (levels - 1), "n_conv_per_stage": [2] * levels,
        "n_conv_per_stage_decoder": [2] * (levels - 1),
    }  # fmt: skip
    (folder / PREPARED / "nnUNetPlans.json").write_text(json.dumps(plan))
    for number in range(DRAWN_CASES):
        _prepare(prepared, f"drawn_{number}", drawn(edge, number), patch)


def _prepare(prepared: Path, name: str, pair: Sequence[np.ndarray[Any, Any]], patch: Sequence[int]) -> None:
    """Write a case as nnU-Net's preprocessing leaves it."""
    try:
        from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
    except ImportError:
        return
    image, label = pair
    image = ((image - image.mean()) / image.std()).astype(np.float32)[None]
    places: dict[int, np.ndarray[Any, Any]] = {}
    for value in (1, 2):
        found = np.argwhere(label[None] == value)
        places[value] = np.random.default_rng(0).permutation(found)[:_LOCATIONS]
    blocks, chunks = comp_blosc2_params(image.shape, tuple(patch), image.itemsize)
    about = {"spacing": [1.0, 1.0, 1.0], "shape_before_cropping": label.shape, "class_locations": places}
    where = str(prepared / name)
    nnUNetDatasetBlosc2.save_case(image, label[None].astype(np.int8), about, where, chunks=chunks, blocks=blocks)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/hippocampus"), help="of benchmarks.hippocampus")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=20)
    options = parser.parse_args(arguments)
    copy_part(options.work, options.output, options.cases)


if __name__ == "__main__":
    main()
