"""What the integrity check and the fingerprint need to know of a file, found once and cached by the file's stamp."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.atomic import atomic_write
from medseg.data.case_facts import lone, quantiles
from medseg.io.images import ImageError, read_image
from medseg.io.labels import map_values
from medseg.io.parts import content_hash, file_stamp

__all__ = [
    *("CHECKER_VERSION", "MAX_LABEL_VALUES", "FileFacts", "cache_folder", "check_cache", "facts_of", "hash_all"),
    *("measure", "measure_all", "save_cache", "usual_workers"),
]

CHECKER_VERSION = 10
"""Counted up when a measurement changes, so that older cache entries are not used."""

MAX_LABEL_VALUES = 512
"""How many different values of a label are kept; the smallest ones where there are more."""

_WHOLE = 1e-4  # a label value this near to an integer is that integer

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FileFacts:
    """Measurements of one file.

    Args:
        shape: spatial shape.
        channels: number of channels.
        spacing: size of a pixel along each axis, ``None`` where the format states none.
        palette: whether the file stores palette indices.
        colours: of a label that does, and whose indices are the classes, the colour of each of `values`.
        not_finite: number of NaN and infinite values.
        values: a label's different values, ascending; ``None`` for an image.
        counts: how many pixels have each of `values`.
        fractions: whether a label holds values that are not integers.
        affine: the 16 values of voxel to patient (mm, RAS+) row by row, ``None`` for pictures and
            stacks of them, whose axes begin with pages and rows.
        lossy: whether the file's compression changes values.
        orientation: EXIF or TIFF orientation as stored, 1 where there is none; `shape` is upright.
        quantiles: of an image's values, a row a channel, at `medseg.data.case_facts.QUANTILES`; none of a label, or
            where values are not finite.
        lone: of an image, a value that few voxels have and that makes most of its deviation, and how many they are,
            see `medseg.data.case_facts.lone`; empty where there is none.
        notes: what the reader found doubtful.
        sha256: hash of the file's bytes.
        pixels: of an image, hash of its shape and values, whatever format, compression and type they are stored in; of
            one that has a single value, such as a black slice, ``sha256``.
        error: why the file cannot be read, or ``None``; then the rest means nothing.
    """

    shape: tuple[int, ...] = ()
    channels: int = 0
    spacing: tuple[float, ...] | None = None
    palette: bool = False
    colours: tuple[int, ...] = ()
    not_finite: int = 0
    values: tuple[int, ...] | None = None
    counts: tuple[int, ...] | None = None
    fractions: bool = False
    affine: tuple[float, ...] | None = None
    lossy: bool = False
    orientation: int = 1
    quantiles: tuple[tuple[float, ...], ...] = ()
    lone: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    sha256: str = ""
    pixels: str = ""
    error: str | None = None


def cache_folder() -> Path:
    """Return medseg's cache folder: ``$MEDSEG_CACHE``, else ``medseg`` in the user's XDG cache folder."""
    own = os.environ.get("MEDSEG_CACHE")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "medseg"


def check_cache(datalist: Path) -> Path:
    """Return the file that keeps what was measured of a datalist's files.

    Args:
        datalist: absolute path of its JSON file.
    """
    return _own_file("check", datalist)


def usual_workers() -> int:
    """Return how many threads read files where nothing else is said: one for each CPU, at most 8."""
    return min(8, os.cpu_count() or 1)


def measure(path: Path, *, label: bool, mapping: Mapping[int, int] | None = None) -> FileFacts:
    """Read one file and measure it.

    Args:
        path: the file, which exists.
        label: whether it is a label; then its values are listed.
        mapping: stored value of a label to class index, where the datalist maps them.
    """
    try:
        image = read_image(path, label=label)
        if label and mapping:
            image = replace(image, array=map_values(image.array, mapping, path))
        digest = content_hash(path)
    except (ImageError, OSError) as error:
        return FileFacts(error=str(error))
    array = image.array
    not_finite = 0
    if array.dtype.kind == "f":
        not_finite = int(array.size - np.count_nonzero(np.isfinite(array)))
    values, counts, fractions = _label_values(array) if label else (None, None, False)
    colours: tuple[int, ...] = ()
    if values and not mapping and 0 <= values[0] <= values[-1] < len(image.palette):
        colours = tuple(image.palette[value] for value in values)
    rows: tuple[tuple[float, ...], ...] = ()
    if not label and not not_finite:
        array = np.moveaxis(array, -1, 0) if image.channels > 1 else array[None]
        rows = quantiles(array, None, path)
    return FileFacts(
        shape=tuple(image.shape),
        channels=image.channels,
        spacing=image.spacing,
        palette=bool(image.palette),
        colours=colours,
        not_finite=not_finite,
        values=values,
        counts=counts,
        fractions=fractions,
        affine=None if image.affine is None else tuple(np.asarray(image.affine, np.float64).ravel().tolist()),
        lossy=image.lossy,
        orientation=image.orientation,
        quantiles=rows,
        lone=lone(array, rows) if rows else (),
        notes=image.notes,
        sha256=digest,
        pixels="" if label else digest if image.array.min() == image.array.max() else _hash_of_values(image.array),
    )


def _hash_of_values(array: npt.NDArray[Any]) -> str:
    """Return a hash of values that is one for all types that hold them, made of a plane at a time."""
    digest = hashlib.sha256(str(array.shape).encode())
    with np.errstate(over="ignore"):
        for plane in array.T if array.ndim > 2 else array:  # as volumes lie in memory, as pictures do
            digest.update((plane.T.astype(np.float32, order="A") + np.float32(0)).tobytes("F"))  # -0 is 0
    return digest.hexdigest()


def _label_values(array: npt.NDArray[Any]) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
    """Return a label's least values, how many pixels have each, and whether some are no integers."""
    fractions = False
    if array.dtype == np.uint8:
        every = np.bincount(array.ravel(), minlength=256)
        found = np.flatnonzero(every)
        counts = every[found]
    else:
        found, counts = np.unique(array[np.isfinite(array)] if array.dtype.kind == "f" else array, return_counts=True)
        if found.dtype.kind == "f":
            fractions = bool(np.any(np.abs(found - np.rint(found)) > _WHOLE))
            found, place = np.unique(np.rint(found), return_inverse=True)
            counts = np.bincount(place, weights=counts).astype(np.int64)
    kept = slice(MAX_LABEL_VALUES)
    return tuple(int(value) for value in found[kept]), tuple(int(count) for count in counts[kept]), fractions


