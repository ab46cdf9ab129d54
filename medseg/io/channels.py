"""Images of one file a channel, such as the sequences of an MR examination: read together, or not at all."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg.io.image_file import ImageError, ImageFile
from medseg.io.placement import compare

__all__ = ["first_of", "join", "paths_of", "standing_for"]

Named = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def paths_of(image: Named) -> list[Path]:
    """Return the files of an image as a datalist names it: one, or a list of one a channel."""
    return [Path(image)] if isinstance(image, str | os.PathLike) else [Path(path) for path in image]


def first_of(image: Named) -> str:
    """Return the file that stands for an image in messages: the only one, or that of the first channel."""
    return os.fspath(paths_of(image)[0])


def standing_for(images: Iterable[Named]) -> list[Path]:
    """Return the file that each of several images is called by: the first that no other has, else its first.

    A file that several images have, such as an atlas or a channel of zeros, tells none of them from another.
    """
    named = [tuple(paths_of(image)) for image in images]
    having = Counter(path for files in set(named) for path in set(files))
    return [next((path for path in files if having[path] == 1), files[0]) for files in named]


def join(images: Sequence[ImageFile], paths: Sequence[Path]) -> ImageFile:
    """Put images together, one after the other along the channels.

    Args:
        images: as read, in the order of the channels.
        paths: of their files.

    Raises:
        ImageError: if one has another size than the first, or lies elsewhere (by a tenth of a voxel or more).
    """
    first, start = images[0], paths[0]
    for image, path in zip(images[1:], paths[1:], strict=True):
        if image.shape != first.shape:
            sizes = [" x ".join(map(str, each.shape)) for each in (image, first)]
            raise ImageError(
                f"{path}: is {sizes[0]}, but the channel {start.name} is {sizes[1]}; bring both to one grid"
            )
        if (image.affine is None) != (first.affine is None) or image.orientation != first.orientation:
            raise ImageError(f"{path}: is placed otherwise than the channel {start.name}; store both in one format")
        if image.affine is not None and first.affine is not None:
            difference = compare(first.affine, image.affine, first.shape)
            if not difference.same:
                raise ImageError(
                    f"{path}: lies {difference.mm:.3g} mm from the channel {start.name}; bring both to one grid"
                )
    arrays = [image.array if image.channels > 1 else image.array[..., None] for image in images]
    return replace(
        first,
        array=np.concatenate(arrays, axis=-1),
        channels=sum(image.channels for image in images),
        alpha=False,
        palette=next((image.palette for image in images if image.palette), ()),
        lossy=any(image.lossy for image in images),
        notes=tuple(dict.fromkeys(note for image in images for note in image.notes)),
    )
