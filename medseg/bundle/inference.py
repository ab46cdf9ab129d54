"""How a trained model predicts may change after training (windows, flips, postprocessing); its feeding may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from medseg.bundle import library
from medseg.bundle.description import Description, DescriptionError, Inference, part
from medseg.errors import MedsegError
from medseg.io.yaml_file import read_yaml
from medseg.transforms.postprocess import Postprocess

__all__ = ["mirrored", "with_inference"]

_KEY = "inference#"
_IN_BUNDLE = "model#inference#"


def with_inference(
    description: Description,
    overlays: Sequence[str],
    changes: Mapping[str, Any],
    postprocess: Mapping[str, Any] | None = None,
) -> Description:
    """Return a model that predicts otherwise.

    Args:
        description: of the trained model.
        overlays: names of overlays of its bundle, such as ``multi_scale``.
        changes: ``inference#window`` and the like, which go before overlays.
        postprocess: steps by class in place of the weights' own.

    Raises:
        MedsegError: if an overlay changes more than the inference, or a value is out of range.
    """
    if postprocess is not None:
        Postprocess(postprocess, description.classes)
        description = replace(description, postprocess=postprocess)
    wanted = {**_of_overlays(description.name, overlays), **{key.removeprefix(_KEY): v for key, v in changes.items()}}
    if not wanted:
        return description
    content = description.to_dict()
    content["inference"] = {**content["inference"], **wanted}
    part(Inference, content["inference"], "inference")
    return Description.of(content)


def mirrored(description: Description) -> Description:
    """Return a model that averages over the mirror images that its training showed it.

    Args:
        description: of the trained model.

    Raises:
        DescriptionError: if its weights do not say along which axes that were.
    """
    axes = description.inference.mirror_axes
    if not axes:
        raise DescriptionError(
            f"the weights of {description.name} name no axis along which their training mirrored images, and mirror "
            "images that it never saw make masks worse; name the axes, such as inference#flip_axes=[-1], or train with "
            "model#inference#mirror_axes"
        )
    flips = [*description.inference.flip_axes, *(axis for axis in axes if axis not in description.inference.flip_axes)]
    return with_inference(description, (), {"inference#flip_axes": flips})


def _of_overlays(name: str, overlays: Sequence[str]) -> dict[str, Any]:
    if not overlays:
        return {}
    changes: dict[str, Any] = {}
    for path in library.config_files(library.find(name), "inference", list(overlays))[1:]:
        content = read_yaml(path, MedsegError, "an overlay")
        for key, value in content.items():
            if key.startswith("overlays#"):
                continue
            if not key.startswith(_IN_BUNDLE):
                raise MedsegError(
                    f"overlay {path.stem} sets {key}, which comes with the weights; train with it instead"
                )
            changes[key.removeprefix(_IN_BUNDLE)] = value
    return changes
