"""The page of `benchmarks.which_network`: which network is best in the minutes that were given."""

import json
from pathlib import Path
from typing import Any

from medseg.errors import counted

TITLES = {"nuclei": "40 nuclei images in 15 minutes", "hippocampus": "The hippocampus volumes in 40 minutes"}


def networks(results: Path) -> str:
    """Return what each comparison came to; nothing where none is on record."""
    parts = []
    for name, title in TITLES.items():
        path = results / f"network_comparison_{name}.json"
        if path.is_file():
            parts += [f"## {title}", "", *_comparison(json.loads(path.read_text()), path.with_suffix(".html").name), ""]
    return "\n".join(parts)


def _comparison(record: dict[str, Any], report: str) -> list[str]:
    held = record["results"]
    environment, stages = held["environment"], held["stages"]
    threads = counted(int(record["threads"]), "thread")
    lines = [
        f"`{record['command']}` on {threads} of {environment['cpu']['model']}, "
        f"code {environment['git']['commit'][:7]}, load of the machine {record['load_at_start']:.1f} at the start and "
        f"{record['load_at_end']:.1f} at the end; it took {held['minutes']:.1f} minutes. "
        f"[The report]({report}) as the command writes it, without pictures of cases.",
        "",
        f"> {held['verdict']}",
        "",
        "| rank [95 % interval] | network | mean Dice [95 % interval] | from |",
        "| --- | --- | --- | --- |",
    ]
    last = stages[-1]
    trained = f"{counted(len(last['folds']), 'fold')}, {last['minutes']:g} minutes each"
    for place in held["ranking"]:
        ranks = f" {_interval(place['ranks'], 0)}" if place["ranks"] else ""
        mean = f"{place['mean']:.3f} {_interval(place['interval'], 3)}"
        lines.append(f"| {place['rank']}{ranks} | `{place['network']}` | {mean} | {trained} |")
    for number, stage in reversed(list(enumerate(stages[:-1], 1))):
        gone = {network: score for network, score in stage["scores"].items() if network not in stage["kept"]}
        for network, score in sorted(gone.items(), key=lambda each: -each[1]):
            went = f"went out in rung {number}: {stage['minutes']:g} minutes, fold {stage['folds'][0]}"
            lines.append(f"| - | `{network}` | {score:.3f} | {went} |")
    lines += [f"| - | `{network}` | - | {why} |" for network, why in held["out"].items()]
    lines += [
        "",
        "| network | patch | batch | channels | seconds a step, measured |",
        "| --- | --- | --- | --- | --- |",
    ]
    for network, plan in held["plans"].items():
        widths = ", ".join(map(str, plan["channels"])) if plan.get("channels") else "its own"
        patch = " x ".join(map(str, plan["patch"]))
        lines.append(f"| `{network}` | {patch} | {plan['batch']} | {widths} | {plan['seconds']:.2f} |")
    return [*lines, *(line for note in record.get("notes", ()) for line in ("", note))]


def _interval(ends: list[float], digits: int) -> str:
    return f"[{', '.join(f'{end:.{digits}f}' for end in ends)}]"
