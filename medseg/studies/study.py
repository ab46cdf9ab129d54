"""A study as it is written: rows, data, folds, seeds, budget, scores; its cells are trainings of a row, fold and seed.

`read_study` refuses what it does not know before anything is trained. docs/how-to/studies.md says what each key is.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medseg.bundle import library
from medseg.bundle.data import load_data
from medseg.data.datalist import Datalist
from medseg.errors import MedsegError, shown
from medseg.io.yaml_file import read_yaml
from medseg.reports.palette import background_index
from medseg.runs.paths import resolve_path

__all__ = ["OWN", "Cell", "Study", "StudyError", "StudyRow", "read_study", "shipped", "study_file"]

PAPERS = Path(__file__).with_name("papers")
"""Folder of the studies that come with medseg."""

_STUDY = (
    "title", "about", "data", "fold_key", "divides_groups", "folds", "scored", "seeds", "minutes", "epochs",
    "bundle", "with", "set", "scores", "show", "classes", "paper", "images", "rows",
)  # fmt: skip
_ROW = ("name", "bundle", "with", "set", "plan", "dimensions", "memory", "score_with", "score_set", "paper")
OWN = (
    "fold", "fold_key", "seed", "scored", "max_epochs", "max_minutes", "output_dir", "runs_dir", "run_name", "resume",
    "publish", "mlflow", "tracking_uri", "experiment", "register", "datalist", "dataset_dir",
)  # fmt: skip
_SLUG = re.compile(r"[^a-z0-9]+")


class StudyError(MedsegError):
    """A study that cannot be read, run or put into one table."""


@dataclass(frozen=True)
class StudyRow:
    """One row: what is trained.

    Args:
        name: as the table shows it.
        bundle: name or folder; empty for a plan.
        overlays: of the bundle.
        settings: single keys of the configuration.
        plan: network that a plan is made for; empty for a bundle.
        dimensions: of the plan.
        memory: GiB, of the plan.
        score_with: overlays of the evaluation alone, such as ``multi_scale``.
        score_set: single keys of the evaluation alone, such as ``inference#flip_axes``.
        paper: the row's name in the paper's table; empty for none.
    """

    name: str
    bundle: str = ""
    overlays: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    plan: str = ""
    dimensions: int | None = None
    memory: float | None = None
    score_with: tuple[str, ...] = ()
    score_set: Mapping[str, Any] = field(default_factory=dict)
    paper: str = ""

    @property
    def slug(self) -> str:
        """The name as that of a folder."""
        return _SLUG.sub("_", self.name.lower().replace("+", "p")).strip("_")

    @property
    def scoring(self) -> dict[str, Any]:
        """Single keys of the evaluation: its own, and the training's device."""
        return {**{key: self.settings[key] for key in ("device",) if key in self.settings}, **self.score_set}

    def definition(self) -> dict[str, Any]:
        """Return what makes a training one of this row, as plain values."""
        if self.plan:
            wanted: dict[str, Any] = {"plan": self.plan, "dimensions": self.dimensions, "memory": self.memory}
        else:
            wanted = {"bundle": self.bundle, "with": list(self.overlays)}
        scored = {"score_with": list(self.score_with), "score_set": dict(self.score_set)}
        return {**wanted, "set": dict(self.settings), **{key: value for key, value in scored.items() if value}}


@dataclass(frozen=True)
class Cell:
    """A training: a row, the fold that it is scored on (``None``: the fixed lists) and a seed."""

    row: StudyRow
    fold: int | None
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.row.slug}-{'lists' if self.fold is None else f'fold{self.fold}'}-seed{self.seed}"


