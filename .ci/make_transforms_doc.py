"""Write docs/how-to/monai_transforms.md: which of MONAI's dictionary transforms fail on 2D images.

Each is built with its defaults, with values for what it has no default for, and applied to an image in 2D, in 3D and
in 2D with the values of 3D. What fails there is what a list copied from a volume's recipe stumbles over.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai import transforms
from monai.data import MetaTensor

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "monai_transforms.md"
EDGE = 32

# arguments that have no default: name -> value, or a function of the number of axes
GIVEN: dict[str, Any] = {
    "gamma": 1.5, "spatial_border": 2, "roi_scale": 0.5, "lower": 5, "upper": 95, "k": 8, "sigma": 1.0, "num_cells": 4,
    "orig_labels": [0, 1], "target_labels": [1, 0], "radius": 1, "holes": 2, "factors": 0.1,
    "offsets": 0.1, "num_samples": 2, "repeats": 2, "window_length": 5, "order": 2, "b_min": 0.0, "b_max": 1.0,
    "a_min": 0.0, "a_max": 255.0, "offset": 0.1, "factor": 0.1, "threshold": 0.5, "device": "cpu", "zoom": 0.8,
    "magnitude_range": (0.1, 0.5), "sigma_range": (1, 2), "label_key": "label", "source_key": "image", "ops": ["mean"],
    "key_prefix": "of", "applied_labels": [1], "select_labels": [1], "w_key": "label", "key_dst": "label",
    "patch_size": lambda axes: (16,) * axes, "spatial_size": lambda axes: (16,) * axes,
    "roi_size": lambda axes: (16,) * axes, "rand_size": lambda axes: (4,) * axes, "pixdim": lambda axes: (2.0,) * axes,
    "angle": lambda axes: 0.3 if axes == 2 else (0.3, 0, 0), "spacing": lambda axes: (8,) * axes,
    "spatial_dims": lambda axes: tuple(range(axes)), "indices": lambda axes: tuple(range(axes + 1)),
    "distort_steps": lambda axes: [(1.0,) * 5] * axes, "kernel": lambda axes: torch.ones((3,) * axes),
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {  # further arguments, without which a transform does nothing in 3D either
    "EnsureChannelFirstd": {"channel_dim": 0},
    "Orientationd": {"axcodes": "RAS"},
    "RandCropByLabelClassesd": {"num_classes": 2},
    "RandSmoothFieldAdjustContrastd": {"spatial_size": lambda axes: (EDGE,) * axes},
    "RandSmoothFieldAdjustIntensityd": {"spatial_size": lambda axes: (EDGE,) * axes},
    "SpatialCropd": {"roi_center": lambda axes: (8,) * axes, "roi_size": lambda axes: (8,) * axes},
}
# made for files, points, batches, signals, other libraries or several keys: not asked
OTHER = {
    *("ApplyPendingd", "ApplyTransformToPointsd", "BoundingRectd", "ClassesToIndicesd", "ComputeHoVerMapsd"),
    *("ConcatItemsd", "ConvertBoxToPointsd", "ConvertPointsToBoxesd", "ConvertToMultiChannelBasedOnBratsClassesd"),
    *("CopyItemsd", "Cropd", "CuCIMd", "CutMixd", "CutOutd", "DataStatsd", "Decollated", "DeleteItemsd", "Ensembled"),
    *("FlattenSequenced", "FlattenSubKeysd", "FromMetaTensord", "GenerateHeatmapd", "Invertd", "KSpaceSpikeNoised"),
    *("Lambdad", "LoadImaged", "MaskIntensityd", "MeanEnsembled", "MixUpd", "Padd", "ProbNMSd", "RandCropd"),
    *("RandCuCIMd", "RandLambdad", "RandTorchIOd", "RandTorchVisiond", "RemoveRepeatedChanneld", "SaveClassificationd"),
    *("SaveImaged", "SelectItemsd", "SignalFillEmptyd", "SimulateDelayd", "SpatialResampled", "SplitDimd", "ToCupyd"),
    *("ToPILd", "TorchIOd", "TorchVisiond", "TransformPointsImageToWorldd", "TransformPointsWorldToImaged"),
    *("VoteEnsembled", "WriteFileMappingd"),
}
INSTEAD = {"RandSimulateLowResolutiond": '`upsample_mode="bilinear"`'}


def asked() -> dict[str, Callable[..., Any]]:
    """Return MONAI's dictionary transforms of images by name."""
    found = {}
    for name, made in sorted(vars(transforms).items()):
        of_images = inspect.isclass(made) and issubclass(made, transforms.MapTransform) and name.endswith("d")
        if of_images and name not in OTHER and name != "MapTransform":
            found[name] = made
    return found


