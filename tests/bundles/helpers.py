"""Run a bundle as a user does: `python -m monai.bundle ...` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BUNDLES = sorted(p for p in (ROOT / "bundles").iterdir() if (p / "configs" / "train.yaml").is_file())
SMALL_CHANNELS = [4, 8]
SECONDS = 240


def monai_bundle(
    command: str,
    *,
    cwd: Path,
    launcher: Sequence[str] = (sys.executable, "-m"),
    ok: bool = True,
    env: dict[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run one of MONAI's bundle commands; by default it must succeed."""
    words = [*launcher, "monai.bundle", command]
    for name, value in options.items():
        words += [f"--{name.replace('__', '#')}", value if isinstance(value, str) else json.dumps(value)]
    done = subprocess.run(
        words,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", **(env or {})},
    )
    if ok:
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


def configs(bundle: Path, *names: str) -> str:
    """Return the ``--config_file`` of a bundle's files, the first and its overlays."""
    files = [str(bundle / "configs" / name) if "/" not in name else name for name in names]
    return files[0] if len(files) == 1 else repr(files)


def small(bundle: Path) -> dict[str, Any]:
    """Return overrides that make any bundle's training a matter of seconds."""
    return {
        "network_def__channels": SMALL_CHANNELS,
        "batch_size": 4,
        "mlflow": "False",
        "publish": "False",
        "device": "cpu",
    }


def losses(run: Path) -> list[float]:
    """Return the loss of each epoch of a run."""
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
