"""The metadata that PyTorch keeps beside a state dict, and a hash of the weights in it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

KEY = "medseg"  # the header's entry
HASH = "sha256"  # the hash's, in the header


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names (sorted), types, shapes and values of the weights, wherever they lie.

    Args:
        weights: a state dict.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def metadata_of(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata that PyTorch keeps beside a state dict."""
    found = getattr(weights, "_metadata", None)
    return dict(found) if isinstance(found, Mapping) else {}


def stated_hash(weights: Mapping[str, Any]) -> str | None:
    """Return the hash that weights' header states; ``None`` without one.

    Args:
        weights: a state dict.
    """
    header = metadata_of(weights).get(KEY)
    found = header.get(HASH) if isinstance(header, Mapping) else None
    return None if found is None else str(found)


def set_metadata(weights: OrderedDict[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Put metadata beside a state dict, as PyTorch does."""
    weights._metadata = dict(metadata)  # type: ignore[attr-defined]
