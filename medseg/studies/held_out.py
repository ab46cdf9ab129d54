"""Masks of a study: each case's by the network that has not seen it, for each row and seed a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from medseg.bundle.data import scored
from medseg.data.datalist import Datalist
from medseg.errors import counted, few, shown
from medseg.prediction.cases import names_of
from medseg.prediction.predict import predict
from medseg.runs.paths import resolve_path
from medseg.studies.study import Cell, Study, StudyError, read_study
from medseg.studies.study_cell import Places, read_made

__all__ = ["predict_held_out"]


def predict_held_out(
    folder: str | Path,
    output: str | Path,
    *,
    rows: Sequence[str] = (),
    outputs: Sequence[str] = (),
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Predict each case by the cell that held it out, as the study scored it; masks that are there are kept.

    Args:
        folder: of the study, whose cells are complete.
        output: folder for a folder of masks a row and seed, with the datalist's names.
        rows: names of those whose masks are made; all by default.
        outputs: what is written beside masks, as in `medseg.prediction.predict.predict`.
        overwrite: whether also masks that are there are made, whatever made them.
        say: called with a line of news.

    Returns:
        The folders of masks, for `medseg.studies.score_folders` and the datalist.

    Raises:
        StudyError: if there is no such study or row, a cell is missing, or a case could not be predicted; the others
            are there then.
        MedsegError: if masks of others lie in the folder.
    """
    places = Places.begun(folder)
    study = read_study(places.study).of_rows(rows)
    data = study.load()
    cells = study.cells(data)
    missing = [cell.name for cell in cells if read_made(places, study, cell) is None]
    if missing:
        gone = f"{counted(len(missing), 'cell')} missing: {few(missing)}"
        raise StudyError(f"{shown(places.folder)}: {gone}; go on with medseg study run")
    target, found, failed = resolve_path(output, "output"), list[Path](), list[str]()
    for cell in cells:
        masks = target / f"{cell.row.slug}-seed{cell.seed}"
        done = predict(
            places.cell(cell.name),
            data.path,
            masks,
            outputs=outputs,
            overlays=cell.row.score_with,
            overrides=cell.row.scoring,
            overwrite=overwrite,
            cases=_held_out(study, data, cell),
        )
        failed += [f"{name} ({reason})" for name, reason in done.failures]
        found += [masks] if masks not in found else []
        say(f"{cell.name}: {counted(done.written, 'mask')} written, {done.skipped} there before")
    if failed:
        raise StudyError(f"{counted(len(failed), 'case')} could not be predicted: {few(failed)}")
    return found


def _held_out(study: Study, data: Datalist, cell: Cell) -> list[str]:
    """Return the names of the cases that a cell was scored on."""
    parts = data.split(cell.fold, fold_key=study.fold_key, validation_fold=None)  # what is tested is the same
    return names_of(data, scored(parts, study.scored))
