"""Which cases of a run are done already: their outputs are there, by this model and of this image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from medseg.atomic import LONGEST_NAME
from medseg.caller import spelt
from medseg.errors import shown
from medseg.io.parts import file_hash
from medseg.prediction.audit import records_in
from medseg.prediction.cases import ImageFolder, refuse_shared
from medseg.prediction.mask_record import Maker, MaskRecord
from medseg.prediction.outputs import name_of
from medseg.prediction.sinks import Case, Gathers, Sink

__all__ = ["files_of", "to_do"]


def files_of(folder: ImageFolder, sinks: Sequence[Sink], maker: Maker) -> tuple[dict[str, list[Path]], MaskRecord]:
    """Return the files of each case alone by its name, its mask last, and the record of them.

    A case that a file system has no name for has none.

    Args:
        folder: the cases.
        sinks: all outputs, the masks last.
        maker: of them.

    Raises:
        InputError: if two cases would write one file.
        MaskRecordError: if an output is there that another model made, and may not be replaced.
    """
    files = {case.name: list(dict.fromkeys(f for sink in sinks for f in sink.files(case))) for case in folder.cases}
    files = {name: own for name, own in files.items() if not _too_long(own)}
    refuse_shared(files, folder.output_dir)
    masks = {case.target: case.files for case in folder.cases if case.name in files}
    others = [file for own in files.values() for file in own if file not in masks]
    outputs = [name_of(sink) for sink in sinks[:-1]]
    return files, MaskRecord(folder.output_dir, maker, masks, others, outputs, overwrite=folder.overwrite)


def to_do(
    folder: ImageFolder, sinks: Sequence[Sink], files: Mapping[str, Sequence[Path]], record: MaskRecord
) -> tuple[list[Case], list[tuple[Case, str]]]:
    """Return the cases that are to be done, and those whose masks are there and may not be replaced, with the reason.

    Those are of another image, or were changed since they were written, as by somebody who corrected them.

    Args:
        folder: the cases.
        sinks: all outputs, the masks last.
        files: of each case.
        record: of the masks.
    """
    todo, others = [], []
    written = _Written(folder.output_dir)
    for case in folder.cases:
        if case.name not in files:
            others.append((case, f"its outputs would have names of more than {LONGEST_NAME} bytes; rename the image"))
        elif folder.overwrite or not case.target.exists():
            todo.append(case)
        elif why := record.why_other(case.target):
            others.append((case, why))
        elif _is_whole(case, sinks, files[case.name]) and not record.lacks(case.target):
            continue
        elif why := written.why_changed(case.target):
            others.append((case, why))
        else:
            record.adds(case.target, [name_of(sink) for sink in sinks[:-1] if not _begun(sink, case)])
            todo.append(case)
    return todo, others


class _Written:
    """What masks were when they were written, as the records of the runs have it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _hashes(self) -> dict[str, str]:
        try:
            made = [file for case in records_in(self._folder) for file in case.get("outputs", ())]
            return {str(file["name"]): str(file["sha256"]) for file in made}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # said by `MaskRecord`, where it counts
            return {}

    def why_changed(self, mask: Path) -> str:
        """Return why a mask may not be made again; empty where it is as it was written, or nobody knows."""
        known = self._hashes.get(mask.relative_to(self._folder).as_posix())
        if known is None or file_hash(mask) == known:
            return ""
        return (
            f"its mask {shown(mask)} was changed since it was written, and is not made again for further outputs; name "
            f"another folder for them, or do all again with {spelt('overwrite')}"
        )


def _too_long(files: Sequence[Path]) -> bool:
    return any(len(os.fsencode(file.name)) > LONGEST_NAME for file in files)


def _is_whole(case: Case, sinks: Sequence[Sink], files: Sequence[Path]) -> bool:
    return all(file.exists() for file in files) and all(sink.has(case) for sink in sinks)


def _begun(sink: Sink, case: Case) -> bool:
    """Return whether something of an output is there, which may be of another image than the mask."""
    return any(file.exists() for file in sink.files(case)) or (isinstance(sink, Gathers) and sink.has(case))
