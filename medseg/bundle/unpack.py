"""Opens a packed model: bounded, compared with its checksums, and nothing of it is run; `medseg unpack`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.bundle import library, signature
from medseg.bundle.description import Description, DescriptionError
from medseg.bundle.pack_files import RECORD, SIGNATURE, WEIGHTS, PackError, configs, foreign, read_record
from medseg.caller import spelt
from medseg.errors import counted, shown
from medseg.releases.archives import extract
from medseg.runs.checkpoint import load_checkpoint, save_checkpoint

__all__ = ["Opened", "opened", "read_packed", "unpack"]

_MOST_FILES = 1000
_MOST_TIMES = 20  # that an honest pack, whose weights do not compress, unpacks to of its size
_LEAST_LIMIT = 2**26  # bytes


@dataclass(frozen=True)
class Opened:
    """A pack whose files are as its record says.

    Args:
        folder: of its files; where it is a temporary one, gone afterwards.
        record: of the pack.
        weights: state dict with its header.
        description: that the weights carry.
        signed: whether it is signed, by whomever.
    """

    folder: Path
    record: Mapping[str, Any]
    weights: Mapping[str, Any]
    description: Description
    signed: bool

    def foreign(self) -> list[str]:
        """Return what in it may be code, see `medseg.bundle.pack_files.foreign`."""
        return foreign(self.folder, self.record, self.description)


@contextmanager
def opened(path: str | Path, *, signed_by: str | Path | None = None) -> Iterator[Opened]:
    """Open a pack.

    Args:
        path: of the file.
        signed_by: public key that must have signed it; ``None`` asks for no signature.

    Raises:
        ArchiveError: if it is damaged, or unpacks to what no honest pack does.
        PackError: if it is no pack, or a file is not as its record says.
        CheckpointError: if its weights cannot be read.
        DescriptionError: if they do not describe their model.
        SignatureError: if it is not signed by the key.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory() as temporary:
        inner = extract(
            path,
            Path(temporary) / "pack",
            max_bytes=max(_LEAST_LIMIT, _MOST_TIMES * path.stat().st_size) if path.is_file() else _LEAST_LIMIT,
            max_files=_MOST_FILES,
        )
        roots = list(inner.iterdir())
        if len(roots) != 1 or not (roots[0] / RECORD).is_file():
            raise PackError(
                f"{shown(path)} holds no {RECORD}, so that it is no pack of medseg; unpack a bundle of another program "
                "with its own tools, if you trust it: its configurations are code"
            )
        folder = roots[0]
        signed = _verify(folder, path, signed_by)
        record = read_record(folder, path)
        if not (folder / WEIGHTS).is_file():
            raise PackError(f"{shown(path)} holds no {WEIGHTS}; get it again")
        yield _opened(folder, record, path, signed)


def _opened(folder: Path, record: Mapping[str, Any], path: Path, signed: bool) -> Opened:
    from medseg.bundle.record import described

    weights = load_checkpoint(folder / WEIGHTS)
    found = described(weights, path)
    if found is None:
        raise DescriptionError(f"{shown(path)}: its weights do not say what network they are of; get it again")
    return Opened(folder, record, weights, found, signed)


def _verify(folder: Path, path: Path, signed_by: str | Path | None) -> bool:
    file = folder / SIGNATURE
    held = file.read_bytes() if file.is_file() and file.stat().st_size == signature.LENGTH else None
    if signed_by is not None:
        signature.verify((folder / RECORD).read_bytes(), held, signed_by, path)
    return held is not None


def read_packed(path: str | Path, *, signed_by: str | Path | None = None) -> tuple[Mapping[str, Any], Description]:
    """Return the weights of a pack and what they describe; nothing else of it is looked at but for its checksum.

    Args:
        path: of the pack.
        signed_by: public key that must have signed it.

    Raises:
        MedsegError: as `opened`.
    """
    with opened(path, signed_by=signed_by) as pack:
        return pack.weights, pack.description


def unpack(
    path: str | Path,
    folder: str | Path,
    *,
    trust: bool = False,
    renew: bool = False,
    pickled: bool = False,
    signed_by: str | Path | None = None,
) -> Opened:
    """Unpack a model into a bundle's folder, which ``python -m monai.bundle run`` takes.

    Args:
        path: of the pack.
        folder: new folder.
        trust: also unpack what may be code.
        renew: write configurations anew from the description, in place of the pack's own.
        pickled: also write ``models/model.pt``, the one form that MONAI's ``ckpt_export`` and model zoo know.
        signed_by: public key that must have signed it.

    Raises:
        PackError: if it holds what may be code, and neither ``trust`` nor ``renew`` is given.
        BundleError: if the folder is taken.
        MedsegError: as `opened`.
    """
    target = Path(folder).expanduser().absolute()
    library.refuse_taken(target)
    with opened(path, signed_by=signed_by) as pack:
        if renew:
            for name, text in configs(pack.record, pack.description).items():
                (pack.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (pack.folder / name).write_text(text, encoding="utf-8")
        found = pack.foreign()
        if found and not trust:
            more = f" (and {counted(len(found) - 1, 'more thing')})" if len(found) > 1 else ""
            anew = "" if renew else f"; {spelt('renew')} writes its configurations anew"
            raise PackError(
                f"{shown(path)} is more than data: {found[0]}{more}. Running it runs what it says: {spelt('trust')} "
                f"unpacks it as it is, if you know whose it is{anew}"
            )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
                whole = Path(temporary) / "whole"
                shutil.copytree(pack.folder, whole)
                if pickled:
                    save_checkpoint(pack.weights, whole / "models" / "model.pt")
                os.replace(whole, target)
        except OSError as error:
            raise PackError(f"{shown(target)} cannot be written: {error.strerror}; name another folder") from error
        if not found:
            library.remember(target)
        return Opened(target, pack.record, pack.weights, pack.description, pack.signed)
