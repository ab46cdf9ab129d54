"""What ``import medseg`` offers: `check` and `plan` for data, `train` a bundle, `load` a model, `predict` a folder.

Nothing here sets up the caller's process: no logging, no seeding, no hooks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.data.check import check_datalist as check

if TYPE_CHECKING:
    import torch

    from medseg.prediction.archive_input import ArchiveOptions
    from medseg.prediction.model import Model
    from medseg.prediction.predict import Outcome

__all__ = ["check", "load", "plan", "predict", "train"]


def train(
    bundle: str | os.PathLike[str], data: str | os.PathLike[str], *, overlays: Sequence[str] = (), **overrides: Any
) -> Path:
    """Train a bundle.

    Args:
        bundle: name of a bundle that comes with medseg, or a bundle's folder, whose code is then run.
        data: folder of the datalist, or the datalist's file.
        overlays: overlays of the bundle, such as ``"small"``.
        overrides: single keys of the configuration, such as ``max_minutes=30``.

    Returns:
        The run's folder.

    Raises:
        MedsegError: if something given cannot be used.
    """
    from medseg.bundle import workflow

    return workflow.train(os.fspath(bundle), data=os.fspath(data), overlays=overlays, overrides=overrides)


def plan(
    data: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    network: str | None = None,
    dimensions: int | None = None,
    minutes: float | None = None,
    memory: float | None = None,
    device: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Plan a bundle for a data set: how it is fed, how large its network is, how it is trained in the minutes.

    Args:
        data: folder of the datalist, or the datalist's file.
        bundle: new folder of the bundle.
        network: of medseg or MONAI, by name; U-Net by default.
        dimensions: 2 or 3; by default the images'.
        minutes: of the training; 60 by default.
        memory: that a training step may take, in GiB; by default a share of what is free.
        device: that the training is planned for; by default a GPU where there is one.
        overrides: single keys that the plan keeps to, such as ``{"patch": [64, 64]}``.

    Returns:
        The bundle's folder, which `train` takes.

    Raises:
        MedsegError: if there is no plan for these data, or nothing fits.
    """
    from medseg.bundle import library
    from medseg.bundle.data import load_data
    from medseg.studies.plan_and_train import refuse_keys

    folder, changes = Path(bundle), dict(overrides or {})
    refuse_keys(changes)
    library.refuse_taken(folder)
    datalist = load_data(data)
    from medseg.studies import plan_bundle

    minutes = changes.pop("max_minutes", minutes)
    made = plan_bundle.plan_for(
        datalist, changes, network=network, dimensions=dimensions, minutes=minutes, memory=memory, device=device
    )
    return plan_bundle.write(made, datalist, folder)


def load(
    model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    device: torch.device | str | None = None,
    precision: str = "auto",
    trust: bool = False,
    backend: str = "torch",
    signed_by: str | os.PathLike[str] | None = None,
) -> Model:
    """Load a trained model, to predict with it again and again.

    Args:
        model: the folder of a run or an ensemble, a packed model, weights, or a bundle with weights: its name or its
            folder; several are an ensemble.
        device: ``"cpu"``, ``"cuda:0"``; by default a GPU where there is one.
        precision: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        trust: also run the code of another package, where the model's network is of one.
        backend: ``"torch"``, or ``"onnx"`` or ``"openvino"`` for what `medseg export` wrote beside the weights.
        signed_by: public key that must have signed the packed model.

    Raises:
        MedsegError: if there are no weights, or they cannot be used.
    """
    from medseg.prediction.model import load as load_model

    key = None if signed_by is None else Path(signed_by)
    return load_model(_paths(model), device=device, precision=precision, trust=trust, backend=backend, signed_by=key)


def predict(
    model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Model,
    images: str | os.PathLike[str],
    masks: str | os.PathLike[str],
    *,
    outputs: Sequence[str] = (),
    tta: bool = False,
    overlays: Sequence[str] = (),
    overwrite: bool = False,
    series: str | os.PathLike[str] | None = None,
    codes: str | os.PathLike[str] | None = None,
    keep_identifiers: bool = False,
    trust: bool = False,
    backend: str = "torch",
    signed_by: str | os.PathLike[str] | None = None,
    archive: ArchiveOptions | None = None,
    **overrides: Any,
) -> Outcome:
    """Write a mask for each image of a folder, and what else is asked for.

    Args:
        model: as in `load`, or what that has loaded.
        images: a folder of images or DICOM series, one image, a datalist, or the address of an archive
            (``dicomweb://HOST:PORT/PATH``).
        masks: folder for the masks and all other outputs.
        outputs: such as ``"probabilities"``, ``"measurements"``, ``"dicom-seg"``, see `medseg.prediction.outputs`.
        tta: average over the mirror images that the model was trained on.
        overlays: of the model's bundle that change how whole images are predicted, such as ``"multi_scale"``.
        overwrite: also do images whose mask is there.
        series: a rule file that says which DICOM series of a folder the model takes.
        codes: a file of coded concepts for classes, which go before the model's, see `medseg.data.coding.read_codes`.
        keep_identifiers: keep what names a patient in masks' headers and in the record of the run.
        trust: as in `load`.
        backend: as in `load`.
        signed_by: as in `load`.
        archive: which studies, and how the archive is asked: `medseg.prediction.archive_input.ArchiveOptions`.
        overrides: such as ``device="cpu"``, see `medseg.prediction.predict.predict`.

    Returns:
        What was written, skipped, failed and left out.

    Raises:
        MedsegError: if the model or the folder cannot be used.
    """
    from medseg.prediction.predict import predict as predict_folder

    return predict_folder(
        _paths(model) if isinstance(model, str | os.PathLike | Sequence) else model,
        os.fspath(images),
        os.fspath(masks),
        outputs=outputs,
        tta=tta,
        overlays=overlays,
        overrides=overrides,
        overwrite=overwrite,
        series=None if series is None else Path(series),
        codes=None if codes is None else Path(codes),
        keep_identifiers=keep_identifiers,
        trust=trust,
        backend=backend,
        signed_by=None if signed_by is None else Path(signed_by),
        archive=archive,
    )


def _paths(model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    return [os.fspath(model)] if isinstance(model, str | os.PathLike) else [os.fspath(each) for each in model]
