"""Checkpoints: written atomically, read without executing anything, matched key by key."""

from __future__ import annotations

import errno
import io
import json
import logging
import pickle
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.atomic import atomic_write
from medseg.caller import spelt
from medseg.errors import MedsegError, counted, few
from medseg.runs.metadata import KEY, metadata_of, set_metadata, stated_hash, weights_hash

logger = logging.getLogger(__name__)

_PARALLEL, _COMPILED = "module.", "_orig_mod."  # what DistributedDataParallel and torch.compile put before a name
_NAMES = ("ema", "network", "state_dict", "model_state_dict", "model")  # of the state dict in a larger checkpoint
_SHOWN = 8
_LINE = 200  # characters of another library's error


class CheckpointError(MedsegError):
    """A checkpoint that cannot be read, does not fit, or cannot be written."""


def unwrap(network: nn.Module) -> nn.Module:
    """Return the network inside ``torch.compile`` and ``DistributedDataParallel``."""
    while True:
        inner = getattr(network, "_orig_mod", None)
        if inner is None and isinstance(network, nn.parallel.DistributedDataParallel):
            inner = network.module
        if not isinstance(inner, nn.Module):
            return network
        network = inner


def save_checkpoint(state: Mapping[str, Any], path: str | Path) -> None:
    """Write ``state`` so that ``path`` holds either the old or the new checkpoint, never half of one.

    Args:
        state: tensors, numbers, strings, and dicts or lists of them: what ``weights_only=True`` reads back. A header
            (`write_header`) is kept.
        path: target file; its folder is made. ``.safetensors`` takes a state dict alone.

    Raises:
        CheckpointError: if the disk refuses (full, read-only); the earlier file at ``path`` is untouched.
    """
    path = Path(path)
    content = _safetensors_bytes(state) if path.suffix == ".safetensors" else _torch_bytes(state)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        kept = f"the earlier {path.name} is intact" if path.exists() else f"there is no earlier {path.name}"
        raise CheckpointError(
            f"could not write checkpoint {path}: {reason} ({free / 2**20:.0f} MiB free); {kept}. "
            f"Free some space, or choose another {spelt('output_dir')}, and continue with {spelt('resume')}"
        ) from error


def _torch_bytes(state: Mapping[str, Any]) -> memoryview:
    buffer = io.BytesIO()  # torch turns a failed write into an error that does not tell; plain Python's does
    torch.save(state if isinstance(state, dict) else dict(state), buffer)
    return buffer.getbuffer()


