"""The card of a packed model: what it is for, what it was trained on, how it did, how it is used; Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medseg.bundle.description import Description
from medseg.bundle.usual import shown_ranges
from medseg.errors import shown
from medseg.reports.score_tables import score_tables
from medseg.reports.tables import Table

__all__ = ["INTENDED_USE", "card"]

INTENDED_USE = "research; not for clinical decisions"
_UNSCORED = (
    "Not scored: no evaluation of these weights lay beside them when they were packed. How good it is, is not known."
)


def card(record: Mapping[str, Any], description: Description, scores: Sequence[Mapping[str, Any]]) -> str:
    """Return the card.

    Args:
        record: of the pack.
        description: that its weights carry.
        scores: of evaluations of these weights, as ``scores.json`` holds them.
    """
    data, texts, licence = record["data"], record["texts"], record["licence"]
    facts: list[tuple[str, Any]] = [
        ("Task", texts["task"]),
        ("Version", record["version"]),
        ("Authors", record["authors"]),
        ("Licence of the weights", licence or "none granted, see LICENSE"),
        ("Network", f"{description.network.get('name')}, {description.spatial_dims}D"),
        ("Parameters", record["parameters"]),
        ("Weights, SHA-256", record["weights"]),
        ("Code", f"medseg {record['packages'].get('medseg')}, commit {record['commit'] or 'not known'}"),
    ]
    trained: list[tuple[str, Any]] = [
        ("Data set", data.get("name") or texts["data_source"]),
        ("Source", texts["data_source"]),
        ("Modality", texts["modality"]),
        ("Fingerprint of the data", data.get("fingerprint") or "not known"),
        ("Split", _split(data)),
        ("Classes", ", ".join(description.classes)),
        *shown_ranges(description),
    ]
    lines = [
        f"# {shown(texts['title'])}",
        "",
        shown(texts["description"]),
        "",
        _table(facts),
        "",
        "## Intended use",
        shown(record["intended_use"]),
        "",
        "Images must be of the kind that it was trained on, of which stands below what is known; region, protocol and "
        "patients are not among it: ask who hands the model on. On any other kind it was not tried. A mask says "
        "nothing of how sure it is.",
        "",
        "## Training data",
        _table(trained),
        "",
        "## How an image is fed, and its mask made",
        _table(_feeding(description)),
        "",
        "`medseg` reads this from the weights and does it; another program must do the same.",
        "",
        "## Scores",
        *(_scored(scores) or [_UNSCORED]),
        "",
        "## Use",
        f"    medseg predict {record['name']}.zip IMAGES MASKS",
        f"    medseg unpack {record['name']}.zip FOLDER      # then, in FOLDER:",
        "    python -m monai.bundle run --config_file configs/inference.yaml --dataset_dir IMAGES --output_dir MASKS",
        "",
    ]
    if record["references"]:
        lines += ["## References", *(f"- {shown(each)}" for each in record["references"]), ""]
    return "\n".join(lines)


def _table(rows: Sequence[tuple[str, Any]]) -> str:
    return Table(("fact", "value"), [(name, str(value)) for name, value in rows]).to_markdown()


def _split(data: Mapping[str, Any]) -> str:
    if data.get("fold") in (None, "all"):
        return "the datalist's own lists" if data.get("fold") is None else "all images that may be trained on"
    scheme = data.get("fold_key") or "fold"
    return f"all but fold {data['fold']}{'' if scheme == 'fold' else f' of {scheme}'}"


def _feeding(description: Description) -> list[tuple[str, Any]]:
    fed, predicted = description.input, description.inference
    intensity = ", ".join(f"{key} {value}" for key, value in fed.intensity.items())
    channels = ", ".join(description.channels) or description.network.get("in_channels")
    rows: list[tuple[str, Any]] = [("Channels", channels), ("Intensity", intensity)]
    named: dict[str, Any] = {"Polarity": fed.polarity, "Colour": fed.colour, "Size": fed.size}
    if description.spatial_dims == 3 or fed.spacing is not None:
        named |= {"Orientation": fed.orientation, "Spacing in mm": fed.spacing}
    rows += [(name, value) for name, value in named.items() if value is not None]
    window = "the whole image" if predicted.window is None else f"{list(predicted.window)}, overlap {predicted.overlap}"
    rows.append(("Window", window))
    if list(predicted.scales) != [1.0] or predicted.flip_axes:
        rows.append(("Views", f"scales {list(predicted.scales)}, flipped axes {list(predicted.flip_axes)}"))
    rows.append(("Postprocessing", description.postprocess or "the class of the largest logit"))
    if description.temperature != 1:
        rows.append(("Temperature of probabilities", f"{description.temperature:.3g}"))
    return rows


def _scored(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for each in scores:
        lines += [f"### {shown(each.get('title') or 'Evaluation')}", ""]
        for table in score_tables(each):
            lines += [table.to_markdown(), ""]
    return lines
