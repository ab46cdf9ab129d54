"""Plan, train and score by ``medseg train DATA`` on other data than the papers', beside what needs no network.

    python -m benchmarks.own_data --raw DATA --minutes 8 --json docs/results/own_data.json
    python -m benchmarks.own_data --raw DATA --data hippocampus dsb2018 --networks unet segresnet --json networks.json

Data are prepared by ``data_scripts``, but for two: the hippocampus lies as the decathlon has it, and of
TotalSegmentator's CT four slabs along the body are cut, with liver, spleen and kidneys, of which one is held out: it is
one patient's, and its labels are a network's. The rest of the command is the same for all. Each training is a process
of its own. What is in the work folder already is not trained again, so that a comparison can be broken off.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from benchmarks.common import call, merge_rows, training_of
from medseg.reports.tables import tables_of_json
from medseg.runs.provenance import collect
from medseg.runs.report import COMPARED
from medseg.studies.plan_and_train import BASELINE

PLANNED = "planned"  # stands for the plan's own network
ORGANS = {"liver": (5,), "spleen": (1,), "kidney": (2, 3)}  # of TotalSegmentator's labels
EDGES = (56, 80, 92, 100, 112)  # of slabs, in slices of the CT: below the first there is none of the organs
FOLDS = (1, 2, 0, 3)  # held out is what shows all of them, between slabs that are trained on
SCORES = ("dice", "iou", "hd95")


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


def trained(data: Path, folder: Path, minutes: float, network: str, settings: Sequence[str]) -> None:
    """Train, unless that has been done."""
    if (folder / "run" / COMPARED).is_file():  # the last of what a training writes
        return
    words = ["medseg.cli", "train", str(data), "--minutes", f"{minutes:g}", "--output", str(folder)]
    call([*words, *([] if network == PLANNED else ["--network", network]), *settings])


def row_of(name: str, network: str, minutes: float, folder: Path) -> dict[str, Any]:
    """Return what a training came to."""
    run = folder / "run"
    scores = json.loads((run / "test" / "scores.json").read_text())
    baseline = json.loads((run / BASELINE).read_text())
    tables = tables_of_json((run / COMPARED).read_text())
    kinds = [dict(zip(table.columns, row, strict=True)) for table in tables[1:] for row in table.rows]
    classes = [row["name"] for row in scores["classes"]]
    foreground = [name for name in classes if name != "background"]
    means = {"network": _means(scores, foreground), "baseline": _means(baseline, foreground)}
    return {
        "data": name, "network": network, "minutes": minutes, "cases": scores["per_case"]["cases"], "scores": means,
        "baseline_title": baseline["title"], "difference": baseline["difference"], "kinds": kinds,
        **training_of(run),
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


def _key(row: Mapping[str, Any]) -> tuple[int, str, float]:
    return list(PREPARED).index(row["data"]), row["network"], row["minutes"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder that holds the data sets as they are released")
    parser.add_argument(
        "--data", nargs="+", choices=PREPARED, default=[name for name in PREPARED if name != "hippocampus"]
    )
    parser.add_argument("--networks", nargs="+", default=[PLANNED], help="of the package; planned: the plan's own")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--set", dest="settings", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--work", type=Path, default=Path("build/own_data"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    for name in options.data:
        data = prepared(name, options.raw, options.work.absolute())
        for network in options.networks:
            folder = options.work.absolute() / f"{name}_{network.replace('.', '_')}_{options.minutes:g}min"
            before = os.getloadavg()[0]
            trained(data, folder, options.minutes, network, options.settings)
            kept = folder / "row.json"
            if not kept.is_file():
                load = {"load_at_start": before, "load_at_end": os.getloadavg()[0]}
                row = row_of(name, network, options.minutes, folder) | load | {"environment": collect()}
                kept.write_text(json.dumps(row))
            row = json.loads(kept.read_text())
            sys.stdout.write(
                f"{name}, {network}: Dice {mean_dice(row):.3f}, {mean_dice(row, 'baseline'):.3f} without\n"
            )
            sys.stdout.flush()
            if options.json is not None:
                merge_rows(options.json, {"benchmark": "own_data"}, [row], _key)


if __name__ == "__main__":
    main()
