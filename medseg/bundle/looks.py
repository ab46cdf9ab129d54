"""Which evaluations are a look at a test list, and of which run the weights are that look.

What stands in a datalist's ``test`` list is kept from all training and choosing, so that each scoring of it is a look,
see `medseg.runs.tested`. A fold that a training left out is none, though it is scored as ``test`` too: its cases stand
in the ``training`` list, for the other folds to train on and to choose by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.bundle.evaluation import describe_weights
from medseg.bundle.seen import contents_of
from medseg.data.datalist import Datalist, Entry
from medseg.engines.scores import case_names
from medseg.io.channels import paths_of
from medseg.runs import tested

__all__ = ["looking"]

_DIGITS = 16  # of an image's hash: enough to know it again


@contextmanager
def looking(
    data: Datalist,
    entries: Sequence[Entry],
    weights: Mapping[Path, Path],
    more: Mapping[str, Any] | None = None,
    *,
    hidden: bool = False,
) -> Iterator[Mapping[str, Any] | None]:
    """Write down that cases are scored, where that is a look at their datalist's test list.

    Args:
        data: the datalist.
        entries: what is scored, with absolute paths.
        weights: file of the weights by the folder of their run.
        more: is to be known of the look.
        hidden: whether cases are called by hashes of their names.

    Yields:
        The look, see `medseg.runs.tested.on_record`; ``None`` where this is none.
    """
    listed = {_files(data.absolute(entry)) for entry in data.test}
    looked = [entry for entry in entries if _files(entry) in listed]
    if not looked:
        yield None
        return
    contents = contents_of(data)
    digests = [hashlib.sha256("\0".join(contents[name] for name in _files(entry)).encode()) for entry in looked]
    what = {
        "weights": [describe_weights(path) for path in weights.values()],
        "data": data.fingerprint(),
        "cases": case_names(looked, hidden=hidden),
        "images": [digest.hexdigest()[:_DIGITS] for digest in digests],
    }
    with tested.on_record(list(weights), {**(more or {}), **what}) as look:
        yield look


def _files(entry: Entry) -> tuple[str, ...]:
    return tuple(str(path) for path in paths_of(entry["image"]))
