#!/usr/bin/env python
"""Drosophila ventral nerve cord sections: fetch or read them, verify, cut, write the datalists.

Data: S. Gerhard, J. Funke, J. Martel, A. Cardona, R. Fetter, "Segmented anisotropic ssTEM dataset of neural tissue",
figshare, https://doi.org/10.6084/m9.figshare.856713, CC BY-NC-SA 3.0: stack 1, 20 sections of 1024x1024 pixels,
4.6 nm a pixel, sections 45-50 nm apart.

Label values 0, 32, 64, 96, 128 (membranes by direction, and junctions) become class 0, membrane; 191 becomes 1,
mitochondria; 223 becomes 2, synapse; 159 (glia and extracellular) becomes 3; 255 becomes 4, intracellular.

Example::

    python data_scripts/drosophila.py --output data/drosophila
    python data_scripts/drosophila.py --source /data/groundtruth-drosophila-vnc/stack1 --output data/drosophila
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg.io.images import read_image
from medseg.releases.download import DownloadError
from medseg.releases.prepare import SourceError, open_sources
from medseg.releases.sections import Layout, Section, SectionSource, is_complete, remove_layout, write_layout
from medseg.reports.progress import progress_bar

URL = "https://github.com/unidesigner/groundtruth-drosophila-vnc/archive/4a5f051.zip"
SOURCE = SectionSource(name="drosophila_vnc", licence="CC-BY-NC-SA-3.0", source="doi:10.6084/m9.figshare.856713")
SECTIONS = 20
SHAPE = (1024, 1024)
CLASS_OF_VALUE = {0: 0, 32: 0, 64: 0, 96: 0, 128: 0, 191: 1, 223: 2, 159: 3, 255: 4}

# First 24 digits of the SHA-256 over the pixels (row by row) of each section's image and label. Archives made by the
# hosting site change their bytes from time to time; the pixels do not.
PIXEL_HASHES: Sequence[tuple[str, str]] = (
    ("444ff4238fe5e4a2680bba9b", "d3c84118942a81ed855fa580"),
    ("a636000e5b7c04070e3b1674", "3add7898fd3e5a8d76fab627"),
    ("a603909986aaaa6a3668b755", "714270401733a7bb5dedfbe9"),
    ("864d5fe1458613c70a65f3b6", "de4c3049cec058802acee9f3"),
    ("2d83ced25a5fdf5530c99829", "3fc687cf3450f7eeddcf554a"),
    ("a17a3d8081d13c433ccae7f9", "cc6affb9314f777beb8c4c90"),
    ("28f8e0c16231aabb3827e64d", "754772c23cdebf6c397e59a5"),
    ("3525ef7783c1684708120d79", "184bb80ccae0f02ab4dfa294"),
    ("239b2f02e8377c4ee38e4d24", "2f18182f619c7e4cc21f8a8b"),
    ("fdd1d3b9f67f4284970a663f", "7a5a81512b78d0437145b2da"),
    ("7575b9e348e6a50aee1b93da", "ace327d05639d354760d8d99"),
    ("20dde763ccd396435f422f8d", "38bae35b5ff08572caf7cf80"),
    ("da2c69ab769ac6b7bf50da7e", "ccb93860aa5fdf3bb45ad72e"),
    ("dd15bad2a580e0a9b59a97fa", "60582e78eb5ce0d0a24001e6"),
    ("b99f17ac603dfa80c739fe3b", "19dd53b54bafce33d3dfbc0e"),
    ("4260566d95dc5e01750b03fb", "0479153e643f179842d2c34a"),
    ("8aec2d288ac03e1703a1d92a", "3ca535de18edee0e239abfc3"),
    ("f326e1e0a2c1140dd271df62", "21afc5c30898927e982d920a"),
    ("7b7bada392db35eae65474d7", "7c7de9491d89f7d23831290b"),
    ("3f546904a6751937a9c64578", "64ad489454ba97df815398bd"),
)

Hashes = Sequence[tuple[str, str]]


def find_stack(folder: Path) -> Path:
    """Return the folder with ``raw`` and ``labels``: this one, its ``stack1``, or that of an unpacked archive.

    Raises:
        SourceError: if there is none, or more than one.
    """
    candidates = [folder, folder / "stack1", *sorted(folder.glob("*/stack1"))]
    found = [place for place in candidates if (place / "raw").is_dir() and (place / "labels").is_dir()]
    if not found:
        raise SourceError(
            f"{folder}: holds no stack; looked for the folders raw and labels (raw/00.tif, "
            "labels/labels00000000.png) in it, in stack1 and in */stack1"
        )
    if len(found) > 1:
        raise SourceError(f"{folder}: holds several stacks ({', '.join(map(str, found))}); name one of them")
    return found[0]


def find_pairs(stack: Path, *, allow_partial: bool) -> list[tuple[int, Path, Path]]:
    """Return number, image and label of every section.

    Raises:
        SourceError: if a file is missing; with `allow_partial`, only if one file of a pair or all are.
    """
    pairs = []
    for number in range(SECTIONS):
        image, label = stack / "raw" / f"{number:02d}.tif", stack / "labels" / f"labels{number:08d}.png"
        missing = [path for path in (image, label) if not path.is_file()]
        if len(missing) == 2 and allow_partial:
            continue
        if missing:
            hint = "" if allow_partial else "; --allow-partial goes on without the missing sections"
            raise SourceError(f"{missing[0]}: no such file, but the release has {SECTIONS} sections (00-19){hint}")
        pairs.append((number, image, label))
    if not pairs:
        raise SourceError(f"{stack}: holds no section; looked for raw/00.tif to raw/{SECTIONS - 1:02d}.tif")
    return pairs


def read_pixels(path: Path, expected_hash: str | None, *, label: bool) -> npt.NDArray[np.uint8]:
    """Read one file and compare it with the release.

    Raises:
        SourceError: if size, type or pixels differ.
        ImageError: if it cannot be read.
    """
    pixels = read_image(path, label=label).array
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise SourceError(f"{path}: {pixels.dtype} with shape {pixels.shape}, but the release has 8-bit grey files")
    if expected_hash is not None:
        if pixels.shape != SHAPE:
            raise SourceError(f"{path}: {pixels.shape[0]}x{pixels.shape[1]} pixels, but the release has 1024x1024")
        found = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[: len(expected_hash)]
        if found != expected_hash:
            raise SourceError(
                f"{path}: its pixels have the hash {found}, but the release has {expected_hash}; "
                "the file was changed or damaged: take it from the release again"
            )
    return pixels


def to_classes(values: npt.NDArray[np.uint8], path: Path) -> npt.NDArray[np.uint8]:
    """Map the release's label values to the five classes.

    Raises:
        SourceError: if another value occurs.
    """
    table = np.full(256, 255, np.uint8)
    for value, index in CLASS_OF_VALUE.items():
        table[value] = index
    classes: npt.NDArray[np.uint8] = table[values]
    if classes.max() == 255:
        unknown = sorted(set(np.unique(values).tolist()) - set(CLASS_OF_VALUE))
        known = ", ".join(map(str, sorted(CLASS_OF_VALUE)))
        raise SourceError(f"{path}: holds the value {unknown[0]}, but the release has {known} only")
    return classes


def read_sections(pairs: Sequence[tuple[int, Path, Path]], hashes: Hashes | None) -> Iterator[Section]:
    """Read section by section; without `hashes` nothing is compared with the release."""
    for number, image, label in pairs:
        image_hash, label_hash = hashes[number] if hashes is not None else (None, None)
        values = read_pixels(label, label_hash, label=True)
        yield Section(number, read_pixels(image, image_hash, label=False), to_classes(values, label))


def prepare(
    source: str, output: Path, layout: Layout, *, allow_partial: bool, sha256: str | None, hashes: Hashes | None
) -> int:
    """Fetch or find the sections and lay them out.

    Args:
        source: URL, folder or archive.
        output: folder to write to; a downloaded archive is kept in its folder ``download``.
        layout: how to cut and divide.
        allow_partial: go on with fewer sections.
        sha256: expected hash of the archive.
        hashes: expected pixel hashes, or ``None`` to compare nothing.

    Returns:
        Number of sections written.
    """
    hashes_of_sources = None if sha256 is None else [sha256]
    with open_sources([source], output, sha256=hashes_of_sources, max_bytes=4 * 2**30) as (folder,):
        pairs = find_pairs(find_stack(folder), allow_partial=allow_partial)
        with progress_bar("cutting sections") as update:
            write_layout(read_sections(pairs, hashes), output, SOURCE, layout, progress=update)
    return len(pairs)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    made.add_argument("--source", default=URL, help="URL, folder or archive (default: the public release, %(default)s)")
    made.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    made.add_argument("--crop-size", type=int, default=256, help="edge of a crop in pixels (default: %(default)s)")
    made.add_argument("--folds", type=int, default=5, help="number of folds (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="seed of the random-crop folds (default: %(default)s)")
    made.add_argument("--sha256", help="expected hash of the archive, where you know one")
    made.add_argument("--allow-partial", action="store_true", help="go on when sections are missing")
    made.add_argument("--overwrite", action="store_true", help="write again what is there")
    return made


def main(arguments: Sequence[str] | None = None, *, hashes: Hashes | None = PIXEL_HASHES) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(arguments)
    say: Callable[[str], object] = sys.stdout.write
    try:
        layout = Layout(SECTIONS, options.crop_size, options.folds, options.seed)
        if options.overwrite:
            remove_layout(options.output)
        elif is_complete(options.output, layout):
            say(f"{options.output}: complete already; --overwrite writes it again\n")
            return 0
        count = prepare(
            options.source,
            options.output,
            layout,
            allow_partial=options.allow_partial,
            sha256=options.sha256,
            hashes=hashes,
        )
    except (DownloadError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    say(f"{options.output / 'datalist.json'}: {count} sections, {count * (SHAPE[0] // options.crop_size) ** 2} crops\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