def facts_of(
    datalist: Path, files: Iterable[tuple[Path, bool]], *, mapping: Mapping[int, int] | None = None
) -> dict[tuple[Path, bool], FileFacts]:
    """Return what the check of a datalist has measured of files; what it has not is measured now, and not kept.

    Args:
        datalist: absolute path of its JSON file.
        files: see `measure_all`.
        mapping: see `measure`.
    """
    return measure_all(files, cache_file=check_cache(datalist), workers=usual_workers(), mapping=mapping)[0]


def measure_all(
    files: Iterable[tuple[Path, bool]],
    *,
    cache_file: Path | None,
    workers: int,
    mapping: Mapping[int, int] | None = None,
    unmapped: Collection[Path] = (),
    progress: Progress | None = None,
) -> tuple[dict[tuple[Path, bool], FileFacts], int]:
    """Measure files in parallel threads (decoders release the interpreter lock), from the cache where possible.

    A cache entry holds for a file of the same path, size, modification and change time (ns). A file that could not be
    read is never cached.

    Args:
        files: path and whether it is a label; missing files are left out of the result.
        cache_file: JSON file of earlier measurements, or ``None``.
        workers: number of threads.
        mapping: see `measure`; measurements under another mapping are not taken from the cache.
        unmapped: labels that the mapping is not for, such as maps of object numbers.
        progress: called with the number of files done and the number of all, from the calling thread.

    Returns:
        The facts, and how many files were read.
    """
    mappings = {key: None if key[0] in unmapped else mapping for key in dict.fromkeys(files)}
    stamps = {key: stamp for key, used in mappings.items() if (stamp := _stamp(*key, used)) is not None}
    cached = _load_cache(cache_file)
    facts = {key: cached[stamp] for key, stamp in stamps.items() if stamp in cached}
    todo = [key for key in stamps if key not in facts]
    if progress is not None:
        progress(len(facts), len(stamps))
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        running = {pool.submit(measure, key[0], label=key[1], mapping=mappings[key]): key for key in todo}
        for future in as_completed(running):
            facts[running[future]] = future.result()
            if progress is not None:
                progress(len(facts), len(stamps))
    if cache_file is not None and todo:
        _save_cache(cache_file, {stamps[key]: value for key, value in facts.items() if value.error is None})
    return facts, len(todo)


