"""What a node does with a claimed study: each series by each model that takes it, or why not.

No framework is imported here: a model is a `Route`, see `medseg.node.models`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from medseg.errors import MedsegError, counted, one_line
from medseg.io.dicom_heads import read_head
from medseg.io.dicom_rules import Rule, choose_series
from medseg.io.dicom_series import SeriesListing, list_series
from medseg.node.states import Claim, Made, SeriesState, Worked
from medseg.node.store import Store, stands_for
from medseg.runs.privacy import scrub

__all__ = ["OverdueError", "Route", "work"]

logger = logging.getLogger(__name__)


class OverdueError(MedsegError):
    """A prediction that took too long and was ended: tried again at once, it would hold up the others once more."""


class Route(Protocol):
    """A model, and which series it takes."""

    @property
    def name(self) -> str:
        """What the queue calls it."""
        ...

    @property
    def rules(self) -> Sequence[Rule]:
        """Which series it takes."""
        ...

    @property
    def state(self) -> str:
        """A hash of what its masks hang on: weights, settings, codes and rules."""
        ...

    def predict(self, series: Path, output: Path) -> Sequence[Path]:
        """Predict a series.

        Args:
            series: folder of its files.
            output: folder for the results, which is there and empty.

        Returns:
            DICOM files, which are on the disk.

        Raises:
            MedsegError: if it cannot be done, without a tag that may name a patient.
            OverdueError: if it took too long.
        """
        ...


class _Work:
    """Collects what comes of a study."""

    def __init__(self, claim: Claim, store: Store, routes: Sequence[Route]) -> None:
        self._claim, self._store, self._routes = claim, store, routes
        self.jobs: list[tuple[str, str]] = []
        self.made: list[Made] = []
        self.faults: list[str] = []  # worth another try
        self.hopeless: list[str] = []  # not before another instance arrives
        self.odd: dict[str, str] = {}  # no volumes: beside volumes, such as a localiser, no fault of the study
        self.notes: list[str] = []
        self.settled: set[str] = set()

    def series(self, number: int, state: SeriesState) -> None:
        """Do a series, and note whether it is settled: done, or not to be done."""
        called, before = f"series {number}", len(self.faults) + len(self.hopeless)
        if state.present:
            self._series(called, state)
        elif state.owed:
            self.hopeless.append(f"{called} was not done before its files were deleted; send it again")
        if len(self.faults) + len(self.hopeless) == before:
            self.settled.add(state.key)

    def _series(self, called: str, state: SeriesState) -> None:
        listing = list_series(self._store.series(self._claim.study, state.key))
        if not listing.series and not listing.damaged:
            self.notes.append(f"{called}: {next(iter(listing.left_out.values()), 'no DICOM image')}")
            return
        if state.absent and state.done - state.finished:  # no rule can judge what came late by itself
            self._late(called, state)
            return
        taken, refused = self._choose(listing)
        todo = [route for route in taken if route.name not in state.finished]
        if not taken:
            problem = next((each.problem for each in listing.series if each.problem in refused.values()), "")
            self.notes += [f"{called} by {name}: {reason}" for name, reason in refused.items()]
            if (problem or listing.damaged) and self._routes:
                self.odd[state.key] = f"{called} is no volume"
        elif todo and listing.damaged:
            cut = counted(len(listing.damaged), "file")
            self.hopeless.append(f"{called}: {cut} of it cannot be read; send it again")
        elif todo and state.absent:
            self._late(called, state)
        else:
            for route in todo:
                self._predict(called, state, route)

    def _late(self, called: str, state: SeriesState) -> None:
        self.hopeless.append(
            f"{called}: {counted(state.present, 'instance')} came after {state.absent} of it were done and "
            "deleted; send the whole series again"
        )

    def _choose(self, listing: SeriesListing) -> tuple[list[Route], dict[str, str]]:
        taken, refused = [], {}
        for route in self._routes:
            choice = choose_series(listing.series, route.rules)
            if choice.taken:
                taken.append(route)
            else:
                refused[route.name] = choice.refused[0][1] if choice.refused else "its files cannot be read"
        return taken, refused

    def _predict(self, called: str, state: SeriesState, route: Route) -> None:
        study, store = self._claim.study, self._store
        output = store.results / str(study) / str(state.generation) / route.name / state.key
        shutil.rmtree(output, ignore_errors=True)
        try:
            output.mkdir(mode=0o700, parents=True)
            files = route.predict(store.series(study, state.key), output)
            made = [self._made(state, route, file) for file in files]
        except OverdueError as error:
            self.hopeless.append(f"{called} by {route.name}: {error}")
            return
        except Exception as error:  # whatever a model or a library does to one study stays that study's
            logger.debug("study %d", study, exc_info=error)
            self.faults.append(f"{called} by {route.name}: {one_line(error) or type(error).__name__}")
            return
        self.made += made
        self.jobs.append((state.key, route.name))

    def _made(self, state: SeriesState, route: Route, file: Path) -> Made:
        self._store.sync(file)
        uid = str(read_head(file, ["SOPInstanceUID"]).SOPInstanceUID)
        path = file.relative_to(self._store.root).as_posix()
        return Made(state.key, route.name, path, stands_for(uid), file.stat().st_size)


def work(claim: Claim, store: Store, routes: Sequence[Route]) -> Worked:
    """Do a study.

    Args:
        claim: of the study.
        store: where its files are.
        routes: models.

    Returns:
        What came of it. Series are numbered as the queue orders them; nothing in it names a patient.
    """
    done = _Work(claim, store, routes)
    if not any(state.present for state in claim.series):
        done.hopeless.append("its files were deleted; send it again")
    for number, state in enumerate(claim.series if not done.hopeless else (), 1):
        try:
            done.series(number, state)
        except Exception as error:  # such as a disk that cannot be read
            logger.debug("study %d", claim.study, exc_info=error)
            done.faults.append(f"series {number}: {one_line(error) or type(error).__name__}")
    if not (done.jobs or done.faults or any(state.finished for state in claim.series)):
        done.hopeless += done.odd.values()
        done.settled -= done.odd.keys()
    return Worked(
        tuple(done.jobs),
        tuple(done.made),
        tuple(_clean(text, store) for text in (*done.faults, *done.hopeless)),
        tuple(_clean(text, store) for text in done.notes),
        hopeless=not done.faults,
        settled=frozenset(done.settled),
    )


def _clean(text: str, store: Store) -> str:
    """Return a text without the node's folder in it, in one line."""
    return scrub(" ".join(text.replace(f"{store.root}/", "").split()))[:500]
