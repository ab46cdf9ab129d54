"""The fingerprint of a data set: what a plan is made from. Measured once, in parallel, and kept.

The idea and what to look at (sizes, voxel sizes, values inside the foreground) are nnU-Net's: F. Isensee et al.,
Nature Methods 18 (2021), https://arxiv.org/abs/1904.08128, section "Dataset fingerprint".
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.case_facts import QUANTILES, CaseFacts, measure_case
from medseg.data.datalist import Datalist, DatalistError, Entry
from medseg.data.file_facts import cache_folder, save_cache, usual_workers
from medseg.errors import counted, shown
from medseg.io.channels import first_of
from medseg.reports.palette import background_index

__all__ = ["Fingerprint", "fingerprint"]

_VERSION = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fingerprint:
    """Measurements of every labelled image of a data set.

    Args:
        data: hash of the datalist and its files, see `Datalist.fingerprint`.
        name: of the data set.
        modality: as the datalist names it, one a channel.
        classes: names by index.
        background: class that is around the objects, or ``None``.
        cases: measurements, in the order of the datalist.
    """

    data: str
    name: str
    modality: tuple[str, ...]
    classes: tuple[str, ...]
    background: int | None
    cases: tuple[CaseFacts, ...]

    @property
    def dimensions(self) -> int:
        """Axes of the images: 2 for pictures, 3 for volumes."""
        return len(self.cases[0].shape)

    @property
    def channels(self) -> int:
        """Channels of the images: the most that one has."""
        return max(case.channels for case in self.cases)

    @cached_property
    def shapes(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Edges in voxels, a row a case."""
        return np.array([case.shape for case in self.cases], np.int64)

    @cached_property
    def spacings(self) -> np.ndarray[Any, np.dtype[np.float64]] | None:
        """Voxel sizes in mm, a row a case; ``None`` where a file states none."""
        rows = [case.spacing for case in self.cases]
        return None if any(row is None for row in rows) else np.array(rows, np.float64)

    @property
    def orientations(self) -> tuple[str, ...]:
        """Axis codes that occur, the most frequent first."""
        codes = [case.codes for case in self.cases]
        return tuple(sorted(set(codes), key=lambda code: (-codes.count(code), code)))

    def spread(self, channel: int, *, foreground: bool) -> dict[float, float]:
        """Return the quantiles of a channel's values over the data set: each case counts alike.

        Args:
            channel: of the images.
            foreground: of the values inside the foreground alone.
        """
        held = [(case.foreground if foreground else case.quantiles) for case in self.cases]
        rows = [row[min(channel, len(row) - 1)] for row in held if row]
        if not rows:
            return {}
        at, table = np.array(QUANTILES), np.array(rows)
        unique = np.unique(table)  # the share of voxels below a value jumps where many have that value: from two sides
        values = np.stack([np.nextafter(unique, -np.inf), unique], axis=1).ravel()
        below = np.mean([np.interp(values, row, at, left=0.0, right=1.0) for row in table], axis=0)
        found = np.interp(at, below, values)
        found[0], found[-1] = table[:, 0].min(), table[:, -1].max()
        return dict(zip(QUANTILES, map(float, found), strict=True))

    def class_shares(self) -> list[float]:
        """Return the share of each class among all labelled voxels."""
        voxels = np.array([case.voxels for case in self.cases], np.float64).sum(axis=0)
        total = voxels.sum()
        return [float(number / total) if total else 0.0 for number in voxels]

    def class_cases(self) -> list[int]:
        """Return in how many cases each class occurs."""
        return [sum(case.voxels[index] > 0 for case in self.cases) for index in range(len(self.classes))]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; no case is named."""
        return {"version": _VERSION, **dataclasses.asdict(self)}

    @classmethod
    def of(cls, content: dict[str, Any]) -> Fingerprint:
        """Build from what `to_dict` gave."""
        cases = tuple(CaseFacts.of(case) for case in content["cases"])
        names = [field.name for field in dataclasses.fields(cls) if field.name != "cases"]
        plain: dict[str, Any] = {name: content[name] for name in names}
        plain |= {name: tuple(value) for name, value in plain.items() if isinstance(value, list)}
        return cls(**plain, cases=cases)


def fingerprint(
    data: Datalist,
    *,
    workers: int | None = None,
    cache: bool = True,
    progress: Callable[[int, int | None], None] | None = None,
) -> Fingerprint:
    """Measure every labelled image of the training and validation lists; of unchanged data from the cache.

    Args:
        data: the datalist.
        workers: threads that read and measure (nearly all of it without the interpreter's lock); by default one for
            each CPU, at most 8.
        cache: keep the result, and take it from there where neither datalist nor files have changed.
        progress: called with images done and images in all.

    Raises:
        DatalistError: if nothing is labelled, or pictures and volumes are mixed.
        ImageError: if a file cannot be read, or image and label differ in size.
    """
    entries = labelled(data)
    if not entries:
        raise DatalistError(f"{shown(data.path)}: no image has a label to learn from; name the labels in it")
    identity = data.fingerprint()
    kept = cache_folder() / "fingerprint" / f"{identity[:32]}.json"
    found = _load(kept, identity) if cache else None
    if found is None:
        cases = _measure(entries, data.num_classes, _background(data), workers, progress)
        found = Fingerprint(
            identity, data.name, tuple(data.modality), tuple(data.class_names), _background(data), tuple(cases)
        )
        if cache:
            save_cache(kept, found.to_dict())
    _agree(found, entries, data)
    return found


def labelled(data: Datalist) -> list[Entry]:
    """Return the entries that a fingerprint measures, in the order of its cases, with absolute paths."""
    return [data.absolute(entry) for split, entry in data.entries() if split != "test" and "label" in entry]


def _background(data: Datalist) -> int | None:
    return background_index(data.class_names)


def _measure(
    entries: Sequence[dict[str, Any]],
    num_classes: int,
    background: int | None,
    workers: int | None,
    progress: Callable[[int, int | None], None] | None,
) -> list[CaseFacts]:
    cases: list[CaseFacts | None] = [None] * len(entries)
    with ThreadPoolExecutor(max_workers=workers or usual_workers()) as pool:
        running = {pool.submit(measure_case, entry, num_classes, background): n for n, entry in enumerate(entries)}
        try:
            for done, future in enumerate(as_completed(running), 1):
                cases[running[future]] = future.result()
                if progress is not None:
                    progress(done, len(entries))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [case for case in cases if case is not None]


def _agree(found: Fingerprint, entries: Sequence[dict[str, Any]], data: Datalist) -> None:
    """Refuse pictures among volumes, and other numbers of channels than colour and grey pictures have."""
    axes = found.dimensions
    counts = [case.channels if axes == 3 else case.seen for case in found.cases]
    usual = max(set(counts), key=counts.count)
    for case, count, entry in zip(found.cases, counts, entries, strict=True):
        where = f"{shown(data.path)}: {shown(first_of(entry['image']))}"
        if len(case.shape) != axes:
            kinds = {2: "a picture", 3: "a volume"}
            raise DatalistError(
                f"{where} is {kinds.get(len(case.shape), 'no image')}, the first "
                f"image is {kinds.get(axes, 'no image')}; make a datalist for each kind"
            )
        mixed = count != usual and (axes == 3 or not {count, usual} <= {1, 3})
        if mixed:
            raise DatalistError(
                f"{where} has {counted(count, 'channel')}, most images have {usual}; "
                "leave it out, or make a datalist for each kind"
            )


def _load(path: Path, identity: str) -> Fingerprint | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION or content["data"] != identity:
            return None
        return Fingerprint.of(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: damaged cache of a fingerprint (%s); measuring again", path, error)
        return None