def hash_all(files: Iterable[Path], datalist: Path) -> dict[Path, str]:
    """Return the SHA-256 of each file's bytes; those that the check or an earlier call has read are not read again.

    As in `measure_all`, a file of the same path, size, modification and change time is the same file.

    Args:
        files: to hash.
        datalist: absolute path of the JSON file that names them; what is known is kept by it.

    Raises:
        OSError: if a file cannot be read; it names the file.
    """
    stamps = {path: _time_stamp(path) for path in dict.fromkeys(files)}
    cache_file = _own_file("hashes", datalist)
    known = _checked_hashes(check_cache(datalist)) | _load_hashes(cache_file)
    todo = [path for path, stamp in stamps.items() if stamp not in known]
    with ThreadPoolExecutor(max_workers=usual_workers()) as pool:
        known |= {stamps[path]: digest for path, digest in zip(todo, pool.map(content_hash, todo), strict=True)}
    found = {path: known[stamp] for path, stamp in stamps.items()}
    if todo:
        save_cache(cache_file, {"files": {stamp: known[stamp] for stamp in stamps.values()}})
    return found


def _own_file(folder: str, datalist: Path) -> Path:
    return cache_folder() / folder / f"{hashlib.sha256(str(datalist).encode()).hexdigest()[:24]}.json"


def _time_stamp(path: Path) -> str:
    return f"{file_stamp(path)}|{path}"


def _stamp(path: Path, label: bool, mapping: Mapping[int, int] | None) -> str | None:
    try:
        stamp = _time_stamp(path)
    except OSError:
        if not os.path.exists(path):
            return None
        stamp = f"in parts|{path}"  # of a header without its values, which who reads it says, and no cache keeps
    mapped = f"{sorted(mapping.items())}" if label and mapping else ""
    return f"{'label' if label else 'image'}{mapped}|{stamp}"


def _load_cache(cache_file: Path | None) -> dict[str, FileFacts]:
    if cache_file is None or not cache_file.exists():
        return {}
    try:
        content = json.loads(cache_file.read_text(encoding="utf-8"))
        if content["version"] != CHECKER_VERSION:
            return {}
        return {stamp: FileFacts(**_with_tuples(entry)) for stamp, entry in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s: damaged cache of the data check (%s); measuring all files again", cache_file, error)
        return {}


def _checked_hashes(cache_file: Path) -> dict[str, str]:
    """Return the hashes that a check has left, by the stamp without the kind of the file."""
    return {stamp.partition("|")[2]: facts.sha256 for stamp, facts in _load_cache(cache_file).items() if facts.sha256}


def _load_hashes(cache_file: Path) -> dict[str, str]:
    try:
        return {str(stamp): str(found) for stamp, found in json.loads(cache_file.read_text("utf-8"))["files"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s: damaged cache of file hashes (%s); hashing all files again", cache_file, error)
        return {}


def _save_cache(cache_file: Path, facts: dict[str, FileFacts]) -> None:
    save_cache(
        cache_file, {"version": CHECKER_VERSION, "files": {stamp: asdict(entry) for stamp, entry in facts.items()}}
    )


def save_cache(cache_file: Path, content: dict[str, Any]) -> None:
    """Keep what was found of data as JSON; where that cannot be, warn."""
    try:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(cache_file) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
    except OSError as error:
        _warn_once(cache_folder(), error.strerror or str(error))


@lru_cache
def _warn_once(folder: Path, reason: str) -> None:
    """Say of a cache that cannot be written to; of each of its files it would be said many times."""
    logger.warning("%s: cannot keep what was found of the data (%s); set MEDSEG_CACHE", folder, reason)


def _with_tuples(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: _tuples(value) for key, value in entry.items()}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
