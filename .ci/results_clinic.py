"""What `benchmarks.clinic` and `benchmarks.node_soak` measured, for `make_results.py`."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from medseg.reports.score_tables import mean_text

_MODELS = {"mr": "the hippocampus (decathlon, Task 4)", "ct": "four slabs of one patient's CT (TotalSegmentator)"}


def clinic(results: Path) -> str:
    """Return the page; nothing before it was measured."""
    parts = []
    for name, section in (("clinic", _series), ("node_soak", _soak)):
        path = results / f"{name}.json"
        if path.is_file():
            parts.append(section(json.loads(path.read_text())))
    return "\n\n".join(parts)


def _series(record: Mapping[str, Any]) -> str:
    result = record["result"]
    trained, labels = result["models"], result.get("labels")
    lines = ["## Series through a node and back", "", f"By `{record['command']}`, on {_where(record)}:", ""]
    for name, model in trained.items():
        dice = ", ".join(
            f"{each} {mean_text(held['mean'], held['interval'])}"
            for each, held in model["dice"].items()
            if each != "background"
        )
        network = model["network"]
        lines.append(
            f"- {name.upper()}: `{network['name']}` in {network['spatial_dims']}D, planned and trained by "
            f"`medseg train` for {model['seconds'] / 60:.0f} minutes ({model['steps']} steps) on {_MODELS[name]}; "
            f"Dice on the {model['held_out']} held out: {dice}."
        )
    heads = ["series", "voxels", "SEGs in the archive", "voxels that differ", "errors by dciodvfy", "class"]
    heads += ["ml, by dcmqi", "ml, by medseg", "Dice", "ml in the labels: least to most, mean"]
    lines += ["", f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row in result["series"]:
        cells = [row["series"], " x ".join(map(str, row["size"])), row["segs_in_archive"], row["voxels_that_differ"]]
        cells.append(row["dciodvfy_errors"])
        for name, held in row["classes"].items():
            span = labels["ml"].get(name) if labels else None
            known = f"{span['least']:.2f} to {span['most']:.2f}, {span['mean']:.2f}" if span else ""
            dice = f"{held['dice']:.3f}" if "dice" in held else ""
            shown = [name, f"{held['ml']:.2f}", f"{held['ml_said']:.2f}", dice, known]
            lines.append(f"| {' | '.join(map(str, [*cells, *shown]))} |")
            cells = [""] * len(cells)
    if labels:
        apart = labels["in_front_mm"]
        found = " and ".join(f"{row['in_front_mm']:.1f}" for row in result["series"] if "in_front_mm" in row)
        lines += [
            "",
            f"The centre of the anterior part lies {found} mm in front of the posterior one's; in the "
            f"{labels['number']} labels {apart['least']:.1f} to {apart['most']:.1f}, {apart['mean']:.1f} on average.",
        ]
    return "\n".join(lines)


def _soak(record: Mapping[str, Any]) -> str:
    found = record["result"]
    good = found["results_in_archive"] == found["studies"] and not found["studies_with_more_than_one"]
    sent = [int(times) for times, number in found["sent_in_attempts"].items() for _ in range(number)]
    rows = {
        "archive": found["archive"],
        "studies, instances": f"{found['studies']}, {found['instances']:,}",
        "node killed (SIGKILL)": f"{found['kills']} times",
        "all connections cut": f"{found['cuts']} times",
        "archive away": f"{found['archive_away_s']:g} s",
        "times that a study was sent": f"{min(sent)} to {max(sent)}, median {median(sent):g}",
        "studies with a result in the archive": f"{found['results_in_archive']} of {found['studies']}",
        "with more than one": found["studies_with_more_than_one"],
        "results of a part of a study": found["results_of_part_of_a_study"],
        "files left in the node": found["files_left"],
        "seconds": f"{found['seconds']:.0f}",
        "nothing lost, nothing twice": "met" if good else "**missed**",
    }
    lines = [
        *("## A node that is killed", ""),
        f"By `{record['command']}`, on {_where(record)}: studies of one real series under new UIDs, sent by dcmtk's "
        "`storescu` until it is told of success; a threshold stands for the model.",
        *("", "| what | |", "| --- | --- |"),
        *(f"| {what} | {value} |" for what, value in rows.items()),
    ]
    return "\n".join(lines)


def _where(record: Mapping[str, Any]) -> str:
    environment = record["environment"]
    return f"{environment['cpu']['usable_cores']} cores ({environment['cpu']['model']}) that did other work as well"
