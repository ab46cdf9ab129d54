"""Cross-validate ``medseg train DATA`` on nuclei: kinds of images drawn as often as they are, or balanced, beside Otsu.

    python -m benchmarks.nuclei_folds --raw DATA --minutes 3 --at-once 10 --limit 9 --json docs/results/nuclei_gpu.json

All images at hand of the Data Science Bowl 2018 (``data_scripts.dsb2018 --size 0``) are divided into five folds, each
acquisition (size, and dark, bright or colour) spread over them, so that every image is scored at its own size by a
network that did not see it: of a kind that a hundredth of the images have, one fold alone would show one image, or
none. Each fold is planned, trained and scored by one command, ``medseg train DATA --minutes M fold=N``, and only the
settings of `VARIANTS` differ. Rows are written as they come; the same command goes on with those that are missing.
The release names no patient or plate: images of one plate may stand on both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import at_once, merge_rows, training_of
from benchmarks.own_data import PLANNED, prepared, trained
from medseg.bundle.data import load_data, split
from medseg.bundle.source import read_source
from medseg.data.datalist import Datalist
from medseg.data.folds import propose_folds
from medseg.data.kinds import kinds_of
from medseg.metrics.intervals import ClusterBootstrap
from medseg.runs.provenance import collect
from medseg.runs.report import PER_CASE, read_rows
from medseg.studies.baseline import score_otsu
from medseg.studies.kinds import means_of_cases

FOLDS = 5
NUCLEUS = ("nucleus",)
SCORES = ("dice", "iou")
OTSU = "otsu"
VARIANTS: dict[str, list[str]] = {
    "images_alike": ["balance_kinds=0"],
    "square_roots": ["balance_kinds=0.5"],
    "kinds_alike": ["balance_kinds=1"],
}
"""What is compared: the settings of each, and nothing else."""


def whole(folder: Path) -> Path:
    """Return a datalist of all images, the validation list's too, in five folds; made where there is none."""
    target = folder / "whole.json"
    if not target.is_file():
        data = load_data(folder)
        entries = [*data.training, *data.validation]
        strata = sorted({str(entry["stratum"]) for entry in entries})
        folds = propose_folds(
            [str(entry["group"]) for entry in entries], [{strata.index(str(entry["stratum"]))} for entry in entries],
            FOLDS,
        )  # fmt: skip
        if folds is None:
            raise SystemExit(f"{data.path}: too few images for folds")
        divided = [{**entry, "fold": fold} for entry, fold in zip(entries, folds, strict=True)]
        replace(data, training=divided, validation=[], path=target).save()
    return target


def fold_row(
    variant: str, fold: int, data: Datalist, options: argparse.Namespace, deadline: float | None
) -> dict[str, Any]:
    """Train and score one fold, unless that has been done."""
    folder = options.work.absolute() / f"{variant}_{fold}_{options.minutes:g}min_seed{options.seed}"
    kept = folder / "row.json"
    if not kept.is_file():
        before, started = os.getloadavg()[0], time.monotonic()
        settings = [f"fold={fold}", f"seed={options.seed}", *VARIANTS[variant], *options.settings]
        asked = argparse.Namespace(**{**vars(options), "settings": settings})
        trained(data.path, folder, options.network, asked, deadline)
        source = read_source(folder / "plan")
        plan = {"network": dict(source.description.network)} | {
            key: source.train.get(key) for key in ("patch", "batch_size", "balance_kinds")
        }
        row = {
            "settings": settings, "each": scored(data, fold, folder / "run"), "plan": plan,
            **training_of(folder / "run"), "at_once": options.at_once, "environment": collect(),
            "load_at_start": before, "load_at_end": os.getloadavg()[0], "wall_seconds": time.monotonic() - started,
        }  # fmt: skip
        if options.commit:
            row["environment"]["git"] = {"commit": options.commit, "dirty": False}
        kept.write_text(json.dumps(row))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def scored(data: Datalist, fold: int, run: Path) -> list[dict[str, Any]]:
    """Return kind and scores of each image that a fold left out, Otsu's too, in the order of the datalist; no names."""
    _, _, test = split(data, {"fold": fold, "validation_fold": None})
    rows = {"network": read_rows(run / "test" / PER_CASE), OTSU: score_otsu(data, test).rows}
    columns = (*SCORES, "pixels", "predicted_pixels", "recall")
    held = {side: {name: means_of_cases(each, NUCLEUS, name) for name in columns} for side, each in rows.items()}
    if {len(values) for side in held.values() for values in side.values()} != {len(test)}:
        raise RuntimeError(f"{run}: not every image of the fold is scored")
    return [
        {
            "kind": kind,
            **{side: _image({name: float(each[name][n]) for name in columns}) for side, each in held.items()},
        }
        for n, kind in enumerate(kinds_of(data, test))
    ]


def _image(found: Mapping[str, float]) -> dict[str, Any]:
    """Return the scores of an image, and its nuclei in pixels: in truth, in the mask, in both."""
    truth, mask = round(found["pixels"]), round(found["predicted_pixels"])
    both = round(found["recall"] * truth) if truth else 0
    return {**{score: found[score] for score in SCORES}, "pixels": [truth, mask, both]}


