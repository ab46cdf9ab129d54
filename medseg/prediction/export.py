"""A trained network in other programs' formats, each compared with PyTorch on real images before it is kept.

Exported is the network: images to logits. What comes before and after (spacing, intensity, windows, the way back to the
image's grid, postprocessing) is stated in the file itself, as the weights state it; `medseg.prediction.backends` reads
it there.
"""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medseg.atomic import atomic_write
from medseg.bundle import feeding, networks
from medseg.bundle.data import load_data
from medseg.bundle.description import Description
from medseg.bundle.library import PLACE, weights_file
from medseg.bundle.record import Weights, load_described, read_weights
from medseg.engines.precision import network_to_channels_last
from medseg.errors import MedsegError, shown
from medseg.inferers.blocks import blocks_of
from medseg.io.channels import Named, paths_of
from medseg.io.folder import list_images, with_channels
from medseg.prediction.backends import HEADER, SUFFIXES, load_exported
from medseg.prediction.case import Feeder, check_fits
from medseg.reports.tables import Table
from medseg.runs.header import read_header
from medseg.runs.paths import resolve_path

__all__ = ["FORMATS", "TOLERANCE", "ExportError", "Report", "export", "images_of"]

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2", "torchscript": ".ts"}
"""Formats and their files' suffixes."""
TOLERANCE = {False: 1e-3, True: 2e-2}
"""Largest difference of a probability that is kept, by whether the network computes in fp16."""
_TRACED = {2: (64, 49), 3: (40, 37, 34)}  # even and odd, so that a choice between the two shows on either
_IMAGES, _FORWARDS = 3, 4  # compared: so many images, of each so many forwards
_ODD = 0.7  # of a window's edge, for a size that nobody foresaw


class ExportError(MedsegError):
    """A network that cannot be exported as asked, or whose export gives something else."""


@dataclass
class Report:
    """What was exported, and how it differs from PyTorch.

    Args:
        path: of the export.
        to: its format.
        images: compared on.
        forwards: windows or images that both networks were given.
        sizes: of them.
        logits: largest absolute difference of a logit.
        probability: largest absolute difference of a probability.
        changed: share of pixels with another class.
        seconds: of a forward, by network, the least of all of equal size: first PyTorch's, then the export's.
    """

    path: Path
    to: str
    images: int = 0
    forwards: int = 0
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    logits: float = 0.0
    probability: float = 0.0
    changed: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    def table(self) -> Table:
        """Return the seconds of a forward beside PyTorch's."""
        first = self.seconds.get("torch")
        rows = [(name, value, None if not first else first / value) for name, value in self.seconds.items()]
        size = " x ".join(map(str, self.sizes[0])) if self.sizes else ""
        return Table(("network", "s a forward", "times as fast"), rows, title=f"a batch of {size}", digits=4)


def export(
    model: str | Path,
    to: str,
    target: str | Path | None = None,
    *,
    size: Sequence[int] | None = None,
    half: bool = False,
    images: str | Path | None = None,
    tolerance: float | None = None,
) -> Report:
    """Export the network of a trained model, and keep it if it gives what PyTorch gives.

    Args:
        model: a run, packed model, weights, or a bundle with weights.
        to: one of `FORMATS`.
        target: file; by default beside the weights, where ``medseg predict --backend`` finds it.
        size: edges that it takes; ``None`` for any, odd ones too. The batch is free in either case.
        half: weights and computation in fp16, input and logits in fp32; of ``openvino`` the weights alone.
        images: a file or folder of images to compare on; by default those that the run was trained on, where they are
            on this machine.
        tolerance: largest difference of a probability; by default as `TOLERANCE`.

    Raises:
        ExportError: if the format is unknown, the network or the size cannot be exported, there is no image to compare
            on, or a probability differs by more than the tolerance: then nothing is kept.
        MedsegError: if the weights cannot be used.
    """
    if to not in FORMATS:
        raise ExportError(f"there is no format {to!r}; choose one of {', '.join(FORMATS)}")
    file = weights_file(model)
    read = read_weights(file)
    description = read.description
    if description is None:
        raise ExportError(f"{shown(file)} carries no record of its network; export the run that medseg trained")
    path = resolve_path(target) if target is not None else file.with_suffix(FORMATS[to])
    if path.suffix != FORMATS[to]:
        raise ExportError(f"{shown(path)}: a file of {to} ends in {FORMATS[to]}; name it so")
    dims = description.spatial_dims
    if size is not None and (len(size) != dims or min(size) < 1):
        raise ExportError(f"size is {list(size)}; give {dims} edges of at least 1, or none for any size")
    files = images_of(images, file, int(description.network["in_channels"]))
    network = networks.rebuild(description.network).eval()
    load_described(network, read, description)
    header = _header(read, description, to, size, half)
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / f"model{FORMATS[to]}"
        _write(network, description, to, made, header, size, half)
        report = Report(path, to)
        network_to_channels_last(network)  # as a prediction has it
        _compare(_Pair(network, _reader(to, made), report, size), description, files)
        limit = TOLERANCE[half] if tolerance is None else tolerance
        if not report.probability <= limit:
            raise ExportError(
                f"{to} of {shown(file)} differs from PyTorch by {report.probability:.2g} in a probability ({limit:g} "
                "is the most) and was not kept; export it in fp32, or say what may differ (--tolerance)"
            )
        _keep(made, path)
    return report


