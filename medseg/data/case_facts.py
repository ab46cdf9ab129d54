"""What a plan must know of one case: where its voxels lie, what values the foreground has, how much of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.affines import voxel_edges
from medseg.errors import counted
from medseg.io.channels import first_of
from medseg.io.image_file import ImageFile
from medseg.io.images import ImageError, read_image
from medseg.io.labels import read_label
from medseg.reports.windows import sampled

__all__ = ["QUANTILES", "CaseFacts", "lone", "lone_said", "measure_case", "quantiles"]

QUANTILES = (0.0, 0.005, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.995, 1.0)
"""Which quantiles of an image's values are kept."""

_SAMPLE = 20_000  # voxels of the foreground, and of all, whose values are looked at
_EQUAL = 1e-6
_FEW = 1e-5  # of the voxels, or one: no structure is so small beside a value so far from all others
_FEWEST = 256  # voxels of a channel: of a handful, one is always much of the variance
_MOST_OF = 0.5  # of the variance
_GATE = 0.1  # of the usual squares: what is not above that is no more than half of all
_NORMAL = 5.15  # deviations between the quantiles 0.005 and 0.995 of normal values


@dataclass(frozen=True)
class CaseFacts:
    """Measurements of one labelled image.

    Args:
        shape: edges in voxels; of a volume along right-left, back-front, foot-head (R, A, S), whatever the order in
            the file; of a picture ``(H, W)``.
        spacing: size of a voxel along the same axes in mm, ``None`` where the file states none.
        codes: orientation as stored, such as ``"LPS"``; ``""`` for pictures.
        channels: of the image.
        dtype: of the stored values, such as ``"uint8"``.
        equal_channels: whether three or more channels are equal, as of a grey picture stored in colour.
        quantiles: of all values, a row a channel, at `QUANTILES`.
        foreground: the same of the values inside the foreground; empty where there is none.
        voxels: of each class.
        parts: connected parts of each class (diagonal neighbours count).
        alpha: whether the last channel is opacity.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    codes: str
    channels: int
    dtype: str
    equal_channels: bool
    quantiles: tuple[tuple[float, ...], ...]
    foreground: tuple[tuple[float, ...], ...]
    voxels: tuple[int, ...]
    parts: tuple[int, ...]
    alpha: bool = False

    @property
    def seen(self) -> int:
        """Channels that show something: 3 are red, green and blue; any other number but 1 are those of no picture."""
        return self.channels - self.alpha

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> CaseFacts:
        """Build from plain values, such as JSON's."""
        return cls(**{key: _tuples(value) for key, value in content.items()})


def measure_case(entry: Mapping[str, Any], num_classes: int, background: int | None) -> CaseFacts:
    """Measure one labelled image.

    Args:
        entry: with absolute paths under ``image`` and ``label``, as `Datalist.absolute` gives them.
        num_classes: classes of the labels; other values (an ignore label) count for nothing.
        background: class that is not foreground; ``None`` where every class is.

    Raises:
        ImageError: if a file cannot be read, or image and label differ in size.
    """
    image, label = read_image(entry["image"]), read_label(entry)
    if image.shape != label.shape:
        raise ImageError(
            f"{entry['label']}: label of {_by(label.shape)} for an image of {_by(image.shape)}; see `medseg check`"
        )
    values = np.moveaxis(image.array, -1, 0) if image.channels > 1 else image.array[None]
    classes = label.array[..., 0] if label.channels > 1 else label.array
    voxels = _voxels(classes, num_classes)
    inside = (classes >= 0) & (classes < num_classes)
    if background is not None:
        inside &= classes != background
    shape, spacing, codes = _place(image)
    return CaseFacts(
        shape=shape,
        spacing=spacing,
        codes=codes,
        channels=image.channels,
        dtype=str(image.array.dtype),
        equal_channels=image.channels >= 3 and _equal(values[:3]),
        quantiles=quantiles(values, None, first_of(entry["image"])),
        foreground=quantiles(values, inside, first_of(entry["image"])),
        voxels=voxels,
        parts=_parts(classes, voxels),
        alpha=image.alpha,
    )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _place(image: ImageFile) -> tuple[tuple[int, ...], tuple[float, ...] | None, str]:
    """Return shape and spacing along R, A and S, and the axis codes as stored; of pictures as they are."""
    if image.affine is None or len(image.shape) != 3:
        return tuple(image.shape), image.spacing, ""
    import nibabel

    oriented = nibabel.io_orientation(image.affine)
    spacing = voxel_edges(image.affine)
    order = np.argsort(oriented[:, 0])  # axis of the file for each of R, A, S
    shape = tuple(int(image.shape[axis]) for axis in order)
    codes = "".join(nibabel.orientations.ornt2axcodes(oriented))
    return shape, tuple(float(spacing[axis]) for axis in order), codes


