"""A bundle from start to end: train it, score what came out, ask whether data fit it. What medseg's commands run.

The same configuration files, through MONAI's own parser, as ``python -m monai.bundle run`` evaluates.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medseg.bundle import early, library
from medseg.bundle.command import Command, owns_process
from medseg.bundle.data import where
from medseg.bundle.options import Options
from medseg.bundle.ready import Ready, WorkflowError, prepare
from medseg.bundle.start import check_keys
from medseg.runs.paths import resolve_path

__all__ = [
    "CALIBRATION", "Evaluation", "WorkflowError", "calibrate", "check", "choose_postprocessing", "evaluate",
    "evaluate_together", "refuse", "train",
]  # fmt: skip

logger = logging.getLogger(__name__)

CALIBRATION = "calibration.json"
"""Of a run: how its temperature was fitted."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Args:
        folder: of its files.
        scores: as in ``scores.json``.
        metrics: the scores of the set by one name each, as MLflow has them.
    """

    folder: Path
    scores: Mapping[str, Any]
    metrics: Mapping[str, float]


def train(
    bundle: str | Path,
    *,
    data: str | Path,
    overlays: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Train a bundle.

    Args:
        bundle: its name or folder.
        data: folder of the datalist, or the datalist's file.
        overlays: names of the bundle's overlays.
        overrides: values by key, such as ``{"fold": 1, "network_def#channels": [8, 16]}``.

    Returns:
        The run's folder.

    Raises:
        MedsegError: with what is wrong, before the first step.
        KeyboardInterrupt: and `SystemExit`, with the run's folder as a note, to go on with.
    """
    folder = library.find(bundle)
    command = _asked(folder, data, overlays, overrides, begins=True)
    given = command.overrides
    if given.get("start_from") is not None and "encoder_weights" in command.plain and "encoder_weights" not in given:
        command = replace(command, overrides={**given, "encoder_weights": "random"})  # others come in their place
    parser = _parser(command, folder)
    try:
        for entry_point in ("initialize", "run", "finalize"):
            _evaluate(parser, entry_point)
    except (KeyboardInterrupt, SystemExit) as error:
        if entry_point != "initialize":  # else there is no trainer yet
            error.add_note(str(parser.get_parsed_content("train#trainer").run_record.folder))
        raise
    return Path(parser.get_parsed_content("train#trainer").run_record.folder)


def check(
    bundle: str | Path,
    *,
    data: str | Path,
    overlays: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Any, list[str]]:
    """Check a data set and whether a bundle can be trained on it: what the training itself asks first.

    Args:
        bundle: its name or folder.
        data: folder of the datalist, or the datalist's file.
        overlays: names of the bundle's overlays.
        overrides: values by key.

    Returns:
        The data check's report, and everything else for which the configuration cannot train on the data.
    """
    parts = _parts_of(bundle, data, overlays, overrides)
    from medseg.bundle import fit  # and PyTorch, for which a mistake in the words does not wait

    report = fit.report(*parts[:4])
    return report, fit.problems(*parts, sound=report.ok)


def refuse(bundle: str | Path, *, data: str | Path, overrides: Mapping[str, Any] | None = None) -> None:
    """Refuse what a bundle cannot be trained with, on data whose files are sound; nothing is written.

    Args:
        bundle: its folder.
        data: folder of the datalist, or the datalist's file.
        overrides: values by key.

    Raises:
        MedsegError: as `train` would before its first step.
    """
    parts = _parts_of(bundle, data, (), overrides)
    from medseg.bundle import fit

    if found := fit.problems(*parts):
        raise fit.FitError("\n  ".join(found))


def _parts_of(
    bundle: str | Path, data: str | Path, overlays: Sequence[str], overrides: Mapping[str, Any] | None
) -> tuple[Any, Options, Any, Any, Any]:
    """Return a training's data, options, description, samples and network."""
    folder = library.find(bundle)
    command = _asked(folder, data, overlays, overrides, begins=False)
    parser = _parser(command, folder)
    if "encoder_weights" in parser.get() and "encoder_weights" not in command.overrides:
        parser.update({"encoder_weights": "random"})  # no weights are fetched for a check
    found, options = parser.get_parsed_content("data"), Options.of(parser.get_parsed_content("options"))
    described, dataset = parser.get_parsed_content("description"), parser.get_parsed_content("train#dataset")
    return found, options, described, dataset, parser.get_parsed_content("network_def")