def build(name: str, made: Callable[..., Any], axes: int) -> Any:
    """Build a transform with its defaults; the random ones always act."""
    arguments: dict[str, Any] = {"keys": ["image"], **MORE.get(name, {})}
    rest = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    for argument, parameter in inspect.signature(made).parameters.items():
        if argument == "prob":
            arguments[argument] = 1.0
        elif argument not in arguments and parameter.default is parameter.empty and parameter.kind not in rest:
            arguments[argument] = GIVEN[argument]
    return made(**{key: value(axes) if callable(value) else value for key, value in arguments.items()})


def attempt(name: str, made: Callable[..., Any], axes: int, *, built_for: int) -> str:
    """Apply a transform, built for so many axes, to an image; return its complaint, what is wrong, or nothing."""
    random = np.random.default_rng(0)
    image = torch.as_tensor(random.integers(0, 4, (1, *[EDGE] * axes)).astype(np.float32))
    label = torch.as_tensor(random.integers(0, 2, (1, *[EDGE] * axes)).astype(np.float32))
    try:
        built = build(name, made, built_for)
        if hasattr(built, "set_random_state"):
            built.set_random_state(0)
        result = built({"image": MetaTensor(image), "label": MetaTensor(label)})
    except Exception as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    result = (result[0] if isinstance(result, list) else result)["image"]
    if torch.is_tensor(result) and name != "SqueezeDimd" and result.ndim != axes + 1 and "Grid" not in name:
        return f"no error, but {tuple(image.shape)} becomes {tuple(result.shape)}"
    return ""


def measure() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return what fails in 2D as it comes, and what fails with the values of 3D; neither fails in 3D."""
    as_they_come, copied = [], []
    for name, made in asked().items():
        flat, deep = (attempt(name, made, axes, built_for=axes) for axes in (2, 3))
        if deep:
            if flat:
                raise SystemExit(f"{name} does not work at all, give it what it needs in MORE or GIVEN: {flat} {deep}")
            continue  # made for 2D
        if flat:
            as_they_come.append((name, flat))
            continue
        wrong = attempt(name, made, 2, built_for=3)
        if wrong:
            copied.append((name, wrong))
    return as_they_come, copied


def page() -> str:
    """Return the page."""
    as_they_come, copied = measure()
    lines = [
        "# MONAI's transforms on 2D images",
        "",
        "Lists of transforms are copied from recipes for volumes. This page is what happened when each of "
        f"{len(asked())} dictionary transforms of MONAI {monai.__version__} was given an image `(1, {EDGE}, {EDGE})` "
        "(`python .ci/make_transforms_doc.py` asks them again).",
        "",
        "## Fail on 2D by default",
        "",
        "They work on volumes as they come, and on pictures only with the argument named.",
        "",
        "| transform | what it says | give it |",
        "| --- | --- | --- |",
        *(f"| `{name}` | {cell(said)} | {INSTEAD[name]} |" for name, said in as_they_come),
        "",
        "## Fail, or do something else, with a volume's values",
        "",
        "They work on pictures, but not with three values where a picture has two axes.",
        "",
        "| transform | what happens |",
        "| --- | --- |",
        *(f"| `{name}` | {cell(said)} |" for name, said in copied),
        "",
        "The others accept a volume's values on a picture and leave the third out.",
    ]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Return text for a cell of a table."""
    return text[:120].replace("|", "\\|").replace("`", "")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    PAGE.write_text(page(), encoding="utf-8")
