"""What becomes of predictions: cases in, results out, and the one protocol that every output speaks.

An output is one file beside this one with a class of `Sink`'s methods, a row in `medseg.prediction.outputs`, and its
test. No framework is imported here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from medseg.io.images import image_suffix
from medseg.io.placement import Grid

if TYPE_CHECKING:
    from medseg.bundle.description import Description
    from medseg.prediction.mask_record import Maker

__all__ = ["PROBABILITIES", "UNCERTAINTY", "VALUES", "Case", "Gathers", "Refuses", "Result", "RunInfo", "Sink"]

PROBABILITIES = "probabilities"
UNCERTAINTY = "uncertainty"
VALUES = "values"
"""What a sink may want of a result beside its mask: each costs time and memory, so none is made unasked."""


@dataclass(frozen=True)
class Case:
    """One image that is predicted, and where its outputs go.

    Args:
        name: its place in the input, such as ``sub/t1.nii.gz``: what reports and records call it.
        files: of the image, as `medseg.io.images.read_image` takes them: one, one a channel, or of a DICOM series its
            folder or one of its files.
        target: file of the mask; other outputs stand `beside` it.
    """

    name: str
    files: tuple[Path, ...]
    target: Path

    @property
    def image(self) -> Path:
        """The file, or folder of a series, that stands for the image."""
        return self.files[0]

    def beside(self, ending: str) -> Path:
        """Return the place of another output: ``out/sub/t1.nii.gz`` and ``.geojson`` give ``out/sub/t1.geojson``.

        Args:
            ending: what stands in place of the mask's suffix.
        """
        name = self.target.name
        return self.target.with_name(name[: len(name) - len(image_suffix(self.target))] + ending)


@dataclass(frozen=True)
class Result:
    """What the model says of a case, on the grid that its image was read on.

    Arrays that are as large as the image times the classes may be memory-mapped: take parts of them, never all.

    Args:
        mask: class indices ``(*S)``, uint8 or uint16, after the model's postprocessing: ``(H, W)`` of pictures,
            upright; ``(X, Y, Z)`` of volumes, the file's axis order; ``(pages, H, W)`` of stacks.
        grid: where the voxels lie: shape, affine (voxel to patient in mm, RAS+), EXIF orientation.
        values: the image as it was read, ``(C, *S)`` float32; ``None`` unless a sink wants `VALUES`.
        probabilities: ``(classes, *S)`` float16, before postprocessing; of a model of one channel, of both its classes;
            ``None`` unless a sink wants `PROBABILITIES`.
        entropy: of the probabilities, ``(*S)`` float16, 0 (certain) to 1 (all classes alike); ``None`` unless a sink
            wants `UNCERTAINTY`.
        numbers: of the case, by name: ``uncertainty`` and, of an ensemble, ``disagreement``; see
            `medseg.prediction.uncertainty`.
        doubts: how the case is unlike what the model was trained on, a phrase each.
    """

    mask: NDArray[Any]
    grid: Grid
    values: NDArray[Any] | None = None
    probabilities: NDArray[Any] | None = None
    entropy: NDArray[Any] | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunInfo:
    """What all cases of a run share.

    Args:
        output: folder of all outputs; it need not exist before the first is written.
        description: of the model: name, classes by index, colours.
        makers: name and hashes of the weights: one, or of each member of an ensemble.
        keep_identifiers: whether outputs may carry what names a patient beyond what their format needs.
    """

    output: Path
    description: Description
    makers: Sequence[Maker]
    keep_identifiers: bool = False

    @property
    def model(self) -> str:
        """What stands for the model, its weights and how it predicts, in tables: 12 digits of their hashes' hash."""
        text = "".join(sorted(f"{maker.weights}{maker.model}" for maker in self.makers))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class Sink(Protocol):
    """One kind of output.

    `open`, `files` and `close` are called by the thread that predicts, `write` by one other thread, one case at a time,
    in the order of the cases. What `write` raises makes the case a failure and leaves the other cases alone.
    """

    @property
    def wants(self) -> frozenset[str]:
        """What it needs of a result beside the mask: of `PROBABILITIES`, `UNCERTAINTY` and `VALUES`."""
        ...

    def open(self, run: RunInfo) -> None:
        """Begin a run.

        Raises:
            MedsegError: if this model or this folder cannot have such an output; nothing is predicted then.
        """
        ...

    def files(self, case: Case) -> list[Path]:
        """Return the files that are this case's alone; a case whose files are all there is done."""
        ...

    def has(self, case: Case) -> bool:
        """Return whether what this case adds to files of all cases is there already; of no such file, true."""
        ...

    def write(self, case: Case, result: Result) -> None:
        """Write what `files` names, each atomically (`medseg.atomic.atomic_write`), and add to files of all cases.

        Raises:
            MedsegError: if this case has no such output, with the reason.
            OSError: if the disk refuses.
        """
        ...

    def close(self) -> None:
        """End the run: finish files of all cases. Called once after `open`, also where the run failed."""
        ...


@runtime_checkable
class Refuses(Protocol):
    """A `Sink` that some images cannot have, which is said before they are predicted."""

    def refuse(self, case: Case, grid: Grid) -> None:
        """Refuse an image by what it is, or by where its voxels lie; called in a thread that reads.

        Raises:
            MedsegError: with the reason.
        """
        ...


@runtime_checkable
class Gathers(Protocol):
    """A `Sink` with a file of all cases."""

    def take(self, folder: Path) -> None:
        """Add what this kind of sink wrote of the same model in another folder; what is there already stays once."""
        ...
