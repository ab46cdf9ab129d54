"""`medseg train DATA` on nuclei, scored on images drawn like the whole release, beside Otsu.

    python -m benchmarks.nuclei_release --release stage1_train --at-hand ids.txt --json docs/results/nuclei_release.json

The Data Science Bowl 2018 released 670 images for training; large ones and stained tissue are rarer among the 200 that
are at hand than among all. Of the images that are not at hand a part is kept apart that has each acquisition (size, and
dark, bright or colour) as often as the release has it, as far as it is there. Two trainings are scored on them, each by
one command, ``medseg train DATA --minutes M fold=0``, images at their own size: of the images at hand (``at_hand``),
and of all others of the release (``release``). The release names no patient or plate: images of one plate may stand on
both sides. Rows are written as they come; the same command goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import call, merge_rows
from benchmarks.nuclei_folds import FOLDS, fold_row, pooled
from benchmarks.own_data import PLANNED
from medseg.bundle.data import load_data
from medseg.data.datalist import Datalist, Entry
from medseg.data.folds import propose_folds

APART = 130  # as many as FocusNet++'s paper keeps apart
SETS = ("at_hand", "release")
"""What is trained on; the images that are scored are the same."""


def apart(entries: Sequence[Entry], at_hand: set[str], number: int) -> list[Entry]:
    """Return images that are not at hand, of each stratum the share that all images have of it.

    Args:
        entries: all of the release, in its order.
        at_hand: their ids.
        number: of images to keep apart; each stratum's share is rounded.

    Raises:
        SystemExit: if a stratum has too few images that are not at hand.
    """
    kept: list[Entry] = []
    for stratum, count in sorted(Counter(str(entry["stratum"]) for entry in entries).items()):
        free = [entry for entry in entries if entry["stratum"] == stratum and _id(entry) not in at_hand]
        wanted = round(number * count / len(entries))
        if len(free) < wanted:
            raise SystemExit(f"{stratum}: {wanted} images are to be kept apart, {len(free)} are not at hand")
        kept += free[:wanted]  # names are hashes: their order says nothing
    return kept


def _id(entry: Entry) -> str:
    return Path(str(entry["image"])).stem


def datalists(folder: Path, at_hand: set[str], number: int) -> dict[str, Path]:
    """Write the datalist of each training beside that of the release: fold 0 is what is scored, the others train.

    Args:
        folder: of the release as `data_scripts.dsb2018` wrote it.
        at_hand: ids of the images at hand.
        number: of images to keep apart.
    """
    data = load_data(folder)
    every = [*data.training, *data.validation]
    scored = apart(every, at_hand, number)
    ids = {_id(entry) for entry in scored}
    others = [entry for entry in every if _id(entry) not in ids]
    parts = {"at_hand": [entry for entry in others if _id(entry) in at_hand], "release": others}
    return {name: _write(data, folder / f"{name}.json", scored, parts[name]) for name in SETS}


def _write(data: Datalist, path: Path, scored: Sequence[Entry], others: Sequence[Entry]) -> Path:
    strata = sorted({str(entry["stratum"]) for entry in others})
    there = [{strata.index(str(entry["stratum"]))} for entry in others]
    folds = propose_folds([str(entry["group"]) for entry in others], there, FOLDS - 1)
    if folds is None:
        raise SystemExit(f"{path}: too few images for folds")
    divided = [{**entry, "fold": 0} for entry in scored]
    divided += [{**entry, "fold": 1 + fold} for entry, fold in zip(others, folds, strict=True)]
    replace(data, training=divided, validation=[], path=path).save()
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, required=True, help="folder stage1_train or its zip")
    parser.add_argument("--at-hand", type=Path, required=True, help="text file, an id a line")
    parser.add_argument("--number", type=int, default=APART, help=f"images to keep apart (default: {APART})")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", nargs="*", default=[], help="what a reader must know, such as what else ran")
    parser.add_argument("--work", type=Path, default=Path("build/nuclei_release"))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(arguments)
    work = options.work.absolute()
    if not (work / "data" / "datalist.json").is_file():
        call(["data_scripts.dsb2018", "--source", str(options.release), "--size", "0", "-o", str(work / "data")])
    at_hand = set(options.at_hand.read_text(encoding="utf-8").split())
    lists = {name: load_data(path) for name, path in datalists(work / "data", at_hand, options.number).items()}
    asked = argparse.Namespace(**{**vars(options), "network": PLANNED, "settings": [], "at_once": 1, "commit": None})
    for name in options.sets:
        asked.work = work / name
        row = {"variant": name, "fold": 0, **fold_row("square_roots", 0, lists[name], asked, None)}
        _keep(options, row | {"images_trained_on": sum(entry["fold"] != 0 for entry in lists[name].training)})
    for line in json.loads(options.json.read_text())["pooled"]:
        shown = ", ".join(f"{name} {each['mean']:.3f}" for name, each in line["dice"].items())
        sys.stdout.write(f"{line['kind'] or 'all'} ({line['images']}): {shown}\n")


def _keep(options: argparse.Namespace, row: Mapping[str, Any]) -> None:
    held = json.loads(options.json.read_text())["rows"] if options.json.is_file() else []
    every = [each for each in held if each["variant"] != row["variant"]] + [row]
    head = {
        "benchmark": "nuclei_release", "minutes": options.minutes, "seed": options.seed, "data": {"folds": 1},
        "notes": list(options.note), "pooled": pooled(every),
    }  # fmt: skip
    merge_rows(options.json, head, [row], lambda each: SETS.index(each["variant"]))


if __name__ == "__main__":
    main()
