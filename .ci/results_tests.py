"""The page of `benchmarks.paired_tests`: how often a study's table says that a difference holds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SAID = {
    "alike": "Networks that are alike: a false difference in the table",
    "equal means": "Two networks of equal true means, one of which gains a little on most groups and fails on a tenth",
    "better": "The last network is better by {gain} in every case: said of it and another one",
}


def paired_tests(results: Path) -> str:
    """Return a table for each kind of networks; nothing where it was not measured."""
    path = results / "paired_tests_cpu.json"
    if not path.is_file():
        return ""
    result = json.loads(path.read_text())["result"]
    parts = []
    for kind, said in SAID.items():
        rows = [row for row in result["rows"] if row["kind"] == kind]
        shown = "last_better" if kind == "better" else "holds"
        lines = [
            f"{said.format(gain=result['gain'])} ({rows[0]['draws']} tables a line).",
            "",
            "| networks | groups | scores | cases of a group | by the corrected test alone, % | holds, % |",
            "| ---: | ---: | --- | --- | ---: | ---: |",
            *(_line(row, shown) for row in rows),
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _line(row: Mapping[str, Any], shown: str) -> str:
    scores = "near 1, with failures" if row["skewed"] else "normal"
    cases = "1 to 40" if row["unequal"] else "1"
    shares = f"{100 * row['test']:.1f} | {100 * row[shown]:.1f}"
    return f"| {row['rows']} | {row['groups']} | {scores} | {cases} | {shares} |"