def evaluate(
    run: str | Path,
    *,
    data: str | Path | None = None,
    output: str | Path | None = None,
    overlays: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    scores: Mapping[str, Mapping[str, Any]] | None = None,
    allow_seen: bool = False,
) -> Evaluation:
    """Score the weights of a run on the part of the data that its training left out.

    Everything but the folder of the data is in the run: the model in its weights, the split in its record.

    Args:
        run: the run's folder.
        data: folder of the datalist; by default the one that the run was trained on.
        output: folder of the scores; by default ``test`` (or what is scored) in the run's folder.
        overlays: of the model's bundle that change how whole images are predicted, such as ``multi_scale``.
        overrides: options such as ``{"scored": "validation", "fold": 2}``.
        scores: options by name of scores beside those of the model, see `medseg.metrics.score`.
        allow_seen: score images that the run was trained on, too; the scores say how many they are.

    Returns:
        The scores and where they were written.

    Raises:
        MedsegError: if the run holds no weights, its data are not where they were, or it has seen the images.
    """
    ready = prepare([run], data, overlays, overrides or {}, allow_seen=allow_seen)
    part = ready.part
    name = part if data is None else f"{part}_{re.sub(r'[^A-Za-z0-9_-]+', '_', ready.datalist.name)[:40]}"
    return _scored(ready, resolve_path(output) if output else ready.folder / name, scores)


def evaluate_together(
    runs: Sequence[str | Path],
    *,
    output: str | Path,
    data: str | Path | None = None,
    overlays: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    scores: Mapping[str, Mapping[str, Any]] | None = None,
    allow_seen: bool = False,
    noted: bool = False,
) -> Evaluation:
    """Score runs as one ensemble, the mean of their probabilities, on cases that none of them has seen.

    Args:
        runs: their folders, such as those of folds; the first says how whole images are predicted.
        output: folder of the scores.
        data: as in `evaluate`; its test list is scored, whatever fold each run left out.
        overlays: as in `evaluate`.
        overrides: as in `evaluate`, but for folds.
        scores: as in `evaluate`.
        allow_seen: as in `evaluate`.
        noted: whether the look at the test list that this is a part of is written down already.

    Raises:
        MedsegError: as in `evaluate`, or if the runs are no ensemble.
    """
    given = {"scored": "test", **(overrides or {})}
    ready = prepare(runs, data, overlays, given, lists=True, allow_seen=allow_seen)
    return _scored(ready, resolve_path(output), scores, noted)


def _scored(
    ready: Ready, target: Path, scores: Mapping[str, Mapping[str, Any]] | None, noted: bool = False
) -> Evaluation:
    from medseg.bundle import assembly

    options = {**ready.options, "output_dir": str(target)}
    command = Command("medseg", (), {"evaluate": ready.folder.name}, ("medseg", "evaluate", ready.folder.name))
    described = replace(ready.description, scores={**ready.description.scores, **(scores or {})})
    found = assembly.evaluation(
        ready.engine, options, command, described, ready.datalist, ready.weights, ready.seen, ready.unlike, noted=noted
    )
    return Evaluation(target, found, ready.engine.board.flat("test_"))


def choose_postprocessing(
    run: str | Path,
    *,
    data: str | Path | None = None,
    overlays: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    allow_seen: bool = False,
) -> Any:
    """Choose a run's postprocessing on its validation cases and write it into its weights.

    Args:
        run: the run's folder.
        data: folder of its datalist; by default where it lay.
        overlays: as in `evaluate`.
        overrides: as in `evaluate`, but for what is scored and the fold: the run's own validation cases decide.
        allow_seen: as in `evaluate`.

    Returns:
        The choice as a table; ``postprocessing.json`` in the run's folder holds it too.

    Raises:
        MedsegError: as in `evaluate`, or if an override names other cases.
    """
    ready, trained = _on_validation(run, data, overlays, overrides, "postprocessing is chosen", allow_seen)
    from medseg.bundle import postprocessing
    from medseg.runs.run_folder import RunFolder

    choice = postprocessing.Choice(ready.engine.class_names, ready.engine.ignore_index)
    _scored_by(ready, "postprocessing", choice)
    chosen, cases = choice.chosen(), len(ready.engine.dataset)
    described = postprocessing.keep(ready.weights[0].path, trained, chosen)
    record = {"chosen_on": "validation", "cases": cases, "unit": choice.unit.length}
    record["seen"] = ready.seen.plain()
    record |= {"classes": [each.plain() for each in chosen], "postprocess": described.postprocess}
    RunFolder(ready.folder).write_json("postprocessing.json", record)
    return postprocessing.table_of(chosen, cases, choice.unit.length)