@dataclass(frozen=True)
class Study:
    """What is asked.

    Args:
        name: of its file.
        title: heading of the table.
        about: what is asked, for the reader.
        rows: to compare.
        data: folder of the datalist, or the datalist; empty where it is to be named with the command.
        fold_key: fold scheme.
        divides_groups: why that scheme may put cases of one group on both sides; empty where it must not.
        folds: numbers, ``None`` for all of the scheme, empty for the fixed lists.
        scored: part that is scored: ``test``, or ``validation`` where the data have no other.
        seeds: of each training.
        minutes: of each training; ``None`` for none.
        epochs: of each training; ``None`` for the bundle's.
        scores: options by name of scores beside those of the model.
        show: columns of ``scores_per_case.csv`` that the table shows, without units.
        classes: that count, or ``("all",)``; empty for all but the background.
        paper: table of `medseg.studies.paper_figures` to stand beside; empty for none.
        images: that a training has, where the data are not there; to tell the hours.
    """

    name: str
    title: str
    rows: tuple[StudyRow, ...]
    about: str = ""
    data: str = ""
    fold_key: str = "fold"
    divides_groups: str = ""
    folds: tuple[int, ...] | None = None
    scored: str = "test"
    seeds: tuple[int, ...] = (0,)
    minutes: float | None = None
    epochs: int | None = None
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    show: tuple[str, ...] = ("dice", "iou")
    classes: tuple[str, ...] = ()
    paper: str = ""
    images: int | None = None

    def load(self) -> Datalist:
        """Return the data.

        Raises:
            MedsegError: if they are not named, or not there.
        """
        if not self.data:
            raise StudyError(f"study {self.name} names no data; say where they lie with --data DIR")
        return load_data(self.data)

    def of_rows(self, names: Sequence[str]) -> Study:
        """Return the study of some rows alone; without names it is this one.

        Raises:
            StudyError: if there is no such row.
        """
        known = [row.name for row in self.rows]
        if unknown := [name for name in names if name not in known]:
            raise StudyError(f"study {self.name} has no row {unknown[0]!r}; there are {', '.join(known)}")
        return replace(self, rows=tuple(row for row in self.rows if not names or row.name in names))

    def folds_of(self, data: Datalist) -> tuple[int | None, ...]:
        """Return the folds to train: those that are named, all of the scheme, or ``None`` for the fixed lists.

        Raises:
            DatalistError: if the data have no such fold.
        """
        if self.folds is None and data.fold_keys:
            return tuple(data.folds(self.fold_key))
        for fold in self.folds or ():
            data.refuse_fold(fold, self.fold_key)
        return self.folds or (None,)

    def cells(self, data: Datalist) -> list[Cell]:
        """Return the cells: all rows of a fold and seed, then the next, so that early ones already compare."""
        return [Cell(row, fold, seed) for seed in self.seeds for fold in self.folds_of(data) for row in self.rows]

    def number_of_cells(self, folds: int = 1) -> int:
        """Return how many cells there are.

        Args:
            folds: of the data, where the study takes all.
        """
        return len(self.rows) * len(self.seeds) * (folds if self.folds is None else max(1, len(self.folds)))

    def classes_of(self, data: Datalist) -> tuple[str, ...]:
        """Return the classes that count.

        Raises:
            StudyError: if the data have no such class.
        """
        known = data.class_names
        if self.classes == ("all",):
            return tuple(known)
        for name in self.classes:
            if name not in known:
                raise StudyError(f"study {self.name}: the data have no class {name!r}; there are {', '.join(known)}")
        background = background_index(known)
        return self.classes or tuple(name for index, name in enumerate(known) if index != background)

    def plain(self) -> dict[str, Any]:
        """Return the study as `read_study` reads it."""
        rows = [
            {"name": row.name, **{k: v for k, v in row.definition().items() if v not in (None, [], {})}}
            | ({"paper": row.paper} if row.paper else {})
            for row in self.rows
        ]
        values = {
            "title": self.title, "about": self.about, "data": self.data, "fold_key": self.fold_key,
            "folds": "all" if self.folds is None else [*self.folds], "scored": self.scored, "seeds": list(self.seeds),
        }  # fmt: skip
        more = {
            "minutes": self.minutes, "epochs": self.epochs, "scores": dict(self.scores), "show": list(self.show),
            "classes": list(self.classes), "paper": self.paper, "images": self.images,
            "divides_groups": self.divides_groups,
        }  # fmt: skip
        return {**values, **{k: v for k, v in more.items() if v not in (None, [], {}, "")}, "rows": rows}


def shipped() -> list[str]:
    """Return the names of the studies that come with medseg."""
    return sorted(path.stem for path in PAPERS.glob("*.yaml"))


def study_file(name: str | Path) -> Path:
    """Return the file of a study.

    Args:
        name: of a study that comes with medseg, or a file.

    Raises:
        StudyError: if there is none.
    """
    text = str(name)
    if text in shipped():
        return PAPERS / f"{text}.yaml"
    path = resolve_path(text)
    if path.is_file():
        return path
    near = difflib.get_close_matches(text, shipped(), 1)
    hint = f"did you mean {near[0]}?" if near else "medseg study list names those that come with medseg"
    raise StudyError(f"there is no study {text!r}; give a YAML file, or a name: {hint}")


def read_study(name: str | Path, data: str | Path | None = None) -> Study:
    """Read a study.

    Args:
        name: see `study_file`.
        data: folder of the datalist, instead of what the study names, which is relative to its file.

    Raises:
        StudyError: naming the key, if it is unknown, missing or holds what it must not.
    """
    path = study_file(name)
    content = read_yaml(path, StudyError, "a study, or one of medseg study list")
    if not isinstance(content, Mapping):
        raise StudyError(f"{shown(path)}: holds no keys; see docs/how-to/studies.md")
    _refuse_unknown(content, _STUDY, str(path))
    rows = content.get("rows")
    if not isinstance(rows, list) or not rows:
        raise StudyError(f"{shown(path)}: rows is {rows!r}; give a list of what to compare, each with a name")
    read = tuple(_row(row, content, path) for row in rows)
    slugs = [row.slug for row in read]
    for number, slug in enumerate(slugs):
        if not slug or slug in slugs[:number]:
            raise StudyError(f"{shown(path)}: two rows are called {read[number].name!r} (or none has letters); rename")
    named = resolve_path(data) if data is not None else _beside(path, content.get("data"))
    values = {key: _checked(key, content[key], path) for key in _STUDY if key in content and key not in _ASIDE}
    if values.get("minutes") and values.get("epochs"):
        raise StudyError(f"{shown(path)}: minutes and epochs are both given; a budget is one of them: leave one out")
    title = str(content.get("title") or path.stem)
    return Study(path.stem, title, read, data="" if named is None else str(named), **values)


