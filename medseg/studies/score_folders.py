"""Score masks against true ones, whoever made them: the same scores, table and files as an evaluation's.

Which prediction belongs to which truth says `medseg.studies.mask_pairs`. Both must lie in one place to within a tenth
of a voxel, whatever the order and direction of their axes; nothing is resampled. What has no partner or cannot be
scored is counted and named, and is in no mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg.data.datalist import Datalist
from medseg.engines.evaluator import SCORES
from medseg.errors import MedsegError, counted, few, shown, together
from medseg.io.images import ImageFile, read_image
from medseg.io.placement import ROUNDING, compare, describe
from medseg.metrics.score import ScoredCase
from medseg.metrics.score_board import ScoreBoard
from medseg.runs.report import Result
from medseg.studies.mask_classes import MaskClasses, classes_of_datalist, classes_of_truths
from medseg.studies.mask_pairs import pair_masks

__all__ = ["WANTED", "FolderScores", "score_folders"]

WANTED: Mapping[str, Mapping[str, Any]] = {"distances": {}, "volumes": {}}
"""What is scored beside overlap unless asked for otherwise."""

_NAMED = 3


@dataclass(frozen=True)
class FolderScores:
    """What scoring two folders gave.

    Args:
        result: scores, as of an evaluation.
        without_prediction: truths that have none.
        without_truth: predictions that have none.
        failures: pairs that could not be scored, with the reason.
        left_out: of each folder, what was no image, in one line.
        predictions: how many there are.
        truths: how many there are.
    """

    result: Result
    without_prediction: list[str] = field(default_factory=list)
    without_truth: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    left_out: Sequence[str] = ()
    predictions: int = 0
    truths: int = 0

    @property
    def complete(self) -> bool:
        """Whether every prediction and every truth was scored."""
        return not (self.without_prediction or self.without_truth or self.failures)

    def said(self) -> list[str]:
        """Return lines on what was not scored: how many lack a partner, with a few names, and why pairs failed."""
        lacking = (
            (self.without_prediction, self.truths, "truth", "prediction"),
            (self.without_truth, self.predictions, "prediction", "truth"),
        )
        lines = [
            f"{len(names)} of {counted(total, what)} {'has' if len(names) == 1 else 'have'} no {partner}: "
            f"{shown(few(names, _NAMED))}"
            for names, total, what, partner in lacking
            if names
        ]
        return [*lines, *together(self.failures, "pair"), *self.left_out]


def score_folders(
    predictions: Path,
    truths: Path | Datalist,
    *,
    classes: MaskClasses | None = None,
    groups: Mapping[str, str] | None = None,
    scores: Mapping[str, Mapping[str, Any] | None] = WANTED,
    progress: Callable[[int, int], None] | None = None,
) -> FolderScores:
    """Score the masks of a folder against those of another, or against the labels of a datalist.

    Args:
        predictions: folder of masks, or one mask.
        truths: the same; or a datalist, whose labels are the truths, of whatever list.
        classes: what values mean; by default what the datalist says, else every value of a truth is a class.
        groups: of cases by name; by default those of ``classes``, or of the datalist.
        scores: options by name, beside overlap; see `medseg.metrics.score`.
        progress: called as ``progress(pairs done, pairs in all)``.

    Raises:
        MedsegError: if there is no pair, none could be scored, or a case has no group where others have.
    """
    pairs = pair_masks(predictions, truths)
    ours, theirs, names = pairs.predictions, pairs.truths, pairs.names
    if classes is None and isinstance(truths, Datalist):
        classes = classes_of_datalist(truths)
    if classes is None:
        classes = classes_of_truths({name: _values(theirs[name]) for name in names})
    board = ScoreBoard(classes.names, classes.ignore_index, {**SCORES, **scores})
    of_group = _groups(
        names, dict(groups if groups is not None else classes.groups or pairs.groups), strict=groups is not None
    )
    failures: list[tuple[str, str]] = []
    for number, name in enumerate(names):
        try:
            case = _pair(number, name, ours[name], theirs[name], classes, of_group[name])
        except MedsegError as error:
            failures.append((name, str(error)))
        else:
            board.update(case)
        if progress is not None:
            progress(number + 1, len(names))
    if not board.rows:
        raise MedsegError(
            f"none of {counted(len(names), 'pair')} could be scored; {shown(failures[0][0])}: {failures[0][1]}"
        )
    table = board.table()
    missing = {"without_prediction": sorted(theirs.keys() - ours.keys())}
    missing["without_truth"] = sorted(ours.keys() - theirs.keys())
    if len(board.rows) < len(theirs):
        table["per_case"]["averaging"] = (
            f"mean over {len(board.rows)} of {counted(len(theirs), 'case')}; the others have no score"
        )
    failed = [{"case": name, "reason": reason} for name, reason in failures]
    table["not_scored"] = {**missing, "failed": failed}
    rows = list(board.lines())
    return FolderScores(Result(table, classes.names, (), rows, classes.ignore_index), failures=failures, **missing,
                        left_out=pairs.left_out, predictions=len(ours), truths=len(theirs))  # fmt: skip


def _groups(names: Sequence[str], groups: Mapping[str, str], *, strict: bool) -> dict[str, str]:
    """Return the group of each case, by its name with or without its subfolder."""
    found = {name: groups.get(name) or groups.get(name.rpartition("/")[2], "") for name in names}
    without = [name for name, group in found.items() if not group]
    if without and strict:
        raise MedsegError(
            f"{counted(len(without), 'case')} without a group, such as {shown(without[0])}; name the group of each"
        )
    return found


def _values(path: Path) -> set[int]:
    try:
        return {int(value) for value in np.unique(_mask(path).array)}
    except MedsegError:  # told with its pair
        return set()


def _mask(path: Path) -> ImageFile:
    image = read_image(path, label=True)
    if image.lossy:
        raise MedsegError(f"{shown(path)}: a lossy format (JPEG) cannot hold class indices; export it as PNG")
    if image.channels > 1:
        raise MedsegError(f"{shown(path)}: has {image.channels} channels; a mask has one, of class indices")
    if image.array.dtype.kind == "f":
        raise MedsegError(f"{shown(path)}: holds fractional values; a mask is class indices")
    return image


def _pair(number: int, name: str, ours: Path, theirs: Path, classes: MaskClasses, group: str) -> ScoredCase:
    truth = _mask(theirs)
    guess = _along(_mask(ours), truth)
    check_same_place(guess, truth, ours, theirs)
    arrays = classes.indices(guess.array, ours, truth=False), classes.indices(truth.array, theirs, truth=True)
    prediction, label = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    return ScoredCase(number, name, prediction, label, group=group, affine=truth.affine)


def _along(guess: ImageFile, truth: ImageFile) -> ImageFile:
    """Return a volume with its axes permuted and flipped to those of another; no voxel changes its value."""
    if guess.affine is None or truth.affine is None or not len(guess.shape) == len(truth.shape) == 3:
        return guess
    if guess.shape == truth.shape and compare(truth.affine, guess.affine, truth.shape).same:
        return guess  # of axes half-way between the patient's, rounding would decide which is which
    from nibabel import orientations

    has, wanted = (orientations.io_orientation(image.affine) for image in (guess, truth))
    if np.isnan([has, wanted]).any() or np.array_equal(has, wanted):
        return guess
    turn = orientations.ornt_transform(has, wanted)
    array = orientations.apply_orientation(guess.array, turn)
    return replace(guess, array=array, affine=guess.affine @ orientations.inv_ornt_aff(turn, guess.shape))


def check_same_place(guess: ImageFile, truth: ImageFile, ours: Path, theirs: Path) -> None:
    """Raise unless a prediction lies where its truth lies.

    Args:
        guess: the prediction.
        truth: its truth.
        ours: file of the prediction.
        theirs: file of the truth.

    Raises:
        MedsegError: with both geometries.
    """
    if (guess.affine is None) != (truth.affine is None):
        kinds = ["a picture" if image.affine is None else "a volume" for image in (guess, truth)]
        raise MedsegError(
            f"{shown(ours)} is {kinds[0]}, {shown(theirs)} {kinds[1]}: their axes run in another order; store both in "
            "one format"
        )
    if guess.shape != truth.shape:
        sizes = [" x ".join(map(str, image.shape)) for image in (guess, truth)]
        raise MedsegError(f"{shown(ours)} is {sizes[0]}, {shown(theirs)} {sizes[1]}; bring it to the truth's grid")
    if guess.affine is None or truth.affine is None:
        return
    apart = compare(truth.affine, guess.affine, truth.shape)
    if not apart.same:
        raise MedsegError(
            f"{shown(ours)} lies elsewhere than {shown(theirs)}: {describe(guess.affine)}; truth "
            f"{describe(truth.affine)}; corners differ by up to {apart.mm:.4g} mm ({apart.voxels:.3g} voxels, allowed "
            f"{ROUNDING}); bring it to the truth's grid, or, where a header is wrong, correct it"
        )
