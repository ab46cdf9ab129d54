"""medseg: attention networks for image segmentation as MONAI bundles.

The door: `check`, `plan`, `train`, `load` and `predict` are `medseg.api`'s, imported when first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.api import check, load, plan, predict, train

__version__ = "0.1.0"
__all__ = ["__version__", "check", "load", "plan", "predict", "train"]

_DOOR = ("check", "load", "plan", "predict", "train")


def __getattr__(name: str) -> Any:
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from medseg import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
