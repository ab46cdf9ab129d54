"""Feature extractors for natural images: timm's models as a list of features, at output stride 8, 16 or 32.

Strides are taken away and dilations put in their place (atrous convolution), so that the weights of ImageNet still fit:
by timm itself where a model supports it (ResNets and many others), here for VGG, whose dilated form is the encoder of
DeepLab-LargeFOV: L.-C. Chen et al., "Semantic image segmentation with deep convolutional nets and fully connected
CRFs", ICLR 2015, https://arxiv.org/abs/1412.7062. That paper skips the subsampling of the last two poolings; its
released model also makes all poolings 3x3, which centres feature i on pixel ``stride * i``, and so do we at output
stride 8 and 16. fc6 (3x3, dilation 12) and fc7 belong to the head.
Deviations: at output stride 32 VGG is left as it was trained (2x2 poolings); the last normalisation of a residual block
starts at one, as in the ResNet paper (https://arxiv.org/abs/1512.03385) and torchvision, where timm starts at zero.
"""

from __future__ import annotations

import difflib
import logging
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import Format
from timm.models import adapt_input_conv, clean_state_dict, is_model_in_modules
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medseg.errors import few

logger = logging.getLogger(__name__)

OUTPUT_STRIDES = (8, 16, 32)
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # where training programs put the weights
_TORCHVISION_HEAD = "classifier."  # of VGG; other heads go by the same name in timm
_SHOWN = 8


class Encoder(nn.Module):
    """A timm model cut down to its features; made by `create_encoder`.

    Batch normalisations whose scale is frozen stay in evaluation mode, whatever `train` is told.

    Args:
        name: timm's name of the model.
        body: what ``timm.create_model(..., features_only=True)`` returns.
        freeze_batch_norm: freeze every batch normalisation: statistics, scale and shift.

    Attributes:
        channels: channels of each feature map, finest first.
        reductions: stride of each feature map in pixels of the image.

    Shape:
        ``(B, in_channels, H, W)`` to a list of ``(B, channels[i], H_i, W_i)``, finest first; where the model pads its
        strided layers (ResNet; VGG at output stride 8 and 16) H_i is ``ceil(H / reductions[i])``.
    """

    def __init__(self, name: str, body: nn.Module, *, freeze_batch_norm: bool = False) -> None:
        super().__init__()
        info: Any = body.feature_info
        self.name = name
        self.body = body
        self.channels: tuple[int, ...] = tuple(info.channels())
        self.reductions: tuple[int, ...] = tuple(info.reduction())
        self.channels_come_last = getattr(body, "output_fmt", None) == Format.NHWC
        self.batch_norm_is_frozen = freeze_batch_norm
        if freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.requires_grad_(False)
        self.train()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features, finest first."""
        features: list[Tensor] = self.body(x)
        if self.channels_come_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]  # (B, H, W, C) to (B, C, H, W)
        return features

    def train(self, mode: bool = True) -> Encoder:
        """Set the mode; frozen batch normalisations stay in evaluation mode.

        Args:
            mode: whether to train.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                frozen = module.weight is not None and not module.weight.requires_grad
                module.training = mode and not (frozen or self.batch_norm_is_frozen)
        return self