_ASIDE = ("title", "data", "rows", "bundle", "with", "set")


def _beside(path: Path, named: Any) -> Path | None:
    if named in (None, ""):
        return None
    if not isinstance(named, str):
        raise StudyError(f"{shown(path)}: data is {named!r}; give a folder, quoted if it is a number")
    return resolve_path(path.parent / Path(named).expanduser())


def _row(row: Any, study: Mapping[str, Any], path: Path) -> StudyRow:
    where = str(path)
    if not isinstance(row, Mapping) or not isinstance(row.get("name"), str) or not row["name"].strip():
        raise StudyError(f"{shown(where)}: a row is {row!r}; give keys, among them name")
    where = f"{where}, row {row['name']}"
    _refuse_unknown(row, _ROW, where)
    settings = {**_mapping(study.get("set"), where, "set"), **_mapping(row.get("set"), where, "set")}
    plan = row.get("plan")
    scored = _mapping(row.get("score_set"), where, "score_set")
    for key in (*settings, *scored):
        if key in OWN:
            raise StudyError(f"{shown(where)}: set names {key}, which the study itself decides; leave it out")
    common: dict[str, Any] = {"name": row["name"], "settings": settings, "paper": str(row.get("paper") or "")}
    common |= {"score_with": _texts(row.get("score_with"), where, "score_with"), "score_set": scored}
    if plan is not None:
        if not isinstance(plan, str) or row.get("bundle") or row.get("with"):
            raise StudyError(f"{shown(where)}: plan is {plan!r}; name a network, and neither bundle nor with beside it")
        return StudyRow(**common, plan=plan, dimensions=row.get("dimensions"), memory=row.get("memory"))
    extra = next((key for key in ("dimensions", "memory") if key in row), None)
    if extra is not None:
        raise StudyError(f"{shown(where)}: {extra} is for a plan; a bundle has its own: leave it out")
    bundle = row.get("bundle", study.get("bundle"))
    if not isinstance(bundle, str) or not bundle:
        raise StudyError(f"{shown(where)}: names no bundle; give bundle (medseg bundle list), or plan and a network")
    if bundle not in library.names() and not Path(bundle).is_absolute():
        beside = path.parent / Path(bundle).expanduser()
        bundle = str(resolve_path(beside)) if (beside / "configs").is_dir() else bundle
    library.find(bundle)
    overlays = (*_texts(study.get("with"), where, "with"), *_texts(row.get("with"), where, "with"))
    return StudyRow(**common, bundle=bundle, overlays=overlays)


def _mapping(value: Any, where: str, key: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise StudyError(f"{shown(where)}: {key} is {value!r}; give keys with their values")
    return dict(value)


def _texts(value: Any, where: str, key: str) -> tuple[str, ...]:
    if value is None:
        return ()
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, Sequence) or not all(isinstance(text, str) for text in listed):
        raise StudyError(f"{shown(where)}: {key} is {value!r}; give a list of texts")
    return tuple(listed)


def _numbers(value: Any, where: str, key: str) -> tuple[int, ...]:
    listed = [value] if isinstance(value, int) and not isinstance(value, bool) else value
    whole = isinstance(listed, list) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in listed)
    if not whole or len(set(listed)) < len(listed):
        raise StudyError(f"{shown(where)}: {key} is {value!r}; give whole numbers from 0, each once")
    return tuple(listed)


def _checked(key: str, value: Any, path: Path) -> Any:
    """Return the value of a key, read."""
    where = str(path)
    if key == "folds":
        return None if value == "all" else _numbers([] if value is None else value, where, key)
    if key == "seeds":
        seeds = _numbers(value, where, key)
        if not seeds:
            raise StudyError(f"{shown(where)}: seeds is empty; give one, such as [0]")
        return seeds
    if key in ("show", "classes"):
        return _texts(value, where, key)
    if key == "scores":
        return {name: _mapping(given, where, f"scores {name}") for name, given in _mapping(value, where, key).items()}
    fits, wanted = _SCALARS[key]
    if not fits(value):
        raise StudyError(f"{shown(where)}: {key} is {value!r}; {wanted}")
    return value


def _is_above_zero(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and _is_above_zero(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_SCALARS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "minutes": (_is_above_zero, "give a number above 0"),
    "epochs": (_is_whole, "give a whole number above 0"),
    "images": (_is_whole, "give a whole number above 0"),
    "scored": (lambda value: value in ("test", "validation"), "choose test or validation"),
    "about": (_is_text, "give text"),
    "fold_key": (_is_text, "give text"),
    "divides_groups": (_is_text, "give text: why the folds may divide groups"),
    "paper": (_is_text, "give text"),
}


def _refuse_unknown(content: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise StudyError(f"{shown(where)}: has no key {key!r}; {hint}")
