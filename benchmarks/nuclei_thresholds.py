"""How far any one threshold of an image can reach: of a network's probability of nucleus, and of the grey value.

    python -m benchmarks.nuclei_thresholds --work build/nuclei_folds --minutes 8 --json FILE

Who draws nuclei a little wider or tighter moves every Dice, of a network's mask and of Otsu's alike. What each knows of
where nuclei are, apart from how wide they are drawn, is seen where each image gets the threshold that suits its own
label best: bounds, for nobody has the label. `benchmarks.nuclei_folds` has trained the networks, one variant of them is
looked at, and each image is predicted by the one that did not see it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.color import rgb2gray

from benchmarks.common import report
from benchmarks.nuclei_folds import FOLDS, VARIANTS, mean, whole
from medseg.bundle.data import load_data, split
from medseg.data.kinds import kinds_of
from medseg.prediction.model import load

SIDES = ("network", "network_best", "grey_best")


def best_dice(score: NDArray[Any], truth: NDArray[np.bool_]) -> float:
    """Return the highest Dice of ``score >= threshold`` over all thresholds; 1 where there is nothing to find.

    Args:
        score: a number a pixel.
        truth: of the same shape.
    """
    if not truth.any():
        return 1.0
    order = np.argsort(-score.ravel(), kind="stable")
    ranked, right = score.ravel()[order], np.cumsum(truth.ravel()[order])
    dice = 2 * right / (np.arange(1, right.size + 1) + truth.sum())
    ends = np.append(ranked[1:] != ranked[:-1], True)  # pixels of one value are in or out together
    return float(dice[ends].max())


def images_of(work: Path, variant: str, minutes: float, seed: int) -> list[dict[str, Any]]:
    """Return kind and bounds of each image, by the network of the fold that left it out."""
    data = load_data(whole(work / "data" / "dsb2018"))
    rows = []
    for fold in range(FOLDS):
        test = split(data, {"fold": fold, "validation_fold": None})[2]
        model = load(work / f"{variant}_{fold}_{minutes:g}min_seed{seed}" / "run")
        for entry, kind in zip(test, kinds_of(data, test), strict=True):
            truth = np.array(Image.open(entry["label"])) > 0
            probability = np.asarray(model.predict(entry["image"], probabilities=True).probabilities)[1]
            grey = rgb2gray(np.array(Image.open(entry["image"]).convert("RGB")))
            found = probability > 0.5
            rows.append({
                "fold": fold, "kind": kind,
                "network": float(2 * (found & truth).sum() / max(1, found.sum() + truth.sum())),
                "network_best": best_dice(probability, truth),
                "grey_best": max(best_dice(grey, truth), best_dice(-grey, truth)),
            })  # fmt: skip
        sys.stderr.write(f"fold {fold}: {len(test)} images\n")
    return rows


def pooled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line for all images and one a kind: means, intervals, the network's bound less that of grey values."""
    lines = []
    for kind in (None, *(name for name, _ in Counter(row["kind"] for row in rows).most_common())):
        inside = [row for row in rows if kind in (None, row["kind"])]
        values = {side: np.array([row[side] for row in inside]) for side in SIDES}
        lines.append({
            "kind": kind, "images": len(inside), **{side: mean(each) for side, each in values.items()},
            "above_grey": mean(values["network_best"] - values["grey_best"]),
        })  # fmt: skip
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/nuclei_folds"), help="of benchmarks.nuclei_folds")
    parser.add_argument("--variant", choices=VARIANTS, default="square_roots")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    rows = images_of(options.work, options.variant, options.minutes, options.seed)
    settings = {"variant": options.variant, "minutes": options.minutes, "seed": options.seed}
    result = {**settings, "pooled": pooled(rows)}
    report("the best threshold of each image of nuclei", result, options.json)


if __name__ == "__main__":
    main()
