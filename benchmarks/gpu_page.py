"""The page of what `benchmarks.gpu` found, made from its JSON: the papers' figures stand in columns of their own."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_rows import CLASSES, MEASURED, TABLE_1, TABLE_3, TRAININGS, Measured
from benchmarks.gpu_speed import read
from medseg.studies.complexity import build
from medseg.studies.measures import parameters
from medseg.studies.paper_figures import Row

_ITEMS = ("drosophila", "dsb2018")
_STEPS = {"drosophila": 24, "dsb2018": 20}  # a pass, batch 8
_SPLITS = {"fold_random": "crops at random", "fold": "by section"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def number(value: float | None, form: str = ".3f", *, scale: float = 1.0) -> str:
    """Return a number as a cell; what is not there is ``-``."""
    return "-" if value is None else format(value * scale, form)


def done(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rows that have scores."""
    return {name: row for name, row in content.get("rows", {}).items() if "error" not in row}


def called(name: str, row: Mapping[str, Any]) -> str:
    """Return how a row is shown: network, what is not the paper's, and whether it was trained before."""
    variant = f" ({row['variant']})" if row.get("variant") else ""
    return f"{row['network']}{variant}{', again' if name.endswith('again') else ''}"


def tissue(content: Mapping[str, Any]) -> str:
    """Return paper 1's Table 1."""
    lines = []
    for split, shown in _SPLITS.items():
        for name, row in done(content).items():
            if row["split"] == split:
                ious = [next((c["iou"] for c in row["classes"] if c["name"] == each), None) for each in CLASSES]
                paper = [f"{value:.1f}" for value in TABLE_1[row["network"]]]
                if row.get("variant"):
                    paper = ["-"] * len(paper)
                ours = [number(value, ".1f", scale=100) for value in (row["mean_iou"], *ious)]
                cells = [f"{one} / {other}" for one, other in zip(ours[1:], paper[1:], strict=True)]
                counts = [f"{row['fold']}", f"{row['passes']}", f"{row['passes'] * _STEPS['drosophila']}"]
                loss = number(row["last_loss"])
                lines.append([called(name, row), shown, *counts, f"**{ours[0]}**", paper[0], *cells, loss])
    head = ["network", "division", "fold", "passes", "steps", "mean IoU", "paper's mean IoU"]
    return table([*head, *(f"{name}, ours / paper's" for name in CLASSES), "training loss"], lines)


def nuclei(content: Mapping[str, Any]) -> str:
    """Return paper 2's Table 3."""
    lines = []
    for name, row in done(content).items():
        found = row["classes"][1]
        ours = [number(found[key], ".4f") for key in ("precision", "recall")]
        paper = [f"{value:.4f}" for value in TABLE_3[row["network"]]]
        more = [number(found[key], ".4f") for key in ("dice", "iou")]
        more.append(number(row.get("instances", {}).get("average_precision"), ".3f"))
        lines.append([called(name, row), f"{row['passes']}", ours[0], paper[0], ours[1], paper[1], *more])
    head = ["network", "passes", "precision", "paper's precision", "recall", "paper's recall", "Dice", "IoU"]
    return table([*head, "AP of nuclei"], lines)


def networks(content: Mapping[str, Any]) -> str:
    """Return speed, memory and share of the peak of every network."""
    lines = []
    for name, row in content.get("rows", {}).items():
        if "error" in row:
            lines.append([name, f"failed: {row['error'].splitlines()[0][:80]}", *["-"] * 11])
            continue
        forms = row["formats"]
        size = " x ".join(map(str, row["size"]))
        cells = [f"{size}, {row['batch']}", number(row["macs"], ".1f", scale=1e-9)]
        for form in ("fp32", "bf16", "bf16 channels-last"):
            cells.append(number(forms.get(form, {}).get("training_step_seconds"), ".1f", scale=1e3))
        best = forms.get("bf16 channels-last", {})
        cells += [number(best.get(f"{kind}_images_per_second"), ".0f") for kind in ("training", "inference")]
        cells.append(number(forms.get("fp32", {}).get("inference_images_per_second"), ".0f"))
        for form in ("fp32", "bf16 channels-last"):
            cells.append(number(forms.get(form, {}).get("training_peak_bytes"), ".1f", scale=2**-30))
        cells += [number(best.get(f"{kind}_mfu"), ".1f", scale=100) for kind in ("training", "inference")]
        lines.append([name, *cells])
    head = ["network", "pixels, batch", "GMAC", "step, ms: fp32", "bf16", "bf16 cl", "images/s: training, bf16 cl"]
    head += ["inference, bf16 cl", "inference, fp32", "peak GiB: fp32", "bf16 cl", "MFU training, %"]
    return table([*head, "MFU inference, %"], lines) + _timed_otherwise(content)


