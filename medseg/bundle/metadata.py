"""A bundle's ``metadata.json``: what MONAI's tools and the model zoo read, made of `bundle.yaml`."""

from __future__ import annotations

from typing import Any

from medseg.bundle.source import Source, shared

__all__ = ["INTENDED_USE", "channels", "of"]

INTENDED_USE = "research; not for clinical decisions"
"""Of every model; its report says so first."""

_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_NUMBERS = {1: "one channel", 2: "two channels", 3: "three channels", 4: "four channels"}
_COLOURS = {1: ["image"], 3: ["red", "green", "blue"]}
_RANGES = {"range": [0, 1], "image": [0, 1], "imagenet": [-2.2, 2.7]}
_DIVISOR = 16


def channels(source: Source) -> int:
    """Return the image's channels: the network's, else those of the colour that the model takes, else 1."""
    given = source.description.network.get("in_channels")
    return int(given) if given is not None else {"rgb": 3}.get(source.description.input.colour or "", 1)


def of(source: Source) -> dict[str, Any]:
    """Return the metadata of a bundle."""
    tested = shared()["tested"]
    described = source.description
    classes = list(described.classes)
    counted = _NUMBERS.get(channels(source), f"{channels(source)} channels")
    ignored = "" if source.ignored is None else f"; {source.ignored} is ignored"
    return {
        "schema": _SCHEMA,
        "version": tested["bundles"],
        "changelog": shared()["changelog"],
        "monai_version": tested["monai"],
        "pytorch_version": tested["pytorch"],
        "numpy_version": tested["numpy"],
        "required_packages_version": dict(tested["packages"]),
        "name": source.texts["title"],
        "task": source.texts["task"],
        "description": source.texts["description"],
        "authors": "medseg developers",
        "copyright": "Copyright medseg developers",
        "data_source": source.texts["data_source"],
        "data_type": source.texts["data_type"],
        "image_classes": f"{counted}, {_fed(source)}",
        "label_classes": ", ".join(f"{index} {name}" for index, name in enumerate(classes)) + ignored,
        "pred_classes": f"{len(classes)} channels of logits in the order of label_classes",
        "eval_metrics": {},
        "intended_use": INTENDED_USE,
        "references": source.references,
        "network_data_format": {
            "inputs": {"image": _image(source)},
            "outputs": {"pred": _prediction(source, classes)},
        },
    }


def _fed(source: Source) -> str:
    intensity = source.description.input.intensity
    scheme = intensity["scheme"]
    if scheme == "range":
        return f"values {intensity['low']:g} to {intensity['high']:g} scaled to 0 to 1"
    if scheme == "percentiles":
        return f"percentiles {intensity['low']:g} and {intensity['high']:g} of each image scaled to 0 and 1"
    return {
        "none": "values as they are",
        "image": "the values of each image scaled to 0 to 1",
        "zscore": "each image by its own mean and standard deviation",
        "imagenet": "RGB normalised by the mean and standard deviation of ImageNet",
    }[str(scheme)]


def _shape(source: Source) -> dict[str, Any]:
    dims = source.description.spatial_dims
    return {
        "spatial_shape": [f"{_DIVISOR}*n"] * dims,
        "dtype": "float32",
    }


def _image(source: Source) -> dict[str, Any]:
    count = channels(source)
    names = source.description.channels or _COLOURS.get(count, [f"image {number}" for number in range(count)])
    return {
        "type": "image",
        "format": "magnitude",
        "modality": source.texts["modality"],
        "num_channels": count,
        **_shape(source),
        "value_range": _RANGES.get(str(source.description.input.intensity["scheme"]), []),
        "is_patch_data": source.description.inference.window is not None,
        "channel_def": {str(number): name for number, name in enumerate(names)},
    }


def _prediction(source: Source, classes: list[str]) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "segmentation",
        "num_channels": len(classes),
        **_shape(source),
        "value_range": [],
        "is_patch_data": source.description.inference.window is not None,
        "channel_def": {str(number): name for number, name in enumerate(classes)},
    }
