"""What a trained network attends to in images: the command ``medseg explain``.

Images are fed as the model's description says, and drawn as their files have them. The network's ``attention(x)`` and
its prediction come from the same pass over the whole image, or over a centred region of it: where the model predicts by
windows, its masks may differ a little from the prediction shown.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from medseg.atomic import atomic_write
from medseg.bundle.description import Description
from medseg.engines.failures import out_of_memory
from medseg.errors import MedsegError, counted, shown
from medseg.io.masks import image_suffix
from medseg.io.parts import content_hash
from medseg.prediction.case import Feeder
from medseg.prediction.cases import ImageFolder
from medseg.prediction.mask_record import Maker
from medseg.prediction.sinks import Case
from medseg.reports.attention import attention_sheet
from medseg.studies.explainable import Explainable, ExplainError, first_line

_TEXT = "medseg"  # of a sheet, which says what it is of


@dataclass(frozen=True, eq=False)
class _Job:
    """An image, where it is read from, and the files to write."""

    case: Case
    sheet: Path
    arrays: Path

    @property
    def image(self) -> Path:
        """The file that stands for the image."""
        return self.case.image


def explain(
    bundle: Explainable,
    images: Sequence[str | Path],
    output_dir: str | Path,
    *,
    maps: Sequence[str] = (),
    roi: Sequence[int] = (),
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, Any]:
    """Write a sheet (PNG) and the raw maps (NPZ) of each image, by its name and subfolder.

    A 2D network gets the middle slice of a volume along its last axis. Images whose files are there are skipped, where
    those are of this model, image, region and choice of maps, which a text in the sheet says by a hash.

    Args:
        bundle: the model.
        images: files and folders.
        output_dir: where the files go.
        maps: names of those to show; all if empty.
        roi: edges in pixels of the centred region to look at, one for all axes or one each; the whole image if empty.
        overwrite: also do images whose files are there, whatever they are of.
        progress: is told how many images are done, and how many there are.

    Returns:
        What was done, for JSON: ``written`` (image, sheet, arrays, and size, lowest and highest value of each map),
        ``skipped`` and ``failures`` (image and reason).

    Raises:
        ExplainError: if there is no such image or map, two would write one file, or a file cannot be written or would
            replace something else, such as the sheet of another image.
    """
    _check_roi(roi, bundle)
    jobs = _jobs(images, Path(output_dir), bundle.description)
    network = type(bundle.network).__name__
    maker = Maker.of(bundle.network, bundle.description)
    asked = json.dumps([maker.weights, maker.model, network, sorted(maps), list(roi)])
    finished = [] if overwrite else [job for job in jobs if _is_done(job, asked)]
    todo = [job for job in jobs if job not in finished]
    tell = progress or (lambda done, total: None)
    written: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    for number, job in enumerate(todo):
        tell(number, len(todo))
        try:
            case, found, text = _look(bundle, job, roi)
            chosen = _select(found, maps, network)
            sheet = _sheet(bundle, case, chosen, f"{bundle.name}: attention of {network}, {case['name']}", text)
        except ExplainError:  # of the question, not of the image
            raise
        except (ValueError, RuntimeError, MemoryError) as error:
            failures.append({"image": str(job.image), "reason": _reason(error)})
            continue
        _write(job, sheet, chosen, _answer(job, asked))
        files = {"image": str(job.image), "sheet": str(job.sheet), "arrays": str(job.arrays)}
        written.append({**files, "maps": {name: _summary(values) for name, values in chosen.items()}})
    tell(len(todo), len(todo))
    about = {"bundle": bundle.name, "network": network, "checkpoint": str(bundle.checkpoint)}
    return {**about, "written": written, "skipped": [str(job.image) for job in finished], "failures": failures}


def _is_done(job: _Job, asked: str) -> bool:
    """Return whether an image's files are there and answer what is asked.

    Raises:
        ExplainError: if they answer something else.
    """
    if not (job.sheet.is_file() and job.arrays.is_file()):
        return False
    try:
        with Image.open(job.sheet) as sheet:
            if sheet.info.get(_TEXT) == _answer(job, asked):
                return True
    except OSError:  # no picture, or no image, as who reads it says
        pass
    raise ExplainError(
        f"{shown(job.sheet)} is there and is not of this model, image, region and choice of maps; name another "
        "--output, or do it again with --overwrite"
    )


def _answer(job: _Job, asked: str) -> str:
    """Return what stands for what is asked of an image, by its bytes."""
    return hashlib.sha256(f"{asked} {content_hash(job.case.files)}".encode()).hexdigest()


def _check_roi(roi: Sequence[int], bundle: Explainable) -> None:
    if roi and bundle.resized_to is not None:
        raise ExplainError(
            f"--roi {' '.join(map(str, roi))} is for images that are looked at as they are; the inferer of "
            f"{bundle.name} resizes whole images to {_by(bundle.resized_to)}: leave --roi out"
        )
    if roi and (len(roi) not in (1, bundle.spatial_dims) or min(roi) < 1):
        raise ExplainError(
            f"--roi {' '.join(map(str, roi))} does not fit a network of {bundle.spatial_dims} dimensions; give one "
            f"edge of at least 1 pixel, or {bundle.spatial_dims}"
        )


def _jobs(images: Sequence[str | Path], output_dir: Path, description: Description) -> list[_Job]:
    output = output_dir.resolve()
    jobs: dict[Path, _Job] = {}
    for given in images:
        path = Path(given).resolve()
        if not path.exists():
            raise ExplainError(f"{given} does not exist; name images or folders of images with --image")
        if output == (path if path.is_dir() else path.parent):
            raise ExplainError(f"--output {output_dir} is the folder of the images; name another for the sheets")
        folder = ImageFolder(path, description, output, overwrite=True)
        for case in folder.cases:
            image = case.image
            place = output / image.relative_to(folder.folder)
            stem = place.name[: -len(image_suffix(place))]
            job = _Job(case, place.with_name(f"{stem}.png"), place.with_name(f"{stem}.npz"))
            other = jobs.setdefault(job.sheet, job)
            if other.image != image:
                raise ExplainError(
                    f"{other.image} and {image} would both write {job.sheet}; rename one, or explain apart"
                )
    if replaced := sorted({job.image for job in jobs.values()} & set(jobs)):
        raise ExplainError(f"--output {output_dir} would replace the image {replaced[0]} by a sheet; name another")
    if foreign := [job for job in jobs.values() if job.sheet.exists() and not job.arrays.exists()]:  # arrays come first
        raise ExplainError(
            f"{foreign[0].sheet} is there without {foreign[0].arrays.name}, so it is no sheet of an earlier run; name "
            "another --output, or move it away"
        )
    return list(jobs.values())


def _look(bundle: Explainable, job: _Job, roi: Sequence[int]) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Return the case to draw, the maps ``(1, ...)``, and a line that says what the network saw."""
    feeder = Feeder(bundle.description)
    image, (picture, window) = feeder.read(job.case.files).image, feeder.picture(job.case.files)
    if image.shape[0] != bundle.in_channels:
        raise MedsegError(
            f"it has {counted(image.shape[0], 'channel')}, but the network takes {bundle.in_channels}; convert it"
        )
    volume = (image.ndim - 1, bundle.spatial_dims) == (3, 2)
    seen = []
    if volume:
        middle = image.shape[-1] // 2
        seen.append(f"slice {middle + 1} of {image.shape[-1]}, axis 3")
        image, picture = image[..., middle], picture[..., middle]
    if image.ndim - 1 != bundle.spatial_dims:
        raise MedsegError(
            f"it has {image.ndim - 1} spatial dimensions, {_by(image.shape[1:])}, but the network takes "
            f"{bundle.spatial_dims}; name another image"
        )
    size = image.shape[1:]
    image, picture = (each[(slice(None), *_centred(size, roi))] for each in (image, picture))
    whole = image.shape[1:] == size
    seen.append(f"{_by(size)} pixels" if whole else f"centred region {_by(image.shape[1:])} of {_by(size)} pixels")
    if bundle.resized_to is not None:
        seen.append(f"seen by the network at {_by(bundle.resized_to)}")
    logits, maps = attend(bundle, image)
    prediction = _array(logits.max(dim=0).indices if len(logits) > 1 else (logits[0] > 0)).astype(np.int64)
    values = _array(picture)
    if volume:  # to be shown as slices of volumes are
        values, prediction = values[..., None], prediction[..., None]
    case = {"name": job.image.name, "image": values, "prediction": prediction, "window": window}
    return case, maps, ", ".join(seen)