# ---------------------------------------------------------------------------------------------- writing


class _Half(nn.Module):
    """A network that computes in fp16, between fp32 and fp32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()

    def forward(self, image: Tensor) -> Tensor:
        """Run it."""
        logits: Tensor = self.network(image.half()).float()
        return logits


def _header(read: Weights, description: Description, to: str, size: Sequence[int] | None, half: bool) -> dict[str, Any]:
    held = read_header(read.content) or {}
    kept: dict[str, Any] = {key: held[key] for key in ("fingerprint", "commit", "packages", "sha256") if key in held}
    states = "logits (B, classes, *S) of an image (B, C, *S); before and after it comes what `model` says"
    how = {"to": to, "size": None if size is None else list(size), "half": half, "gives": states}
    return {"format": 1, "model": description.to_dict(), **kept, "export": how}


def _write(
    network: nn.Module,
    description: Description,
    to: str,
    path: Path,
    header: dict[str, Any],
    size: Sequence[int] | None,
    half: bool,
) -> None:
    wanted = _Half(network).eval() if half and to != "openvino" else network
    channels = int(description.network["in_channels"])
    example = torch.rand(2, channels, *(size or _TRACED[description.spatial_dims]))
    text = json.dumps(header)
    try:
        with _quiet(), torch.no_grad():
            if to == "torchscript":
                script = torch.jit.script(wanted) if size is None else torch.jit.trace(wanted, example)  # type: ignore[no-untyped-call]
                torch.jit.save(script, str(path), _extra_files={f"{HEADER}.json": text})
                return
            program = torch.export.export(wanted, (example,), dynamic_shapes=(_free(example, size),))
            if to == "torch-export":
                torch.export.save(program, path, extra_files={f"{HEADER}.json": text})
            elif to == "onnx":
                _write_onnx(program, example, path, text)
            else:
                _write_openvino(program, example, path, text, half)
    except MedsegError:
        raise
    except Exception as error:  # exporters raise whatever they stumble over
        way = "" if size is not None else "; export it for one size (--size), or"
        raise ExportError(
            f"{description.network['name']} cannot be exported to {to}: {_first_line(error)}{way} to another"
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def _free(example: Tensor, size: Sequence[int] | None) -> dict[int, Any]:
    axes = (0,) if size is not None else (0, *range(2, example.ndim))
    return dict.fromkeys(axes, torch.export.Dim.AUTO)


def _write_onnx(program: torch.export.ExportedProgram, example: Tensor, path: Path, header: str) -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError("ONNX needs onnx, onnxscript and onnxruntime: pip install 'medseg[export]'") from error
    written = torch.onnx.export(
        program, (example,), dynamo=True, verbose=False, input_names=["image"], output_names=["pred"]
    )
    assert written is not None
    content = written.model_proto
    entry = content.metadata_props.add()
    entry.key, entry.value = HEADER, header
    path.write_bytes(content.SerializeToString())


def _write_openvino(
    program: torch.export.ExportedProgram, example: Tensor, path: Path, header: str, half: bool
) -> None:
    try:
        import openvino
    except ImportError as error:
        raise ExportError("OpenVINO's format needs it: pip install 'medseg[openvino]'") from error
    through = path.with_suffix(".onnx")
    _write_onnx(program, example, through, header)
    model = openvino.Core().read_model(through)  # not `convert_model`, which reports to its makers
    model.set_rt_info(header, [HEADER])
    openvino.save_model(model, path, compress_to_fp16=half)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what exporters say of their own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _keep(made: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".bin", path.suffix) if path.suffix == SUFFIXES["openvino"] else (path.suffix,):
        with atomic_write(path.with_suffix(suffix)) as temporary:
            temporary.write_bytes(made.with_suffix(suffix).read_bytes())


# ---------------------------------------------------------------------------------------------- comparing


def _reader(to: str, path: Path) -> Callable[[Tensor], Tensor]:
    if to in SUFFIXES:
        return load_exported(path)[0]
    with _quiet():
        if to == "torchscript":
            script: nn.Module = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
            return script
        return torch.export.load(path).module()


def images_of(given: str | Path | None, weights: Path, channels: int) -> list[Named]:
    """Return images to compare on.

    Args:
        given: a file or folder; ``None`` for images that the run was trained on.
        weights: file of the run's weights.
        channels: of an image.

    Raises:
        ExportError: if there is none.
    """
    found: list[Named] = []
    if given is not None:
        listing = with_channels(list_images(resolve_path(given)), channels)
        found = [list(listing.channels.get(image, (image,))) for image in listing.images]
    elif (place := weights.parent / PLACE).is_file():
        with contextlib.suppress(MedsegError, OSError, ValueError, KeyError):  # they lie on another machine
            data = load_data(json.loads(place.read_text(encoding="utf-8"))["datalist"])
            named = (data.absolute(entry)["image"] for entry in data.training)
            found = [image for image in islice(named, _IMAGES) if all(path.exists() for path in paths_of(image))]
    if not found:
        where = "the training's are not on this machine" if given is None else f"there are none in {shown(given)}"
        raise ExportError(f"an export is compared on real images, and {where}; name some: --images FOLDER")
    return found[:_IMAGES]


class _Pair:
    """PyTorch's network and its export, called as one network, which notes how they differ.

    Args:
        network: PyTorch's.
        exported: the other.
        report: that is filled.
        size: that the export takes; ``None`` for any.
    """

    def __init__(
        self,
        network: nn.Module,
        exported: Callable[[Tensor], Tensor],
        report: Report,
        size: Sequence[int] | None,
    ) -> None:
        self.networks: dict[str, Callable[[Tensor], Tensor]] = {"torch": network, report.to: exported}
        self.report, self.size = report, size
        self.forwards = 0
        self.first: Tensor | None = None
        self._changed, self._pixels = 0, 0

    def __call__(self, batch: Tensor) -> Tensor:
        """Return PyTorch's logits."""
        report, size = self.report, tuple(batch.shape[2:])
        if self.size is not None and size != tuple(self.size):
            raise ExportError(
                f"the model predicts images of {list(size)} pixels at a time, not of {list(self.size)}; export it for "
                "that size, or for any (without --size)"
            )
        self.first = batch if self.first is None else self.first
        if size not in report.sizes:
            report.sizes.append(size)
        logits: list[Tensor] = []
        for name, network in self.networks.items():
            start = time.perf_counter()
            logits.append(network(batch) if name == "torch" else self._exported(network, batch))
            seconds = time.perf_counter() - start
            if batch.shape == self.first.shape:
                report.seconds[name] = min(seconds, report.seconds.get(name, seconds))
        self._note(*logits)
        self.forwards += 1
        report.forwards += 1
        return logits[0]

    def _exported(self, network: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        """Return the export's logits; an exporter may have taken what holds of the traced sizes for all sizes."""
        try:
            return network(batch)
        except Exception as error:  # runtimes raise whatever they stumble over
            way = "" if self.size is not None else "for one size (--size), or "
            raise ExportError(
                f"{self.report.to} does not take {' x '.join(map(str, batch.shape[2:]))}, as PyTorch does: "
                f"{_first_line(error)}; export it {way}to another"
            ) from error

    def _note(self, expected: Tensor, found: Tensor) -> None:
        report = self.report
        if not bool(torch.isfinite(expected).all()):
            raise ExportError(
                "PyTorch's own logits of an image are not all finite, so that nothing can be compared with them; name "
                "other images (--images), or train the model again"
            )
        if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
            raise ExportError(f"{report.to} gives no finite logits of {tuple(expected.shape)}; export it in fp32")
        report.logits = max(report.logits, float((found - expected).abs().max()))
        report.probability = max(report.probability, float((_probability(found) - _probability(expected)).abs().max()))
        self._changed += int((_classes(found) != _classes(expected)).sum())
        self._pixels += expected[:, 0].numel()
        report.changed = self._changed / self._pixels


def _compare(pair: _Pair, description: Description, files: Sequence[Named]) -> None:
    """Give both networks what a prediction of the images gives one of them, and an odd size where any is taken."""
    feeder, inferer = Feeder(description), feeding.inferer(description)
    with torch.inference_mode():
        for file in files:
            fed = feeder.read(file)
            check_fits(fed, description)
            image = fed.image.as_tensor() if isinstance(fed.image, MetaTensor) else fed.image
            pair.forwards = 0
            for _ in blocks_of(inferer, image[None].float(), pair):
                if pair.forwards >= _FORWARDS:
                    break
            pair.report.images += 1
        if pair.size is None and pair.first is not None:
            odd = [slice(0, max(1, int(edge * _ODD)) | 1) for edge in pair.first.shape[2:]]
            pair(pair.first[(slice(0, 1), slice(None), *odd)].contiguous())


def _probability(logits: Tensor) -> Tensor:
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def _classes(logits: Tensor) -> Tensor:
    return logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1)
