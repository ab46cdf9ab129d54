"""All scores of an evaluation: the values of each case, and of the set, pooled and as means over the cases."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from medseg.errors import MedsegError, counted, shown
from medseg.metrics.intervals import ClusterBootstrap, Interval
from medseg.metrics.score import Pooled, Score, ScoredCase, make_score
from medseg.reports.palette import background_index
from medseg.reports.score_tables import WHOLE

_LONG = 200  # letters of a class in the name of a score: MLflow takes 250 for all of it
POOLED = "pooled over all pixels"
RULE = (
    "Of a case, a class in neither truth nor prediction is not counted (n says in how many cases it was), and one in "
    "only one of the two scores the worst: 0, unless another rule stands here."
)

Values = NDArray[np.float64]


@dataclass(frozen=True)
class CaseRow:
    """The scores of one case: by column one value a class ``(classes,)``, or one of the case ``()``."""

    index: int
    name: str
    group: str
    values: Mapping[str, Values]

    def mean(self, column: str, classes: Sequence[int]) -> float:
        """Return the mean over those of some classes that were counted; NaN if none was."""
        return _mean(self.values[column][list(classes)])


class ScoreBoard:
    """Keep the scores of an evaluation.

    Args:
        class_names: by index.
        ignore_index: label value that counts for nothing.
        scores: options by name, see `medseg.metrics.score.make_score`; ``None`` for options leaves a score out.

    Raises:
        MedsegError: if a score is unknown or refuses its options, or two have a column of one name.
    """

    def __init__(
        self, class_names: Sequence[str], ignore_index: int | None, scores: Mapping[str, Mapping[str, Any] | None]
    ) -> None:
        self.class_names = list(class_names)
        self._slugs = slugs(class_names)
        self.ignore_index = ignore_index
        self.scores: dict[str, Score] = {}
        self.rows: list[CaseRow] = []
        if not isinstance(scores, Mapping):
            raise MedsegError(f"`scores` is {scores!r}; give options by name, such as {{boundary: {{}}}}")
        for name, options in scores.items():
            if options is not None:
                self.add(name, make_score(name, options, self.class_names, ignore_index))

    def add(self, name: str, score: Score) -> None:
        """Keep one more score, in place of one of that name.

        Raises:
            MedsegError: if another one has a column of one of its names.
        """
        others = {column: other for other in self.scores if other != name for column in self._columns_of(other)}
        for column in (*score.columns, *score.counts):
            if column in others:
                raise MedsegError(
                    f"scores {others[column]!r} and {name!r} both have a column {column!r}; leave one of them out"
                )
        self.scores[name] = score

    def _columns_of(self, name: str) -> tuple[str, ...]:
        return (*self.scores[name].columns, *self.scores[name].counts)

    @property
    def columns(self) -> list[str]:
        """Names of the scores of a case, without counts."""
        return [column for score in self.scores.values() for column in score.columns]

    def check(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Raise unless each entry of a datalist has what the scores need.

        Raises:
            MedsegError: naming the score, the key and the first entry without.
        """
        for name, score in self.scores.items():
            for key in score.needs:
                without = [entry for entry in entries if key not in entry]
                if without:
                    raise MedsegError(
                        f"the score {name!r} was asked for, but {len(without)} of {len(entries)} entries name no "
                        f"`{key}`, the first of image {shown(without[0].get('image'))}; prepare the data with it, or "
                        f"set `scores: {{{name}: null}}`"
                    )

    def reset(self) -> None:
        """Forget everything."""
        self.rows = []
        for score in self.scores.values():
            score.reset()

    def see(self, logits: Tensor, label: Tensor) -> None:
        """Show the scores a block of the case that is counted next, see `Score.see`."""
        for score in self.scores.values():
            score.see(logits, label)

    def update(self, case: ScoredCase) -> CaseRow:
        """Count a case and return its row."""
        values: dict[str, Values] = {}
        for name, score in self.scores.items():
            try:
                found = score.update(case)
            except MedsegError as error:
                text = str(error)
                raise MedsegError(text if case.name in text else f"{case.name}: {text}") from error
            for column in self._columns_of(name):
                value = np.asarray(found[column], dtype=np.float64)
                if value.shape not in ((), (len(self.class_names),)):
                    raise MedsegError(
                        f"score {name!r} gives {value.shape} values of {column!r}; it must be one a class "
                        f"({len(self.class_names)}), or one"
                    )
                values[column] = value
        row = CaseRow(case.index, case.name, case.group, values)
        self.rows.append(row)
        return row

    def gather(self) -> None:
        """Put together what all processes have counted, if there are several; every process must ask."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, (self.scores, self.rows))
        for name, score in self.scores.items():
            score.merge([scores[name] for scores, _ in everyone])
        self.rows = sorted((row for _, rows in everyone for row in rows), key=lambda row: row.index)

    def table(self) -> dict[str, Any]:
        """Return all scores as plain values, ``None`` for NaN; see `medseg.reports.score_tables` for what is where."""
        pooled = {name: score.compute() for name, score in self.scores.items()}
        per_case = self._per_case()
        classes = [
            {"name": name, **{key: _plain(values[index]) for key, values in _classes(pooled)}}
            for index, name in enumerate(self.class_names)
        ]
        never = [row["name"] for row in per_case["classes"] if not any(row["n"].values())]
        return {
            "averaging": POOLED,
            "classes": classes,
            **{key: _plain(value) for found in pooled.values() for key, value in found.overall.items()},
            **self._objects({key: np.array([values]) for key, values in _classes(pooled) if key != "support"}),
            "absent": never,
            "notes": [note for found in pooled.values() for note in found.notes],
            "per_case": per_case,
            **{name: dict(found.details) for name, found in pooled.items() if found.details},
        }

    def _per_case(self) -> dict[str, Any]:
        columns = self._stacked()
        by_class = {column: values for column, values in columns.items() if values.ndim == 2}
        draws = ClusterBootstrap([row.group for row in self.rows])
        found = {column: draws.intervals(values) for column, values in by_class.items()}
        rows = []
        for index, name in enumerate(self.class_names):
            means = {column: _plain(_mean(values[:, index])) for column, values in by_class.items()}
            within = {column: _pair(each[index]) for column, (each, _) in found.items()}
            numbers = {column: _there(values[:, index]) for column, values in by_class.items()}
            rows.append({"name": name, **means, "n": numbers, "interval": within, **self._alone(index)})
        units = {key: unit for score in self.scores.values() for key, unit in score.units.items()}
        whole = {column: values for column, values in by_class.items() if column not in self.signed}
        return {
            "averaging": f"mean over {counted(len(self.rows), 'case')}",
            "cases": len(self.rows),
            "rule": RULE,
            "columns": {name: [c for c in score.columns if c in by_class] for name, score in self.scores.items()},
            "units": units,
            "notes": {name: list(score.notes) for name, score in self.scores.items()},
            "bootstrap": {**draws.record(), "note": draws.note()},
            "classes": rows,
            "signed": sorted(self.signed & set(by_class)),
            **{f"mean_{column}": _plain(_mean_of_means(values)) for column, values in whole.items()},
            "mean_interval": {column: _pair(found[column][1]) for column in whole},
            **self._objects(whole, draws),
            "whole": {
                column: {
                    "mean": _plain(_mean(values)),
                    "n": _there(values),
                    "interval": _pair(draws.intervals(values[:, None])[1]),
                }
                for column, values in columns.items()
                if values.ndim == 1 and len(values)
            },
        }

    def _objects(self, columns: Mapping[str, Values], draws: ClusterBootstrap | None = None) -> dict[str, Any]:
        """Return the means over the classes without the background, where there is one and another class.

        Args:
            columns: values ``(rows, classes)``.
            draws: for intervals of the means.
        """
        background = background_index(self.class_names)
        if background is None or len(self.class_names) == 1:
            return {}
        held = {column: np.delete(values, background, axis=1) for column, values in columns.items()}
        means: dict[str, Any] = {f"mean_{column}": _plain(_mean_of_means(values)) for column, values in held.items()}
        if draws is not None:
            means["mean_interval"] = {column: _pair(draws.intervals(values)[1]) for column, values in held.items()}
        return {"without_background": means}

    @property
    def signed(self) -> frozenset[str]:
        """Columns with errors to both sides, which would cancel in a mean over the classes."""
        return frozenset(column for score in self.scores.values() for column in score.signed)

    def _stacked(self) -> dict[str, Values]:
        """Return the values of all cases by column: ``(cases, classes)``, or ``(cases,)`` of whole cases."""
        return {column: np.array([row.values[column] for row in self.rows]) for column in self.columns}

    def _alone(self, index: int) -> dict[str, int]:
        """Return in how many cases a class was missed and in how many invented, where pixels are counted."""
        if not all("pixels" in row.values for row in self.rows):
            return {}
        pairs = [(row.values["pixels"][index] > 0, row.values["predicted_pixels"][index] > 0) for row in self.rows]
        return {"missed": pairs.count((True, False)), "invented": pairs.count((False, True))}

    def flat(self, prefix: str = "") -> dict[str, float]:
        """Return every score of the set as one float by name; what is undefined is left out.

        ``mean_iou`` and its like are overall, ``iou_<class>`` pooled over all pixels, ``case_iou_<class>`` means over
        the cases and ``case_mean_iou`` their mean over the classes; ``case_<column>`` is of scores of whole cases.

        Args:
            prefix: of all names.
        """
        pooled = {name: score.compute() for name, score in self.scores.items()}
        columns = self._stacked()
        found: dict[str, float] = {}
        for each in pooled.values():
            found |= each.overall
        for key, values in _classes(pooled):
            if key in columns:
                found |= {f"{key}_{name}": v for name, v in zip(self._slugs, values, strict=True)}
        for key, stacked in columns.items():
            if stacked.ndim == 2:
                each_class = zip(self._slugs, stacked.T, strict=True)
                found |= {f"case_{key}_{name}": _mean(values) for name, values in each_class}
                if key not in self.signed:
                    found[f"case_mean_{key}"] = _mean_of_means(stacked)
            elif len(stacked):
                found[f"case_{key}"] = _mean(stacked)
        return {f"{prefix}{k}": float(v) for k, v in found.items() if math.isfinite(v)}

    @property
    def names(self) -> frozenset[str]:
        """Names in `flat` that weights can be picked by, without prefix, of the columns and of what is overall."""
        found = {name for score in self.scores.values() for name in score.compute().overall}
        for column in set(self.columns) - self.signed:
            found |= {f"case_{column}", f"case_mean_{column}"}
            found |= {f"{start}{column}_{name}" for start in ("", "case_") for name in self._slugs}
        return frozenset(found)

    @property
    def lower_is_better(self) -> frozenset[str]:
        """Names in `flat` of which less is better, without prefix."""
        errors = {name for score in self.scores.values() for name in score.lower_is_better}
        more = {f"{key}_{name}" for key in errors for name in self._slugs} | {f"case_{key}" for key in errors}
        more |= {f"case_{key}_{name}" for key in errors for name in self._slugs}
        return frozenset(errors | more | {f"case_mean_{key}" for key in errors} | {f"mean_{key}" for key in errors})

    def lines(self) -> Iterable[dict[str, Any]]:
        """Yield the rows of ``scores_per_case.csv``: for each case one of the whole, and one a class that is counted.

        The row of the whole holds what is one value a case, and of the others the mean over the counted classes, the
        background among them; of signed errors it holds nothing. A column with a unit ends in it: ``hd95_mm``.
        """
        units = {key: unit for score in self.scores.values() for key, unit in score.units.items()}
        for line in self._lines():
            yield {f"{key}_{units[key]}" if key in units else key: value for key, value in line.items()}

    def _lines(self) -> Iterable[dict[str, Any]]:
        for row in self.rows:
            start = {"case": row.name, "group": row.group}
            scores = set(self.columns)
            whole = {key: _plain(self._whole(key, value)) for key, value in row.values.items()}
            yield {**start, "class": WHOLE, **whole}
            by_class = {key: value for key, value in row.values.items() if value.ndim}
            for index, name in enumerate(self.class_names):
                if any(not math.isnan(by_class[key][index]) for key in by_class if key in scores):
                    yield {**start, "class": name, **{key: _plain(value[index]) for key, value in by_class.items()}}

    def _whole(self, column: str, values: Values) -> float:
        """Return the value of a whole case."""
        if values.ndim == 0:
            return float(values)
        if column in self.signed:
            return math.nan
        return _mean(values) if column in self.columns else float(values.sum())


def slugs(class_names: Sequence[str]) -> list[str]:
    """Return the classes' names as they stand in the names of scores, each another one.

    Blanks are underscores. Names that MLflow would take for one, which has neither ``<`` nor ``>`` and cuts what is
    long, end in the class's index: ``<3_mm_1`` and ``>3_mm_2``.
    """
    found = [name.replace(" ", "_") for name in class_names]
    while True:
        alike = Counter(map(_as_mlflow, found))
        if max(alike.values(), default=1) == 1:
            return found
        found = [f"{name[: _LONG - 20]}_{n}" if alike[_as_mlflow(name)] > 1 else name for n, name in enumerate(found)]


def _as_mlflow(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)[:_LONG].casefold()


def _classes(pooled: Mapping[str, Pooled]) -> Iterable[tuple[str, Sequence[float]]]:
    return ((key, values) for found in pooled.values() for key, values in found.classes.items())


def _there(values: Values) -> int:
    return int((~np.isnan(values)).sum())


def _mean(values: Values | Sequence[float]) -> float:
    there = [float(value) for value in np.ravel(values) if not math.isnan(value)]
    return math.fsum(there) / len(there) if there else math.nan


def _mean_of_means(values: Values) -> float:
    """Return the mean over the classes of the means over the cases."""
    return _mean([_mean(values[:, index]) for index in range(values.shape[1])])


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _plain(value: float) -> float | int | None:
    if isinstance(value, int):
        return value
    return None if math.isnan(value) else float(value)
