"""Exported networks in the place of a trained one: ONNX by ONNX Runtime, OpenVINO's format by OpenVINO.

An export carries what its weights say of their model, so that it alone is enough to predict with. Nothing here needs to
know how: to the rest of `medseg.prediction` an export is a network. Reading one runs no Python of its author.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.bundle.description import Description, changes
from medseg.bundle.library import WEIGHTS
from medseg.bundle.record import described, read_weights
from medseg.errors import MedsegError, shown
from medseg.runs.checkpoint import CheckpointError
from medseg.runs.header import read_header

__all__ = [
    "BACKENDS", "HEADER", "SUFFIXES", "Exported", "ExportedError", "exported_alone", "exported_of", "load_exported",
]  # fmt: skip

logger = logging.getLogger(__name__)

HEADER = "medseg"
"""Entry of an export's own metadata that holds what its weights say."""
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
BACKENDS = ("torch", *SUFFIXES)
_FORMAT = 1


class ExportedError(MedsegError):
    """An export that is not there, cannot be read, or does not take an image."""


class Exported(nn.Module):
    """An exported network that is called as the network it was made of.

    Args:
        path: of the export.
        content: its files' bytes, whose hash stands for the weights: other masks, another maker.
        header: what its weights say, and ``export``: how it was exported.

    Shape:
        ``(B, C, *S)`` to logits ``(B, classes, *S)``, float32; ``S`` is the size that it was exported for, if one was.

    Raises:
        ExportedError: if it is called with images of another size.
    """

    content: Tensor

    def __init__(self, path: Path, content: bytes, header: dict[str, Any]) -> None:
        super().__init__()
        self.path = path
        self.header = header
        size = header["export"]["size"]
        self.size = None if size is None else tuple(int(edge) for edge in size)
        self.register_buffer("content", torch.tensor(list(hashlib.sha256(content).digest()), dtype=torch.uint8))

    def forward(self, image: Tensor) -> Tensor:
        """Run it."""
        if self.size is not None and tuple(image.shape[2:]) != self.size:
            raise ExportedError(
                f"{shown(self.path.name)} was exported for images of {_edges(self.size)}, and gets "
                f"{_edges(image.shape[2:])}; export it for any size: medseg export without --size"
            )
        plain = image.detach().float().contiguous().cpu()
        return self.infer(plain).to(image.device)

    def infer(self, image: Tensor) -> Tensor:
        """Return the logits of a batch on the CPU."""
        raise NotImplementedError


class OnnxNetwork(Exported):
    """An ONNX model in ONNX Runtime, with as many threads as PyTorch has."""

    def __init__(self, path: Path) -> None:
        runtime = _need("onnxruntime", "medseg[export]")
        content = path.read_bytes()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        wanted = ["CUDAExecutionProvider"] if torch.cuda.is_available() else []
        providers = [each for each in (*wanted, "CPUExecutionProvider") if each in runtime.get_available_providers()]
        try:
            session = runtime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # its errors are classes of their own, without a common one
            raise ExportedError(_unreadable(path, error)) from error
        super().__init__(path, content, _header(session.get_modelmeta().custom_metadata_map.get(HEADER), path))
        self._session = session
        self._input = session.get_inputs()[0].name

    def infer(self, image: Tensor) -> Tensor:
        """Return the logits of a batch on the CPU."""
        return torch.from_numpy(self._session.run(None, {self._input: image.numpy()})[0])


class OpenVinoNetwork(Exported):
    """A model of OpenVINO's format on the CPU, computed in fp32, with as many threads as PyTorch has."""

    def __init__(self, path: Path) -> None:
        openvino = _need("openvino", "medseg[openvino]")
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise ExportedError(f"{shown(path)} lacks {weights.name} beside it; export it again")
        core = openvino.Core()
        try:
            model = core.read_model(path)
            held = model.get_rt_info([HEADER]).astype(str) if model.has_rt_info([HEADER]) else None
            # without the hint it computes in bf16 where the CPU has that
            hints = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
            compiled = core.compile_model(model, "CPU", hints)
        except RuntimeError as error:
            raise ExportedError(_unreadable(path, error)) from error
        super().__init__(path, path.read_bytes() + weights.read_bytes(), _header(held, path))
        self._model = compiled

    def infer(self, image: Tensor) -> Tensor:
        """Return the logits of a batch on the CPU."""
        return torch.from_numpy(self._model(image.numpy())[0].copy())


