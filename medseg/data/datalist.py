"""The datalist: one JSON file that names a data set's images, labels, classes, groups and folds.

It is a superset of the decathlon JSON, so `monai.data.load_decathlon_datalist` reads it too. Paths in it are relative
to the JSON file. ``group`` (patient, section, slide) is what must not fall on both sides of a split; every entry key
that begins with ``fold`` is one fold scheme.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from medseg.atomic import atomic_write
from medseg.data.schema import PATH_KEYS, DatalistError, read_json, validate

__all__ = ["SPLITS", "Datalist", "DatalistError", "Entry"]

Entry = dict[str, Any]
SPLITS = ("training", "validation", "test")


@dataclass(frozen=True)
class Datalist:
    """A data set as medseg knows it.

    Args:
        name: short name of the data set.
        version: version of the layout, counted up when the prepared files change.
        modality: what the channels are, e.g. ``("EM",)``.
        licence: licence of the data.
        source: DOI, URL or a sentence that says where the data come from.
        labels: class index to class name, 0 to C - 1 without gaps.
        ignore_index: label value of pixels that count nowhere, or ``None``.
        training: entries ``{"image", "label", "group", "fold", ...}``, paths relative to the JSON file; where objects
            are told apart, ``instances`` names the map of their numbers.
        validation: entries of a fixed validation list.
        test: entries of a fixed test list; the only ones that may lack a label.
        path: where the JSON file is (or will be); relative paths start at its folder.
        preparation: how the files were made (crop size, seeds ...), for provenance.

    Raises:
        DatalistError: if a value is wrong, with the file, the value and the remedy.
    """

    name: str
    version: int
    modality: tuple[str, ...]
    licence: str
    source: str
    labels: dict[int, str]
    training: list[Entry]
    path: Path
    ignore_index: int | None = None
    validation: list[Entry] = field(default_factory=list)
    test: list[Entry] = field(default_factory=list)
    preparation: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the path absolute and validate."""
        object.__setattr__(self, "path", Path(self.path).absolute())
        validate(self._content(), str(self.path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read and validate a datalist; image files are not opened (`check_datalist` does that).

        Args:
            path: the JSON file.

        Raises:
            DatalistError: if it is missing, is not JSON, or any value in it is wrong.
        """
        content = read_json(Path(path))
        validate(content, str(path))
        return cls(
            name=content["name"],
            version=content["version"],
            modality=tuple(content["modality"]),
            licence=content["licence"],
            source=content["source"],
            labels={int(index): name for index, name in content["labels"].items()},
            ignore_index=content["ignore_index"],
            training=content["training"],
            validation=content["validation"],
            test=content["test"],
            preparation=content.get("preparation", {}),
            path=Path(path),
        )

    def save(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the JSON file atomically; entry paths are written as they are.

        Args:
            path: where to write; by default `path` of this datalist.
        """
        target = self.path if path is None else Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            temporary.write_text(json.dumps(self._content(), indent=1) + "\n", encoding="utf-8")
        return target

    @property
    def root(self) -> Path:
        """Folder that entry paths are relative to."""
        return self.path.parent

    @property
    def num_classes(self) -> int:
        """Number of classes C; label values are 0 to C - 1."""
        return len(self.labels)

    @property
    def class_names(self) -> list[str]:
        """Class names in the order of their indices."""
        return [self.labels[index] for index in range(self.num_classes)]

    @property
    def fold_keys(self) -> list[str]:
        """Names of the fold schemes, the default ``fold`` first."""
        keys = {key for entry in self.training for key in entry if key.startswith("fold")}
        return sorted(keys, key=lambda key: (key != "fold", key))

    def entries(self) -> list[tuple[str, Entry]]:
        """Return every entry with the name of its list, in the order of the file."""
        return [(split, entry) for split in SPLITS for entry in getattr(self, split)]

    def files(self) -> list[str]:
        """Return the path of every file that the entries name, relative to the JSON file, each once, sorted."""
        return sorted({entry[key] for _, entry in self.entries() for key in PATH_KEYS if key in entry})

    def absolute(self, entry: Entry) -> Entry:
        """Return a copy of an entry with absolute paths."""
        paths: Entry = {key: str(self.root / entry[key]) for key in PATH_KEYS if key in entry}
        return {**entry, **paths}

    def fingerprint(self) -> str:
        """Identify the data in a run's record.

        SHA-256 over the canonical JSON content and the size in bytes of every file it names. File contents are not
        read, so that large data sets stay quick: an edit that keeps a file's size escapes it (`check_datalist` keeps
        content hashes).

        Raises:
            DatalistError: if a file is missing.
        """
        content = self._content()
        digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
        for relative in self.files():
            try:
                size = (self.root / relative).stat().st_size
            except OSError as error:
                raise DatalistError(
                    f"{self.path}: names {relative}, but {self.root / relative} cannot be read ({error.strerror}); "
                    "restore the file or prepare the data set again"
                ) from error
            digest.update(f"\0{relative}\0{size}".encode())
        return digest.hexdigest()

    def split(
        self, fold: int | None = None, *, fold_key: str = "fold", validation_fold: int | str | None = "next"
    ) -> tuple[list[Entry], list[Entry], list[Entry]]:
        """Return training, validation and test entries with absolute paths.

        With a fold, the entries of ``training`` are divided: test = that fold, validation = `validation_fold`,
        training = all the others; the fixed validation and test lists are then left out. Without one (``None``, or 0
        where the datalist has no folds at all), the three lists are returned as they are.

        Args:
            fold: the fold held out as test set, or ``None`` for the fixed lists.
            fold_key: which fold scheme, see `fold_keys`.
            validation_fold: the fold used for validation: a number, ``"next"`` (the one after `fold`, cyclic), or
                ``None`` to train on all the others and validate on nothing.

        Raises:
            DatalistError: if the fold or scheme does not exist, or training or validation would be empty.
        """
        if not self.fold_keys and fold_key == "fold" and fold in (None, 0) and validation_fold in (None, "next"):
            fold = None
        elif fold is not None:
            return self._split_by_fold(fold, fold_key, validation_fold)
        elif validation_fold not in (None, "next"):
            raise DatalistError(f"{self.path}: validation_fold {validation_fold} needs a fold; pass fold= as well")
        for name in ("training", "validation"):
            if not getattr(self, name):
                schemes = f"pass fold= (schemes: {', '.join(self.fold_keys)})" if self.fold_keys else "fill the list"
                raise DatalistError(f"{self.path}: the {name} list is empty; {schemes} or add fold keys to the entries")
        return tuple([self.absolute(entry) for entry in getattr(self, name)] for name in SPLITS)  # type: ignore[return-value]

    def _split_by_fold(
        self, fold: int, fold_key: str, validation_fold: int | str | None
    ) -> tuple[list[Entry], list[Entry], list[Entry]]:
        folds = self.folds(fold_key)
        if validation_fold == "next" and fold in folds:
            validation_fold = folds[(folds.index(fold) + 1) % len(folds)]
        for name, value in (("fold", fold), ("validation_fold", validation_fold)):
            if value not in folds and not (name == "validation_fold" and value is None):
                known = ", ".join(map(str, folds))
                raise DatalistError(f"{self.path}: {name} {value} is not in scheme {fold_key!r}; choose one of {known}")
        if validation_fold == fold:
            raise DatalistError(
                f"{self.path}: validation_fold and fold are both {fold}: weights picked on the test set flatter it; "
                "choose another, or null for no validation"
            )
        held_out = {fold, validation_fold}
        training = [self.absolute(entry) for entry in self.training if entry[fold_key] not in held_out]
        if not training:
            raise DatalistError(
                f"{self.path}: scheme {fold_key!r} has folds {folds} only, so that nothing is left to train on with "
                f"fold {fold} as test and fold {validation_fold} as validation; make more folds"
            )
        validation_set = [self.absolute(entry) for entry in self.training if entry[fold_key] == validation_fold]
        test = [self.absolute(entry) for entry in self.training if entry[fold_key] == fold]
        return training, validation_set, test

    def folds(self, fold_key: str = "fold") -> Sequence[int]:
        """Return the fold numbers of a scheme, ascending.

        Raises:
            DatalistError: if the datalist has no such scheme.
        """
        if fold_key not in self.fold_keys:
            known = f"it has {', '.join(self.fold_keys)}" if self.fold_keys else "its entries carry no folds"
            raise DatalistError(f"{self.path}: no fold scheme {fold_key!r}; {known}")
        return sorted({entry[fold_key] for entry in self.training})

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "modality": list(self.modality),
            "licence": self.licence,
            "source": self.source,
            "labels": {str(index): name for index, name in sorted(self.labels.items())},
            "ignore_index": self.ignore_index,
        }
        if self.preparation:
            content["preparation"] = self.preparation
        return {**content, **{split: getattr(self, split) for split in SPLITS}}
