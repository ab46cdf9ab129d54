"""The datalist: one JSON file that names a data set's images, labels, classes, groups and folds.

It is a superset of the decathlon JSON, so `monai.data.load_decathlon_datalist` reads it too, and a decathlon
``dataset.json`` is read as it is (`medseg.data.decathlon`). Paths in it are relative to the JSON file. ``group``
(patient, section, slide) is what must not fall on both sides of a split; every entry key that begins with ``fold`` is
one fold scheme.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from medseg.atomic import atomic_write
from medseg.caller import spelt
from medseg.data.decathlon import is_decathlon, read_decathlon
from medseg.data.file_facts import hash_all
from medseg.data.schema import FILES, PATH_KEYS, DatalistError, read_json, validate
from medseg.errors import shown
from medseg.io.labels import VALUES_KEY

__all__ = ["SPLITS", "Datalist", "DatalistError", "Entry", "Parts", "datalist_file", "path_from"]

Entry = dict[str, Any]
SPLITS = ("training", "validation", "test")

Parts = tuple[list[Entry], list[Entry], list[Entry]]


logger = logging.getLogger(__name__)


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
        training: entries ``{"image", "label", "group", "fold", ...}``, paths relative to the JSON file (with ``..``
            where they lie beside its folder); an ``image`` of several files is their list, one a channel; a DICOM
            series is its folder, or one of its slices where others share that; where objects are told apart,
            ``instances`` names the map of their numbers.
        validation: entries of a fixed validation list.
        test: entries of a fixed test list; the only ones that may lack a label.
        path: where the JSON file is (or will be); relative paths start at its folder.
        preparation: how the files were made (crop size, seeds ...), for provenance.
        codes: class index to its coded concept, ``{"value": "10200004", "scheme": "SCT", "meaning": "Liver"}``; such
            codes may stand in it as ``category`` (what kind of thing), ``modifier`` (left, right) and ``region``
            (where). `medseg.data.coding` proposes them.
        colours: class index to the colour it is drawn in, ``"#ff8000"``.
        values: stored label value to class index (or ignore label), where labels do not store class indices: ``{0: 0,
            255: 1}`` for masks of 0 and 255. Every value that a label holds must then be named.

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
    codes: dict[int, dict[str, Any]] = field(default_factory=dict)
    colours: dict[int, str] = field(default_factory=dict)
    values: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the path absolute and validate."""
        object.__setattr__(self, "path", Path(self.path).absolute())
        validate(self._content(), str(self.path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read and validate a datalist or a decathlon ``dataset.json``; images are not opened (`check_datalist` does).

        Args:
            path: the JSON file.

        Raises:
            DatalistError: if it is missing, is not JSON, or any value in it is wrong.
        """
        content = read_json(Path(path))
        if is_decathlon(content):
            content = read_decathlon(content, Path(path))
        validate(content, str(path))
        return cls(
            name=content["name"],
            version=content["version"],
            modality=tuple(content["modality"]),
            licence=content["licence"],
            source=content["source"],
            labels=_by_number(content["labels"]),
            ignore_index=content["ignore_index"],
            training=content["training"],
            validation=content["validation"],
            test=content["test"],
            preparation=content.get("preparation", {}),
            codes=_by_number(content.get("codes", {})),
            colours=_by_number(content.get("colours", {})),
            values=_by_number(content.get("values", {})),
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
        return sorted({key for entry in self.training for key in entry if key.startswith("fold")})

    def fold_on_record(self, fold: int | str | None) -> int | str | None:
        """Return a fold as records have it: ``None`` where `split` takes the lists as they are."""
        return fold if self.fold_keys or fold != 0 else None

    def entries(self) -> list[tuple[str, Entry]]:
        """Return every entry with the name of its list, in the order of the file."""
        return [(split, entry) for split in SPLITS for entry in getattr(self, split)]

    def files(self) -> list[str]:
        """Return the path of every file that the entries name, relative to the JSON file, each once, sorted."""
        named = (entry[key] for _, entry in self.entries() for key in PATH_KEYS if key in entry)
        return sorted({path for value in named for path in (value if isinstance(value, list) else [value])})

    def absolute(self, entry: Entry) -> Entry:
        """Return a copy of an entry with absolute paths and, where there is one, the mapping of its label's values."""
        paths: Entry = {key: self._placed(entry[key]) for key in PATH_KEYS if key in entry}
        return {**entry, **paths, **({VALUES_KEY: dict(self.values)} if self.values else {})}

    def _placed(self, named: str | list[str]) -> str | list[str]:
        if isinstance(named, list):
            return [str(self._placed(path)) for path in named]
        if ".." not in named.split("/"):
            return str(self.root / named)
        return os.path.normpath(os.path.join(os.path.realpath(self.root), named))  # "..", past a link, is elsewhere

    def contents(self) -> dict[str, str]:
        """Return the SHA-256 of every file that the entries name, by its path relative to the JSON file.

        A file whose size and times are those of an earlier call, or of a check, is not read again.

        Raises:
            DatalistError: if a file cannot be read.
        """
        places = {relative: Path(str(self._placed(relative))) for relative in self.files()}
        try:
            found = hash_all(places.values(), self.path)
        except OSError as error:
            relative = next((name for name, place in places.items() if str(place) == str(error.filename)), "a file")
            raise DatalistError(
                f"{shown(self.path)}: names {shown(relative)}, but {shown(error.filename)} cannot be read "
                f"({error.strerror}); restore the file or prepare the data set again"
            ) from error
        return {relative: found[place] for relative, place in places.items()}

    def fingerprint(self) -> str:
        """Identify the data in a run's record: SHA-256 over the canonical JSON content and every file's `contents`.

        Raises:
            DatalistError: if a file cannot be read.
        """
        content = self._content()
        digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
        for relative, found in self.contents().items():
            digest.update(f"\0{relative}\0{found}".encode())
        return digest.hexdigest()

    def split(
        self,
        fold: int | str | None = None,
        *,
        fold_key: str = "fold",
        validation_fold: int | str | None = "next",
    ) -> Parts:
        """Return training, validation and test entries with absolute paths.

        - A number: the entries of ``training`` are divided: test = that fold, validation = `validation_fold`, training
          = all the others; the fixed validation and test lists are left out.
        - ``None``, or 0 where the datalist has no folds at all: the three lists as they are. Without folds the
          training list may be empty where there is a test list, to score a model on; the validation list may be empty:
          then all of ``training`` is trained on and nothing picks the weights, so that
          the last ones are kept; a line of the log says so.
        - ``"all"``: everything that may be trained on, the training and the validation list, folds or not, is;
          nothing is validated; test = the fixed test list.

        With two folds nothing is left to validate on, so that ``"next"`` means ``None`` there, with a warning: the
        fold under test never picks the weights.

        Args:
            fold: the fold held out as test set, ``None`` for the fixed lists, or ``"all"``.
            fold_key: which fold scheme, see `fold_keys`.
            validation_fold: the fold used for validation: a number, ``"next"`` (the one after `fold`, cyclic), or
                ``None`` to train on all the others and validate on nothing.

        Raises:
            DatalistError: if the fold or scheme does not exist, or nothing would be left to train on.
        """
        where = shown(self.path)
        usual = validation_fold in (None, "next")
        if fold == "all":
            if not usual:
                raise DatalistError(
                    f"{where}: fold all trains on everything, so that validation_fold {validation_fold} cannot be kept "
                    "apart; leave it out, or name a fold"
                )
            return self._lists(self.training + self.validation, [], "fold all")
        if fold is not None and (self.fold_keys or fold != 0 or fold_key != "fold" or not usual):
            return self._split_by_fold(fold, fold_key, validation_fold)
        if not usual:
            raise DatalistError(
                f"{where}: validation_fold {validation_fold} needs a fold; give {spelt('fold')} as well"
            )
        if not self.validation and self.fold_keys:
            raise DatalistError(
                f"{where}: the validation list is empty; give {spelt('fold', 'N')} (schemes: "
                f"{', '.join(self._schemes())}), or {spelt('fold', 'all')} to train on everything"
            )
        return self._lists(self.training, self.validation, "the validation list is empty")

    def _lists(self, training: list[Entry], validation: list[Entry], reason: str) -> Parts:
        if not training and self.test:
            return [], [self.absolute(entry) for entry in validation], [self.absolute(entry) for entry in self.test]
        if not training:
            raise DatalistError(
                f"{shown(self.path)}: the training list is empty, so that there is nothing to train on; fill the list"
            )
        if not validation:
            logger.warning(
                "%s: all labelled images (%d) are trained on (%s): nothing is validated, and the last weights are kept",
                shown(self.path), len(training), reason,
            )  # fmt: skip
        return (
            [self.absolute(entry) for entry in training],
            [self.absolute(entry) for entry in validation],
            [self.absolute(entry) for entry in self.test],
        )

    def _split_by_fold(self, fold: int | str, fold_key: str, validation_fold: int | str | None) -> Parts:
        folds, where, scheme = self.folds(fold_key), shown(self.path), shown(fold_key)
        if validation_fold == "next" and fold in folds:
            validation_fold = folds[(folds.index(fold) + 1) % len(folds)] if len(folds) != 2 else None
            if len(folds) == 2:
                logger.warning(
                    "%s: scheme %r has two folds: one is trained on, fold %s is the test, and none is left for "
                    "validation: the last weights are kept", where, scheme, fold,
                )  # fmt: skip
        self.refuse_fold(fold, fold_key)
        if validation_fold is not None:
            self.refuse_fold(validation_fold, fold_key, "validation_fold")
        held_out = {fold, validation_fold}
        training = [self.absolute(entry) for entry in self.training if entry[fold_key] not in held_out]
        if not training:
            kept = "" if validation_fold in (None, fold) else f" and fold {validation_fold} as validation"
            raise DatalistError(
                f"{where}: scheme {scheme!r} has only fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}, so "
                f"that nothing is left to train on with fold {fold} as test{kept}; make more folds, or train on "
                f"everything with {spelt('fold', 'all')}"
            )
        if validation_fold == fold:
            raise DatalistError(
                f"{where}: validation_fold and fold are both {fold}: weights picked on the test set flatter it; "
                "choose another, or null for no validation"
            )
        validation_set = [self.absolute(entry) for entry in self.training if entry[fold_key] == validation_fold]
        test = [self.absolute(entry) for entry in self.training if entry[fold_key] == fold]
        return training, validation_set, test

    def refuse_fold(self, fold: int | str, fold_key: str = "fold", name: str = "fold") -> None:
        """Refuse a fold that is not in a scheme.

        Raises:
            DatalistError: naming those that there are.
        """
        folds = self.folds(fold_key)
        if fold not in folds:
            known = f"{', '.join(map(str, folds))}{', or all' * (name == 'fold')}"
            raise DatalistError(
                f"{shown(self.path)}: {name} {fold} is not in scheme {shown(fold_key)!r}; choose one of {known}"
            )

    def folds(self, fold_key: str = "fold") -> Sequence[int]:
        """Return the fold numbers of a scheme, ascending.

        Raises:
            DatalistError: if the datalist has no such scheme.
        """
        if fold_key not in self.fold_keys:
            known = f"it has {', '.join(self._schemes())}" if self.fold_keys else "its entries carry no folds"
            raise DatalistError(f"{shown(self.path)}: no fold scheme {fold_key!r}; {known}")
        return sorted({entry[fold_key] for entry in self.training})

    def _schemes(self) -> list[str]:
        return [shown(key) for key in self.fold_keys]

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "modality": list(self.modality),
            "licence": self.licence,
            "source": self.source,
            "labels": _by_text(self.labels),
            "ignore_index": self.ignore_index,
        }
        if self.preparation:
            content["preparation"] = self.preparation
        for key in ("codes", "colours", "values"):
            if named := getattr(self, key):
                content[key] = _by_text(named)
        return {**content, **{split: getattr(self, split) for split in SPLITS}}


def datalist_file(folder: Path) -> Path:
    """Return the datalist of a folder: ``datalist.json``, else ``dataset.json``; whether it is there or not.

    Args:
        folder: of a data set.
    """
    return next((folder / name for name in FILES if (folder / name).is_file()), folder / FILES[0])


def path_from(path: str | os.PathLike[str], folder: Path) -> str:
    """Return a file's path from a datalist's folder; both ends without links, so that ``..`` leads back.

    Args:
        path: of the file; a link that is a file keeps its own name.
        folder: of the datalist.
    """
    parent, name = os.path.split(path)
    real = Path(os.path.realpath(parent)) / name
    return Path(os.path.relpath(real, os.path.realpath(folder))).as_posix()


def _by_number(content: Mapping[str, Any]) -> dict[int, Any]:
    return {int(key): value for key, value in content.items()}


def _by_text(content: Mapping[int, Any]) -> dict[str, Any]:
    return {str(key): content[key] for key in sorted(content)}