_KINDS: dict[str, type[OnnxNetwork] | type[OpenVinoNetwork]] = {".onnx": OnnxNetwork, ".xml": OpenVinoNetwork}


def load_exported(path: Path) -> tuple[Exported, Description]:
    """Return an exported network and the model that it describes.

    Args:
        path: of an ``.onnx`` or ``.xml`` that `medseg export` wrote.

    Raises:
        ExportedError: if it is not there, cannot be read or was not written by medseg.
        DescriptionError: if its description is unsound.
    """
    if not path.is_file():
        to = next(name for name, suffix in SUFFIXES.items() if suffix == path.suffix)
        raise ExportedError(f"{shown(path)} is not there; write it: medseg export MODEL --to {to}")
    network = _KINDS[path.suffix](path)
    return network, Description.of(network.header["model"], where=f"{path}, description")


def exported_of(weights: Path, content: Mapping[str, Any], backend: str) -> tuple[Exported, Description]:
    """Return the export that lies beside weights, if it was made of them.

    Args:
        weights: their file.
        content: of it, as `medseg.bundle.record.read_weights` gives it.
        backend: name of the export's.

    Raises:
        ExportedError: as `load_exported`, or if it was made of other weights, or before their model was changed.
    """
    network, description = load_exported(weights.with_suffix(SUFFIXES[backend]))
    _refuse_outdated(network, description, weights, content)
    return network, description


def exported_alone(path: Path) -> tuple[Exported, Description]:
    """Return an export that is named itself; weights that lie beside it under its name say whether it is current.

    Args:
        path: of the export.

    Raises:
        MedsegError: as `exported_of`.
    """
    network, description = load_exported(path)
    for weights in filter(Path.is_file, (path.with_suffix(suffix) for suffix in WEIGHTS)):
        try:
            content = read_weights(weights).content
        except CheckpointError as error:  # of another program: what it holds is no matter here
            logger.warning("%s does not say whether %s is current: %s", shown(weights.name), shown(path.name), error)
            continue
        if read_header(content) is not None:  # those of another program are not what it was made of
            _refuse_outdated(network, description, weights, content)
    return network, description


def _refuse_outdated(network: Exported, description: Description, weights: Path, content: Mapping[str, Any]) -> None:
    """Refuse an export of other values than the weights beside it, or of another temperature, postprocessing, ..."""
    held = read_header(content) or {}
    to = next(name for name, suffix in SUFFIXES.items() if suffix == network.path.suffix)
    again = f"export it again: medseg export MODEL --to {to}"
    if network.header.get("sha256") != held.get("sha256"):
        raise ExportedError(
            f"{shown(network.path)} was made of other weights than {shown(weights.name)} holds now; {again}"
        )
    now = described(content, weights)
    if now is not None and (apart := changes(description, now)):
        raise ExportedError(
            f"{shown(network.path)} was made before the model in {shown(weights.name)} was changed: "
            f"{'; '.join(apart)}; {again}"
        )


def _header(text: str | None, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(text or "")
        if header["format"] != _FORMAT:
            raise ExportedError(f"{shown(path)} has format {header['format']!r}, this medseg reads 1; update medseg")
        return dict(header, export=dict(header["export"]), model=dict(header["model"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, ExportedError):
            raise
        raise ExportedError(
            f"{shown(path)} does not say how it is fed, as those that medseg export writes do; export the run with it"
        ) from error


def _unreadable(path: Path, error: Exception) -> str:
    reason = next(iter(str(error).splitlines()), "")[:200]
    return f"{shown(path)} cannot be read, it may be truncated: {reason}; export it again"


def _need(module: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ExportedError(f"this needs the package {module}: pip install '{extra}'") from error


def _edges(size: Any) -> str:
    return " x ".join(str(int(edge)) for edge in size)