def _centred(size: Sequence[int], roi: Sequence[int]) -> list[slice]:
    edges = list(roi) * len(size) if len(roi) == 1 else list(roi) or list(size)
    starts = [max(0, (length - edge) // 2) for length, edge in zip(size, edges, strict=True)]
    return [slice(start, start + edge) for start, edge in zip(starts, edges, strict=True)]


def attend(bundle: Explainable, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return logits at the image's size and the network's maps as they are, from one input, on the CPU.

    Args:
        bundle: the model.
        image: preprocessed.

    Shape:
        ``(C, *S)`` to ``(classes, *S)``, and each map ``(1, ...)``.
    """
    network: Any = bundle.network
    maps: dict[str, Tensor] = {}

    def watched(x: Tensor) -> Tensor:  # what the network gets, after normalising and resizing
        maps.update(network.attention(x))
        logits: Tensor = network(x)
        return logits

    plain = image.as_tensor() if isinstance(image, MetaTensor) else image
    device = next(network.parameters()).device
    with torch.inference_mode():
        logits = bundle.inferer(plain[None].to(device).float(), watched)[0].float().cpu()
    return logits, {name: values.float().cpu() for name, values in maps.items()}


def _select(maps: Mapping[str, Tensor], names: Sequence[str], network: str) -> dict[str, NDArray[Any]]:
    """Return the maps of those names, or all, without the batch's axis."""
    if not maps:
        raise ExplainError(f"{network} gives no map with the options of its network_def; take a model with others")
    for name in names:
        if name not in maps:
            near = difflib.get_close_matches(name, maps, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ExplainError(f"{network} gives no map {name!r}; {hint}It gives {', '.join(maps)}")
    return {name: _array(maps[name][0]) for name in dict.fromkeys(names or maps)}


def _sheet(
    bundle: Explainable, case: Mapping[str, Any], maps: Mapping[str, NDArray[Any]], title: str, text: str
) -> Any:
    volume = case["prediction"].ndim > bundle.spatial_dims
    return attention_sheet(
        case,
        {name: values[..., None] if volume and values.ndim > 1 else values for name, values in maps.items()},
        bundle.class_names,
        scales=getattr(bundle.network, "scales", ()),
        title=title,
        subtitle=text,
        colours=bundle.colours,
    )


def _write(job: _Job, sheet: Any, maps: Mapping[str, NDArray[Any]], answer: str) -> None:
    arrays: dict[str, Any] = dict(maps)
    texts = PngInfo()
    texts.add_text(_TEXT, answer)
    try:
        job.sheet.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(job.arrays) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        with atomic_write(job.sheet) as temporary:
            sheet.save(temporary, format="PNG", pnginfo=texts)
    except OSError as error:
        raise ExplainError(
            f"{job.sheet} cannot be written: {error.strerror or error}; what is there is whole: make room or name "
            "another --output, and run again"
        ) from error


def _summary(values: NDArray[Any]) -> dict[str, Any]:
    return {"shape": list(values.shape), "low": float(values.min()), "high": float(values.max())}


def _array(tensor: Tensor) -> NDArray[Any]:
    plain = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
    return np.asarray(plain.cpu().numpy())


def _reason(error: Exception) -> str:
    if out_of_memory(error):
        return f"too little memory for the whole image ({first_line(error)}); look at a region of it with --roi"
    return first_line(error)


def _by(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
