"""What `benchmarks.cohort` measured, for `make_results.py`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KINDS = {
    "pictures": "pictures",
    "volumes": "volumes",
    "large_volumes": "volumes of eight times as many voxels, interpolated from those",
}
SIDES = {
    "bare": "the same forwards alone, in a process that has done them before",
    "medseg_inside": "medseg, in a process that has predicted before",
    "nnunet_inside": "nnU-Net's predictor, likewise",
    "medseg_one": "`medseg predict`, the largest image alone",
    "medseg": "`medseg predict`",
    "nnunet": "nnU-Net's command, six processes beside",
    "monai": "`python -m monai.bundle run`",
}
NAMES = {
    "medseg_inside / bare": "medseg in one process / bare forwards",
    "nnunet / medseg": "nnU-Net's command / `medseg predict`",
    "nnunet_inside / medseg_inside": "nnU-Net / medseg, each in one process",
    "monai / medseg": "MONAI's command / `medseg predict`",
    "first mask, s": "`medseg predict`, start to first mask, s",
    "after the last forward / a case": "after the last forward until the process is gone / what a case takes",
    "peak beside one case, GiB": "peak memory beside that of one image, GiB",
}


def cohort(results: Path) -> str:
    """Return the section of speed.md; nothing before it was measured."""
    path = results / "cohort_cpu.json"
    if not path.is_file():
        return ""
    record = json.loads(path.read_text())
    result = record["result"]
    about = (
        f"A trained model over a cohort, from files to masks, on {result['threads']} threads of "
        f"{record['environment']['cpu']['model']}, medians of rounds in turn ({result['rounds']}), by "
        "`python -m benchmarks.cohort`. All sides run one U-Net (nnU-Net's) with equal weights, windows and overlap. "
        "A command's seconds are those from its start until its process is gone; CPU seconds count the "
        "processes that it started, the peak is that of the largest."
    )
    parts = [_kind(name, result[name], result["targets"]) for name in KINDS if name in result]
    return "\n\n".join(["## A cohort", about, *parts])


def _kind(name: str, found: Mapping[str, Any], targets: Mapping[str, tuple[str, float]]) -> str:
    window = " x ".join(map(str, found["window"]))
    same = found["equal_pixels"]
    load = ", ".join(f"{each:.1f}" for each in found["load"])
    number, bare = found["sides"]["bare"]["windows"], found["ratios"]["wall"]
    lines = [
        f"{found['number']} {KINDS[name]}, windows of {window} ({number:.0f} in all), channels "
        f"{'-'.join(map(str, found['channels']))}. Pixels equal to medseg's: nnU-Net's {same['nnunet']:.4f}, MONAI's "
        f"{same['monai']:.4f}. Load of the machine before each round: {load}. The bare forwards alone are "
        f"{bare['monai / bare']['median']:.3g} times as fast as MONAI's command and "
        f"{bare['nnunet_inside / bare']['median']:.3g} times as fast as nnU-Net in one process: nobody who computes "
        "them can be faster.",
        "",
        "| what | measured | by CPU seconds | target |",
        "| --- | --- | --- | --- |",
    ]
    for key, what in NAMES.items():
        (side, edge), value = targets[key], found["ratios"]["wall"][key]["median"]
        reached = value <= edge if side == "at most" else value >= edge
        cpu = found["ratios"]["cpu"].get(key)
        shown = "" if cpu is None else f"{cpu['median']:.3g}"
        lines.append(f"| {what} | {value:.3g} | {shown} | {side} {edge:g}: {'met' if reached else '**missed**'} |")
    lines += ["", "| side | seconds | CPU seconds | first mask, s | peak, GiB |", "| --- | --- | --- | --- | --- |"]
    for side, what in SIDES.items():
        values = found["sides"][side]
        cells = [f"{values[key]:.3g}" if key in values else "" for key in ("wall", "cpu", "first_mask", "peak")]
        lines.append(f"| {' | '.join([what, *cells])} |")
    return "\n".join(lines)
