"""The Medical Segmentation Decathlon: ``dataset.json`` names images and labels (https://arxiv.org/abs/1902.09063)."""

from __future__ import annotations

from medseg.data.datalist import SPLITS, Datalist
from medseg.data.decathlon import is_decathlon
from medseg.errors import counted, shown
from medseg.importers.folder import Folder, stem_of
from medseg.importers.layout import Case, Found, ImportingError, Layout, Options

__all__ = ["Decathlon"]

_FILE = "dataset.json"
_OWN = ("image", "label", "group", "instances")


class Decathlon(Layout):
    """``dataset.json`` with ``training: [{"image", "label"}]``, as the decathlon and MONAI have it."""

    name = "decathlon"
    looks_for = f"{_FILE} whose list training names images that are there"

    def recognise(self, folder: Folder) -> str | None:
        """Look at ``dataset.json``; one that names images that are not there may be nnU-Net's."""
        content = folder.peek_json(folder.root / _FILE) if (folder.root / _FILE).is_file() else {}
        listed = content.get("training")
        if not is_decathlon(content) or not isinstance(listed, list) or not listed:
            return None
        image = listed[0].get("image") if isinstance(listed[0], dict) else None
        named = image if isinstance(image, str) else (image or [""])[0]
        return (
            f"{_FILE} lists {counted(len(listed), 'training image')}" if (folder.root / str(named)).is_file() else None
        )

    def read(self, folder: Folder, options: Options) -> Found:
        """Take the lists as they are; what they name and is not there is left out."""
        path = folder.root / _FILE
        datalist = Datalist.load(path)
        proposed = "folds" in datalist.preparation and not any(
            key.startswith("fold") for entry in folder.read_json(path)["training"] for key in entry
        )
        found = Found(
            self.name, self.recognise(folder) or "said so", [], modality=datalist.modality, ignore=datalist.ignore_index
        )
        found.used.add(path)
        found.labels, found.values, found.colours = datalist.labels, datalist.values, datalist.colours
        found.about = {"name": datalist.name, "licence": datalist.licence, "source": datalist.source}
        if datalist.codes:
            found.about["codes"] = datalist.codes
        for split in SPLITS:
            for entry in getattr(datalist, split):
                named = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
                images = tuple(folder.root / name for name in named)
                label = folder.root / entry["label"] if "label" in entry else None
                missing = [each for each in (*images, label) if each is not None and not each.is_file()]
                if missing:
                    found.left_out[missing[0]] = f"named by {_FILE}, but no such file"
                    continue
                extra = {k: v for k, v in entry.items() if k not in _OWN and not (proposed and k == "fold")}
                numbers = folder.root / entry["instances"] if "instances" in entry else None
                name, group = stem_of(images[0]), entry.get("group")
                found.cases.append(Case(name, images, label, split, group, extra=extra, instances=numbers))
        found.about |= folder.read_json(path).get("medseg", {})
        found.grouped_by = "as the file says" if any(case.group is not None for case in found.cases) else ""
        if not found.cases:
            raise ImportingError(f"{shown(path)}: none of the images that it names is there; restore the files")
        return found
