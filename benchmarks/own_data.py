"""Plan, train and score by ``medseg train DATA`` on other data than the papers', beside what needs no network.

    python -m benchmarks.own_data --raw DATA --minutes 8 --json docs/results/own_data.json
    python -m benchmarks.own_data --raw DATA --data all --networks unet dynunet segresnet attention_unet lfa_unet \
        focusnet_pp --minutes 4 --at-once 18 --limit 9 --json docs/results/own_data_networks_gpu.json

Data are prepared by ``data_scripts``, but for two: the hippocampus lies as the decathlon has it, and of
TotalSegmentator's CT four slabs along the body are cut, with liver, spleen and kidneys, of which one is held out: it is
one patient's, and its labels are a network's. The rest of the command is the same for all. Each training is a process
of its own. What is in the work folder already is not trained again, so that a comparison can be broken off. With
``--at-once`` several share a device that one would leave idle: each has its minutes of the clock and a share of device
and cores. What fails, or is not done in ``--limit`` minutes, is a row with its reason, and is tried again next time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from benchmarks.common import at_once, call, call_logged, merge_rows, training_of
from medseg.bundle.source import read_source
from medseg.runs.provenance import collect
from medseg.runs.report import COMPARED, read_compared
from medseg.studies.plan_and_train import BASELINE

PLANNED = "planned"  # stands for the plan's own network
ORGANS = {"liver": (5,), "spleen": (1,), "kidney": (2, 3)}  # of TotalSegmentator's labels
EDGES = (56, 80, 92, 100, 112)  # of slabs, in slices of the CT: below the first there is none of the organs
FOLDS = (1, 2, 0, 3)  # held out is what shows all of them, between slabs that are trained on
SCORES = ("dice", "iou", "hd95")
BACKGROUNDS = ("background", "skin")  # what surrounds what is looked for, as the data sets call it


def script(module: str, source: str, *words: str) -> Callable[[Path, Path], None]:
    """Return what prepares data by a module of ``data_scripts``."""

    def prepare(raw: Path, folder: Path) -> None:
        call([f"data_scripts.{module}", "--source", str(raw / source), "-o", str(folder), *words])

    return prepare


def slabs(raw: Path, folder: Path) -> None:
    """Cut a CT into slabs along its last axis, and write their datalist."""
    source = raw / "nifti_ct_totalsegmentator"
    image = nibabel.load(source / "example_ct.nii.gz")
    label = nibabel.load(source / "example_seg_fast_force_split.nii.gz")
    values = np.asanyarray(label.dataobj)
    classes = np.zeros(values.shape, np.uint8)
    for number, held in enumerate(ORGANS.values(), 1):
        classes[np.isin(values, held)] = number
    folder.mkdir(parents=True)
    entries = []
    for number, (first, last) in enumerate(itertools.pairwise(EDGES)):
        entry: dict[str, Any] = {"group": f"slab_{number}", "fold": FOLDS[number]}
        for key, whole, array in (("image", image, np.asanyarray(image.dataobj)), ("label", label, classes)):
            affine = whole.affine.copy()
            affine[:3, 3] += first * affine[:3, 2]
            entry[key] = f"{key}_{number}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(array[:, :, first:last], affine), folder / entry[key])
        entries.append(entry)
    content = {
        "name": "totalsegmentator_slabs", "version": 1, "modality": ["CT"], "licence": "Apache-2.0",
        "source": "https://github.com/wasserth/TotalSegmentator", "ignore_index": None,
        "labels": {str(n): name for n, name in enumerate(["background", *ORGANS])},
        "training": entries, "validation": [], "test": [],
    }  # fmt: skip
    (folder / "datalist.json").write_text(json.dumps(content, indent=1))


PREPARED: dict[str, Callable[[Path, Path], None] | str] = {
    "hippocampus": "msd_hippocampus",
    "covid": script("covid_ct", "covid_semiseg"),
    "isic2018": script("isic2018", "isic2018_task1_256"),
    "dsb2018": script("dsb2018", "dsb2018/stage1_train.zip", "--size", "0"),
    "drosophila": script("drosophila", "drosophila_vnc", "--allow-partial"),
    "totalsegmentator": slabs,
}


def prepared(name: str, raw: Path, work: Path) -> Path:
    """Return the folder of the data, made where it is not there yet."""
    how = PREPARED[name]
    if isinstance(how, str):
        return raw / how
    folder = work / "data" / name
    if not (folder / "datalist.json").is_file():
        how(raw, folder)
    return folder


def trained(data: Path, folder: Path, network: str, options: argparse.Namespace, deadline: float | None) -> None:
    """Train, unless that has been done; by the deadline on the monotonic clock, where there is one."""
    if (folder / "run" / COMPARED).is_file():  # the last of what a training writes
        return
    if folder.is_dir():  # broken off
        folder.rename(folder.with_name(f"{folder.name}_{time.time_ns()}"))
    words = ["medseg.cli", "train", str(data), "--minutes", f"{options.minutes:g}", "--output", str(folder)]
    words += [*([] if network == PLANNED else ["--network", network]), *options.settings]
    if options.at_once == 1 and deadline is None:
        call(words)
        return
    threads = max(1, (os.cpu_count() or 1) // options.at_once)
    if not any(word.startswith("num_workers=") for word in options.settings):
        words.append(f"num_workers={min(4, threads - 1)}")
    call_logged(words, folder.with_name(f"{folder.name}.log"), deadline, threads)


def row_of(name: str, network: str, minutes: float, folder: Path) -> dict[str, Any]:
    """Return what a training came to."""
    run = folder / "run"
    scores = json.loads((run / "test" / "scores.json").read_text())
    baseline = json.loads((run / BASELINE).read_text())
    tables, _ = read_compared(run, run / "test")
    kinds = [dict(zip(table.columns, row, strict=True)) for table in tables[1:] for row in table.rows]
    classes = [row["name"] for row in scores["classes"]]
    foreground = [name for name in classes if name not in BACKGROUNDS]
    means = {"network": _means(scores, foreground), "baseline": _means(baseline, foreground)}
    source = read_source(folder / "plan")
    plan = {"network": dict(source.description.network), **{k: source.train.get(k) for k in ("patch", "batch_size")}}
    return {
        "data": name, "network": network, "minutes": minutes, "cases": scores["per_case"]["cases"], "scores": means,
        "baseline_title": baseline["title"], "difference": baseline["difference"], "kinds": kinds,
        "plan": plan, **training_of(run),
    }  # fmt: skip


def _means(scores: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return the mean over images of each class, and the pooled IoU of each."""
    rows = [row for row in scores["per_case"]["classes"] if row["name"] in classes]
    found: dict[str, Any] = {
        key: {row["name"]: {"mean": row[key], "interval": row["interval"].get(key)} for row in rows}
        for key in SCORES
        if any(row.get(key) is not None for row in rows)
    }
    return {**found, "pooled_iou": {row["name"]: row["iou"] for row in scores["classes"] if row["name"] in classes}}