def _timed_otherwise(content: Mapping[str, Any]) -> str:
    """Return a line of rows that were timed with another network, or at another crop, than they have now."""
    now = {row.name: row for row in MEASURED}
    names = [name for name, row in done(content).items() if name in now and _is_other(row, now[name])]
    said = "Timed at another crop, or as another network, than the bundle trains now"
    return f"\n{said}: {'; '.join(names)}.\n" if names else ""


def _is_other(timed: Mapping[str, Any], now: Measured) -> bool:
    row = Row(now.name, now.path, now.in_channels, now.out_channels, now.size, now.kwargs)
    return tuple(timed["size"]) != now.size or timed["parameters"] != parameters(build(row, "meta"))


def compiled(content: Mapping[str, Any]) -> str:
    """Return what ``torch.compile`` gains."""
    lines = []
    for name, row in content.get("compiled", {}).items():
        eager = content["rows"][name]["formats"].get("bf16 channels-last", {}).get("training_images_per_second")
        speed = row.get("training_images_per_second")
        gain = None if not (eager and speed) else speed / eager
        first = number(row.get("first_step_seconds"), ".0f")
        lines.append([name, number(eager, ".0f"), row.get("error") or number(speed, ".0f"), number(gain, ".2f"), first])
    return table(["network", "images/s training", "compiled", "ratio", "first step, s"], lines)


def engine(content: Mapping[str, Any]) -> str:
    """Return images a second of loaders and loops."""
    rows = content.get("rows", {})
    chosen = {k: f" ({row['measured']['augment_on']})" for k, row in rows.items() if "measured" in row}
    shown = {k: row.get("error") or number(row["images_per_second"], ",.0f") for k, row in rows.items()}
    cells = [[k + chosen.get(k, ""), value] for k, value in shown.items()]
    return table(["what", "images/s"], cells)


def spread(content: Mapping[str, Any]) -> str:
    """Return how far trainings that were done twice with one seed differ."""
    rows = done(content)
    pairs = [(row, rows[name.removesuffix(", again")]) for name, row in rows.items() if name.endswith(", again")]
    gaps = [abs(one["mean_iou"] - other["mean_iou"]) for one, other in pairs]
    if not gaps:
        return ""
    return (
        f"Trained twice with one seed (sums on a GPU have no fixed order): {len(gaps)}; mean IoU differs by "
        f"{statistics.fmean(gaps) * 100:.1f} points on average, {max(gaps) * 100:.1f} at most.\n"
    )


