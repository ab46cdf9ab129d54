"""Files that run code when they are read as pickles."""

import os
import pickle
from pathlib import Path

import torch


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.path),)


def write_bomb(path: Path, proof: Path, writer: str, key: str) -> None:
    """Write a checkpoint that makes the folder ``proof`` when it is unpickled.

    Args:
        path: of the file.
        proof: the folder.
        writer: ``"torch"`` or ``"pickle"``.
        key: under which it lies.
    """
    bomb = {key: _Bomb(proof)}
    if writer == "torch":
        torch.save(bomb, path)
    else:
        path.write_bytes(pickle.dumps(bomb))
