"""What `benchmarks.backends` measured, for `make_results.py`."""

import json
from pathlib import Path

_HALF = "_half"


def backends(results: Path) -> str:
    """Return the section of speed.md; nothing before it was measured."""
    path = results / "backends_cpu.json"
    if not path.is_file():
        return ""
    record = json.loads(path.read_text())
    result = record["result"]
    batch = " x ".join(map(str, result["batch"]))
    lines = [
        "## Exports",
        "",
        f"A forward of `{result['network']['name']}` on one batch of a real image ({batch}) on {result['threads']} "
        f"threads of {record['environment']['cpu']['model']}, in turn with PyTorch, by `{record['command']}`; the "
        "difference is the largest of any probability.",
        "",
        "| backend | seconds | PyTorch's seconds | PyTorch / backend | difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, times in result.items():
        if f"torch_over_{name}" in result:
            backend = f"{name.removesuffix(_HALF)}, `--half`" if name.endswith(_HALF) else name
            values = (times["seconds_second"], times["seconds_first"], times["ratio"], result[f"{name}_probability"])
            lines.append(f"| {backend} | {' | '.join(f'{value:.3g}' for value in values)} |")
    return "\n".join(lines)