def mean_dice(row: Mapping[str, Any], side: str = "network") -> float:
    """Return the mean Dice of a row over its classes; one that is undefined counts as 0."""
    held = row["scores"][side]["dice"].values()
    return sum(each["mean"] or 0.0 for each in held) / len(held)


def ranks(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a line a network, the best first: its score beside the best of each data set, and the mean of these.

    A network that failed on a data set has 0 there; one that was not tried is not in its mean, which says of how many
    data sets it is.

    Args:
        rows: as in the JSON.
    """
    score = {(r["data"], r["network"]): 0.0 if "error" in r else mean_dice(r) for r in rows}
    best = {data: max(value for (each, _), value in score.items() if each == data) for data, _ in score}
    lines = []
    for network in dict.fromkeys(network for _, network in score):
        each = {data: score[data, network] / best[data] for data in best if (data, network) in score and best[data]}
        won = sum(value == 1 for value in each.values())
        mean = sum(each.values()) / len(each) if each else 0.0
        lines.append({"network": network, "mean": mean, "data": len(each), "best": won, "relative": each})
    return sorted(lines, key=lambda line: (-line["data"], -line["mean"]))


def _key(row: Mapping[str, Any]) -> tuple[int, str, float]:
    return list(PREPARED).index(row["data"]), row["network"], row["minutes"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder that holds the data sets as they are released")
    parser.add_argument(
        "--data", nargs="+", choices=[*PREPARED, "all"], default=[name for name in PREPARED if name != "hippocampus"]
    )
    parser.add_argument("--networks", nargs="+", default=[PLANNED], help="of the package; planned: the plan's own")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--set", dest="settings", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="trainings at a time (default: 1)")
    parser.add_argument("--limit", type=float, metavar="M", help="minutes after which what is not done is ended")
    parser.add_argument("--commit", help="of this code, where it lies in no checkout")
    parser.add_argument("--work", type=Path, default=Path("build/own_data"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    deadline = None if options.limit is None else time.monotonic() + 60 * options.limit
    names = list(PREPARED) if "all" in options.data else options.data
    jobs = {}
    for network in options.networks:
        for name in names:
            data = prepared(name, options.raw, options.work.absolute())
            jobs[name, network] = partial(_done, name, network, data, options, deadline)
    at_once(jobs, options.at_once, partial(_keep, options))


def _done(name: str, network: str, data: Path, options: argparse.Namespace, deadline: float | None) -> dict[str, Any]:
    """Train, where that is not done, and return the row."""
    folder = options.work.absolute() / f"{name}_{network.replace('.', '_')}_{options.minutes:g}min"
    kept = folder / "row.json"
    if not kept.is_file():
        before, started = os.getloadavg()[0], time.monotonic()
        trained(data, folder, network, options, deadline)
        load = {"load_at_start": before, "load_at_end": os.getloadavg()[0], "at_once": options.at_once}
        row = row_of(name, network, options.minutes, folder) | load | {"environment": collect()}
        row["wall_seconds"] = time.monotonic() - started
        if options.commit:
            row["environment"]["git"] = {"commit": options.commit, "dirty": False}
        kept.write_text(json.dumps(row))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def _keep(options: argparse.Namespace, job: tuple[str, str], row: dict[str, Any]) -> None:
    """Say and write what a training came to."""
    name, network = job
    if "error" in row:
        if options.limit is None:
            raise SystemExit(f"{name}, {network}: {row['error']}")
        row = {"data": name, "network": network, "minutes": options.minutes, **row}
        said = str(row["error"])
    else:
        said = f"Dice {mean_dice(row):.3f}, {mean_dice(row, 'baseline'):.3f} without"
    sys.stdout.write(f"{name}, {network}: {said}\n")
    sys.stdout.flush()
    if options.json is not None:
        held = json.loads(options.json.read_text())["rows"] if options.json.is_file() else []
        every = [each for each in held if _key(each) != _key(row)] + [row]
        merge_rows(options.json, {"benchmark": "own_data", "ranks": ranks(every)}, [row], _key)


if __name__ == "__main__":
    main()
