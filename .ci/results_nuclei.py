"""The page of nuclei: five folds of those at hand, and images drawn like the whole release, beside Otsu."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from results_gpu import device_of

from medseg.errors import counted
from medseg.reports.score_tables import mean_text

NAMES = {"images_alike": "images alike", "square_roots": "square roots", "kinds_alike": "kinds alike", "otsu": "Otsu"}
NAMES |= {"at_hand": "trained on the images at hand", "release": "trained on all others of the release"}


def nuclei(results: Path) -> str:
    """Return the tables of ``nuclei_gpu.json`` and ``nuclei_cpu.json``; nothing where that was not measured."""
    paths = [results / f"nuclei_{device}.json" for device in ("gpu", "cpu")]
    pages = [_page(path) for path in paths if path.is_file()]
    parts = {
        "nuclei_thresholds_cpu": lambda record: _thresholds(record["result"]), "nuclei_release": _release,
    }  # fmt: skip
    there = {results / f"{name}.json": made for name, made in parts.items()}
    pages += [made(json.loads(path.read_text())) for path, made in there.items() if path.is_file()]
    return "\n\n".join(pages)


def _release(record: dict[str, Any]) -> str:
    """Return how trainings stand on images drawn like the whole release."""
    rows, pooled = record["rows"], record["pooled"]
    trained = []
    for row in rows:
        plan = row["plan"]
        trained.append(
            f"{NAMES[row['variant']]} ({row['images_trained_on']}): {row['steps']} steps of {plan['network']['name']} "
            f"from {plan['network']['channels'][0]} channels, patch {' x '.join(map(str, plan['patch']))}"
        )
    lines = [
        "## Images drawn like the whole release",
        "",
        f"{pooled[0]['images']} images of the release that are not among those at hand, each acquisition (size, and "
        "dark, bright or colour) as often as the whole release has it: more large images and more stained tissue than "
        "at hand. Neither training has seen them; the release names no patient or plate, so images of one plate may "
        f"stand on both sides. `medseg train DATA --minutes {record['minutes']:g}`, nothing else changed, seed "
        f"{record['seed']}, on {device_of(rows[0])} "
        f"(`python -m benchmarks.nuclei_release`): {'; '.join(trained)}.",
    ]
    for key, heading in (
        ("iou", "IoU of an image, mean [95 % interval over images]"),
        ("iou_above_otsu", "IoU of an image, less Otsu's on the same image"),
        ("dice", "Dice of an image, mean [95 % interval over images]"),
        ("dice_above_otsu", "Dice of an image, less Otsu's on the same image"),
        ("pooled_iou", "IoU over all pixels of the images together"),
    ):
        lines += ["", f"{heading}:", "", *_table(pooled, key)]
    return "\n".join([*lines, *(line for note in record["notes"] for line in ("", note))])


def _thresholds(result: dict[str, Any]) -> str:
    """Return the bounds of any threshold, by kind."""
    sides = {
        "network": "the network's mask", "network_best": "its probabilities, best threshold of each image",
        "grey_best": "grey values, best threshold of each image", "above_grey": "the former less the latter",
    }  # fmt: skip
    lines = [f"| kind of image | images | {' | '.join(sides.values())} |", "| --- " * (2 + len(sides)) + "|"]
    for line in result["pooled"]:
        cells = [line["kind"] or "**all**", str(line["images"]), *(_cell(line[side]) for side in sides)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([
        "## How far a threshold can reach",
        "",
        "Who draws nuclei a little wider or tighter moves every Dice. Here each image gets the threshold that suits "
        "its own label best (`python -m benchmarks.nuclei_thresholds`): bounds, which no method reaches, since nobody "
        f"has the label. The networks are those above ({NAMES[result['variant']]}, {result['minutes']:g} minutes); "
        "Dice, mean [95 % interval over images]:",
        "",
        *lines,
    ])  # fmt: skip


def _page(path: Path) -> str:
    record = json.loads(path.read_text())
    rows = [row for row in record["rows"] if "error" not in row]
    lines = [_run(record, rows)]
    for score, heading in (("dice", "Dice of an image"), ("iou", "IoU of an image")):
        lines += ["", f"{heading}, mean [95 % interval over images]:", "", *_table(record["pooled"], score)]
        lines += [
            "",
            f"{heading}, less Otsu's on the same image:",
            "",
            *_table(record["pooled"], f"{score}_above_otsu"),
        ]
        first = next(key for key in record["pooled"][0] if key.startswith(f"{score}_above_") and "otsu" not in key)
        if record["pooled"][0][first]:  # where both were measured
            lines += ["", f"{heading}, less that of images drawn alike:", "", *_table(record["pooled"], first)]
    lines += ["", "IoU over all pixels of the images together:", "", *_table(record["pooled"], "pooled_iou")]
    for row in record["rows"]:
        if "error" in row:
            lines += ["", f"{NAMES[row['variant']]}, fold {row['fold']}: {row['error'].splitlines()[0][:200]}"]
    return "\n".join([*lines, *(line for note in record.get("notes", ()) for line in ("", note))])


def _run(record: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    steps = [row["steps"] for row in rows]
    together = max(row["at_once"] for row in rows)
    threads = max(1, rows[0]["environment"]["threads"] // together)
    folds = record["pooled"][0]["folds"]
    plans = Counter(
        f"{row['plan']['network']['name']} from {row['plan']['network']['channels'][0]} channels, patch "
        f"{' x '.join(map(str, row['plan']['patch']))}, batch {row['plan']['batch_size']}"
        for row in rows
    )
    return (
        f"{record['minutes']:g} minutes a training, seed {record['seed']}, {folds} of {record['data']['folds']} folds, "
        f"{min(steps)} to {max(steps)} steps; {counted(together, 'training')} at a time, "
        f"{counted(threads, 'thread')} each, on {device_of(rows[0])}. Each planned for itself, by what it "
        f"measured there: {'; '.join(f'{plan} ({number})' for plan, number in plans.most_common())}."
    )


def _table(lines: list[dict[str, Any]], key: str) -> list[str]:
    sides = list(lines[0][key])
    made = [f"| kind of image | images | {' | '.join(NAMES[side] for side in sides)} |"]
    made.append("| --- " * (2 + len(sides)) + "|")
    for line in lines:
        cells = [line["kind"] or "**all**", str(line["images"]), *(_cell(line[key][side]) for side in sides)]
        made.append(f"| {' | '.join(cells)} |")
    return made


def _cell(found: dict[str, Any] | float) -> str:
    if isinstance(found, float):
        return f"{found:.3f}"
    return "-" if found["mean"] is None else mean_text(found["mean"], found["interval"])
