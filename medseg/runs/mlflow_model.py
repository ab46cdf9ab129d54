"""A network as an MLflow model: its flavour "pytorch", with the signature of what goes in and what comes out."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn


def save_model(network: nn.Module, image_shape: Sequence[int], folder: str | Path) -> None:
    """Write a network as an MLflow model that ``mlflow.pytorch.load_model`` reads.

    Args:
        network: to keep, as a copy on the CPU in evaluation mode.
        image_shape: ``(C, *S)`` of an image that it takes.
        folder: to write into; it must not exist.

    Shape:
        The signature is of ``(B, C, *S)`` to ``(B, classes, *S)`` with any batch and any size.
    """
    import mlflow.pytorch
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    kept = copy.deepcopy(network).cpu().eval()
    with torch.no_grad():
        output = kept(torch.zeros(1, *image_shape))
    sizes = (-1,) * (len(image_shape) - 1)

    def schema(channels: int) -> Schema:
        return Schema([TensorSpec(np.dtype(np.float32), (-1, channels, *sizes))])

    # newer MLflow traces the network by default, which fixes the sizes
    pickled = {"serialization_format": "pickle"}
    known = inspect.signature(mlflow.pytorch.save_model).parameters
    with warnings.catch_warnings():  # of pickling: whoever loads the model trusts its store
        warnings.simplefilter("ignore")
        mlflow.pytorch.save_model(
            kept,
            str(folder),
            signature=ModelSignature(schema(image_shape[0]), schema(output.shape[1])),
            pip_requirements=[f"{name}=={version(name)}" for name in ("torch", "monai")],
            **{key: value for key, value in pickled.items() if key in known},
        )