def create_encoder(
    name: str,
    in_channels: int = 3,
    *,
    output_stride: int = 32,
    weights: str | Path | None = None,
    out_indices: Sequence[int] | None = None,
    freeze_stem: bool = False,
    freeze_batch_norm: bool = False,
    multi_grid: Sequence[int] | None = None,
    **options: Any,
) -> Encoder:
    """Build an encoder, and load weights if asked.

    Args:
        name: timm's name, such as ``"resnet50"`` or ``"vgg16"``; a tag picks among timm's weights
            (``"resnet50.tv_in1k"`` are torchvision's).
        in_channels: channels of the image. With weights for 3 channels, the first filters are summed over them for 1,
            else repeated and scaled by ``3 / in_channels``, as timm does.
        output_stride: stride of the coarsest features, 8, 16 or 32.
        weights: ``None`` or ``"random"`` for random ones; ``"imagenet"`` for timm's, fetched over the network or from
            its cache; or a file (``.safetensors``, ``.pth``) with timm's or torchvision's names. They expect RGB in
            [0, 1], normalised with the mean and standard deviation that timm gives for them.
        out_indices: which features to return, such as ``(1, 3, 4)`` (timm's count: 0 is the stem of a ResNet, the
            first stage of a VGG); layers beyond the last are left out. ``None`` for all.
        freeze_stem: freeze the first layers (what timm calls the stem: the first convolution, in a ResNet also its
            normalisation).
        freeze_batch_norm: freeze every batch normalisation: statistics, scale and shift.
        multi_grid: of a ResNet, what the dilation of its last stage (2 at output stride 16, 4 at 8) is multiplied by, a
            factor for each of its blocks (DeepLabv3, https://arxiv.org/abs/1706.05587, section 3.2.1). ``None`` leaves
            timm's: one dilation, before which the first block has that of the stage before.
        options: further arguments of timm's constructor, such as ``drop_path_rate``.

    Raises:
        ValueError: if the name is unknown, the model cannot have that stride, or the weights cannot be had or do not
            fit.
    """
    _check(name, in_channels, output_stride)
    weights = None if weights == "random" else weights  # MONAI's command line cannot say None
    options = {"in_chans": in_channels, **options}
    features = {} if out_indices is None else {"out_indices": tuple(out_indices)}
    if weights == "imagenet":
        body = _fetch(name, output_stride, options | features)
    else:
        body = _build(name, output_stride, options | features)
        if weights is not None:
            _load(body, name, Path(weights), options)
    if freeze_stem:
        _freeze_stem(body, name, options)
    if multi_grid is not None:
        _set_multi_grid(body, name, 32 // output_stride, multi_grid)
    return Encoder(name, body, freeze_batch_norm=freeze_batch_norm)


def _check(name: str, in_channels: int, output_stride: int) -> None:
    if in_channels < 1:
        raise ValueError(f"in_channels is {in_channels}; it must be at least 1")
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"output_stride is {output_stride}; choose one of {', '.join(map(str, OUTPUT_STRIDES))}")
    if timm.is_model(name):
        architecture, _, tag = name.partition(".")
        tags = [other.partition(".")[2] for other in timm.list_pretrained(f"{architecture}.*")]
        if tag and tag not in tags:
            raise ValueError(
                f"timm {timm.__version__} has no weights {tag!r} for {architecture}; "
                f"choose one of {', '.join(tags) or 'none'}"
            )
        return
    close = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() lists them"
    raise ValueError(f"timm {timm.__version__} has no model {name!r}; {hint}")


# ---------------------------------------------------------------------------------------------- the network


def _build(name: str, output_stride: int, arguments: Mapping[str, Any], *, pretrained: bool = False) -> nn.Module:
    """Return timm's features at an output stride, or raise ValueError saying which are possible."""
    body = _plain(name, output_stride, arguments, pretrained=pretrained)
    if _is_vgg(name):
        _dilate_vgg(body, output_stride)
    deepest = _deepest(body)
    if deepest != output_stride:
        with torch.device("meta"):
            found = {_deepest(_plain(name, stride, arguments)) for stride in OUTPUT_STRIDES}
        possible = ", ".join(map(str, sorted(found.intersection(OUTPUT_STRIDES))))
        raise ValueError(
            f"{name} cannot have output stride {output_stride}; "
            + (f"it can have {possible}; choose that, or another encoder" if possible else "choose another encoder")
        )
    return body


def _plain(name: str, output_stride: int, arguments: Mapping[str, Any], *, pretrained: bool = False) -> nn.Module:
    arguments = dict(arguments)
    if is_model_in_modules(name, ("resnet",)):
        arguments.setdefault("zero_init_last", False)
    if _is_vgg(name) and not pretrained:
        arguments.setdefault("mlp_ratio", 1 / 4096)  # spares drawing the classifier's 103 M weights, which are dropped
    stride = {} if output_stride == 32 or _is_vgg(name) else {"output_stride": output_stride}
    try:
        body = timm.create_model(name, pretrained=pretrained, features_only=True, **stride, **arguments)
    except (TypeError, AssertionError):
        if not stride:
            raise
        body = timm.create_model(name, pretrained=pretrained, features_only=True, **arguments)  # of one stride alone
    assert isinstance(body, nn.Module)
    return body


