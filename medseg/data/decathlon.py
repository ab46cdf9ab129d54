"""Reads the ``dataset.json`` of the Medical Segmentation Decathlon, and of what is laid out like it, as a datalist.

A. L. Simpson et al., "A large annotated medical image dataset for the development and evaluation of segmentation
algorithms", https://arxiv.org/abs/1902.09063: ``modality`` is ``{"0": "MRI"}``, ``test`` a list of paths, and there
are no folds. Classes may stand as ``{"0": "background"}`` or, as nnU-Net has them, as ``{"background": 0}``.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

from medseg.data.folds import SEED, propose_folds
from medseg.data.schema import DatalistError
from medseg.errors import shown

__all__ = ["is_decathlon", "read_decathlon"]

logger = logging.getLogger(__name__)

_KEYS = {"tensorImageSize", "numTraining", "numTest", "channel_names", "file_ending", "testing"}
_SAME = ("codes", "colours", "values", "ignore_index")


def is_decathlon(content: dict[str, Any]) -> bool:
    """Return whether a JSON object is laid out as the decathlon's, not as a datalist of medseg."""
    return "version" not in content and (bool(_KEYS & content.keys()) or isinstance(content.get("modality"), dict))


def read_decathlon(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the content of a datalist; folds are proposed where there are neither folds nor a validation list.

    Args:
        content: the parsed JSON.
        path: of the file; a data set without a name gets its folder's.

    Raises:
        DatalistError: if it names no training images, or the numbers in it contradict its lists.
    """
    where = shown(path)
    if "training" not in content:
        raise DatalistError(
            f'{where}: has no list "training" of images and labels (nnU-Net\'s dataset.json has none): add '
            '[{"image": "imagesTr/a_0000.nii.gz", "label": "labelsTr/a.nii.gz"}, ...]'
        )
    if "test" in content and "testing" in content:
        raise DatalistError(f"{where}: has both test and testing; put all test images into test")
    lists = {
        "training": content["training"],
        "validation": content.get("validation", []),
        "test": content.get("test", content.get("testing", [])),
    }
    for split, entries in lists.items():
        if not isinstance(entries, list):
            raise DatalistError(f"{where}: {split} must be a list of images")
        lists[split] = [{"image": entry} if split == "test" and isinstance(entry, str) else entry for entry in entries]
    for key, split in (("numTraining", "training"), ("numTest", "test")):
        stated = content.get(key, len(lists[split]))
        if stated != len(lists[split]):
            logger.warning("%s: %s says %s, but %d are listed; the list counts", where, key, stated, len(lists[split]))
    made = {
        "name": content.get("name", path.absolute().parent.name),
        "version": 1,
        "modality": _modality(content.get("modality", content.get("channel_names", [])), where),
        "licence": content.get("licence", content.get("license", "not stated")),
        "source": content.get("reference", content.get("description", "not stated")),
        "labels": _labels(content.get("labels"), where),
        "ignore_index": None,
        **{key: content[key] for key in _SAME if key in content},
        **lists,
    }
    entries = lists["training"]
    divided = any(key.startswith("fold") for entry in entries if isinstance(entry, dict) for key in entry)
    if not lists["validation"] and not divided and (folds := _folds(entries)) is not None:
        made["training"] = [{**entry, "fold": fold} for entry, fold in zip(entries, folds, strict=True)]
        made["preparation"] = {"folds": max(folds) + 1, "seed": SEED}
        _tell_folds(where, max(folds) + 1)
    return made


@cache
def _tell_folds(where: str, number: int) -> None:
    """Log that folds are proposed: once a process, however often it reads the file."""
    logger.info("%s: has no folds; %d are proposed, by group or image", where, number)


def _folds(entries: list[Any]) -> list[int] | None:
    """Return a fold for each entry, by its group, or its image; ``None`` if an entry is none (validation says so)."""
    names = [entry.get("group", entry.get("image")) if isinstance(entry, dict) else None for entry in entries]
    texts = [name for name in names if isinstance(name, str)]
    return propose_folds(texts) if len(texts) == len(names) else None


def _modality(modality: Any, where: str) -> Any:
    if isinstance(modality, str):
        return [modality]
    if not isinstance(modality, dict):
        return modality
    if set(modality) != {str(index) for index in range(len(modality))}:
        found = ", ".join(shown(key)[:40] for key in list(modality)[:8])
        raise DatalistError(f"{where}: modality has the channels {found}; number them 0, 1, 2 ... without gaps")
    return [modality[str(index)] for index in range(len(modality))]


def _labels(labels: Any, where: str) -> Any:
    if not isinstance(labels, dict):
        raise DatalistError(f'{where}: has no labels; name the classes as in {{"0": "background", "1": "liver"}}')
    if not labels or not all(isinstance(index, int) and not isinstance(index, bool) for index in labels.values()):
        return labels
    inverse = {str(index): name for name, index in labels.items()}
    if len(inverse) < len(labels):
        raise DatalistError(f"{where}: labels gives two names the same index; give every class its own")
    return inverse
