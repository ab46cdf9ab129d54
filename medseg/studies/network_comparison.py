"""Which network is best on these images by then: plans at equal memory, rungs that halve, folds, a ranking, a model."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from medseg.atomic import nothing_left
from medseg.bundle import ensemble, networks, workflow
from medseg.bundle.early import refuse_unread
from medseg.bundle.pack import About
from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist, path_from
from medseg.errors import MedsegError, counted, few, shown
from medseg.jobs import here as machine
from medseg.jobs.job import names_device
from medseg.runs.lock import locked
from medseg.runs.paths import resolve_path
from medseg.runs.processes import pick_device
from medseg.runs.run_folder import MODEL, RunFolder, refuse_other
from medseg.studies import plan_asked, plan_bundle, plan_network, plan_rules
from medseg.studies.executors import CellsError, Executor, here
from medseg.studies.halving import LEAST, Budget, Stage, choose, holds, kept, stages
from medseg.studies.network_data import MADE, own_data
from medseg.studies.network_page import write_report
from medseg.studies.network_ranking import places
from medseg.studies.network_record import RECORD, SPENT, Asked, Record, Spent
from medseg.studies.network_result import RESULTS, VALIDATION, Compared
from medseg.studies.plan import Plan
from medseg.studies.plan_and_train import ELSEWHERE, KEYS
from medseg.studies.study import OWN, Study, StudyRow
from medseg.studies.study_run import run_study
from medseg.studies.study_table import StudyTable

__all__ = ["NETWORKS", "compare_networks"]

NETWORKS = ("unet", "dynunet", "attention_unet", "segresnet", "lfa_unet", "focusnet_pp")
"""Compared where none is named: those that a plan can build for pictures and volumes of any size and that plans have
been tried with (docs/results/own-data.md). Few minutes take the first ones: the usual U-Net and nnU-Net's, then others
by what they reached there, and last the one whose steps are slowest."""
_READING = 0.5  # minutes until the data are read and checked, before which they have not begun
_START = 18.0  # seconds until a training's process begins with it, and from its end to the first case that is scored
_CASE = 0.4  # seconds that a case takes to be scored, beside its windows
_MOST_PACE = 4.0  # times what was expected: a machine that was busy or asleep says nothing of its next hour
_FORWARD = 1 / 3  # of a training step
_LATE = "the minutes hold no more networks: name it with --networks, or give more --minutes"

Say = Callable[[str], None]


def compare_networks(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    asked: Asked,
    *,
    executor: Executor | None = None,
    sharing: Callable[[], int] | None = None,
    mixed: bool = False,
    pictures: bool = True,
    clock: Callable[[], float] = time.monotonic,
    since: float | None = None,
    say: Say = lambda line: None,
) -> Compared:
    """Compare networks on a data set in the minutes at hand, or go on with a comparison that was broken off.

    Args:
        data: folder of the datalist, or the datalist; or a folder in another layout, see `medseg.importers`. Its test
            list is not touched.
        output: folder of the comparison, new or begun.
        asked: what is asked.
        executor: makes the trainings, as many at a time as ``asked.workers``; by default processes of this machine.
        sharing: asked how many trainings at a time share a GPU or a machine at most, which plans count with; by default
            as processes of this machine do, whoever makes them.
        mixed: whether to go on with trainings that other code began.
        pictures: whether the report shows cases.
        clock: seconds, from any moment on.
        since: when the command began by the clock; now by default.
        say: called with a line of news.

    Returns:
        What came out; model, report and results lie in the folder.

    Raises:
        MedsegError: with what is wrong, before anything is planned; or if no network could be trained.
    """
    folder = resolve_path(output, "output")
    _refuse(asked, folder)
    with nothing_left(folder, (*MADE.parts[:1], SPENT), folder / RECORD):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, 0.0), Spent(folder, clock, since) as spent:
            found = own_data(data, folder, asked, say)
            say("reading and checking the images")
            check_datalist(found, fold_keys=[asked.fold_key]).raise_for_errors()
            known = {"data": found.fingerprint()}
            if found.path == folder / MADE:  # made of data that are not looked at again
                known["where"] = path_from(resolve_path(data), folder)
            record = Record.begin(folder, {**asked.lasting(), **known})
            made = _Comparison(folder, found, asked, record, spent, executor, sharing, mixed, say).run()
            RunFolder(folder).write_json(RESULTS, made.results())
            write_report(made, pictures=pictures)
            return made


def _refuse(asked: Asked, folder: Path) -> None:
    """Refuse what cannot be compared, and a folder that is something else, before anything is read."""
    for name in asked.networks:
        networks.resolve(name)
        if asked.networks.count(name) > 1:
            raise MedsegError(f"network {name} is named twice; name each once")
    if len(asked.networks) == 1:
        raise MedsegError(f"{asked.networks[0]} alone cannot be compared; name two networks or more, or none")
    takes = [key for key in KEYS if key not in OWN]
    refuse_unread("compare-networks", [key.split("#")[0] for key in asked.settings], takes, ELSEWHERE)
    for name in asked.networks or NETWORKS:
        plan_asked.Asked.of(asked.settings, name)
    if not (folder / RECORD).is_file():
        choose(
            Budget(asked.minutes, asked.workers, _READING), len(asked.networks or NETWORKS), range(asked.folds or 2),
            all_networks=bool(asked.networks), all_folds=asked.folds is not None,
        )  # fmt: skip
    refuse_other(folder, "comparison", begun=any((folder / name).is_file() for name in (RECORD, SPENT)))


@dataclass
class _Comparison:
    """A comparison at work."""

    folder: Path
    data: Datalist
    asked: Asked
    record: Record
    spent: Spent
    executor: Executor | None
    sharing: Callable[[], int] | None
    mixed: bool
    say: Say

    def run(self) -> Compared:
        """Plan, halve, cross-validate, export."""
        self._plan_all()
        names = [name for name in self.record.plans if name not in self.record.failed]
        tables: list[StudyTable] = []
        while not (tables and self.record.stages[len(tables) - 1]["final"]):
            number = len(tables)
            if number == len(self.record.stages):
                self._begin_stage(names)
            tables.append(self._run_stage(number))
            names = list(self.record.stages[number]["kept"])
        found = Compared(self.folder, self.data, self.asked, self.record, tables[-1], tables[:-1])
        self._export(found)
        if self.record.took is None:
            self.record.took = self.spent.minutes
            self.record.save()
        return found

    # ------------------------------------------------------------------------------------------------- plans

    def _budget(self, names: Sequence[str]) -> Budget:
        """Return what is left, for trainings of some networks that are planned."""
        known = [self.record.plans[name]["beside"] for name in names if name in self.record.plans]
        budget = Budget(self.asked.minutes, self.asked.workers, self.spent.minutes, planning=0.0)
        return budget if not known else replace(budget, beside=self.record.pace * sum(known) / len(known))

    def _plan_all(self) -> None:
        record, asked = self.record, self.asked
        wanted = asked.networks or NETWORKS
        if not record.count:
            folds = list(self.data.folds(asked.fold_key))[: asked.folds]
            budget = Budget(asked.minutes, asked.workers, self.spent.minutes)
            record.count, number = choose(
                budget, len(wanted), folds, all_networks=bool(asked.networks), all_folds=asked.folds is not None
            )
            record.folds = folds[:number]
            limit = plan_network.memory_limit(asked.memory, pick_device(asked.settings.get("device"))).value
            record.memory = int(limit) if asked.memory is not None else int(limit) // self._sharing
            record.save()
            self._say_stages(stages(budget, record.count, number), f"{record.count} networks are planned first")
        begun = stages(Budget(asked.minutes, asked.workers), record.count, len(record.folds))
        minutes = max(LEAST, begun[-1].minutes) / self._sharing
        for name in wanted:
            planned = [each for each in record.plans if each not in record.failed]
            if name in record.plans or name in record.failed:
                continue
            if len(planned) == record.count or not (asked.networks or self._holds_another(planned)):
                record.failed[name] = _LATE
            else:
                self._plan(name, minutes)
            record.save()
        if not any(name not in record.failed for name in record.plans):
            self._none_left()

    @cached_property
    def _sharing(self) -> int:
        """Trainings at a time that share a device."""
        if self.sharing is not None:
            return self.sharing()
        return machine.sharing(self.asked.workers, names_device=names_device(self.asked.settings))

    def _holds_another(self, planned: Sequence[str]) -> bool:
        if len(planned) < 2:
            return True
        each = sum(self.record.plans[name]["took"] for name in planned) / len(planned)
        budget = self._budget(planned)
        return holds(replace(budget, spent=budget.spent + each), len(planned) + 1, len(self.record.folds))

    def _planned(self, name: str) -> Path:
        """Return the folder of a network's plan."""
        return self.folder / "plans" / StudyRow(name).slug

    def _plan(self, name: str, minutes: float) -> None:
        """Plan a network; one that cannot be planned is out, and the others go on."""
        began = self.spent.minutes
        target = self._planned(name)
        shutil.rmtree(target, ignore_errors=True)  # planned by a process that was killed before it said so
        try:
            plan = plan_bundle.plan_for(
                self.data, self.asked.settings, network=name, dimensions=self.asked.dimensions,
                memory=self.record.memory / 2**30, minutes=minutes, device=self.asked.settings.get("device"),
                say=self.say,
                run={**self.asked.settings, "fold": self.record.folds[0], "fold_key": self.asked.fold_key},
            )  # fmt: skip
        except MedsegError as error:
            self.record.failed[name] = str(error)
            self.say(f"{name} is out: {error}")
            return
        plan_bundle.write(plan, self.data, target)
        held_out = len(plan.found.cases) / len(self.data.folds(self.asked.fold_key))
        measured = plan.measured
        self.record.plans[name] = {
            "patch": list(measured.candidate.patch), "batch": measured.candidate.batch,
            "channels": plan.network.value.get("channels"), "macs": measured.macs, "seconds": measured.seconds,
            "gib": measured.memory / 2**30, "doubts": plan.doubts, "beside": _beside(plan, held_out) / 60,
            "took": self.spent.minutes - began,
        }  # fmt: skip
        self.say(f"{name}: planned, see {shown(target / 'docs' / 'README.md')}")

    # ------------------------------------------------------------------------------------------------ stages

    def _begin_stage(self, names: Sequence[str]) -> None:
        """Decide what the next stage is, by the minutes that are left now."""
        number, folds = len(self.record.stages), self.record.folds
        coming = stages(self._budget(names), len(names), len(folds))
        stage = coming[0]
        coming = [replace(each, minutes=max(LEAST, each.minutes)) for each in coming]
        if stage.minutes < LEAST:
            self.say(
                f"warning: {self.spent.minutes:.1f} of {self.asked.minutes:g} minutes are spent: trainings get "
                f"{LEAST:g} minutes all the same, and the comparison takes longer"
            )
        minutes = max(LEAST, math.floor(100 * stage.minutes) / 100)
        scored = list(folds) if stage.final else [folds[number % len(folds)]]
        self.record.stages.append(
            {"networks": list(names), "folds": scored, "minutes": minutes, "final": stage.final, "failed": []}
        )
        self.record.stages[-1]["began"] = self.spent.minutes
        self.record.save()
        self._say_stages(coming, f"{self.spent.minutes:.1f} of {self.asked.minutes:g} minutes are spent")

    def _say_stages(self, coming: Sequence[Stage], first: str) -> None:
        self.say(f"{first}; then: {'; '.join(map(str, coming))}")

    def _run_stage(self, number: int) -> StudyTable:
        """Make the trainings of a stage; a network whose training fails is out, and the others go on."""
        stage = self.record.stages[number]
        place = self.folder / (VALIDATION if stage["final"] else f"rung{number + 1}")
        executor = self.executor or here(self.asked.workers)
        while True:
            names = [name for name in stage["networks"] if name not in stage["failed"]]
            if not names:
                self._none_left()
            study = self._study(number, names)
            try:
                table = run_study(study, place, executor=executor, mixed=self.mixed, tracking=False, say=self.say)
                break
            except CellsError as error:
                network_of = {cell.name: cell.row.name for cell in study.cells(self.data)}
                for cell, reason in error.failed.items():
                    stage["failed"].append(network_of[cell])
                    self.record.failed.setdefault(network_of[cell], f"{cell}: {reason}")
                self.record.save()
        if "kept" not in stage:
            found = places(table)
            going = found if stage["final"] else found[: kept(len(found))]
            stage["kept"] = [each.network for each in going]
            stage["scores"] = {each.network: each.mean for each in found}
            stage["took"] = self.spent.minutes - stage["began"]
            self._learn_pace(stage, len(names))
            self.record.save()
        return table

    def _learn_pace(self, stage: Mapping[str, Any], networks: int) -> None:
        """Learn from a stage what trainings take beside their own minutes."""
        rounds = math.ceil(networks * len(stage["folds"]) / self.asked.workers)
        beside = stage["took"] / rounds - stage["minutes"]
        expected = sum(self.record.plans[name]["beside"] for name in stage["kept"]) / len(stage["kept"])
        self.record.pace = min(_MOST_PACE, max(1 / _MOST_PACE, beside / expected))

    def _study(self, number: int, names: Sequence[str]) -> Study:
        stage = self.record.stages[number]
        rows = [StudyRow(name, str(self._planned(name)), settings=dict(self.asked.settings)) for name in names]
        each = f"{counted(stage['minutes'], 'minute')} each"
        title = f"Cross-validation, {each}" if stage["final"] else f"Rung {number + 1}, {each}"
        return Study(
            "study", title, tuple(rows), data=str(self.data.path), fold_key=self.asked.fold_key,
            folds=tuple(stage["folds"]), minutes=stage["minutes"], show=("dice",),
        )  # fmt: skip

    def _none_left(self) -> NoReturn:
        reasons = [f"{name}: {why}" for name, why in self.record.failed.items() if why != _LATE]
        raise MedsegError(
            f"{shown(self.folder)}: no network could be trained; mend what is wrong, and compare in a new folder:\n  "
            + "\n  ".join(reasons)
        )

    # ------------------------------------------------------------------------------------------------- model

    def _export(self, found: Compared) -> None:
        """Pack the winner's models; those that are there already are left, unless a run's weights are newer."""
        slug = StudyRow(found.winner).slug
        cells = found.cells(found.winner)
        if self.asked.best_fold:
            best = max(cells, key=lambda fold: _of_fold(found.table, found.winner, fold))
            cells = {best: cells[best]}
        runs = {f"{slug}-fold{fold}": run for fold, run in cells.items()}
        if self.asked.calibrate:
            row = next(row for row in found.table.study.rows if row.name == found.winner)
            for run in runs.values():
                self._calibrate(run, row.scoring)
        there = {Path(each).stem: Path(each) for each in ensemble.members(found.model)}
        if list(there) == list(runs) and not any(_newer(runs[name] / MODEL, pack) for name, pack in there.items()):
            return
        shutil.rmtree(found.model, ignore_errors=True)
        ensemble.write(found.model, runs, About(bundle=self._planned(found.winner)))
        self.say(f"{found.winner}: {counted(len(runs), 'model')} of folds {few(list(cells))} in {shown(found.model)}")

    def _calibrate(self, run: Path, options: Mapping[str, Any]) -> None:
        """Fit a temperature to the fold that a run has not seen, once; one that has none is exported all the same."""
        if (run / workflow.CALIBRATION).is_file():
            return
        try:
            workflow.calibrate(run, data=self.data.path, overrides={**options, "scored": "test"})
        except MedsegError as error:
            self.say(f"{run.name} has no temperature: {error}")