def _is_vgg(name: str) -> bool:
    return bool(is_model_in_modules(name, ("vgg",)))


def _deepest(body: nn.Module) -> int:
    info: Any = body.feature_info
    return int(max(stage["reduction"] for stage in info.info))


def _dilate_vgg(body: nn.Module, output_stride: int) -> None:
    """Turn timm's VGG features into those of DeepLab-LargeFOV, in place."""
    if output_stride == 32:
        return
    stride = dilation = 1
    for key, layer in list(body.named_children()):
        if isinstance(layer, nn.MaxPool2d):
            step = 2 if stride < output_stride else 1
            stride, dilation = stride * step, dilation * 2 // step
            setattr(body, key, nn.MaxPool2d(3, stride=step, padding=1))
        elif isinstance(layer, nn.Conv2d):
            layer.dilation = layer.padding = (dilation, dilation)
    info: Any = body.feature_info
    for stage in info.info:
        stage["reduction"] = min(stage["reduction"], output_stride)


def _set_multi_grid(body: nn.Module, name: str, dilation: int, factors: Sequence[int]) -> None:
    """Give the blocks of the last stage of a ResNet dilations of their own, in place."""
    blocks = list(getattr(body, "layer4", nn.Sequential()).children())
    if len(factors) != len(blocks) or min(factors, default=0) < 1:
        raise ValueError(
            f"multi_grid is {tuple(factors)}, but the last stage of {name} has {len(blocks)} residual blocks; give a "
            "factor of at least 1 for each, or None"
        )
    for block, factor in zip(blocks, factors, strict=True):
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                layer.dilation = layer.padding = (dilation * factor,) * 2


def _whole(name: str, options: Mapping[str, Any]) -> Any:
    """Return timm's whole model without memory: its names, and what timm takes for its stem."""
    with torch.device("meta"):
        return timm.create_model(name, **options)


def _names(whole: nn.Module, body: nn.Module) -> dict[str, str]:
    """Return the name in the features of each tensor of the whole model that they contain."""
    own = body.state_dict()
    names: dict[str, str] = {}
    for name in whole.state_dict():
        flattened = name.replace(".", "_", 1)  # timm flattens a first level of nn.Sequential, or wraps the whole model
        for other in (name, flattened, f"body.{name}", f"model.{name}"):
            if other in own:
                names[name] = other
    return names


def _freeze_stem(body: nn.Module, name: str, options: Mapping[str, Any]) -> None:
    whole = _whole(name, options)
    matcher = whole.group_matcher(coarse=True)
    stem = matcher.get("stem") if isinstance(matcher, Mapping) else None
    names = _names(whole, body)
    parameters = dict(body.named_parameters())
    found = [own for key, own in names.items() if own in parameters and isinstance(stem, str) and re.match(stem, key)]
    if not found:
        raise ValueError(f"timm does not say what the stem of {name} is; leave freeze_stem out")
    for own in found:
        parameters[own].requires_grad_(False)


# ---------------------------------------------------------------------------------------------- weights


def _fetch(name: str, output_stride: int, arguments: Mapping[str, Any]) -> nn.Module:
    source = timm.get_pretrained_cfg(name)
    if source is None or not source.has_weights:
        raise ValueError(f"timm has no weights for {name}; give a file, or weights=None to start from random ones")
    with torch.device("meta"):  # what is wrong with the model itself is said before anything is fetched
        _build(name, output_stride, arguments)
    try:
        body = _build(name, output_stride, arguments, pretrained=True)
    except (OSError, RuntimeError) as error:
        place = f"https://huggingface.co/{source.hf_hub_id}" if source.hf_hub_id else source.url
        raise ValueError(
            f"the ImageNet weights of {name} could not be loaded ({_first_line(error)}). Without a network, download "
            f"them elsewhere from {place} and give the file: weights=<path of the .safetensors or .pth>"
        ) from error
    logger.info("%s: timm's weights %s", name, source.tag or "without a tag")
    return body


