"""Checkpoints: written atomically, read without executing anything, matched key by key."""

from __future__ import annotations

import errno
import io
import logging
import pickle
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.atomic import atomic_write
from medseg.errors import MedsegError

logger = logging.getLogger(__name__)

_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_SHOWN = 8


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
        state: tensors, numbers, strings, and dicts or lists of them: what ``weights_only=True`` reads back.
        path: target file; its folder is made.

    Raises:
        CheckpointError: if the disk refuses (full, read-only); the earlier file at ``path`` is untouched.
    """
    path = Path(path)
    buffer = io.BytesIO()  # torch turns a failed write into an error that does not tell; plain Python's does
    torch.save(dict(state), buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
    except OSError as error:
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        kept = f"the earlier {path.name} is intact" if path.exists() else f"there is no earlier {path.name}"
        raise CheckpointError(
            f"could not write checkpoint {path}: {reason} ({free / 2**20:.0f} MiB free); {kept}. "
            "Free some space, or choose another --output_dir, and continue with --resume"
        ) from error


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
        raise CheckpointError(f"checkpoint {path} does not exist; train first, or name another file with --ckpt")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path, device=str(map_location)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            loaded = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"checkpoint {path} holds Python objects besides tensors and plain values, which could run code when read; "
            "it was not opened. Have its author save the state dict alone (torch.save(network.state_dict(), ...))"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint {path} ({path.stat().st_size} bytes) cannot be read, it may be truncated: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"checkpoint {path} holds a {type(loaded).__name__}, expected a state dict")
    return loaded


def network_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Pick the weights to predict with out of a checkpoint: the average (EMA) where there is one.

    Args:
        checkpoint: what `load_checkpoint` returned.
    """
    for key in ("ema", "network", "state_dict", "model"):
        inner = checkpoint.get(key)
        if isinstance(inner, Mapping) and inner:
            checkpoint = inner
            break
    weights: dict[str, Tensor] = {}
    for name, value in checkpoint.items():
        if not isinstance(value, Tensor):
            continue
        for wrapper in _WRAPPERS:
            name = name.removeprefix(wrapper)
        weights[name] = value
    return weights


def load_weights(network: nn.Module, source: str | Path | Mapping[str, Tensor], *, origin: str = "") -> None:
    """Load weights into a network; every key must fit.

    Args:
        network: the network, wrapped or not.
        source: a checkpoint file, or a state dict.
        origin: what to call a state dict in errors.

    Raises:
        CheckpointError: lists the keys that are missing, unexpected or of another shape.
    """
    if isinstance(source, Mapping):
        weights, place = dict(source), origin or "state dict"
    else:
        weights, place = network_weights(load_checkpoint(source)), f"checkpoint {source}"
    target = unwrap(network)
    own = target.state_dict()
    shapes = {k: (tuple(weights[k].shape), tuple(own[k].shape)) for k in own if k in weights}
    other = {k: pair for k, pair in shapes.items() if pair[0] != pair[1]}
    problems = [
        _listing("missing from the file", [k for k in own if k not in weights]),
        _listing("in the file but not in the network", [k for k in weights if k not in own]),
        _listing("of another shape", [f"{k} {theirs} instead of {ours}" for k, (theirs, ours) in other.items()]),
    ]
    found = [p for p in problems if p]
    if found:
        classes = _classes(list(other.values())) if found == problems[2:] else None
        way_out = "Use the network_def (and its channels and out_channels) that the checkpoint was trained with"
        if classes is not None:
            way_out = (
                f"The file's layers have {classes[0]} where the network's have {classes[1]}, as weights for "
                f"{classes[0]} classes do in a network for {classes[1]}: use the datalist and out_channels that the "
                f"checkpoint was trained with, or train anew for {classes[1]} classes"
            )
        raise CheckpointError(f"{place} does not fit {type(target).__name__}: {'; '.join(found)}. {way_out}")
    target.load_state_dict(weights)


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
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{len(keys)} {what}: {', '.join(keys[:_SHOWN])}{more}"


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
        what = f"has no {', '.join(lacking)}" if lacking else f"has {len(state['param_groups'])} parameter groups"
        raise CheckpointError(
            f"the optimiser's state in the checkpoint {what}, but {type(optimizer).__name__} is configured now with "
            f"{len(configured)} group(s); go on with the optimiser of the run, or start a new one"
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
