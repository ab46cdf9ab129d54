"""Train one bundle by several recipes or networks for the same minutes, and score all of them on the same images.

    python -m benchmarks.recipes focusnet_pp_dsb2018 --data DATA --minutes 9 --methods demo modern demo+unet

A method is one or several overlays of the bundle, joined by ``+``; ``train`` is the paper's recipe. Further settings
(``--set KEY=VALUE``) hold for all of them. What is in the work folder already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import call, evaluate_words, report, train_words
from medseg.bundle import library
from medseg.cli._arguments import setting
from medseg.studies import comparison


def train_and_score(bundle: str, method: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train by one method, score it, and return what the run says of itself."""
    overlays = [*options.overlays, *(name for name in method.split("+") if name != "train")]
    if not (folder / "model.pt").is_file():
        settings = {"max_minutes": options.minutes, "seed": options.seed, "mlflow": False, "resume": True}
        call(train_words(bundle, options.data, folder, overlays, {**settings, **dict(options.settings)}))
    if not (folder / "test" / "scores.json").is_file():
        call(evaluate_words(folder, folder / "test"))
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "overlays": overlays,
        "epochs": len(epochs),
        "minutes": epochs[-1]["seconds"] / 60,
        "images_per_second": sorted(epoch["images_per_second"] for epoch in epochs)[len(epochs) // 2],
        "scores": json.loads((folder / "test" / "scores.json").read_text()),
        "data": json.loads((folder / "test" / "data.json").read_text()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", choices=library.names(), metavar="bundle", help="name of a bundle")
    parser.add_argument("--set", dest="settings", type=setting, nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--data", type=Path, required=True, help="folder of the datalist")
    parser.add_argument("--methods", nargs="+", default=["train"])
    parser.add_argument("--overlays", nargs="*", default=[], help="under every method, such as small")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--otsu", action="store_true", help="Otsu's threshold as a row")
    parser.add_argument("--work", type=Path, default=Path("build/recipes"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    results: dict[str, Any] = {}
    for method in options.methods:
        folder = options.work / options.bundle / f"{method}_{options.minutes:g}min_seed{options.seed}"
        started = time.monotonic()
        results[method] = train_and_score(options.bundle, method, folder, options)
        results[method]["wall_minutes"] = (time.monotonic() - started) / 60
    methods = [comparison.Method(name, held["scores"], held["data"]) for name, held in results.items()]
    comparison.check_same_data(methods)
    if options.otsu:
        methods.insert(0, comparison.otsu_method(methods, options.data / "datalist.json"))
    rows = comparison.rows_of(methods)
    for row, held in zip(rows[-len(results) :], results.values(), strict=True):
        row |= {key: held[key] for key in ("epochs", "minutes", "images_per_second")}
    sys.stdout.write(comparison.table_of(rows).to("text"))
    shown = {"bundle": options.bundle, "minutes": options.minutes, "seed": options.seed, "data": methods[-1].data}
    report(f"{options.bundle}: {', '.join(results)}", {**shown, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
