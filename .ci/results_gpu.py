"""What was measured on a GPU, and of large volumes, for `make_results.py`; a record's ``notes`` stand below it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from medseg.reports.score_tables import mean_text

_WAYS = {
    "gaussian": "to its mask", "constant": "to its mask, equal weights", "resampled": "to its mask, resampled",
    "evaluate": "to its scores", "evaluate_resampled": "to its scores, resampled",
}  # fmt: skip


def patches_on_a_gpu(results: Path) -> str:
    """Return the section of `benchmarks.patch_training_gpu`: the median over rounds; nothing before it was measured."""
    path = results / "patch_training_gpu.json"
    if not path.is_file():
        return ""
    record = json.loads(path.read_text())
    result = record["result"]
    held: dict[tuple[str, str], list[dict[str, float]]] = {}
    for row in result["rows"]:
        if "seconds" in row:
            held.setdefault((row["setting"], row["side"]), []).append(row)
    device = next((row["device"] for row in result["rows"] if "device" in row), "a CPU, to try it out")
    parts = [
        f"## Patches on a GPU\n\n{device}, mixed precision, {result['workers']} loading processes a side, by "
        "`python -m benchmarks.patch_training_gpu`. `medseg, auto` is what a plan asks for. "
        "MFU: the network's operations over the data sheet's peak."
    ]
    for name, setting in result["settings"].items():
        patch, widths = (("x" if key == "patch" else "-").join(map(str, setting[key])) for key in ("patch", "widths"))
        heads = ["side", "patches/s", "`medseg, auto` / it", "waiting for data", "MFU", "peak GiB", "rounds"]
        lines = [f"{name}: patch {patch}, batch {setting['batch']}, channels {widths}"]
        lines += ["", f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
        for (of, side), rows in held.items():
            if of == name:
                over = result["ratios"].get(f"{name}: medseg, auto / {side}")
                cells = [side, f"{1 / median(row['seconds'] for row in rows):.4g}", _between(over) if over else "-"]
                for key, scale, digits in (("data_wait_share", 1, 3), ("mfu", 1, 3), ("peak_bytes", 2**30, 2)):
                    found = [row[key] / scale for row in rows if key in row]
                    cells.append(f"{median(found):.{digits}f}" if found else "-")
                lines.append(f"| {' | '.join([*cells, str(len(rows))])} |")
        lines += _targets(name, result["ratios"], held)
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, *record.get("notes", ())])


def _targets(
    setting: str, ratios: Mapping[str, Sequence[float]], held: Mapping[tuple[str, str], list[dict[str, float]]]
) -> list[str]:
    """Return a line that sets beside its target what was reached; nothing of a setting that was not measured."""
    said = []
    for side, words, least in (("nnunet", "nnU-Net's trainer", 1.3), ("monai", "the MONAI script", 1.5)):
        over = ratios.get(f"{setting}: medseg, auto / {side}")
        if over is not None:
            said.append(
                f"patches/s over {words} {_between(over)}, target at least {least:g}: {_met(median(over) >= least)}"
            )
    waits = [row["data_wait_share"] for row in held.get((setting, "medseg, auto"), ()) if "data_wait_share" in row]
    if waits:
        said.append(f"waiting for data {median(waits):.3f}, target at most 0.03: {_met(median(waits) <= 0.03)}")
    return ["", f"`medseg, auto`: {'; '.join(said)}."] if said else []


def _between(rounds: Sequence[float]) -> str:
    """Return the median of some rounds, and the least and the most of several."""
    least, most = min(rounds), max(rounds)
    return f"{median(rounds):.2f}" + (f" ({least:.2f} to {most:.2f})" if len(rounds) > 1 else "")


def _met(there: bool) -> str:
    return "met" if there else "**missed**"


def large_volumes(results: Path) -> str:
    """Return the section of `benchmarks.volume_peak` and `benchmarks.volume_device`; nothing before they ran."""
    parts = list(filter(None, (_on_a_cpu(results / "volume_peak_cpu.json"), _on_a_gpu(results / "volume_gpu.json"))))
    about = (
        "## A large volume of many classes\n\n512 x 512 x 300 voxels, 20 classes, windows of 128 with overlap 0.5, "
        "four a forward; a ratio is the time over that of the same forwards alone."
    )
    return "\n\n".join([about, *parts]) if parts else ""


def _on_a_cpu(path: Path) -> str:
    if not path.is_file():
        return ""
    record = json.loads(path.read_text())
    result = record["result"]
    limit, heads = (
        result["target_ratio"],
        ["on a CPU", "memory, MiB", "target", "ratio", "target", "seconds", "forwards, s"],
    )
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for way, words in _WAYS.items():
        if f"peak_mib_{way}" in result:
            most = result["target_peak_mib_evaluate" if way.startswith("evaluate") else "target_peak_mib"]
            peak, ratio = result[f"peak_mib_{way}"], result.get(f"ratio_{way}")
            cells = [words, f"{peak:,.0f}", f"at most {most:,.0f}: {_met(peak <= most)}"]
            cells += ["", ""] if ratio is None else [f"{ratio:.2f}", f"at most {limit:.2f}: {_met(ratio <= limit)}"]
            seconds = [result.get(key) for key in (f"seconds_{way}", f"seconds_bare_{way}")]
            cells += ["" if each is None else f"{each:.0f}" for each in seconds]
            lines.append(f"| {' | '.join(cells)} |")
    about = (
        f"From file to file by `{record['command']}`: the processor's time of one thread, and the process's peak "
        "beside what it holds before (the target: input, labels and 1.5 GiB; all logits would be "
        f"{result['logits_mib']:,.0f} MiB). {record['environment']['cpu']['model']}"
    )
    how = f"; {record['run']}" if "run" in record else ""
    return "\n\n".join(["\n".join(lines), f"{about}{how}.", *record.get("notes", ())])


def _on_a_gpu(path: Path) -> str:
    if not path.is_file():
        return ""
    record = json.loads(path.read_text())
    result = record["result"]
    limit, heads = result["target_ratio"], ["on a GPU", "seconds", "ratio", "target", "device's peak, MiB"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for name, row in result["rows"].items():
        if "seconds" in row:
            ratio = result["ratios"].get(name)
            target = f"at most {limit:.2f}: {_met(ratio <= limit)}" if ratio and name.startswith("medseg") else ""
            cells = [name, f"{row['seconds']:.2f}", f"{ratio:.2f}" if ratio else "", target]
            lines.append(f"| {' | '.join([*cells, format(row['device_peak_mib'], ',.0f')])} |")
    about = (
        f"From an image in the computer's memory to its classes there, on {device_of(record)}, {result['precision']}, "
        f"by `{record['command']}`; the peak is beside the weights."
    )
    return "\n\n".join(["\n".join(lines), about, *record.get("notes", ())])


def device_of(record: dict[str, Any]) -> str:
    """Return where something was measured."""
    environment = record["environment"]
    gpus = ", ".join(gpu["name"] for gpu in environment.get("gpus", ()))
    return f"one {gpus}" if gpus else f"{environment['threads']} thread(s) of a CPU"


def folds(results: Path) -> str:
    """Return the tables of `benchmarks.gpu_folds`."""
    path = results / "gpu_folds.json"
    if not path.is_file():
        return ""
    record = json.loads(path.read_text())
    published, plan, found = record["published"], record["plan"], record["pooled"]
    rows = [row for row in record["rows"] if "error" not in row]
    if not rows:
        return ""
    scores = (("dice", "Dice", 3), ("hd95", "HD95 mm", 2), ("assd", "ASSD mm", 2), ("nsd", "NSD 1 mm", 3))
    classes = list(found["dice"])
    heads = ["fold", "cases", "minutes", "steps", "patches/s", "waiting", *(title for _, title, _ in scores)]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row in rows:
        held = {each["name"]: each for each in row["classes"]}
        cells = [row["fold"], row["cases"], f"{row['minutes']:.1f}", row["steps"], f"{row['images_per_second']:.0f}"]
        cells.append(f"{100 * row['data_wait_share']:.1f} %")
        cells += [" / ".join(_cell(held.get(name, {}).get(key), n) for name in classes) for key, _, n in scores]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    cells = ["all", str(found["cases"]), "", str(sum(row["steps"] for row in rows)), "", ""]
    for key, *_ in scores:
        cells.append("<br>".join(mean_text(each["mean"] or 0.0, each["interval"]) for each in found[key].values()))
    lines.append(f"| {' | '.join(cells)} |")
    cells = ["published", "260", "", "", "", "", " / ".join(f"{v:.3f}" for v in published["dice"].values()), "", "", ""]
    lines.append(f"| {' | '.join(cells)} |")
    pace = sum(row["images_per_second"] for row in rows)
    busy = f", {3 * 2 * plan['macs'] * pace / 1e12:.1f} TFLOP/s in them" if plan["macs"] else ""
    memory = record.get("device_memory_mib")
    held_memory = f", at most {memory / 1024:.1f} GiB of its memory" if memory else ""
    made = f"made in {plan['seconds']:.0f} s" if plan["seconds"] >= 1 else "which a call before this one made"
    failed = [f"Fold {r['fold']} failed: {r['error'].splitlines()[0][:200]}" for r in record["rows"] if "error" in r]
    mean = found["mean_dice"]
    about = (
        f"Mean Dice of both classes: {mean_text(mean['mean'], mean['interval'])} of {found['cases']} volumes; "
        f"published {fmean(published['dice'].values()):.3f}, of 260 after a full training. Classes are "
        f"{' / '.join(classes)}. On {device_of(record)}, {record['concurrent']} trainings at a time, "
        f"together {pace:.0f} patches/s{busy}{held_memory}. The plan, {made}: "
        f"`{plan['network']}`, patch {plan['patch']}, batch {plan['batch_size']} ({plan['why']}). Seed "
        f"{record['seed']}. `published`: {published['what']} ({published['source']})."
    )
    return "\n\n".join(["\n".join(lines), about, *failed, *record.get("notes", ())])


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