def pooled(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a line a kind, and one for all images: means over the images of all folds, intervals, and differences.

    Variants and Otsu are compared on the same images: those of the folds that every variant has.

    Args:
        rows: as in the JSON.
    """
    done: dict[str, dict[int, Any]] = {}
    for row in rows:
        if "error" not in row:
            done.setdefault(row["variant"], {})[row["fold"]] = row["each"]
    if not done:
        return []
    folds = sorted(set.intersection(*(set(each) for each in done.values())))
    images = {variant: [image for fold in folds for image in each[fold]] for variant, each in done.items()}
    kinds = np.array([image["kind"] for image in next(iter(images.values()))])
    lines = []
    for kind in (None, *(name for name, _ in Counter(kinds.tolist()).most_common())):
        inside = np.full(len(kinds), True) if kind is None else kinds == kind
        line: dict[str, Any] = {"kind": kind, "images": int(inside.sum()), "folds": len(folds)}
        for score in SCORES:
            sides = {name: _values(each, "network", score)[inside] for name, each in images.items()}
            otsu = _values(next(iter(images.values())), OTSU, score)[inside]
            line[score] = {name: mean(values) for name, values in {**sides, OTSU: otsu}.items()}
            line[f"{score}_above_otsu"] = {name: mean(values - otsu) for name, values in sides.items()}
            first = next(iter(VARIANTS))
            line[f"{score}_above_{first}"] = {
                name: mean(values - sides[first]) for name, values in sides.items() if first in sides and name != first
            }
        line["pooled_iou"] = {name: _pooled_iou(each, "network", inside) for name, each in images.items()}
        line["pooled_iou"][OTSU] = _pooled_iou(next(iter(images.values())), OTSU, inside)
        lines.append(line)
    return lines


def _pooled_iou(images: Sequence[Mapping[str, Any]], side: str, inside: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    """Return the IoU over all pixels of some images."""
    truth, mask, both = np.array([image[side]["pixels"] for image in images])[inside].sum(0)
    return float(both / (truth + mask - both))


def _values(images: Sequence[Mapping[str, Any]], side: str, score: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([image[side][score] for image in images], np.float64)


def mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """Return the mean over images and its 95 % interval; an image whose score is not defined is not counted."""
    there = values[~np.isnan(values)]
    interval = ClusterBootstrap([""] * len(values)).intervals(values[:, None])[1] if len(values) else None
    return {"mean": float(there.mean()) if there.size else None, "interval": interval}


def _key(row: Mapping[str, Any]) -> tuple[int, int]:
    return list(VARIANTS).index(row["variant"]), row["fold"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder that holds dsb2018/stage1_train.zip")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)[:2])
    parser.add_argument("--folds", nargs="+", type=int, choices=range(FOLDS), default=list(range(FOLDS)))
    parser.add_argument("--network", default=PLANNED, help="of the package; planned: the plan's own")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="settings", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="trainings at a time (default: 1)")
    parser.add_argument("--limit", type=float, metavar="M", help="minutes after which what is not done is ended")
    parser.add_argument("--commit", help="of this code, where it lies in no checkout")
    parser.add_argument("--work", type=Path, default=Path("build/nuclei_folds"))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(arguments)
    deadline = None if options.limit is None else time.monotonic() + 60 * options.limit
    data = load_data(whole(prepared("dsb2018", options.raw, options.work.absolute())))
    head = {
        "benchmark": "nuclei_folds", "minutes": options.minutes, "seed": options.seed, "network": options.network,
        "variants": {name: VARIANTS[name] for name in options.variants},
        "data": {"name": data.name, "fingerprint": data.fingerprint(), "folds": FOLDS},
    }  # fmt: skip

    def keep(job: tuple[str, int], row: dict[str, Any]) -> None:
        row = {"variant": job[0], "fold": job[1], **row}
        held = json.loads(options.json.read_text())["rows"] if options.json.is_file() else []
        every = [each for each in held if _key(each) != _key(row)] + [row]
        lines = pooled(every)
        merge_rows(options.json, {**head, "pooled": lines}, [row], _key)
        said = row.get("error") or f"Dice {mean(_values(row['each'], 'network', 'dice'))['mean']:.3f}"
        sys.stdout.write(f"{job[0]}, fold {job[1]}: {said}\n")
        sys.stdout.flush()

    jobs = {
        (variant, fold): partial(fold_row, variant, fold, data, options, deadline)
        for fold in options.folds
        for variant in options.variants
    }
    at_once(jobs, options.at_once, keep)
    for line in json.loads(options.json.read_text())["pooled"]:
        shown = ", ".join(
            f"{name} {each['mean']:.3f}" for name, each in line["dice"].items() if each["mean"] is not None
        )
        sys.stdout.write(f"{line['kind'] or 'all'} ({line['images']}): {shown}\n")


if __name__ == "__main__":
    main()
