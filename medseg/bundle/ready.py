"""Trained runs made ready to be scored: their weights, the cases, and an evaluator over them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.bundle import early, library
from medseg.bundle.command import Command
from medseg.bundle.data import datalist, load_data, scored, split
from medseg.bundle.options import Options
from medseg.bundle.seen import Seen, refuse_scoring
from medseg.caller import spelt
from medseg.data.datalist import Datalist, Entry
from medseg.errors import MedsegError, counted, meant, shown
from medseg.io.channels import first_of
from medseg.runs.paths import resolve_path
from medseg.runs.run_folder import config_of

if TYPE_CHECKING:
    from medseg.bundle.description import Description
    from medseg.bundle.ensemble import Unlike
    from medseg.bundle.record import Weights
    from medseg.engines.evaluator import Evaluator

__all__ = ["EVALUATED", "Ready", "WorkflowError", "data_of", "prepare"]

_FOLDS = ("fold", "fold_key", "validation_fold")
EVALUATED = (
    "scored", *_FOLDS, "num_workers", "precision", "channels_last", "hide_names", "mlflow", "tracking_uri",
    "experiment", "seed",
)  # fmt: skip


class WorkflowError(MedsegError):
    """A run that cannot be scored, or a training that cannot be put together."""


@dataclass(frozen=True)
class Ready:
    """Trained runs, their data and their evaluator.

    Args:
        folder: of the run; of several the first.
        weights: of each run.
        description: of the model, as it predicts.
        options: of the configuration.
        datalist: that names the cases.
        engine: over the cases, with the network, or an ensemble of all; the weights are not in it yet.
        seen: what the runs have seen of the cases.
        unlike: settings in which several runs differ.
    """

    folder: Path
    weights: Sequence[Weights]
    description: Description
    options: Mapping[str, Any]
    datalist: Datalist
    engine: Evaluator
    seen: Seen
    unlike: Sequence[Unlike] = ()

    @property
    def part(self) -> str:
        """What is scored: ``test``, ``validation`` or ``training``."""
        return str(self.options.get("scored", "test"))


def prepare(
    runs: Sequence[str | Path],
    data: str | Path | None,
    overlays: Sequence[str],
    given: Mapping[str, Any],
    *,
    lists: bool = False,
    allow_seen: bool = False,
) -> Ready:
    """Make runs ready to be scored, alone or as an ensemble.

    Args:
        runs: folders.
        data: folder of the datalist; by default the one that the first run was trained on.
        overlays: of the model's bundle that change how whole images are predicted.
        given: options.
        lists: whether the fixed lists of the data are scored, whatever fold the runs left out.
        allow_seen: count what the runs have seen of the cases, and do not refuse it.

    Raises:
        MedsegError: if a run holds no weights, its data are not where they were, it has seen what is to be scored, or
            runs are no ensemble.
    """
    folders = [library.run_folder(run) for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if not folder.is_dir():
            hint = meant(Path(run).expanduser(), "name the folder of a run", Path.is_dir)
            raise WorkflowError(f"{run}: no such folder; {hint}")
        if folders.count(folder) > 1:
            raise WorkflowError(f"{run} is named twice, and would count twice in the ensemble; name each run once")
    files = [library.weights_file(folder) for folder in folders]
    given = dict(given)
    name = given.pop("device", None)
    changes = {key: given.pop(key) for key in list(given) if key.startswith("inference#")}
    steps = given.pop("postprocess", None)
    early.refuse_unread("evaluate", given, _taken(lists), ", device, postprocess and inference#...")
    early.refuse_inference(changes)
    Options.of(given)
    wanted = {**config_of(folders[0]), **given, "resume": False}
    options = {key: value for key, value in wanted.items() if key in Options.names()}
    found = data_of(folders[0]) if data is None else load_data(data)
    if lists or (data is not None and not found.fold_keys and "fold" not in given):
        options |= {"fold": None, "fold_key": "fold", "validation_fold": "next"}  # the training's say nothing of these
    part = str(options.get("scored", "test"))
    entries = scored(_lists(found) if lists else split(found, options, Command("medseg", (), given)), part)
    if not entries:
        raise _empty(found, part)
    refuse_unlabelled(found, entries, part)
    places = [library.run_of(file, resolve_path(str(options.get("runs_dir", "runs")))) for file in files]
    seen = refuse_scoring(places, found, entries, options, allowed=allow_seen)
    from medseg.bundle import assembly, networks
    from medseg.bundle.ensemble import joined, warn
    from medseg.bundle.inference import with_inference
    from medseg.bundle.record import read_weights
    from medseg.engines.ensemble import Ensemble
    from medseg.runs.processes import pick_device

    device = pick_device(name)
    weights = [read_weights(file) for file in files]
    trained = [_described(each) for each in weights]
    together = joined(dict(zip([str(each.path) for each in weights], trained, strict=True)))
    unlike = together.settled([*changes, *(["postprocess"] * (steps is not None))])
    warn(unlike)
    described = with_inference(together.description, overlays, changes, steps)
    dataset = assembly.scored_samples(entries, described, cache=False, native=True)
    members = [networks.rebuild(each.network).to(device) for each in trained]
    network = members[0] if len(members) == 1 else Ensemble(members)
    inferer = assembly.inferer(described)
    engine = assembly.evaluator(options, device, found, dataset, network, inferer=inferer, batch_size=1)
    return Ready(folders[0], weights, described, options, found, engine, seen, unlike)


def data_of(folder: Path) -> Datalist:
    """Return the data that a run was trained on, where they lay then.

    Args:
        folder: of the run.

    Raises:
        MedsegError: if it does not say, or they are not there any more.
    """
    place = folder / library.PLACE
    if not place.is_file():
        raise WorkflowError(f"{folder} does not say where its data lie; name their folder with {spelt('data')}")
    return datalist({"datalist": json.loads(place.read_text(encoding="utf-8"))["datalist"]}, None)


def _taken(lists: bool) -> Sequence[str]:
    return [key for key in EVALUATED if not (lists and key in _FOLDS)]


def _lists(data: Datalist) -> Sequence[list[Any]]:
    return [[data.absolute(entry) for entry in each] for each in (data.training, data.validation, data.test)]


def _described(weights: Weights) -> Description:
    if weights.description is None:
        raise WorkflowError(
            f"{weights.path} carries no record of its model; lay it into a copy of its bundle (medseg bundle copy NAME "
            "-o FOLDER) as models/model.pt, predict with that (medseg predict FOLDER IMAGES MASKS) and score the "
            "masks: medseg score MASKS TRUTHS"
        )
    return weights.description


def refuse_unlabelled(data: Datalist, entries: Sequence[Entry], part: str) -> None:
    """Refuse to score images that have no label, such as those of the decathlon's test lists.

    Args:
        data: the datalist that names them.
        entries: the images.
        part: of it.

    Raises:
        WorkflowError: naming the first.
    """
    without = [entry for entry in entries if "label" not in entry]
    if without:
        raise WorkflowError(
            f"{shown(data.path)}: {len(without)} of {counted(len(entries), f'{part} image')} have no label, such as "
            f"{shown(first_of(without[0]['image']))}: give labels, or predict them with medseg predict"
        )


def _empty(data: Datalist, part: str) -> WorkflowError:
    """Return what to do where a part has no image."""
    others = [spelt("scored", name) for name in ("test", "validation") if name != part]
    trained_so = f"; a training keeps some apart with {spelt('validation_fold', 1)}" if part == "validation" else ""
    return WorkflowError(
        f"{data.path}: its {part} part is empty, so that nothing can be scored (all of it was trained on?); name "
        f"other data with {spelt('data')}, or another part with {' or '.join(others)}{trained_so}"
    )