def missing(contents: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the trainings that were not done, and those that failed."""
    lines = []
    for item in _ITEMS:
        held = contents[item].get("rows", {})
        for row in (row for row in TRAININGS if row.item == item):
            error = held.get(row.name, {}).get("error") if row.name in held else "not run"
            if error:
                lines.append([item, row.name, error.splitlines()[0][:120]])
    return table(["data", "training", "why"], lines)


def render(out: Path) -> str:
    """Return the whole page.

    Args:
        out: folder of the JSON.
    """
    contents = {name: read(out / f"gpu_{name}.json") for name in ("run", "networks", "engine", "patches", *_ITEMS)}
    parts = [_head(contents)]
    sections: tuple[tuple[str, str, Callable[[Mapping[str, Any]], str]], ...] = (
        ("drosophila", _TISSUE, tissue),
        ("dsb2018", _NUCLEI, nuclei),
        ("networks", _SPEED, networks),
        ("engine", _ENGINE, engine),
        ("patches", _PATCHES, engine),
    )
    for name, text, shown in sections:
        if not contents[name]:
            continue
        parts.append(f"{text}\n{shown(contents[name])}")
        if name in ("drosophila", "dsb2018"):
            parts.append(spread(contents[name]))
        if name == "networks":
            parts.append(f"{_ceilings(contents[name])}\n{compiled(contents[name])}")
        if name in ("engine", "patches"):
            ratios = contents[name].get("ratios", {}).items()
            parts.append("".join(f"- {key.replace('_', ' ')}: {value:.2f}\n" for key, value in ratios))
        if name == "patches":
            parts.append(f"Code {', '.join(_commits([contents[name]['environment'].get('git')]))}.\n")
        parts += [f"{note}\n" for note in contents[name].get("notes", ())]
    parts.append(f"## Not done\n\n{missing(contents)}")
    return "\n".join(part for part in parts if part)


def _head(contents: Mapping[str, Mapping[str, Any]]) -> str:
    run = contents["run"]
    environment, seconds = run["environment"], run.get("calls_seconds", [])
    device = ", ".join(f"{gpu['name']} ({gpu['memory_gib']:g} GiB)" for gpu in environment["gpus"]) or "no GPU"
    rows = [row for item in _ITEMS for row in contents[item].get("rows", {}).values()]
    commits = _commits([environment.get("git"), *(row["git"] for row in rows if "git" in row)])
    packages = environment["packages"]
    return (
        "<!-- Written by `python -m benchmarks.gpu --page --out docs/results`; do not edit. -->\n# On one GPU\n\n"
        f"{device}, {environment['cpu']['cores']} CPU cores, torch {packages['torch']}, MONAI {packages['monai']}, "
        f"CUDA {environment['cuda']}; {len(seconds)} calls of {sum(seconds) / 60:.0f} minutes together, seed "
        f"{run['seed']}, code {', '.join(commits)}: `{run['command']}`. Trainings ran several at a time, as many as "
        "their records say; what calls did that had not each other's records is there twice (again). Records: "
        "`gpu_*.json` beside this page. Papers' figures stand in columns that say so, as "
        "printed; theirs come from whole schedules, five folds or more data.\n"
    )


def _commits(held: Iterable[Mapping[str, Any] | None]) -> list[str]:
    return list(dict.fromkeys(str((each or {}).get("commit"))[:7] for each in held))


def _ceilings(content: Mapping[str, Any]) -> str:
    held = content.get("ceilings", {})
    products = ", ".join(
        f"{number(held.get(f'matmul_{k}_flops'), '.0f', scale=1e-12)} TFLOP/s {k}" for k in ("bf16", "fp32")
    )
    copied = number(held.get("copy_bytes"), ".2f", scale=1e-12)
    return (
        f"Ceilings measured here: a product of 8192 x 8192 {products}; a copy {copied} TB/s. `torch.compile` of the "
        "step, bf16 channels-last:\n"
    )


_TISSUE = """## LFA U-Net's paper, Table 1: Drosophila ssTEM, IoU in per cent

320 crops of 256 x 256, full widths, batch 8, Adam 0.001 with a cosine, focal + IoU loss, no augmentation, bf16 unless
a row says otherwise; 192 crops train, 64 pick the weights, 64 are scored. The paper trains 1500 passes and gives the
mean of five folds, most likely of crops at random; here it is one fold and one seed, after the passes that fitted.
The last column is the loss of the last passes: it tells a network that has not learned its training crops yet from one
that does not generalise.
"""
_NUCLEI = """## FocusNet++'s paper, Table 3: nuclei of DSB 2018

161 of 200 images train, the 39 others are scored (the paper: 540 and 130), 256 x 256, batch 8, ALL-HL loss, polynomial
fall, no augmentation, the last weights: no image picks what it scores. 120 passes, a number set between two calls,
are the steps of 36 of the paper's 50 epochs. Scores are pooled over all pixels; the paper's are most likely means over
images. ALL-HL leans to recall.
"""
_SPEED = """## Speed of every network at its paper's crop and batch

Where a paper names no crop or batch, its bundle's. A training step is forward, backward and Adam on one batch that is
there already, alone on the device; cuDNN picks by its heuristics (no benchmark mode). fp32 convolves in TF32, "cl" is
channels-last. MFU: operations counted from
multiply-adds (three forwards a step) over the data sheet's dense peak, 989 TFLOP/s in bf16. Where a step takes about
as long in all formats, the processor that launches kernels is the limit, not the device.
"""
_ENGINE = """## Trainer and loaders

The paper's U-Net, batch 8 of 256 x 256, bf16 channels-last, focal + IoU loss.
"""
_PATCHES = """## Patches by place of augmentation

The trainer with nnU-Net's augmentation on drawn images, by `python -m benchmarks.gpu_speed patches`: 2D patches of
160 x 160, batch 4, U-Net of widths 16 to 256; 3D patches of 96 x 96 x 96, batch 2, widths 32 to 256. "cuDNN tries" is
its benchmark mode; in brackets stands the place that `auto` chose.
"""
