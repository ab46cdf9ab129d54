"""What a result was computed with: versions, code, hardware. Nothing that names a person, a host or a folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = {
    "medseg": "medseg",
    "monai": "monai",
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "ignite": "pytorch-ignite",
    "timm": "timm",
    "mlflow": "mlflow",
}
_GIT_SECONDS = 5.0
PACKAGE = Path(__file__).resolve().parents[1]
"""Folder of medseg's own code."""


def collect() -> dict[str, Any]:
    """Describe the software and hardware of this process.

    User and host names, paths and environment variables are left out, so that the result can be published.

    Returns:
        ``python``, ``packages`` (``None`` where one is not installed), ``git`` (``commit`` and ``dirty`` of the
        installed code, ``None`` unless it is a checkout), ``os``, ``cpu`` (``model``, ``cores``, ``usable_cores``),
        ``memory_gib``, ``threads``, ``cuda`` (version torch was built with, or ``None``), ``gpus`` (``name`` and
        ``memory_gib`` of each).
    """
    import torch

    return {
        "python": platform.python_version(),
        "packages": {name: _version(package) for name, package in _PACKAGES.items()},
        "git": git_state(PACKAGE),
        "os": _os(),
        "cpu": {"model": _cpu_model(), "cores": os.cpu_count(), "usable_cores": _usable_cores()},
        "memory_gib": _memory_gib(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": _gpus(),
    }


def git_state(folder: str | Path) -> dict[str, Any] | None:
    """Return commit and dirty flag of the checkout that tracks ``folder``.

    Args:
        folder: of the code.

    Returns:
        ``{"commit": ..., "dirty": ...}``, or ``None`` without git, outside a checkout, or where the folder lies in
        a foreign checkout that does not track it (``.venv`` of another project).
    """
    folder = Path(folder)
    if not folder.is_dir() or not _git(folder, "ls-files", "--", "."):
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--", ".")
    if not commit or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def source_hash(folder: str | Path) -> str:
    """Return a hash of all files of code as they lie on the disk, committed or not: names and contents.

    Args:
        folder: of the code; what Python compiles of it, and hidden files, do not count.
    """
    folder, digest = Path(folder), hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in parts):
            content = path.read_bytes()
            digest.update(f"{'/'.join(parts)}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
    return digest.hexdigest()


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints, or ``None`` if it is missing, slow or unwilling."""
    # a git hook sets GIT_DIR, which would make git look elsewhere
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None  # provenance is a record, not a condition
    return answer.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _os() -> str:
    number = re.match(r"\d+(\.\d+)*", platform.release())  # what follows the number can name a site
    name = f"{platform.system()} {number.group() if number else ''} {platform.machine()}"
    if platform.system() != "Linux":
        return name
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {name}"
    except (OSError, KeyError):
        return name


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model", "cpu model"}:
            return " ".join(value.split())
    return platform.machine()


def _usable_cores() -> int | None:
    """Return the cores this process may use, which a container or ``taskset`` can restrict."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _gpus() -> list[dict[str, Any]]:
    import torch

    if torch.cuda.is_available():
        properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return [{"name": each.name, "memory_gib": round(each.total_memory / 2**30, 1)} for each in properties]
    if torch.backends.mps.is_available():
        return [{"name": "Apple MPS", "memory_gib": None}]
    return []
