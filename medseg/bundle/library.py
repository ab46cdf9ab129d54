"""The bundles that come with medseg, and other folders that are one: found by name or path, copied, built."""

from __future__ import annotations

import contextlib
import difflib
import filecmp
import hashlib
import shutil
from pathlib import Path
from typing import NoReturn

from medseg.data.file_facts import cache_folder
from medseg.errors import MedsegError, near_path, shown
from medseg.resources import BUNDLE_FILE, bundles_root
from medseg.runs.paths import resolve_path
from medseg.runs.run_folder import METRICS, MODEL

__all__ = [
    "ENSEMBLE", "EXPORTED", "PACKED", "WEIGHTS", "BundleError", "build", "config_files", "copy", "find", "is_ours",
    "names", "refuse_taken", "refuse_unknown", "remember", "run_folder", "run_of", "weights_file",
]  # fmt: skip

PLACE = ".place.json"
"""Hidden file of a run: where its data lie on this machine, and which it has seen; it is never uploaded."""

PACKED = ".zip"
"""Suffix of a packed model, see `medseg.bundle.pack`."""
ENSEMBLE = "ensemble.json"
"""Names the models of a folder that is an ensemble, see `medseg.bundle.ensemble`."""
EXPORTED = (".onnx", ".xml")
"""Suffixes of exports that predict, see `medseg.prediction.backends`; they hold no weights that PyTorch reads."""
WEIGHTS = (".pt", ".pth", ".safetensors")
"""Suffixes of files of weights."""
_SUFFIXES = (*WEIGHTS, PACKED, *EXPORTED)
_LEFT_OUT = ("models", "runs", "__pycache__")
_CODE = (".yaml", ".yml", ".json", ".conf", ".py", ".pyc", ".so", ".pyd")  # MONAI's configurations hold expressions


class BundleError(MedsegError):
    """A bundle that is not there, or cannot be written."""


def names() -> list[str]:
    """Return the names of the bundles that come with medseg."""
    return sorted(path.parent.name for path in bundles_root().glob(f"*/{BUNDLE_FILE}"))


def find(name: str | Path) -> Path:
    """Return a bundle's folder.

    Args:
        name: of a bundle of medseg, or a folder that holds ``configs``.

    Raises:
        BundleError: if there is none.
    """
    text = str(name)
    if text in names():
        return bundles_root() / text
    folder = Path(text).expanduser().resolve()
    if (folder / "configs" / "train.yaml").is_file() or (folder / "configs" / "inference.yaml").is_file():
        return folder
    refuse_unknown(text, "run, weights or bundle")


def refuse_unknown(name: str, what: str) -> NoReturn:
    """Say that there is no bundle of a name, and which one, or which folder, is meant.

    Args:
        name: as it was given.
        what: it was looked for as.

    Raises:
        BundleError: always.
    """
    folder = near_path(Path(name).expanduser(), lambda path: path.is_dir() or path.suffix in _SUFFIXES)
    near = [shown(each) for each in (folder, *difflib.get_close_matches(name, names(), 1)) if each is not None]
    hint = f"did you mean {' or '.join(near)}?" if near else f"the bundles are {', '.join(names())}"
    raise BundleError(f"there is no {what} {name!r}; {hint}")


def refuse_taken(folder: Path) -> None:
    """Refuse a folder for a new bundle that holds something, before anything is measured.

    Raises:
        BundleError: if it is there and not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(f"{shown(folder)} exists already; name a new folder for the bundle")


def is_ours(folder: Path) -> bool:
    """Return whether a bundle came with medseg, or is as medseg wrote it on this machine.

    Any other may be code of somebody else, which evaluating it runs.
    """
    return folder.resolve().is_relative_to(bundles_root().resolve()) or _remembered(folder).is_file()


def remember(folder: Path) -> None:
    """Remember that medseg wrote a bundle, for `is_ours`; where that cannot be, it is called foreign, no more.

    Args:
        folder: of the bundle, whose files as they are now are meant.
    """
    mark = _remembered(folder)
    with contextlib.suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _remembered(folder: Path) -> Path:
    """Return the file that is there if medseg wrote a bundle: its name is the hash of all in it that may be code."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.suffix in _CODE and path.is_file() and place.parts[0] not in _LEFT_OUT:
            digest.update(f"{place.as_posix()}\0".encode(errors="replace") + hashlib.sha256(path.read_bytes()).digest())
    return cache_folder() / "bundles" / digest.hexdigest()


