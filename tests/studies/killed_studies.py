"""Kill a study with SIGKILL again and again, go on, and compare its table with that of one that was left alone.

Two of three kills are of a cell's process, the third of the study's own, whose cells then end by themselves. By hand::

    python tests/studies/killed_studies.py --kills 5 --workers 2
    python tests/studies/killed_studies.py --executor submitit --job cluster=local
    python tests/studies/killed_studies.py --executor ray --job address=local
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tiny_study import write_data, write_study  # noqa: E402

EPOCHS = 8
COMPARED = ("table.md", "table.csv", "table.json", "tests.csv", "out_of_fold.csv")


def progress(folder: Path) -> int:
    """Return how many epochs all cells have recorded together."""
    patterns = ("unfinished/*/*/metrics.jsonl", "cells/*/metrics.jsonl")
    found = 0
    # not by pathlib, which stops at a folder that has just got its name
    for place in [place for pattern in patterns for place in glob.glob(str(folder / pattern), include_hidden=True)]:
        try:
            found += Path(place).read_bytes().count(b"\n")
        except FileNotFoundError:  # its folder has just got its name
            found += EPOCHS
    return found


def cells_of(folder: Path) -> list[int]:
    """Return the processes that make cells of a study, whoever started them."""
    wanted, found = b"\0study\0cell\0" + os.fsencode(folder) + b"\0", []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            if wanted in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def start(study: Path, folder: Path, by: Sequence[str], kills: Sequence[tuple[int, bool]] = ()) -> tuple[int, bool]:
    """Run the study, and kill it, or one of its cells' processes, when so many epochs are recorded.

    Args:
        study: its file.
        folder: of it.
        by: options that say who makes the cells.
        kills: epochs and whether a cell is killed (else the study), in order.

    Returns:
        How many kills there were, and whether the study ended well.
    """
    words = [sys.executable, "-W", "ignore", "-m", "medseg.cli", "study", "run", str(study), "-o", str(folder)]
    words += ["--no-mlflow", *by]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    left = list(kills)
    with open(folder.parent / f"{folder.name}.log", "ab") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        while process.poll() is None:
            if left and progress(folder) >= left[0][0]:
                _, of_cell = left[0]
                victims = cells_of(folder) if of_cell else [process.pid]
                if victims:  # else it is between two cells
                    os.kill(victims[0], signal.SIGKILL)
                    left.pop(0)
                    say(f"kill of {'a cell' if of_cell else 'the study'}: {state(folder)}")
            time.sleep(0.2)
    return len(kills) - len(left), process.returncode == 0


def state(folder: Path) -> str:
    """Return how far a study is."""
    return f"{progress(folder)} of {6 * EPOCHS} epochs, {len([*folder.glob('cells/*/cell.json')])} of 6 cells complete"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def campaign(folder: Path, kills: int, by: Sequence[str]) -> None:
    """Break a study off so many times, and compare; raises where the tables differ."""
    if not (folder / "data").is_dir():
        write_data(folder / "data")
    study = write_study(folder / "squares.yaml", epochs=EPOCHS)
    if not (folder / "whole" / COMPARED[-1]).is_file():
        assert start(study, folder / "whole", ())[1], (folder / "whole.log").read_text()
    target, done = folder / "killed", 0
    while done < kills:
        at = [max(progress(target), number * 6 * EPOCHS // (kills + 1)) + 2 for number in range(done, kills)]
        plan = [(epochs, number % 3 != 2) for number, epochs in enumerate(at, done)]
        last = next((place for place, (_, of_cell) in enumerate(plan) if not of_cell), len(plan) - 1)
        more, well = start(study, target, by, plan[: last + 1])
        assert more, "it ended before it was killed"
        assert not well
        done += more
    _, well = start(study, target, by)
    assert well, (folder / "killed.log").read_text()
    for name in COMPARED:
        same = (folder / "whole" / name).read_bytes() == (target / name).read_bytes()
        say(f"{name}: {'the same' if same else 'DIFFERS'}")
        assert same
    left = [*target.glob("unfinished/*"), *target.rglob("*.lock")]
    assert not left, left
    say((target / "table.md").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", default="here")
    parser.add_argument("--job", nargs="+", default=[])
    parser.add_argument("--folder", type=Path, help="to keep everything in (default: one that is removed)")
    given = parser.parse_args()
    by = ["--workers", str(given.workers), "--executor", given.executor, *(["--job", *given.job] if given.job else [])]
    if given.folder is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
        campaign(given.folder.resolve(), given.kills, by)
        return
    with tempfile.TemporaryDirectory() as folder:
        campaign(Path(folder), given.kills, by)


if __name__ == "__main__":
    main()
