"""A trained model as one file that opens on another machine: `medseg pack`."""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.atomic import atomic_write
from medseg.bundle import library, networks, signature
from medseg.bundle.description import Description
from medseg.bundle.evaluation import RECORD as EVALUATION
from medseg.bundle.evaluation import describe_weights
from medseg.bundle.model_card import INTENDED_USE, card
from medseg.bundle.pack_files import (
    CARD,
    FORMAT,
    LICENCE,
    RECORD,
    SIGNATURE,
    TRAINING,
    WEIGHTS,
    PackError,
    checksum,
    configs,
    refuse_expressions,
)
from medseg.bundle.record import Weights, load_described, read_weights
from medseg.bundle.source import read_source
from medseg.errors import shown
from medseg.resources import BUNDLE_FILE
from medseg.runs.checkpoint import network_weights, save_checkpoint
from medseg.runs.header import read_header
from medseg.runs.paths import resolve_path
from medseg.runs.provenance import collect
from medseg.runs.run_folder import config_of, to_plain

__all__ = ["About", "Packed", "pack"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TIME = (1980, 1, 1, 0, 0, 0)  # of each file in the zip, so that the same model gives the same bytes
_PLACES = (
    "bundle_root", "dataset_dir", "datalist", "runs_dir", "run_name", "output_dir", "resume", "publish", "mlflow",
    "tracking_uri", "experiment", "register", "ckpt",
)  # fmt: skip
_PATH = re.compile(r"^(/|~|\.\.?/|[A-Za-z]:[\\/]|[a-z+]+:/)")
_NO_LICENCE = """No licence was granted for these weights when they were packed: all rights are its authors'. Ask them
before you use, change or hand on the model. The licence of the data that it was trained on may reach it too.
"""
_NUMBERS = ("mean_dice", "mean_iou", "accuracy")


@dataclass(frozen=True)
class About:
    """What nobody can read off weights.

    Args:
        bundle: folder of the bundle that it was trained with, for title, task, sources and references.
        scores: folders of evaluations of these weights; those in the run's folder are found.
        licence: of the weights: a file, or a licence's SPDX name such as ``CC-BY-4.0``.
        intended_use: a sentence.
        authors: whose it is.
        version: of the model.
    """

    bundle: str | Path | None = None
    scores: Sequence[str | Path] = ()
    licence: str | None = None
    intended_use: str = INTENDED_USE
    authors: str = "not named"
    version: str = "1.0.0"


@dataclass(frozen=True)
class Packed:
    """What was packed.

    Args:
        path: of the file.
        notes: what its reader will miss, a sentence each.
    """

    path: Path
    notes: list[str] = field(default_factory=list)


def pack(
    model: str | Path, target: str | Path | None = None, about: About | None = None, *, key: str | Path | None = None
) -> Packed:
    """Write a trained model as one file: weights, configurations, licence, card, scores, checksums.

    Args:
        model: a run, weights, or a bundle with weights, see `medseg.bundle.library.weights_file`.
        target: new file ``NAME.zip``; by default the model's name in the working directory.
        about: what nobody can read off weights.
        key: Ed25519 private key that signs it, see `medseg.bundle.signature`.

    Raises:
        BundleError: if there are no weights.
        PackError: if they do not say what they are, or the file cannot be written.
        CheckpointError: if they cannot be read, are not finite, or are not those that their header was written for.
        SignatureError: if the key cannot be used.
    """
    about = about or About()
    weights = library.weights_file(model)
    read = read_weights(weights)
    description = read.description
    if description is None:
        raise PackError(
            f"{shown(weights)} carries no record of its network and of how it is fed, without which nobody can use it; "
            "pack the run that medseg trained"
        )
    path = resolve_path(target or f"{description.name}.zip")
    name = path.name.removesuffix(".zip")
    if path.suffix != ".zip" or not _NAME.fullmatch(name):
        raise PackError(f"{shown(path)} is no name for a pack; name a file such as hippocampus-1.zip")
    if path.exists():
        raise PackError(f"{shown(path)} exists already; name a new file")
    folder = _run_of(weights)
    scores, notes = _scores(folder, weights, about)
    record = _record(name, read, description, about, folder) | {"scores": [_short(each) for each in scores]}
    refuse_expressions({**record, "model": description.to_dict()}, "the model's description")
    licence = _licence(about.licence)
    files = configs(record, description) | {CARD: card(record, description, scores), LICENCE: licence}
    if (training := _training(folder)) is not None:
        files[TRAINING] = training
    notes += [f"no {what}" for what, there in _wanted(about, licence, record) if not there]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        save_checkpoint(network_weights(read.content), root / WEIGHTS)
        _write(root, files, record, key)
        _zip(root, path, name)
    return Packed(path, notes)


def _record(name: str, read: Weights, description: Description, about: About, folder: Path) -> dict[str, Any]:
    network = networks.rebuild(description.network)
    load_described(network, read, description)  # they fit, are finite, and are those that their header was written for
    header = read_header(read.content) or {}
    held = _held(folder, header)
    texts, references = _words(folder, description, about, held.get("modality"))
    record = {
        "format": FORMAT,
        "made_by": f"medseg {__version__}",
        "name": name,
        "version": about.version,
        "texts": texts,
        "references": references,
        "intended_use": about.intended_use,
        "authors": about.authors,
        "licence": about.licence if about.licence is None or not Path(about.licence).is_file() else "see LICENSE",
        "data": _data(held, header),
        "packages": header.get("packages") or collect()["packages"],
        "commit": header.get("commit"),
        "weights": header.get("sha256"),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }
    return dict(to_plain(record))


def _wanted(about: About, licence: str, record: Mapping[str, Any]) -> list[tuple[str, bool]]:
    return [
        ("licence was named: nobody may use it (--licence)", licence != _NO_LICENCE),
        ("authors are named (--authors)", about.authors != About().authors),
        ("fingerprint of the data is known", bool(record["data"].get("fingerprint"))),
    ]


def _write(root: Path, files: Mapping[str, str], record: dict[str, Any], key: str | Path | None) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    record["files"] = {name: checksum(root / name) for name in sorted([*files, WEIGHTS])}
    content = (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    (root / RECORD).write_bytes(content)
    if key is not None:
        (root / SIGNATURE).write_bytes(signature.sign(content, key))


def _zip(root: Path, target: Path, name: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_write(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for path in sorted(path for path in root.rglob("*") if path.is_file()):
                member = zipfile.ZipInfo(f"{name}/{path.relative_to(root).as_posix()}", _TIME)
                member.external_attr = 0o644 << 16
                with archive.open(member, "w", force_zip64=True) as file, path.open("rb") as source:
                    while chunk := source.read(1 << 20):
                        file.write(chunk)
    except OSError as error:
        raise PackError(f"{shown(target)} cannot be written: {error.strerror}; make room, or name another") from error


def _run_of(weights: Path) -> Path:
    """Return the folder that weights belong to: of the run, or of the bundle whose ``models`` they lie in."""
    return weights.parent.parent if weights.parent.name in ("models", "checkpoints") else weights.parent


def _words(
    folder: Path, description: Description, about: About, modality: Sequence[str] | None
) -> tuple[dict[str, str], list[str]]:
    """Return texts and references of the bundle that is named, lies there, or is ours; else what the run knows."""
    places = [folder, folder.parent / "plan"] if about.bundle is None else [library.find(about.bundle)]
    if about.bundle is None and description.name in library.names():
        places.append(library.find(description.name))
    bundle = next((place for place in places if (place / BUNDLE_FILE).is_file()), None)
    if bundle is not None and about.bundle is None and read_source(bundle).description.classes != description.classes:
        bundle = None  # trained on other data than its texts are of
    if bundle is None:
        what = "volumes" if description.spatial_dims == 3 else "pictures"
        texts = {
            "title": description.name,
            "task": f"Segmentation of {', '.join(description.classes)}",
            "description": f"{description.network.get('name')} trained by medseg",
            "data_source": "not named",
            "data_type": what,
            "modality": ", ".join(modality or []) or "not named",
        }
        return texts, []
    source = read_source(bundle)
    return dict(source.texts), list(source.references)


def _licence(given: str | None) -> str:
    if given is not None:
        path = Path(given).expanduser()
        if path.is_file():
            return _text_of(path)
        if not re.fullmatch(r"[A-Za-z0-9.+-]{2,60}", given):
            raise PackError(f"licence {given!r} is neither a file nor an SPDX name such as CC-BY-4.0; give one of them")
        return f"SPDX-License-Identifier: {given}\n\nhttps://spdx.org/licenses/{given}.html\n"
    return _NO_LICENCE


def _text_of(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text of UTF-8"
        raise PackError(f"licence {shown(path)} cannot be read ({why}); save it as UTF-8, or name another") from error
    if not text.strip():
        raise PackError(f"licence {shown(path)} is empty; name the licence's text, or an SPDX name such as CC-BY-4.0")
    return text


def _scores(folder: Path, weights: Path, about: About) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the scores of these very weights alone; of others only a note, or an error where they were named."""
    digest = describe_weights(weights)["sha256"]
    found, notes = [], []
    named = [resolve_path(each) for each in about.scores]
    for place in named or [path.parent for path in sorted([*folder.glob(EVALUATION), *folder.glob(f"*/{EVALUATION}")])]:
        try:
            held = json.loads((place / EVALUATION).read_text(encoding="utf-8"))
            scores = json.loads((place / "scores.json").read_text(encoding="utf-8"))
            members = [str(each["sha256"]) for each in held["weights"].get("members", ())]
            scored = None if members else held["weights"]["sha256"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PackError(
                f"{shown(place)} is no evaluation that can be read ({type(error).__name__}); name a folder that "
                "medseg evaluate wrote"
            ) from error
        if members:
            if named:
                among = "" if digest in members else f", of which {shown(weights)} is none"
                raise PackError(
                    f"{shown(place)} scored an ensemble of {len(members)} models together{among}: one of them alone "
                    "scores otherwise, and a pack holds one; score it alone (medseg evaluate RUN) and name that folder"
                )
            notes.append(f"{place.name} scored an ensemble, not these weights alone: left out")
        elif scored == digest:
            found.append({**scores, "title": held.get("title"), "data": held.get("data"), "grid": held.get("grid")})
        elif named:
            raise PackError(
                f"{shown(place)} scored other weights ({str(scored)[:12]}) than {shown(weights)} ({digest[:12]}); "
                "score these: medseg evaluate"
            )
        else:
            notes.append(f"{place.name} scored other weights, or these before they were changed: left out")
    return found, notes if found else [*notes, "no scores: medseg evaluate the run first, or name them (--scores)"]


def _short(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of an evaluation that a program asks for: means over cases where there are any."""
    cases = scores.get("per_case") or {}
    source = cases or scores
    classes = [
        {key: each.get(key) for key in ("name", "dice", "iou", "interval", "n") if key in each}
        for each in source.get("classes", [])
    ]
    data = {key: value for key, value in (scores.get("data") or {}).items() if key != "name"}
    return {
        "title": scores.get("title"),
        "averaging": source.get("averaging"),
        **{key: source[key] for key in _NUMBERS if source.get(key) is not None},
        "classes": classes,
        "data": data,
        "grid": scores.get("grid"),
    }


def _held(folder: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the run says of its data; nothing where it is of another training than these weights'."""
    try:
        held: dict[str, Any] = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if held.get("fingerprint") == header.get("fingerprint") else {}


def _data(held: Mapping[str, Any], header: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of the training data; its classes are the model's."""
    kept = {key: held[key] for key in ("name", "fold_key", "fold", "validation_fold", "ignore_index") if key in held}
    return {**kept, "fingerprint": header.get("fingerprint")}


def _training(folder: Path) -> str | None:
    """Return the configuration of the training for readers, without places of this machine."""
    import yaml

    held = config_of(folder)
    if not held:
        return None
    kept = {key: _without_paths(value) for key, value in held.items() if key not in _PLACES}
    head = "# How it was trained, for readers: nothing evaluates this file.\n"
    return head + str(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))


def _without_paths(value: Any) -> Any:
    if isinstance(value, str):
        return "(a path, left out)" if _PATH.match(value) else value
    if isinstance(value, Mapping):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    return value
