"""What a packed model holds: names, record, what is made of it, and whether anything in it is more than data.

A pack is a zip with one folder: weights as safetensors, whose header describes the model; ``medseg.json``, the record,
with the checksum of every other file; and what is made of the two: MONAI's configurations, a model card, a licence. So
nothing in it need be believed: `foreign` makes the configurations again and compares.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medseg.bundle import generate, metadata, networks
from medseg.bundle.description import Description
from medseg.bundle.source import Source
from medseg.errors import MedsegError, shown
from medseg.io.parts import file_hash

__all__ = [
    "CARD", "FORMAT", "LICENCE", "RECORD", "SIGNATURE", "TRAINING", "WEIGHTS", "PackError", "checksum", "configs",
    "foreign", "read_record", "refuse_expressions",
]  # fmt: skip

FORMAT = 1
RECORD = "medseg.json"
SIGNATURE = "medseg.json.sig"
WEIGHTS = "models/model.safetensors"
CARD = "docs/README.md"
TRAINING = "docs/training.yaml"
LICENCE = "LICENSE"
_MADE = ("configs/inference.yaml", "configs/logging.conf", "configs/metadata.json")
_DATA = {RECORD, SIGNATURE, WEIGHTS, CARD, TRAINING, LICENCE, *_MADE}
_TEXTS = ("title", "task", "description", "data_source", "data_type", "modality")
_SIGNS = ("$", "@", "%")  # with which a text of MONAI's configurations is an expression, a reference or a file
_KEYS = ("_target_", "_mode_", "_requires_", "_disabled_")


class PackError(MedsegError):
    """A packed model that cannot be written, read, or taken as data."""


def checksum(path: Path) -> dict[str, Any]:
    """Return the SHA-256 and the bytes of a file."""
    return {"sha256": file_hash(path), "bytes": path.stat().st_size}


def read_record(folder: Path, origin: object) -> dict[str, Any]:
    """Return the record of an unpacked pack, if every file is as it says.

    Args:
        folder: of the pack.
        origin: what to call it in errors.

    Raises:
        PackError: if there is no record, it is of the future, or a file is missing, changed or not in it.
    """
    where = shown(origin)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise PackError(f"{where} has format {record['format']!r}, this medseg reads {FORMAT}; update medseg")
        listed = {str(name): str(entry["sha256"]) for name, entry in record["files"].items()}
        good = all(isinstance(record[key], dict) for key in ("texts", "data")) and isinstance(record["name"], str)
        good = good and all(isinstance(record["texts"][key], str) for key in _TEXTS)
        good = good and isinstance(record["references"], list) and isinstance(record["scores"], list)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, PackError):
            raise
        raise PackError(
            f"{where}: {RECORD} cannot be read ({type(error).__name__}); it is no pack of medseg, or damaged: "
            "get it again, or unpack a bundle of another program with its own tools"
        ) from error
    if not good:
        raise PackError(f"{where}: {RECORD} does not hold what a pack's record holds; get it again")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for what, names in (
        ("is missing", listed.keys() - there),
        (f"is not in its {RECORD}", there - listed.keys() - {RECORD, SIGNATURE}),
        ("was changed after it was packed", {n for n in listed.keys() & there if _differs(folder / n, listed[n])}),
    ):
        if names:
            raise PackError(f"{where}: {shown(min(names))} {what}; get it again, and do not trust this one")
    return dict(record)


def _differs(path: Path, digest: str) -> bool:
    return bool(checksum(path)["sha256"] != digest)


def configs(record: Mapping[str, Any], description: Description) -> dict[str, str]:
    """Return MONAI's files of a pack: name to text.

    Args:
        record: of the pack.
        description: that its weights carry.

    Raises:
        PackError: if the record lacks something.
    """
    try:
        return _configs(record, description)
    except (KeyError, TypeError, AttributeError) as error:
        raise PackError(f"{RECORD} is not as medseg writes it ({type(error).__name__}: {error})") from error


def _configs(record: Mapping[str, Any], description: Description) -> dict[str, str]:
    source = Source(
        folder=Path(record["name"]),
        texts={key: record["texts"][key] for key in _TEXTS},
        references=[str(each) for each in record["references"]],
        description=description,
        ignored=record["data"].get("ignore_index"),
        train={},
        overlays={},
    )
    made = generate.inference_texts(source, Path(WEIGHTS).name)
    described = metadata.of(source)
    version, packages = str(record["version"]), record["packages"]
    described |= {
        "version": version,
        "changelog": {version: "packed by medseg"},
        "monai_version": packages["monai"],
        "pytorch_version": packages["torch"],
        "numpy_version": packages["numpy"],
        "authors": record["authors"],
        "copyright": f"Copyright {record['authors']}",
        "eval_metrics": _metrics(record["scores"]),
        "intended_use": record["intended_use"],
        "data_fingerprint": record["data"].get("fingerprint"),
    }
    return made | {"configs/metadata.json": json.dumps(described, indent=2, ensure_ascii=False) + "\n"}


def _metrics(scores: list[Mapping[str, Any]]) -> dict[str, float]:
    """Return the means of the first test, as the model zoo's tables show them, which do not say of what they are."""
    first = next((each for each in scores if _is_test(each.get("data") or {})), {})
    return {key: first[key] for key in ("mean_dice", "mean_iou") if isinstance(first.get(key), float)}


def _is_test(data: Mapping[str, Any]) -> bool:
    """Return whether an evaluation was of cases that the model had not seen, as far as it says."""
    seen = data.get("seen") or {}
    return data.get("split") == "test" and not any(seen.get(part) for part in ("training", "validation"))


def foreign(folder: Path, record: Mapping[str, Any], description: Description) -> list[str]:
    """Return what of a pack may be code, a phrase each: files beside the known ones, and configurations not made of it.

    MONAI evaluates configurations: classes by ``_target_``, Python after ``$``, and logging's ``args`` too. What is as
    this medseg makes it of plain data is none of that; anything else is somebody's code.

    Args:
        folder: of the pack.
        record: of the pack.
        description: that its weights carry.
    """
    found = [
        f"{shown(path.relative_to(folder).as_posix())} is no part of a packed model"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).as_posix() not in _DATA
    ]
    try:
        refuse_expressions(record, RECORD)
        refuse_expressions(description.to_dict(), WEIGHTS)
        made = configs(record, description)
    except (PackError, RecursionError) as error:
        return [*found, str(error)]
    if not networks.is_ours(str(description.network.get("name", ""))):
        found.append(f"its network is {shown(description.network.get('name'))}, which is not of medseg or MONAI")
    for name in _MADE:
        path = folder / name
        if path.is_file() and path.read_bytes() != made[name].encode():
            found.append(f"{name} is not what this medseg makes of its description")
    return found


def refuse_expressions(content: Any, where: str) -> None:
    """Refuse plain data that MONAI would take for more: texts that begin with ``$``, ``@`` or ``%``, and its own keys.

    Args:
        content: plain data.
        where: they stand, for the message.

    Raises:
        PackError: naming the text.
    """
    for text in _texts(content):
        if text.lstrip().startswith(_SIGNS) or text in _KEYS:
            raise PackError(
                f"{where} holds the text {shown(text[:80])!r}, which MONAI's configurations would evaluate; "
                "write it without that sign at its beginning"
            )


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield str(key)
            yield from _texts(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _texts(value)
