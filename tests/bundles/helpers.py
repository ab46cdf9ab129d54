"""Run a bundle as a user does: `python -m monai.bundle ...` in a process of its own."""

from __future__ import annotations

import atexit
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
BUNDLES = sorted(p for p in (ROOT / "bundles").iterdir() if (p / "configs" / "train.yaml").is_file())
SMALL_CHANNELS = [4, 8]
SMALL_ENCODER = "test_resnet"  # timm's own, for tests
SECONDS = 240
DEPTH = 8  # voxels of a test volume through its slices


ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def monai_bundle(
    command: str,
    *,
    cwd: Path,
    launcher: Sequence[str] | None = None,
    ok: bool = True,
    env: dict[str, str] | None = None,
    processes: int = 1,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run one of MONAI's bundle commands; by default it must succeed.

    Without `launcher` and `env` it runs in a fork of a process that has imported MONAI already, or in as many as
    `processes` says, with what torchrun tells each.
    """
    words = [command]
    for name, value in options.items():
        words += [f"--{name.replace('__', '#')}", value if isinstance(value, str) else json.dumps(value)]
    if launcher is None and env is None:
        done = _forked(words, cwd, _ranks(processes) if processes > 1 else [{}])
    else:
        done = subprocess.run(
            [*(launcher or (sys.executable, "-m")), "monai.bundle", *words],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env={**os.environ, **ENVIRONMENT, **(env or {})},
        )
    if ok:
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


@functools.cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what its imports say
        text=True,
        env={**os.environ, **ENVIRONMENT},
    )

    def stop() -> None:
        server.kill()
        server.communicate()

    atexit.register(stop)
    return server


def _ranks(processes: int) -> list[dict[str, str]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1]), "WORLD_SIZE": str(processes)}
    return [{**meet, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _forked(words: list[str], cwd: Path, environments: list[dict[str, str]]) -> subprocess.CompletedProcess[str]:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / name) for name in ("stdout", "stderr")}
        request = {"words": words, "cwd": str(cwd), "timeout": SECONDS, "environments": environments, **files}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, "the server of the bundle commands has died"
        said = {name: Path(path).read_text() for name, path in files.items()}
    if int(answer) == 124:
        raise TimeoutError(f"{words} took more than {SECONDS} s")
    return subprocess.CompletedProcess(words, int(answer), **said)


def configs(bundle: Path, *names: str) -> str:
    """Return the ``--config_file`` of a bundle's files, the first and its overlays."""
    files = [str(bundle / "configs" / name) if "/" not in name else name for name in names]
    return files[0] if len(files) == 1 else repr(files)


def network_channels(bundle: Path) -> tuple[int, int]:
    """Return the input channels and classes of a bundle's network."""
    network = yaml.safe_load((bundle / "configs" / "inference.yaml").read_text())["network_def"]
    return network["in_channels"], network["out_channels"]


def takes_volumes(bundle: Path) -> bool:
    """Return whether a bundle's network is one of volumes."""
    network = yaml.safe_load((bundle / "configs" / "inference.yaml").read_text())["network_def"]
    return bool(network["spatial_dims"] == 3)


def takes_photographs(bundle: Path) -> bool:
    """Return whether a bundle's network has one of timm's encoders."""
    return "encoder_weights" in yaml.safe_load((bundle / "configs" / "train.yaml").read_text())


def small_network(bundle: Path) -> dict[str, Any]:
    """Return overrides that make a bundle's network tiny."""
    if takes_photographs(bundle):
        options: dict[str, Any] = {"network_def__encoder": SMALL_ENCODER}
        options |= {"network_def__head_options": {"channels": 8}} if bundle.name == "refine_multi_scale_voc" else {}
        return {**options, "network_def__channels": 8}
    options = {"network_def__channels": SMALL_CHANNELS}
    if "focusnet_pp" in bundle.name:
        options |= {"network_def__blocks": [1, 1], "network_def__se_ratio": 4}
    return options


def small(bundle: Path) -> dict[str, Any]:
    """Return overrides that make any bundle's training a matter of seconds."""
    options = {**small_network(bundle), "batch_size": 4, "mlflow": "False", "device": "cpu"}
    settings = yaml.safe_load((bundle / "configs" / "train.yaml").read_text())
    options |= {"model__input__size": [32, 32]} if settings["model"]["input"]["size"] is not None else {}
    if takes_volumes(bundle):
        options |= {"patch": [16, 16, DEPTH], "iterations": 3, "val_interval": 1}
    if takes_photographs(bundle):
        options |= {"patch": [32, 32], "encoder_weights": "random", "fold": 0, "scored": "test"}
    return options


def losses(run: Path) -> list[float]:
    """Return the loss of each epoch of a run."""
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