def _voxels(classes: npt.NDArray[Any], num_classes: int) -> tuple[int, ...]:
    known = classes[(classes >= 0) & (classes < num_classes)]
    return tuple(int(number) for number in np.bincount(known.astype(np.intp), minlength=num_classes))


def _parts(classes: npt.NDArray[Any], voxels: tuple[int, ...]) -> tuple[int, ...]:
    from scipy import ndimage

    shifted = np.where((classes >= 0) & (classes < len(voxels)), classes.astype(np.int32), -1) + 1
    boxes = ndimage.find_objects(shifted, len(voxels))
    structure = np.ones((3,) * classes.ndim)
    found = []
    for number, box in enumerate(boxes):
        found.append(0 if box is None else int(ndimage.label(shifted[box] == number + 1, structure)[1]))
    return tuple(found)


def quantiles(
    values: npt.NDArray[Any], inside: npt.NDArray[np.bool_] | None, path: object
) -> tuple[tuple[float, ...], ...]:
    """Return the quantiles `QUANTILES` of each channel, of an evenly spaced sample of the voxels.

    Args:
        values: ``(C, *S)``.
        inside: ``(*S)``, which of them count; ``None`` for all.
        path: of the image, for the message.

    Raises:
        ImageError: if a value is not finite.
    """
    rows = []
    for channel in values:
        chosen = channel.ravel() if inside is None else channel[inside]
        sample = sampled(chosen, _SAMPLE).astype(np.float64)
        if not np.isfinite(sample).all():
            raise ImageError(f"{path}: holds values that are not finite; correct the image")
        if sample.size:
            sample.sort()  # in vectors; `quantile` alone parts them one by one, which takes twice as long as both
            rows.append(tuple(float(value) for value in np.quantile(sample, QUANTILES, overwrite_input=True)))
    return tuple(rows)


def lone(values: npt.NDArray[Any], rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return a value so far from all others that the few voxels that have it make most of a channel's variance.

    An image that is scaled by its own mean and deviation, or least and greatest value, would be grey but for them.

    Args:
        values: ``(C, *S)``, finite.
        rows: quantiles of each channel at `QUANTILES`.

    Returns:
        The value, and how many voxels lie more than half as far from the median; empty where there is none.
    """
    middle, low, high = (QUANTILES.index(share) for share in (0.5, 0.005, 0.995))
    for channel, row in zip(values, rows, strict=False):
        if channel.size < _FEWEST:
            continue
        median = row[middle]
        value = max(float(channel.min()), float(channel.max()), key=lambda end: abs(end - median))
        usual, most = (row[high] - row[low]) / _NORMAL, max(1, int(_FEW * channel.size))
        if value == median or most * (value - median) ** 2 < _GATE * usual**2 * channel.size:
            continue  # as nearly always: nothing more is computed
        far = np.abs(channel.astype(np.float64) - median)
        beyond = far > abs(value - median) / 2
        number = int(np.count_nonzero(beyond))
        if number <= most:
            squares = far * far
            if float(squares[beyond].sum()) > _MOST_OF * float(squares.sum()):
                return value, number
    return ()


def lone_said(found: Sequence[float]) -> str:
    """Return in words what `lone` has found."""
    value, number = found
    return f"{counted(int(number), 'voxel')} of {value:.4g} alone make{'s' * (number == 1)} most of its deviation"


def _equal(channels: npt.NDArray[Any]) -> bool:
    first = channels[0].astype(np.float64)
    scale = max(1.0, float(np.abs(first).max(initial=0)))
    return all(bool(np.abs(channel - first).max(initial=0) <= _EQUAL * scale) for channel in channels[1:])


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
