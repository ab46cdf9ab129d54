"""Which cases of a run are done already: their outputs are there, by this model and of this image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.prediction.cases import ImageFolder, refuse_shared
from medseg.prediction.mask_record import Maker, MaskRecord
from medseg.prediction.outputs import name_of
from medseg.prediction.sinks import Case, Gathers, Sink

__all__ = ["files_of", "to_do"]


def files_of(folder: ImageFolder, sinks: Sequence[Sink], maker: Maker) -> tuple[dict[str, list[Path]], MaskRecord]:
    """Return the files of each case alone by its name, its mask last, and the record of them.

    Args:
        folder: the cases.
        sinks: all outputs, the masks last.
        maker: of them.

    Raises:
        InputError: if two cases would write one file.
        MaskRecordError: if an output is there that another model made, and may not be replaced.
    """
    files = {case.name: list(dict.fromkeys(f for sink in sinks for f in sink.files(case))) for case in folder.cases}
    refuse_shared(files, folder.output_dir)
    masks = {case.target: case.files for case in folder.cases}
    others = [file for own in files.values() for file in own if file not in masks]
    outputs = [name_of(sink) for sink in sinks[:-1]]
    return files, MaskRecord(folder.output_dir, maker, masks, others, outputs, overwrite=folder.overwrite)


def to_do(
    folder: ImageFolder, sinks: Sequence[Sink], files: Mapping[str, Sequence[Path]], record: MaskRecord
) -> tuple[list[Case], list[tuple[Case, str]]]:
    """Return the cases that are to be done, and those whose masks are there and of another image, with the reason.

    Args:
        folder: the cases.
        sinks: all outputs, the masks last.
        files: of each case.
        record: of the masks.
    """
    if folder.overwrite:
        return list(folder.cases), []
    todo, others = [], []
    for case in folder.cases:
        if case.target.exists() and (why := record.why_other(case.target)):
            others.append((case, why))
        elif not (all(file.exists() for file in files[case.name]) and all(sink.has(case) for sink in sinks)):
            if case.target.exists():
                record.adds(case.target, [name_of(sink) for sink in sinks[:-1] if not _begun(sink, case)])
            todo.append(case)
        elif record.lacks(case.target):
            todo.append(case)
    return todo, others


def _begun(sink: Sink, case: Case) -> bool:
    """Return whether something of an output is there, which may be of another image than the mask."""
    return any(file.exists() for file in sink.files(case)) or (isinstance(sink, Gathers) and sink.has(case))
