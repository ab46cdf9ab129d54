"""What a lent machine lacks, from wheels that were carried to it: such a machine has PyTorch, and reaches no registry.

`benchmarks.gpu` calls `install` before it imports anything else. Wheels lie in ``$MEDSEG_WHEELS``, else in ``wheels``
beside the repository's own folders; ``pip download --no-deps -d wheels monai pytorch-ignite nibabel`` puts them there.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

NEEDED = {"monai": "monai", "ignite": "pytorch-ignite", "nibabel": "nibabel", "timm": "timm"}
"""Distributions by the package that they bring."""


def folder() -> Path:
    """Return where wheels are looked for."""
    return Path(os.environ.get("MEDSEG_WHEELS") or Path(__file__).resolve().parent.parent / "wheels")


def missing(needed: Mapping[str, str] = NEEDED) -> list[str]:
    """Return the distributions whose packages are not there."""
    return [name for package, name in needed.items() if importlib.util.find_spec(package) is None]


def install(needed: Mapping[str, str] = NEEDED) -> list[str]:
    """Install what is missing from the carried wheels, without what it depends on; return what was installed.

    Args:
        needed: distributions by package.

    Raises:
        SystemExit: if there is no wheel of one.
    """
    wanted = missing(needed)
    if not wanted:
        return []
    place = folder()
    held = sorted(path.name for path in place.glob("*.whl")) if place.is_dir() else []
    without = [name for name in wanted if not any(_is_of(file, name) for file in held)]
    if without:
        raise SystemExit(
            f"error: {', '.join(without)}: not installed, and {place} holds no wheel of it; carry one there (pip "
            f"download --no-deps -d wheels {' '.join(without)}), or install it"
        )
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--find-links", str(place)]
    subprocess.run([*command, *wanted], check=True)
    importlib.invalidate_caches()
    return wanted


def _is_of(file: str, name: str) -> bool:
    return file.partition("-")[0].lower() == name.replace("-", "_")
