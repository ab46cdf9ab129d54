"""What the sides of `benchmarks.cohort` predict with: images, and a network of equal weights as each of them has it.

Called by a process of its own, since a process hands its own peak of memory on to those that it starts.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from benchmarks.cohort_network import IMPORTED, planned
from benchmarks.cohort_parts import BATCH, COHORTS, NAME, OVERLAP, Cohort
from medseg.bundle.description import Description
from medseg.bundle.networks import create
from medseg.bundle.record import header_of
from medseg.io.images import image_suffix
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.header import write_header

_FOREGROUND = 0.1  # share of a noise image that is not background


def lay_out(cohort: Cohort, source: Path, folder: Path) -> None:
    """Write images, the same for all sides, and each side's model.

    Args:
        cohort: of which kind.
        source: folder of images, of which the first in the order of their names are taken.
        folder: is made, with ``images``, ``one``, ``nnunet_images``, ``model.pt``, ``monai`` and ``nnunet``.
    """
    files = sorted(path for path in source.iterdir() if image_suffix(path) == cohort.suffix)
    if len(files) < cohort.number:
        raise SystemExit(f"{source.name} has {len(files)} images of {cohort.suffix}; {cohort.number} are needed")
    for name in ("images", "one", "nnunet_images", "monai"):
        (folder / name).mkdir(parents=True)
    for number, file in enumerate(files[: cohort.number]):
        image = folder / "images" / f"image{number + 1:02}{cohort.suffix}"
        if cohort.spatial_dims == 2:
            with Image.open(file) as picture:
                picture.convert("RGB").save(image)
        elif cohort.enlarged == 1:
            image.write_bytes(file.read_bytes())
        else:
            _enlarge(file, image, cohort.enlarged)
        (folder / "nnunet_images" / image.name.replace(cohort.suffix, f"_0000{cohort.suffix}")).symlink_to(image)
    largest = max((folder / "images").iterdir(), key=_voxels)
    (folder / "one" / largest.name).symlink_to(largest)
    network = _network(cohort)
    weights = network.state_dict()
    _write_medseg(cohort, network, folder / "model.pt")
    torch.save(weights, folder / "monai" / "model.pt")
    (folder / "monai" / "inference.json").write_text(json.dumps(_monai(cohort, folder), indent=1))
    _write_nnunet(cohort, weights, folder / "nnunet")


def _enlarge(file: Path, image: Path, factor: int) -> None:
    """Write a volume of so many times the voxels over every axis, interpolated linearly, in the same place."""
    import nibabel
    import numpy as np
    from scipy.ndimage import zoom

    volume = nibabel.load(file)
    values = np.asarray(volume.dataobj)
    larger = zoom(values.astype(np.float32), factor, order=1).round().astype(values.dtype)
    affine = volume.affine.copy()
    affine[:3, :3] /= factor
    nibabel.save(nibabel.Nifti1Image(larger, affine), image)


def _voxels(image: Path) -> int:
    if image.suffix == ".png":
        with Image.open(image) as picture:
            return picture.width * picture.height
    import nibabel

    return math.prod(nibabel.load(image).shape)


def _network(cohort: Cohort) -> nn.Module:
    """Return a network with drawn weights, most of whose pixels are background, as those of a trained one."""
    sides = (cohort.spatial_dims, cohort.in_channels, len(cohort.classes))
    network = create(NAME, *sides, seed=0, channels=list(cohort.channels)).eval()
    *_, last = (module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    noise = torch.randn(1, cohort.in_channels, *cohort.window, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = network(noise)[0].flatten(1)
    most = (logits[1:].amax(0) - logits[0]).quantile(1 - _FOREGROUND)
    assert last.bias is not None
    with torch.no_grad():
        last.bias[0] += most.item()
    return network


def _write_medseg(cohort: Cohort, network: nn.Module, path: Path) -> None:
    content = {
        "name": cohort.name,
        "classes": list(cohort.classes),
        "network": network.recipe,
        "input": {"intensity": {"scheme": "zscore"}},
        "inference": {"window": list(cohort.window), "overlap": OVERLAP, "batch": BATCH},
    }
    save_checkpoint(write_header(network.state_dict(), header_of(Description.of(content))), path)


def _monai(cohort: Cohort, folder: Path) -> dict[str, Any]:
    """Return an inference configuration as those of MONAI's model zoo, of MONAI's parts alone."""
    reader = {"reader": "PILReader", "reverse_indexing": False} if cohort.spatial_dims == 2 else {}
    written = {"output_postfix": "", "separate_folder": False, "output_ext": cohort.suffix, "output_dtype": "uint8"}
    files = f"$[{{'image': p}} for p in sorted(__import__('glob').glob({str(folder / 'images' / '*')!r}))]"
    return {
        "output_dir": "",
        "device": "$__import__('torch').device('cpu')",
        "network": {
            "_target_": NAME, "spatial_dims": cohort.spatial_dims, "in_channels": cohort.in_channels,
            "out_channels": len(cohort.classes), "channels": list(cohort.channels),
        },
        "preprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": "LoadImaged", "keys": "image", **reader},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True},
            {"_target_": "EnsureTyped", "keys": "image"},
        ]},
        "dataset": {"_target_": "Dataset", "data": files, "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False, "num_workers": 4,
        },
        "inferer": {
            "_target_": "SlidingWindowInferer", "roi_size": list(cohort.window), "sw_batch_size": BATCH,
            "overlap": OVERLAP, "mode": "gaussian",
        },
        "postprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", **written},
        ]},
        "handlers": [
            {
                "_target_": "CheckpointLoader", "load_path": str(folder / "monai" / "model.pt"),
                "load_dict": {"model": "@network"}, "map_location": "@device",
            },
            {"_target_": "StatsHandler", "iteration_log": False},
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@dataloader",
            "network": "@network", "inferer": "@inferer", "postprocessing": "@postprocessing",
            "val_handlers": "@handlers", "amp": False,
        },
        "run": ["$@evaluator.run()"],
    }  # fmt: skip


def _write_nnunet(cohort: Cohort, weights: dict[str, Any], folder: Path) -> None:
    """Write a folder as nnU-Net leaves it after training; volumes are transposed, so that all see the same axes."""
    dims = cohort.spatial_dims
    resampling = {"order_z": 0, "force_separate_z": None}
    names = dict.fromkeys(("data", "seg", "probabilities"), "resample_data_or_seg_to_shape")
    orders = {"data": (False, 3), "seg": (True, 1), "probabilities": (False, 1)}
    configuration = {
        "data_identifier": "cohort", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": list(cohort.window), "spacing": [1.0 / cohort.enlarged] * dims,
        "normalization_schemes": ["ZScoreNormalization"] * cohort.in_channels,
        "use_mask_for_norm": [False] * cohort.in_channels, "batch_dice": False,
        **{f"resampling_fn_{part}": name for part, name in names.items()},
        **{f"resampling_fn_{part}_kwargs": {"is_seg": seg, "order": order, **resampling}
           for part, (seg, order) in orders.items()},
        "architecture": {
            "network_class_name": "benchmarks.cohort_network.Planned", "arch_kwargs": planned(dims, cohort.channels),
            "_kw_requires_import": list(IMPORTED),
        },
    }  # fmt: skip
    axes = [0, 1, 2] if dims == 2 else [2, 1, 0]
    plans = {
        "dataset_name": "Dataset001_Cohort", "plans_name": "nnUNetPlans", "configurations": {"cohort": configuration},
        "transpose_forward": axes, "transpose_backward": axes, "label_manager": "LabelManager",
        "image_reader_writer": "NaturalImage2DIO" if dims == 2 else "SimpleITKIO",
        "foreground_intensity_properties_per_channel": {str(number): {} for number in range(cohort.in_channels)},
        "experiment_planner_used": "ExperimentPlanner",
    }  # fmt: skip
    dataset = {
        "channel_names": {str(number): f"channel {number}" for number in range(cohort.in_channels)},
        "labels": {name: index for index, name in enumerate(cohort.classes)},
        "numTraining": cohort.number,
        "file_ending": cohort.suffix,
    }
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans, indent=1))
    (folder / "dataset.json").write_text(json.dumps(dataset, indent=1))
    state = {
        "network_weights": weights, "trainer_name": "nnUNetTrainer", "init_args": {"configuration": "cohort"},
        "inference_allowed_mirroring_axes": None,
    }  # fmt: skip
    torch.save(state, folder / "fold_0" / "checkpoint_final.pth")


def main(arguments: Sequence[str] | None = None) -> None:
    """Lay out a cohort: its name, a folder of images, the folder to write, the number of images."""
    name, source, folder, number = sys.argv[1:] if arguments is None else arguments
    cohort = next(each for each in COHORTS if each.name == name)
    lay_out(replace(cohort, number=int(number)), Path(source), Path(folder))


if __name__ == "__main__":
    main()
