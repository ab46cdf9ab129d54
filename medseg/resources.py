"""Where the bundles and data scripts that come with medseg lie: inside a wheel, or beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path

from medseg.errors import MedsegError

__all__ = ["BUNDLE_FILE", "bundles_root", "data_scripts_root"]

BUNDLE_FILE = "bundle.yaml"
"""What a person writes of a bundle, and what makes a folder one."""

_PACKAGE = Path(__file__).resolve().parent


def bundles_root() -> Path:
    """Return the folder of medseg's own bundles, one folder each.

    Raises:
        MedsegError: if this installation has none.
    """
    return _find("bundles")


def data_scripts_root() -> Path:
    """Return the folder of medseg's data scripts, one file each.

    Raises:
        MedsegError: if this installation has none.
    """
    return _find("data_scripts")


def _find(name: str) -> Path:
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    packed = _PACKAGE / f"_{name}"
    if packed.is_dir():
        return packed
    raise MedsegError(
        f"{packed}: no such folder, this medseg came without its {name}; install it again: pip install medseg"
    )
