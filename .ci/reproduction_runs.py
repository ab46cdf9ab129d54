"""The records of docs/results that are runs of a paper's table, each read into one form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.errors import counted
from medseg.studies.paper_figures import printed
from medseg.studies.study import Study

Column = tuple[str, str]  # score and class, the class empty for the mean
_POOLED = "pooled over all pixels"
_OTHER_MEASURE = " where the paper's are most likely means over the images"
_OTHER = {"lfa_unet_2": ("background",)}  # classes that hold other pixels than the paper's of that name
_LUNGS = "its background holds the lungs, a class of the paper's, and is compared with nothing"


@dataclass(frozen=True)
class Value:
    """A figure, a share of 1.

    Args:
        mean: over folds, seeds or cases.
        spread: standard deviation over folds or seeds; ``None`` of one training.
        interval: 95 %, where there is one of this very figure.
    """

    mean: float
    spread: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Found:
    """What a run found of one row.

    Args:
        row: of the study.
        paper: the row's name in the paper.
        values: by column.
        variant: what is not the row's; empty for nothing.
    """

    row: str
    paper: str
    values: Mapping[Column, Value]
    variant: str = ""


@dataclass(frozen=True)
class Run:
    """A run of a study, whole or in part.

    Args:
        study: of the paper.
        record: its file, without folder and suffix.
        short: the run in a few words.
        about: budget, hardware, division, commit, what the figures are.
        classes: that were scored; empty for the paper's.
        other: classes that hold other pixels than the paper's of that name.
        found: by row.
        repeats: largest differences of two trainings with one seed, by column.
    """

    study: str
    record: str
    short: str
    about: str
    found: Sequence[Found]
    classes: Sequence[str] = ()
    other: Sequence[str] = ()
    repeats: Mapping[Column, float] = field(default_factory=dict)

    def repeat(self, column: Column) -> float | None:
        """Return by how much two trainings with one seed differed at most."""
        return self.repeats.get(column)


def runs_of(results: Path, studies: Sequence[Study]) -> Iterator[Run]:
    """Return all runs on record.

    Args:
        results: folder of the records.
        studies: of the papers.
    """
    for name, bundle in (("gpu_drosophila", "lfa_unet_1"), ("gpu_dsb2018", "focusnet_pp_3")):
        yield from _on_a_gpu(results / f"{name}.json", bundle, studies)
    for path in sorted(results.glob("study_*_small.json")):
        yield _small(path, studies)
    for path in sorted(results.glob("recipes_*_cpu.json")):
        yield _recipe(path, studies)


def _on_a_gpu(path: Path, table: str, studies: Sequence[Study]) -> Iterator[Run]:
    """Return the runs of `benchmarks.gpu`: one of each division."""
    if not path.is_file():
        return
    record = json.loads(path.read_text(encoding="utf-8"))
    rows = {name: row for name, row in record["rows"].items() if "error" not in row}
    failed = [name for name, row in record["rows"].items() if "error" in row]
    gpu = record["environment"]["gpus"][0]["name"]
    for study in (each for each in studies if each.paper == table):
        split = "lists" if study.folds == () else study.fold_key
        mine = {name: row for name, row in rows.items() if row["split"] == split}
        if not mine:
            continue
        minutes = sorted(row["train_minutes"] for row in mine.values())
        passes, seeds = sorted({row["passes"] for row in mine.values()}), sorted({r["seed"] for r in mine.values()})
        commits = {row.get("git", record["environment"]["git"])["commit"][:7] for row in mine.values()}
        scored = {f"{row['images_scored']} {row['scored']} images" for row in mine.values()}
        fold = {row["fold"] for row in mine.values()} - {None}
        lost = [name for name in failed if record["rows"][name]["split"] == split]
        about = [
            f"one {gpu}, {minutes[0]:.1f} to {minutes[-1]:.1f} minutes a training, several at a time",
            "widths of the rows' bundle and overlays",
            f"{_listed(passes)} passes",
            f"{'fold ' + _listed(sorted(fold)) if fold else 'one division'}, seed {_listed(seeds)}",
            f"scored on {_listed(sorted(scored))}, {_pooled(study)}, no interval",
            f"code {_listed(sorted(commits))}",
            f"`{record['command']}`, [{path.name}]({path.name})",
            *([f"not done when the time was over: {', '.join(lost)}"] if lost else []),
        ]
        found = [_trained(name, row, study) for name, row in mine.items()]
        short = f"{gpu}, {_listed(passes)} passes"
        yield Run(study.name, path.stem, short, f"{'; '.join(about)}.", found, _classes(mine), repeats=_repeats(rows))


def _classes(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [each["name"] for each in next(iter(rows.values()))["classes"]]


def _trained(name: str, row: Mapping[str, Any], study: Study) -> Found:
    variant = ", ".join(filter(None, [row.get("variant", ""), "again" if name.endswith("again") else ""]))
    asked = _row_called(row["network"], study)
    return Found(asked.name, asked.paper, {k: Value(v) for k, v in _scores(row).items()}, variant)


def _row_called(network: str, study: Study) -> Any:
    for row in study.rows:
        if row.name == network:
            return row
    raise SystemExit(f"study {study.name} has no row {network!r}, which a record names; name the row as the study does")


def _scores(row: Mapping[str, Any]) -> dict[Column, float]:
    """Return the scores of a training: of each class and their mean; of one class beside a background, its own."""
    held: dict[Column, float] = {("iou", ""): row["mean_iou"]}
    held |= {("iou", each["name"]): each["iou"] for each in row["classes"]}
    if len(row["classes"]) == 2:  # background and what is looked for
        held |= {(key, ""): row["classes"][1][key] for key in ("precision", "recall", "dice", "iou")}
    return held


def _repeats(rows: Mapping[str, Mapping[str, Any]]) -> dict[Column, float]:
    found: dict[Column, float] = {}
    for name, row in rows.items():
        first = rows.get(name.removesuffix(", again")) if name.endswith(", again") else None
        for column, value in _scores(row).items() if first else ():
            found[column] = max(found.get(column, 0.0), abs(value - _scores(first or {})[column]))
    return found


def _small(path: Path, studies: Sequence[Study]) -> Run:
    """Return a run of `benchmarks.reproduction`."""
    record = json.loads(path.read_text(encoding="utf-8"))
    asked, cells, environment = record["study"], record["cells"], record["environment"]
    scheme = asked["fold_key"], not asked["folds"]
    study = next(
        each for each in studies if each.paper == asked["paper"] and (each.fold_key, each.folds == ()) == scheme
    )
    pooled = _is_pooled(study)
    lines = record["tables"][0]["rows"]
    found = []
    for row in asked["rows"]:
        values = _long(lines, row["name"], pooled)
        if values:
            found.append(Found(_row_of(row["paper"], study), row["paper"], values))
    classes = [line["class"] for line in lines if line["row"] == lines[0]["row"] and line["class"] != "(mean)"]
    minutes = sum(cell["minutes"] for cell in cells)
    missing = record["cells_asked"] - len(cells)
    steps = _listed(sorted({cell["steps"] for cell in cells}))
    folds = sorted({cell["fold"] for cell in cells} - {None})
    what = "pooled over all pixels of a fold" if pooled else "means over the images"
    about = [
        f"{_processor(environment)}, {minutes:.0f} minutes of training in {counted(len(cells), 'training')}",
        f"{steps} steps each, {_sizes(asked['rows'])} (`benchmarks/studies/{path.stem.removeprefix('study_')}.yaml`)",
        f"{'folds ' + _listed(folds) if folds else 'one division'}",
        f"seeds {_listed(sorted({cell['seed'] for cell in cells}))}",
        f"scored on {counted(record['data']['cases'], 'case')} of {record['data']['name']}",
        f"figures: {what}, ± standard deviation over {'folds' if folds else 'seeds'}"
        f"{'' if pooled else ', [95 % interval]'}",
        f"code {_listed(sorted({cell['code']['commit'][:7] for cell in cells}))}",
        f"`{record['command']}`, [{path.name}]({path.name})",
        *([f"**{counted(missing, 'training')} of {record['cells_asked']} not run**"] if missing else []),
        *record.get("notes", ()),
        *([_LUNGS] if asked["paper"] in _OTHER else []),
        _tests(record),
    ]
    other = _OTHER.get(asked["paper"], ())
    kinds = list(dict.fromkeys(classes))
    short = f"CPU, small, {steps} steps"
    return Run(study.name, path.stem, short, f"{'; '.join(about)}.", found, kinds, other)


def _row_of(paper: str, study: Study) -> str:
    return next(str(row.name) for row in study.rows if row.paper == paper)


def _is_pooled(study: Study) -> bool:
    return printed(study.paper).kind == "pooled"


def _pooled(study: Study) -> str:
    """Return how figures over all pixels compare with the paper's."""
    return _POOLED if _is_pooled(study) else _POOLED + _OTHER_MEASURE