def _newer(weights: Path, pack: Path) -> bool:
    """Return whether weights were written after they were packed, as a temperature is."""
    return weights.is_file() and weights.stat().st_mtime_ns > pack.stat().st_mtime_ns


def _of_fold(table: StudyTable, network: str, fold: int) -> float:
    """Return a network's mean over the cases of a fold; those without a score are the worst."""
    folds = list(dict.fromkeys(str(case.fold) for case in table.scores.cases))
    score = float(table.scores.of_folds(network, "dice", "")[folds.index(str(fold))])
    return -math.inf if math.isnan(score) else score


def _beside(plan: Plan, cases: float) -> float:
    """Return the seconds that a training will take beside its own: until it begins, and to score the held-out cases."""
    seen = plan.input.get("plane")
    edges = [float(edge) for edge in plan_rules.resampled(plan.found, plan.input["spacing"].value)]
    slices = 1.0
    if seen is not None:
        slices = edges[plan_rules.PLANES.index(seen.value)]
        edges = plan_rules.across(edges, seen)
    patch, measured = plan.measured.candidate.patch, plan.measured
    windows = math.prod(
        max(1, math.ceil(2 * (edge - size) / size) + 1) for edge, size in zip(edges, patch, strict=True)
    )
    each = measured.seconds / measured.candidate.batch * _FORWARD
    return _START + cases * (_CASE + slices * windows * each)