def config_files(folder: Path, first: str, overlays: list[str]) -> list[Path]:
    """Return a bundle's configuration files: the first and its overlays.

    Args:
        folder: of the bundle.
        first: such as ``train``.
        overlays: names of files in ``configs`` without suffix, or paths of YAML files.

    Raises:
        BundleError: if one is missing, naming those that there are.
    """
    files = [folder / "configs" / f"{first}.yaml"]
    for overlay in overlays:
        path = folder / "configs" / f"{overlay}.yaml"
        own = Path(overlay).expanduser()
        if not path.is_file() and own.suffix in (".yaml", ".yml", ".json") and own.is_file():
            path = own.resolve()
        if not path.is_file():
            modes = {"train", "inference", "evaluate", "multi_gpu_train"}
            known = sorted(found.stem for found in (folder / "configs").glob("*.yaml") if found.stem not in modes)
            raise BundleError(
                f"bundle {folder.name} has no overlay {overlay!r}; there are {', '.join(known) or 'none'}"
            )
        files.append(path)
    return files


def copy(name: str | Path, target: str | Path) -> Path:
    """Copy a bundle to a new folder, to change it there.

    Args:
        name: as in `find`.
        target: new folder.

    Raises:
        BundleError: if there is no such bundle, or the target exists.
    """
    source, folder = find(name), Path(target).expanduser().resolve()
    if folder.exists():
        raise BundleError(f"{target} exists already; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    if (folder / BUNDLE_FILE).is_file():
        from medseg.bundle import generate

        generate.build(folder)  # the name is new
    if is_ours(source):
        remember(folder)
    return folder


def build(folder: str | Path, check: bool = False) -> list[str]:
    """Write a bundle's generated files, or name those that are not current.

    Args:
        folder: with `bundle.yaml`.
        check: write nothing.

    Returns:
        Names of the files that changed, or would.
    """
    from medseg.bundle import generate
    from medseg.bundle.source import read_source

    source = read_source(folder)
    if check:
        return generate.outdated(source)
    return [str(path.relative_to(source.folder)) for path in generate.build(folder)]


def run_folder(where: str | Path) -> Path:
    """Return the folder of a run: the one that is named, or of what `medseg train DATA` wrote the ``run`` in it.

    Args:
        where: a folder.
    """
    folder = resolve_path(where)
    inner = folder / "run"
    named = any((folder / name).exists() for name in ("model.pt", "checkpoints"))
    return inner if not named and (inner / "config.yaml").is_file() else folder


def run_of(weights: Path, runs: Path) -> Path:
    """Return the folder of the run that weights are of.

    Args:
        weights: their file: of a run, or as it was published.
        runs: folder of runs, one of which may have published them.

    Returns:
        The run that the file lies in; else one that has the same file, of ``runs`` or of those of the bundle whose
        ``models`` the file lies in; else the file's own folder.
    """
    for folder in (weights.parent, weights.parent.parent):
        if any((folder / name).is_file() for name in (METRICS, PLACE)):
            return folder
    for path in sorted({*runs.glob(f"*/{MODEL}"), *(weights.parent.parent / "runs").glob(f"*/{MODEL}")}):
        if filecmp.cmp(path, weights, shallow=False):  # which first compares their sizes
            return path.parent
    return weights.parent


def weights_file(where: str | Path) -> Path:
    """Return the weights that a name, folder or file means.

    Args:
        where: weights; a packed model; the folder of a run (``model.pt``) or bundle (``models/model.pt``); a bundle's
            name.

    Raises:
        BundleError: if there are none.
    """
    path = Path(where).expanduser()
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise BundleError(
                f"{where} is no weights file; name one that ends in {', '.join(_SUFFIXES)}, a run or a bundle"
            )
        return path.resolve()
    folder = run_folder(path) if path.is_dir() else None
    if folder is None:
        folder = find(where)
    if (folder / ENSEMBLE).is_file():
        raise BundleError(f"{where} is an ensemble of several models; name one of them, a file of that folder")
    for name in ("model.pt", "models/model.pt", "models/model.safetensors"):
        if (folder / name).is_file():
            return folder / name
    if (folder / "checkpoints" / "last.pt").is_file():
        raise BundleError(f"{where} is a run that has not ended, it has no model.pt yet; let it end, or continue it")
    if (folder / "configs").is_dir():
        raise BundleError(f"{where} has no weights (model.pt); train it: medseg train {where} --data FOLDER")
    raise BundleError(f"{where} has no weights (model.pt); name the folder of a run, a bundle with weights, or weights")