def _sizes(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return widths, patch and batch that the rows were trained with; what a row does not set is its bundle's."""
    held: dict[str, list[str]] = {}
    for row in rows:
        widths = row.get("set", {}).get("network_def#channels")
        words = f"widths {'-'.join(map(str, widths))}" if widths else "the bundle's widths"
        held.setdefault(words, []).append(row["name"])
    said = [words if len(held) == 1 else f"{words} of {_listed(names)}" for words, names in held.items()]
    for key, words in (("patch", "patches of {} pixels"), ("batch_size", "{} a step")):
        found = dict.fromkeys(json.dumps(row.get("set", {}).get(key)) for row in rows)
        values = [json.loads(value) for value in found]
        texts = [" x ".join(map(str, v)) if isinstance(v, list) else str(v) for v in values if v is not None]
        said += [words.format(" or ".join(texts) + (" or the bundle's" if None in values else ""))] if texts else []
    return ", ".join(said)


def _long(lines: Sequence[Mapping[str, Any]], row: str, pooled: bool) -> dict[Column, Value]:
    """Return the figures of a row as the paper's are: pooled, or means over the images."""
    found: dict[Column, Value] = {}
    for line in lines:
        mean = line["pooled" if pooled else "mean"]
        if line["row"] != row or mean is None:
            continue
        spread = line["pooled_sd_folds"] if pooled else (line["sd_folds"] or line["sd_seeds"])
        interval = None if pooled or line["low"] is None else (line["low"], line["high"])
        of_class = "" if line["class"] == "(mean)" else line["class"]
        found[line["score"], of_class] = Value(mean, spread, interval)
    return found


def _tests(record: Mapping[str, Any]) -> str:
    """Return which paired tests of the means hold."""
    tests = record["tables"][1]
    mine = [row for row in tests["rows"] if row["class"] == "(mean)"]
    holding = [row for row in mine if row["holds"] == "yes"]
    said = [
        f"{row['second']} less {row['first']} {row['score']} {row['difference']:+.3f} "
        f"[{row['low']:.3f}, {row['high']:.3f}]"
        for row in holding
    ]
    on = re.search(r"signed-rank test on (the [^,]+),", " ".join(tests.get("notes", ())))
    about = f"paired tests on {on[1] if on else 'nothing'} (Wilcoxon, Holm): {len(holding)} of "
    return about + f"{counted(len(mine), 'difference')} hold" + (f": {', '.join(said)}" if said else "")


def _recipe(path: Path, studies: Sequence[Study]) -> Run:
    """Return a run of `benchmarks.recipes`: one network by several recipes."""
    record = json.loads(path.read_text(encoding="utf-8"))
    held, environment = record["result"], record["environment"]
    study = next(each for each in studies if each.rows[-1].bundle == held["bundle"] and not each.rows[-1].overlays)
    row, light = study.rows[-1], ", light" if "focusnet_pp_light" in record["command"] else ""
    found, classes, took = [], [], []
    for each in held["rows"]:
        if "epochs" in each:  # trained: not Otsu's threshold
            classes = [key.removeprefix("IoU ") for key in each if key.startswith("IoU ")]
            took.append(f"{each['method']} {each['minutes']:.1f} ({counted(each['epochs'], 'epoch')})")
            found.append(Found(row.name, row.paper, _of_recipe(each, classes), f"recipe `{each['method']}`{light}"))
    data = held["data"]
    fold = "one division" if data["fold"] is None else f"fold {data['fold']} of {data['fold_key']}"
    about = [
        f"{_processor(environment)}, a budget of {held['minutes']:g} minutes a training, whose last validation is "
        f"estimated; minutes taken: {_listed(took)}",
        f"{fold}, seed {held['seed']}, scored on {data['images']} {data['split']} images of {data['name']}, "
        f"{_pooled(study)}",
        f"code {environment['git']['commit'][:7]}",
        f"`{record['command']}`, [{path.name}]({path.name})",
        *([_LUNGS] if study.paper in _OTHER else []),
    ]
    other = _OTHER.get(study.paper, ())
    short = f"CPU, {held['minutes']:g} minutes"
    return Run(study.name, path.stem, short, f"{'; '.join(about)}.", found, classes, other)


def _of_recipe(row: Mapping[str, Any], classes: Sequence[str]) -> dict[Column, Value]:
    found = {("iou", ""): row["mean IoU"], **{("iou", name): row[f"IoU {name}"] for name in classes}}
    if len(classes) == 2:  # background and what is looked for
        found[("iou", "")] = row[f"IoU {classes[1]}"]
        found |= {(key, ""): row[title] for key, title in (("precision",) * 2, ("recall",) * 2, ("dice", "Dice"))}
    return {column: Value(value) for column, value in found.items()}


def _processor(environment: Mapping[str, Any]) -> str:
    return f"{environment['cpu']['model']}, {counted(environment['threads'], 'thread')}"


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
