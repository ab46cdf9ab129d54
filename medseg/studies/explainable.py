"""A bundle's parts that `medseg explain` needs: network with weights, preprocessing, inferer without windows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from monai.inferers import Inferer, SimpleInferer, SlidingWindowInferer
from torch import nn

from medseg.bundle.config import check_config, declared_keys
from medseg.bundle.start import InputError, check_requirements
from medseg.runs.checkpoint import load_weights
from medseg.studies import discovery

_ENTRY_POINTS = ("initialize", "run", "finalize")
_FILE = "inference.yaml"


@dataclass(frozen=True)
class Explainable:
    """What is needed of a bundle.

    Attributes:
        name: of its folder.
        network: in evaluation mode, with weights, on its device.
        checkpoint: file of the weights.
        inferer: the bundle's, without windows.
        preprocessing: dictionary transforms from a path under ``image``.
        postprocessing: dictionary transforms from ``pred`` logits to class indices ``(1, *S)``.
        spatial_dims: of the network.
        in_channels: of the network.
        class_names: by index.
        resized_to: size in pixels that every image is brought to, if so.
    """

    name: str
    network: nn.Module
    checkpoint: Path
    inferer: Inferer
    preprocessing: Callable[..., Any]
    postprocessing: Callable[..., Any]
    spatial_dims: int
    in_channels: int
    class_names: tuple[str, ...]
    resized_to: tuple[int, ...] | None


def load_bundle(folder: str | Path, *, ckpt: str | Path | None = None, overlays: Sequence[str] = ()) -> Explainable:
    """Build a bundle's network as its inference does, with weights.

    Args:
        folder: of the bundle, which has ``configs/inference.yaml``.
        ckpt: weights; by default those that the bundle's inference takes.
        overlays: further configuration files, or names of files in the bundle's ``configs``.

    Raises:
        InputError: if the bundle, an overlay or the weights are missing, or the network has no attention to show.
        ConfigError: if the configuration has a key without effect, or a package is missing.
        CheckpointError: if the weights cannot be read or do not fit.
    """
    parser = _parser(Path(folder).resolve(), overlays)
    network = _parsed(parser, "network_def")
    if not has_attention(type(network)):
        raise InputError(
            f"{type(network).__name__} has no attention to show; these networks have: "
            f"{', '.join(networks_with_attention())}. Name an overlay that sets one of them with --config"
        )
    checkpoint = Path(ckpt if ckpt is not None else _parsed(parser, "ckpt"))
    if not checkpoint.is_file():
        raise InputError(
            f"checkpoint {checkpoint} does not exist; train the bundle to make it (python -m monai.bundle run "
            f"--config_file {Path(folder) / 'configs' / 'train.yaml'} --dataset_dir <folder of datalist.json>), or "
            "name another file with --ckpt"
        )
    load_weights(network, checkpoint)
    settings = parser["network_def"]
    inferer = _parsed(parser, "inferer")
    return Explainable(
        name=Path(folder).resolve().name,
        network=network.to(_parsed(parser, "device")).eval(),
        checkpoint=checkpoint,
        inferer=without_windows(inferer),
        preprocessing=_parsed(parser, "preprocessing"),
        postprocessing=_parsed(parser, "postprocessing"),
        spatial_dims=int(settings["spatial_dims"]),
        in_channels=int(settings["in_channels"]),
        class_names=_class_names(parser["_meta_"], int(settings["out_channels"])),
        resized_to=_resized_to(inferer),
    )


def has_attention(network: type) -> bool:
    """Return whether a class of networks has the method; a layer of that name is none."""
    return callable(getattr(network, "attention", None))


def networks_with_attention(package: str = discovery.PACKAGE) -> list[str]:
    """Return the names of the networks whose attention can be shown.

    Args:
        package: dotted path.
    """
    names = []
    for network in discovery.networks(package):
        try:
            found = discovery.load(network.target)
        except Exception:  # one that cannot be imported has nothing to show
            continue
        names += [network.name] if has_attention(found) else []
    return names


def without_windows(inferer: Inferer) -> Inferer:
    """Return an inferer that gives the network the whole image, normalised and resized as before.

    Windows, and views of several scales and flips, are left out.

    Args:
        inferer: of a bundle.

    Raises:
        InputError: if it is none of those known here.
    """
    if isinstance(inferer, SlidingWindowInferer | SimpleInferer):
        return SimpleInferer()
    inner = getattr(inferer, "inferer", None)
    if isinstance(inner, Inferer):
        if hasattr(inferer, "scales"):
            return without_windows(inner)
        if hasattr(inferer, "normalise") or hasattr(inferer, "spatial_size"):
            whole: Any = copy.copy(inferer)
            whole.inferer = without_windows(inner)
            return cast(Inferer, whole)
    raise InputError(
        f"the bundle's inferer {type(inferer).__name__} is not known to give the network a whole image; set one of "
        "medseg.inferers or monai.inferers.SimpleInferer in an overlay (--config)"
    )


def _resized_to(inferer: Any) -> tuple[int, ...] | None:
    while inferer is not None:
        if (size := getattr(inferer, "spatial_size", None)) is not None:
            return tuple(size)
        inferer = getattr(inferer, "inferer", None)
    return None


def _parser(folder: Path, overlays: Sequence[str]) -> Any:
    """Return MONAI's parser with a bundle's configuration for inference, checked."""
    import yaml
    from monai.bundle import ConfigParser

    configs = folder / "configs"
    if not (configs / _FILE).is_file():
        raise InputError(f"{folder} is no bundle: it has no configs/{_FILE}; name the folder of one")
    parser = ConfigParser()
    files = [configs / _FILE, *(_overlay(name, configs) for name in overlays)]
    for path in files:
        try:
            content = ConfigParser.load_config_file(str(path))
        except (ValueError, OSError, yaml.YAMLError) as error:
            raise InputError(f"{path} cannot be read as a configuration: {first_line(error)}") from error
        if not isinstance(content, Mapping):
            raise InputError(f"{path} holds no keys; an overlay is a mapping such as `network_def#channels: [16, 32]`")
    parser.read_config([str(path) for path in files])
    if (configs / "metadata.json").is_file():
        parser.read_meta(str(configs / "metadata.json"))
    check_requirements(parser["_meta_"])
    check_config(parser.get(), _ENTRY_POINTS, declared_keys(configs))
    parser["bundle_root"] = str(folder)  # its expression asks for a running workflow
    return parser


def _overlay(name: str, configs: Path) -> Path:
    for path in (Path(name), configs / name):
        if path.is_file():
            return path
    there = sorted(str(path.relative_to(configs)) for path in configs.rglob("*.yaml") if path.name != _FILE)
    raise InputError(f"--config {name} is no file, here or in {configs}; there are {', '.join(there) or 'none'}")


def _parsed(parser: Any, key: str) -> Any:
    """Return what a key of the configuration stands for."""
    if key not in parser.get():
        raise InputError(f"the bundle's {_FILE} has no `{key}`, which its inference needs")
    try:
        return parser.get_parsed_content(key)
    except RuntimeError as error:  # MONAI's, around the component's own
        raise InputError(f"`{key}` of the bundle cannot be made: {first_line(error)}") from error


def _class_names(metadata: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """Return the names in the metadata; numbers if they are not those of this network."""
    found: Any = metadata
    for key in ("network_data_format", "outputs", "pred", "channel_def"):
        found = found.get(key, {}) if isinstance(found, Mapping) else {}
    names = [str(found.get(str(index), "")) for index in range(classes)]
    if len(found) == classes and all(names):
        return tuple(names)
    return tuple(f"class {index}" for index in range(max(2, classes)))  # one channel has two: above and below 0.5


def first_line(error: BaseException) -> str:
    """Return the first line of what is wrong, not of MONAI's error around it."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
