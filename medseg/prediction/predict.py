"""Masks for a folder of images by a trained model: what `medseg predict` runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.bundle.early import refuse_inference, refuse_unread
from medseg.bundle.library import weights_file
from medseg.io.folder import refuse_missing
from medseg.runs.paths import resolve_path

__all__ = ["Outcome", "predict"]

TAKES = ("device", "precision", "num_workers")


@dataclass(frozen=True)
class Outcome:
    """What became of the images.

    Args:
        written: masks written.
        skipped: images whose mask by this model was there.
        failures: images that could not be done, with the reason.
        left_out: files that were left out, with the reason.
        missed: those of them that somebody may take for images.
    """

    written: int
    skipped: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    missed: int = 0


def predict(
    model: str | Path,
    images: str | Path,
    masks: str | Path,
    *,
    overlays: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    keep_header: bool = False,
    trust: bool = False,
    backend: str = "torch",
) -> Outcome:
    """Predict an image or a folder of images.

    Args:
        model: a run, bundle, packed model, or weights, see `medseg.prediction.model.load`; they know how they are fed.
        images: a file or folder.
        masks: folder of the masks; made if missing.
        overlays: of the model's bundle that change how whole images are predicted, such as ``multi_scale``.
        overrides: ``device``, ``precision``, ``num_workers``, and ``inference#window``, ``inference#overlap``,
            ``inference#scales``, ``inference#flip_axes``, ``inference#batch``: how whole images are predicted is free,
            how they are fed is not.
        overwrite: also do images whose mask is there, whatever made it; without it, only this model's may be there.
        keep_header: keep what an image's header says beside its geometry.
        trust: also build a network of another package than medseg and MONAI, as `medseg.prediction.model.load` does.
        backend: ``"torch"``, ``"onnx"`` or ``"openvino"``, as there.

    Raises:
        MedsegError: if the model or the folder cannot be used, an override is not one of those, or a mask is there
            that other weights made.
    """
    given = dict(overrides or {})
    plain = {key: given.pop(key) for key in TAKES if key in given}
    changes = {key: given.pop(key) for key in list(given) if key.startswith("inference#")}
    refuse_unread("predict", given, TAKES, " and inference#...; how images are fed comes with the weights")
    refuse_inference(changes)
    weights, source, target = weights_file(model), resolve_path(images), resolve_path(masks)
    refuse_missing(source)
    from medseg.bundle import feeding
    from medseg.bundle.inference import with_inference
    from medseg.prediction.model import load
    from medseg.prediction.predictor import ImageFolder, InputError, Predictor

    trained = load(
        weights, device=plain.get("device"), precision=str(plain.get("precision", "auto")), trust=trust, backend=backend
    )
    description = with_inference(trained.description, overlays, changes)
    folder = ImageFolder(source, description, target, overwrite=overwrite)
    predictor = Predictor(
        trained.device,
        folder,
        trained.network,
        feeding.inferer(description),
        None,
        description=description,
        num_workers=int(plain.get("num_workers", 0)),
        precision=trained.precision,
        keep_header=keep_header,
    )
    try:
        predictor.run()
    except InputError:
        if not (predictor.failures or folder.missed):
            raise
    failures = [(str(path), reason) for path, reason in predictor.failures]
    left_out = [(str(path), reason) for path, reason in folder.left_out]
    return Outcome(len(predictor.written), folder.skipped, failures, left_out, len(folder.missed))