def _load(body: nn.Module, name: str, path: Path, options: Mapping[str, Any]) -> None:
    weights = _read(path)
    whole = _whole(name, options)
    names = _names(whole, body)
    own = body.state_dict()
    if set(names.values()) != set(own):
        raise ValueError(f"the features of {name} go by other names than the model; use weights='imagenet'")
    adapted = _adapt_stem(weights, name, options["in_chans"])
    beyond = [k for k in weights if k not in names and (k in whole.state_dict() or k.startswith(_TORCHVISION_HEAD))]
    counters = [k for k in names if k.endswith("num_batches_tracked")]  # old files lack them; they start at zero
    problems = [
        _listing("missing from the file", [k for k in names if k not in weights and k not in counters]),
        _listing("in the file but not in the model", [k for k in weights if k not in names and k not in beyond]),
        _listing(
            "of another shape",
            [
                f"{k} {tuple(weights[k].shape)} instead of {tuple(own[n].shape)}"
                for k, n in names.items()
                if k in weights and weights[k].shape != own[n].shape
            ],
        ),
    ]
    if any(problems):
        raise ValueError(
            f"weights {path} do not fit {name}: {'; '.join(p for p in problems if p)}. Name the model that they were "
            "trained for; names must be those of timm or torchvision"
        )
    body.load_state_dict({n: weights[k] for k, n in names.items() if k in weights})
    logger.info("%s: %s from %s", name, _listing("tensors", list(names), shown=0), path.name)
    if beyond:
        logger.info("%s: left out %s", name, _listing("beyond the features", beyond))
    if adapted:
        logger.info("%s: filters of %s adapted from 3 to %d channels", name, ", ".join(adapted), options["in_chans"])


def _read(path: Path) -> dict[str, Tensor]:
    """Read a file of weights without running any code that it may carry."""
    if not path.is_file():
        raise ValueError(f"weights {path} do not exist; give a .safetensors or .pth file, 'imagenet', or 'random'")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Detected pickle protocol")
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"weights {path} hold Python objects besides tensors, which could run code when read; the file was not "
            "opened. Have its author save the state dict alone, as .safetensors"
        ) from error
    except Exception as error:  # SafetensorError is a plain Exception
        raise ValueError(
            f"weights {path} ({path.stat().st_size} bytes) cannot be read, the file may be truncated: "
            f"{_first_line(error)}; get it again"
        ) from error
    if isinstance(loaded, Mapping):
        loaded = next((loaded[k] for k in _WRAPPERS if isinstance(loaded.get(k), Mapping)), loaded)
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ValueError(f"weights {path} hold no state dict (names and tensors) but {_kind(loaded)}; save one")
    return dict(clean_state_dict(dict(loaded)))


def _adapt_stem(weights: dict[str, Tensor], name: str, in_channels: int) -> list[str]:
    """Fit the first filters to the number of channels, in place, as timm does; return the names of their layers."""
    source = timm.get_pretrained_cfg(name)
    convolutions = (source.first_conv if source is not None else None) or ()
    adapted = []
    for layer in (convolutions,) if isinstance(convolutions, str) else convolutions:
        filters = weights.get(f"{layer}.weight")
        if filters is not None and filters.ndim == 4 and filters.shape[1] == 3 != in_channels:
            weights[f"{layer}.weight"] = adapt_input_conv(in_channels, filters)
            adapted.append(layer)
    return adapted


def _kind(loaded: object) -> str:
    if not isinstance(loaded, Mapping):
        return f"a {type(loaded).__name__}"
    return f"a dict with {_listing('keys', [str(key) for key in loaded])}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__


def _listing(what: str, keys: list[str], shown: int = _SHOWN) -> str:
    if not keys:
        return ""
    if not shown:
        return f"{len(keys)} {what}"
    return f"{len(keys)} {what}: {few(keys, shown)}"