def _safetensors_bytes(state: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save

    header = metadata_of(state).get(KEY)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    return bytes(save(tensors, metadata={KEY: json.dumps(header)} if header is not None else None))


def load_checkpoint(path: str | Path, *, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint (``.pt``, ``.pth``, ``.safetensors``) without running any code that it may carry.

    Args:
        path: the file.
        map_location: device of the tensors.

    Returns:
        What was saved: the whole training state, or a plain state dict.

    Raises:
        CheckpointError: if the file is missing, truncated, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder; name a file in it" if path.is_dir() else "does not exist; train first"
        raise CheckpointError(f"checkpoint {path} {what}, or name another file")
    try:
        if path.suffix == ".safetensors":
            return _load_safetensors(path, str(map_location))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            loaded = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        with open(path, "rb") as file:
            pickled = file.read(1) == b"\x80"
        if not pickled and "GLOBAL" not in str(error):
            raise CheckpointError(_unreadable(path, "it is no checkpoint")) from error
        raise CheckpointError(
            f"checkpoint {path} holds Python objects besides tensors and plain values, which could run code when read; "
            "it was not opened. Have its author save the state dict alone (torch.save(network.state_dict(), ...))"
        ) from error
    except Exception as error:  # the readers of damaged bytes raise whatever they stumble over
        line = next(iter(str(error).splitlines()), "")[:_LINE]
        raise CheckpointError(_unreadable(path, f"it may be truncated: {line or type(error).__name__}")) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"checkpoint {path} holds a {type(loaded).__name__}, expected a state dict")
    return loaded


def _unreadable(path: Path, why: str) -> str:
    return f"checkpoint {path} ({path.stat().st_size} bytes) cannot be read, {why}; get the file again"


def _load_safetensors(path: Path, device: str) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device=device) as file:
        weights = OrderedDict((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118 (no mapping)
        header = (file.metadata() or {}).get(KEY)
    if header is not None:
        set_metadata(weights, {KEY: json.loads(header)})
    return weights


def inner_weights(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict inside a checkpoint: the average (EMA) where there is one.

    Args:
        checkpoint: what `load_checkpoint` returned.
    """
    while True:
        named = (checkpoint[key] for key in _NAMES if isinstance(checkpoint.get(key), Mapping) and checkpoint[key])
        inner = next(named, None)
        if inner is None:
            return checkpoint
        checkpoint = inner


def network_weights(checkpoint: Mapping[str, Any]) -> OrderedDict[str, Tensor]:
    """Pick the weights to predict with out of a checkpoint, under the names of the bare network.

    Args:
        checkpoint: what `load_checkpoint` returned.

    Raises:
        CheckpointError: if two weights have one name without their wrappers.
    """
    inner = inner_weights(checkpoint)
    weights: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in inner.items():
        if not isinstance(value, Tensor):
            continue
        bare = _bare(str(name))
        if bare in weights:
            raise CheckpointError(f"the checkpoint holds {bare!r} twice, once as {name!r}; save one network alone")
        weights[bare] = value
    if metadata := metadata_of(inner):
        set_metadata(weights, {_bare(f"{name}.").removesuffix("."): value for name, value in metadata.items()})
    return weights


def _bare(name: str) -> str:
    """Return a weight's name without wrappers: any number of them in front, ``torch.compile``'s inside too."""
    name = name.replace(_COMPILED, "")  # a part that was compiled alone has it in the middle
    while name.startswith(_PARALLEL):
        name = name.removeprefix(_PARALLEL)
    return name


def load_weights(network: nn.Module, source: str | Path | Mapping[str, Tensor], *, origin: str = "") -> None:
    """Load weights into a network; every key must fit, every value be finite, and a hash in the header be theirs.

    Args:
        network: the network, wrapped or not.
        source: a checkpoint file, or a state dict.
        origin: what to call a state dict in errors.

    Raises:
        CheckpointError: lists the keys that are missing, unexpected, of another shape or not finite, or says that the
            weights are not the ones that the header was written for.
    """
    if isinstance(source, Mapping):
        weights, place = network_weights(source), origin or "state dict"
    else:
        weights, place = network_weights(load_checkpoint(source)), f"checkpoint {source}"
    target, written = unwrap(network), stated_hash(weights)
    with ThreadPoolExecutor(1) as pool:  # the hash takes as long as all else; neither holds Python
        hashed = None if written is None else pool.submit(weights_hash, weights)
        _check_names(weights, target, place)
        _check_values(weights, target, place)
        found = written if hashed is None else hashed.result()
    if found != written:
        raise CheckpointError(
            f"{place} holds weights that were changed after their header was written (SHA-256 {found}, the header "
            f"says {written}); get the file again, or save the changed weights without the header"
        )
    target.load_state_dict(weights)


def _check_names(weights: Mapping[str, Tensor], target: nn.Module, place: str) -> None:
    own = target.state_dict()
    shapes = {k: (tuple(weights[k].shape), tuple(own[k].shape)) for k in own if k in weights}
    other = {k: pair for k, pair in shapes.items() if pair[0] != pair[1]}
    problems = [
        _listing("missing from the file", [k for k in own if k not in weights]),
        _listing("in the file but not in the network", [k for k in weights if k not in own]),
        _listing("of another shape", [f"{k} {theirs} instead of {ours}" for k, (theirs, ours) in other.items()]),
    ]
    found = [p for p in problems if p]
    if not found:
        return
    classes = _classes(list(other.values())) if found == problems[2:] else None
    way_out = "Use the network_def (and its channels and out_channels) that the checkpoint was trained with"
    if classes is not None:
        way_out = (
            f"The file's layers have {classes[0]} where the network's have {classes[1]}, as weights for "
            f"{classes[0]} classes do in a network for {classes[1]}: use the datalist and out_channels that the "
            f"checkpoint was trained with, or train anew for {classes[1]} classes"
        )
    raise CheckpointError(f"{place} does not fit {type(target).__name__}: {'; '.join(found)}. {way_out}")


def _check_values(weights: Mapping[str, Tensor], target: nn.Module, place: str) -> None:
    own = target.state_dict()
    # a mask of -inf that the network makes itself is no fault of the weights
    bad = [name for name, value in weights.items() if not _is_finite(value) and _is_finite(own[name])]
    if bad:
        raise CheckpointError(
            f"{place} has {_listing('weights that are NaN or infinite', bad)}; a network with these predicts nothing. "
            "Use an earlier checkpoint, or train anew with a lower learning rate"
        )


def _is_finite(value: Tensor) -> bool:
    if not (value.is_floating_point() or value.is_complex()):
        return True
    wide = value.float() if value.element_size() == 1 else value  # 8-bit floats have few operations
    if wide.is_complex() or not wide.numel():
        return bool(torch.isfinite(wide).all())
    return bool(torch.isfinite(torch.stack(wide.aminmax())).all())  # NaN if any is; one pass, and no copy


def _classes(shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> tuple[int, int] | None:
    """Return the numbers (file, network) that all differing edges are, if they are one pair and an output has it."""
    if any(len(theirs) != len(ours) for theirs, ours in shapes):
        return None
    pairs = {pair for theirs, ours in shapes for pair in zip(theirs, ours, strict=True) if pair[0] != pair[1]}
    outputs = any(theirs[0] != ours[0] for theirs, ours in shapes)
    return pairs.pop() if len(pairs) == 1 and outputs else None


def _listing(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    return f"{len(keys)} {what}: {few(keys, _SHOWN)}"


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load an optimiser's state; its settings (rate, decay, momentum) stay as configured now, with a word of changes.

    Args:
        optimizer: built from the present configuration.
        state: of the interrupted run.

    Raises:
        CheckpointError: if it is the state of another kind of optimiser.
    """
    configured = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    lacking = sorted(set().union(*configured) - set().union(*state["param_groups"]))
    if lacking or len(state["param_groups"]) != len(configured):
        what = (
            f"has no {', '.join(lacking)}"
            if lacking
            else f"has {counted(len(state['param_groups']), 'parameter group')}"
        )
        raise CheckpointError(
            f"the optimiser's state in the checkpoint {what}, but {type(optimizer).__name__} is configured now with "
            f"{counted(len(configured), 'group')}; go on with the optimiser of the run, or start a new one"
        )
    optimizer.load_state_dict(dict(state))
    for number, (group, settings) in enumerate(zip(optimizer.param_groups, configured, strict=True)):
        for name, value in settings.items():
            before = group.get(name)
            if name != "lr" and _plain(before) != _plain(value):  # the schedule sets `lr` from `initial_lr`
                logger.warning(
                    "%s of parameter group %d was %s so far and is %s from now on", name, number, before, value
                )
            group[name] = value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
