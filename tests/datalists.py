"""A datalist of nothing in particular, for tests that look at a part of one."""

import json
from pathlib import Path
from typing import Any

ENTRY = {"image": "a.png", "label": "b.png"}


def content(**changes: Any) -> dict[str, Any]:
    """Return what a datalist's file holds."""
    return {
        "name": "toy",
        "version": 1,
        "modality": ["EM"],
        "licence": "CC0-1.0",
        "source": "here",
        "labels": {"0": "back", "1": "front"},
        "ignore_index": None,
        "training": [ENTRY],
        "validation": [],
        "test": [],
        **changes,
    }


def write(folder: Path, held: Any) -> Path:
    """Write it into a folder, text as it is."""
    path = folder / "datalist.json"
    path.write_text(held if isinstance(held, str) else json.dumps(held))
    return path