def calibrate(
    run: str | Path,
    *,
    data: str | Path | None = None,
    overlays: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    allow_seen: bool = False,
) -> Any:
    """Fit a temperature to a run's validation cases and write it into its weights.

    Args:
        run: the run's folder.
        data: folder of its datalist; by default where it lay.
        overlays: as in `evaluate`.
        overrides: as in `evaluate`, but for the fold and for what is scored: the run's own validation cases, or with
            ``scored`` as ``test`` the fold that it left out, never a test list.
        allow_seen: as in `evaluate`.

    Returns:
        The fit as a table; `CALIBRATION` in the run's folder holds it too.

    Raises:
        MedsegError: as in `evaluate`, or if an override names other cases.
    """
    ready, trained = _on_validation(
        run, data, overlays, overrides, "a temperature is fitted", allow_seen, held_out=True
    )
    from medseg.bundle import record
    from medseg.bundle.temperature import Fit
    from medseg.runs.run_folder import RunFolder

    cases = "held-out" if ready.part == "test" else "validation"
    fit = Fit(ready.engine.class_names, ready.engine.ignore_index, cases)
    _scored_by(ready, "temperature", fit)
    found = fit.fitted()
    record.rewrite(ready.weights[0].path, replace(trained, temperature=found.temperature))
    RunFolder(ready.folder).write_json(CALIBRATION, {**found.plain(), "seen": ready.seen.plain()})
    return found.table()


def _on_validation(
    run: str | Path,
    data: str | Path | None,
    overlays: Sequence[str],
    overrides: Mapping[str, Any] | None,
    what: str,
    allow_seen: bool,
    *,
    held_out: bool = False,
) -> tuple[Ready, Any]:
    """Return a run with its weights loaded and its own validation cases, and the model that the weights describe.

    Where ``held_out`` allows it, and is asked for, the cases are those of the fold that the run left out.
    """
    given = dict(overrides or {})
    for key in ("fold", "fold_key", "validation_fold", "datalist", "postprocess"):
        if key in given:
            raise WorkflowError(
                f"{key}={given[key]} was given, but the run's own validation cases choose; leave it out"
            )
    part = given.setdefault("scored", "validation")
    if part != "validation" and not (held_out and part == "test"):
        raise WorkflowError(f"scored is {part!r}, but {what} on validation cases alone; leave it out")
    ready = prepare([run], data, overlays, given, allow_seen=allow_seen)
    if part == "test" and ready.options.get("fold") is None:
        raise WorkflowError(
            f"scored is 'test', but {what} on validation cases, or on those of a fold that the run left out, and it "
            "left none out: a test list is for testing alone"
        )
    from medseg.bundle.record import load_described, refuse_other_data

    (weights,) = ready.weights
    refuse_other_data(weights.path, load_described(ready.engine.network, weights, ready.description), ready.datalist)
    return ready, weights.description  # as they carry it: windows of this evaluation are not theirs


def _scored_by(ready: Ready, name: str, score: Any) -> None:
    """Go over a run's cases with one more score."""
    from medseg.engines.loading import stop_workers

    ready.engine.board.add(name, score)
    try:
        ready.engine.score(ready.engine.network)
    finally:
        stop_workers(ready.engine)


def _asked(
    folder: Path,
    data: str | Path,
    overlays: Sequence[str],
    overrides: Mapping[str, Any] | None,
    *,
    begins: bool,
) -> Command:
    """Return what was asked of a training, as far as it can be refused before MONAI is imported."""
    files = library.config_files(folder, "train", list(overlays))
    words = ("medseg", *sys.argv[1:]) if owns_process() else ()
    command = Command("medseg", tuple(files), {**where(data), **(overrides or {})}, words)
    early.refuse(command, begins=begins)
    return command


def _parser(command: Command, folder: Path) -> Any:
    """Return MONAI's parser of what was asked for, not yet evaluated."""
    check_keys(command)
    parser = command.parser()
    metadata = folder / "configs" / "metadata.json"
    parser.read_meta(str(metadata)) if metadata.is_file() else parser.update({"_meta_": {}})
    parser.update({**command.overrides, "bundle_root": str(folder), "command": command})
    return parser


def _evaluate(parser: Any, entry_point: str) -> None:
    for number in range(len(parser.get(entry_point) or [])):
        parser.get_parsed_content(f"{entry_point}#{number}")
