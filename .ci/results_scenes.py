"""The parts of the speed page that `benchmarks.scene_loading` and `benchmarks.graph_breaks` measured."""

import json
from pathlib import Path


def scenes(results: Path) -> str:
    """Return what loading a sample of each scene bundle takes; nothing where it was not measured."""
    path = results / "scene_loading_cpu.json"
    if not path.is_file():
        return ""
    lines = [
        "## Loading scenes",
        "",
        "Processor milliseconds a sample, in one loading process (`python -m benchmarks.scene_loading`): made-up "
        "pictures as large as the release's, through the bundle's recipe. The last column is 1000 over reading and "
        "augmenting: what a process gives a second where memory does not hold the pictures. Ready tensors: batching "
        "alone.",
        "",
        "| bundle | pictures | crop | reading | augmenting, batching | ready tensors | samples a second |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for bundle, row in json.loads(path.read_text())["result"].items():
        pictures, crop = (" x ".join(map(str, row[key])) for key in ("pictures", "crop"))
        both = row["read"] + row["augment"]
        figures = " | ".join(f"{row[key]:.1f}" for key in ("read", "augment", "ready_tensors"))
        lines.append(f"| {bundle} | {pictures}, {row['format']} | {crop} | {figures} | {1000 / both:.0f} |")
    return "\n".join(lines)


def compiled(results: Path) -> str:
    """Return which networks ``torch.compile`` takes whole; nothing where it was not tried."""
    path = results / "graph_breaks_cpu.json"
    if not path.is_file():
        return ""
    rows = json.loads(path.read_text())["rows"]
    failed = [f"{row['network']} in {row['dims']}D: {row['error']}" for row in rows if "error" in row]
    tried = [row for row in rows if "error" not in row]
    broken = [
        f"{row['network']} in {row['dims']}D ({row['evaluation_breaks']} and {row['training_breaks']} in training)"
        for row in tried
        if row["evaluation_breaks"] or row["training_breaks"]
    ]
    names = ", ".join(dict.fromkeys(row["network"].split(".")[0] for row in tried))
    worst = max(row["difference"] for row in tried)
    lines = [
        "## Compiled",
        "",
        f"`torch.compile` traced {len(tried)} of {len(rows)} tried networks and numbers of axes, forward and backward "
        f"(`python -m benchmarks.graph_breaks`, backend {tried[0]['backend']}): {names}. Graph breaks: "
        f"{'; '.join(broken) or 'none'}. The logits differ from PyTorch's by {worst:.1g} of the largest at most.",
        *([f"Failed: {'; '.join(failed)}."] if failed else []),
    ]
    return "\n".join(lines)
