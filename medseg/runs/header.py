"""What weights say of themselves: plain data that travels inside a weights file and that no reader stumbles over.

In a ``.pt`` file it is the entry ``medseg`` of the state dict's own metadata, where PyTorch keeps the versions of its
modules: ``torch.load(weights_only=True)`` reads it, ``load_state_dict``, Ignite and MONAI pass over it. In a
``.safetensors`` file it is JSON in ``__metadata__``.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from medseg.runs.checkpoint import inner_weights, load_checkpoint
from medseg.runs.metadata import HASH, KEY, metadata_of, set_metadata, weights_hash
from medseg.runs.run_folder import to_plain

__all__ = ["read_header", "weights_hash", "write_header"]


def write_header(weights: Mapping[str, Tensor], header: Mapping[str, Any]) -> OrderedDict[str, Tensor]:
    """Return the weights with a header, which gets the hash of the weights as ``sha256``.

    Args:
        weights: a state dict; its versions of modules are kept.
        header: what JSON can hold; other values are made plain by `to_plain`.
    """
    headed = OrderedDict(weights)
    plain = json.loads(json.dumps(to_plain(header), allow_nan=False))
    set_metadata(headed, {**metadata_of(weights), KEY: {**plain, HASH: weights_hash(weights)}})
    return headed


def read_header(source: str | Path | Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the header of weights; ``None`` where they have none.

    Args:
        source: a file, or what `load_checkpoint` returned: a state dict or a whole training state.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    found = source if isinstance(source, Mapping) else load_checkpoint(source)
    header = metadata_of(inner_weights(found)).get(KEY)
    return dict(header) if isinstance(header, Mapping) else None
