"""nnU-Net's raw data: ``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz`` and ``dataset.json``, version 2 and 1.

Version 2 has ``channel_names`` and ``labels: {name: value}``, version 1 the decathlon's ``modality`` and ``labels:
{value: name}``; in both, a file's last four digits are its channel. What `medseg export-data` writes under ``medseg``
into ``dataset.json``, which nnU-Net passes over, brings groups, folds and names back.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from medseg.errors import counted, shown
from medseg.importers.folder import Folder, stem_of
from medseg.importers.layout import Case, Found, ImportingError, Layout, Options
from medseg.io.images import image_suffix

__all__ = ["KEY", "NnUNet"]

KEY = "medseg"
"""Key of ``dataset.json`` under which an export keeps what nnU-Net has no place for."""

_FILE = "dataset.json"
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


class NnUNet(Layout):
    """``imagesTr`` with a channel's number at the end of each name."""

    name = "nnunet"
    looks_for = f"{_FILE} and imagesTr with names that end in _0000"

    def recognise(self, folder: Folder) -> str | None:
        """Look at the names in ``imagesTr``, and that ``dataset.json`` does not name these files itself."""
        images = _channels(folder, "imagesTr")
        if not images or not (folder.root / _FILE).is_file():
            return None
        content = folder.peek_json(folder.root / _FILE)
        listed = content.get("training") or [{}]
        named = listed[0].get("image") if isinstance(listed, list) and isinstance(listed[0], dict) else None
        if isinstance(named, str) and (folder.root / named).is_file():
            return None
        version = "2" if "channel_names" in content else "1"
        return (
            f"imagesTr holds {counted(len(images), 'case')} with channel numbers, dataset.json is of version {version}"
        )

    def read(self, folder: Folder, options: Options) -> Found:
        """Take every case of ``imagesTr`` and ``imagesTs``."""
        path = folder.root / _FILE
        content = folder.read_json(path)
        kept: dict[str, Any] = content.get(KEY) or {}
        names = content.get("channel_names", content.get("modality", {}))
        found = Found(self.name, "said so", [], used={path, folder.root / "splits_final.json"})
        found.modality = _modality(names, path)
        found.about = {"licence": content.get("licence", content.get("license", "not stated"))}
        found.about |= {"source": content.get("reference", content.get("description", "not stated"))}
        found.about |= {"name": content["name"]} if content.get("name") else {}
        found.labels, found.ignore = _labels(content.get("labels"), path)
        for name in ("imagesTr", "imagesTs"):
            self._cases(folder, name, kept.get("cases", {}), found)
        if kept:
            _restore(found, kept)
        return found

    def _cases(self, folder: Folder, place: str, kept: dict[str, Any], found: Found) -> None:
        usual = "training" if place == "imagesTr" else "test"
        labels, numbers = (
            {stem_of(path): path for path in folder.images if path.parent == folder.root / f"{kind}{place[-2:]}"}
            for kind in ("labels", "instances")
        )
        for name, channels in _channels(folder, place).items():
            label = labels.get(name)
            if sorted(channels) != list(range(len(channels))):
                listed = ", ".join(f"{channel:04d}" for channel in sorted(channels))
                found.left_out |= dict.fromkeys(channels.values(), f"the case has the channels {listed} alone")
            elif label is None and usual == "training":
                found.left_out |= dict.fromkeys(channels.values(), "the case has no label in labelsTr")
            else:
                images = tuple(channels[channel] for channel in sorted(channels))
                extra = dict(kept.get(name, {}))
                split, group = extra.pop("split", usual), extra.pop("group", None)
                found.cases.append(Case(name, images, label, split, group, extra=extra, instances=numbers.get(name)))


def _modality(names: Any, path: Path) -> tuple[str, ...]:
    """Return the channels in the order of their numbers, 10 after 9."""
    if not isinstance(names, dict):
        return ()
    if {str(key) for key in names} != {str(number) for number in range(len(names))}:
        listed = ", ".join(shown(key)[:40] for key in list(names)[:8])
        raise ImportingError(f"{shown(path)}: has the channels {listed}; number them 0, 1, 2 ... without gaps")
    return tuple(str(names[str(number)]) for number in range(len(names)))


def _channels(folder: Folder, place: str) -> dict[str, dict[int, Path]]:
    """Return the files of a folder by case and channel."""
    made: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in folder.images:
        match = _CHANNEL.fullmatch(stem_of(path)) if path.parent == folder.root / place else None
        if match and image_suffix(path):
            made[match["case"]][int(match["channel"])] = path
    return dict(made)


def _labels(labels: Any, path: Path) -> tuple[dict[int, str], int | None]:
    """Return value to name, and the value that counts nowhere, of either version."""
    if not isinstance(labels, dict) or not labels:
        raise ImportingError(f'{shown(path)}: has no labels; name the classes as in {{"background": 0, "liver": 1}}')
    made: dict[int, str] = {}
    for key, value in labels.items():
        name, stored = (value, key) if isinstance(value, str) and key.isdigit() else (key, value)
        if isinstance(stored, list):
            raise ImportingError(
                f"{shown(path)}: {shown(name)} is a region of {len(stored)} values; classes exclude each other here: "
                "name "
                'each value in labels, such as {"background": 0, "edema": 1}'
            )
        if not str(stored).isdigit():
            raise ImportingError(f"{shown(path)}: labels gives {shown(name)} the value {stored!r}; give a whole number")
        made[int(stored)] = str(name)
    ignore = next((stored for stored, name in made.items() if name == "ignore"), None)
    return {stored: name for stored, name in made.items() if stored != ignore}, ignore


def _restore(found: Found, kept: dict[str, Any]) -> None:
    """Put back what an export kept."""
    found.about |= {key: kept[key] for key in ("name", "licence", "source", "version", "preparation") if key in kept}
    for key in ("codes", "colours", "labels", "values"):
        restored = {int(index): value for index, value in kept.get(key, {}).items()}
        if key == "codes" and restored:
            found.about[key] = restored
        elif restored:
            setattr(found, key, restored)
    found.modality = tuple(kept.get("modality", found.modality))
    found.ignore = kept.get("ignore_index", found.ignore)
    order = {name: number for number, name in enumerate(kept.get("cases", {}))}  # a training draws by number
    found.cases.sort(key=lambda case: order.get(case.name, len(order)))
    found.grouped_by = "as exported" if any(case.group is not None for case in found.cases) else ""
