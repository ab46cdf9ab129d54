"""What only a GPU shows, in one command: speed of every network, and the papers' tables at their widths.

    python -m benchmarks.gpu --minutes 28 --data DATA --out OUT

Nothing need be prepared: what the machine lacks comes from carried wheels (`benchmarks.gpu_wheels`), and DATA holds the
releases as they come (``drosophila_vnc``, ``dsb2018``, ``msd_hippocampus``), or what ``data_scripts`` wrote of them.
One call takes at most ``--slice`` minutes and writes JSON into OUT after every row; the same command again goes on from
there, until all is done or ``--minutes`` are spent. First, and alone on the device, every network at its paper's crop
and batch (`benchmarks.gpu_speed`), then loader and trainer (`benchmarks.gpu_engine`); then trainings by worth
(`benchmarks.gpu_rows`), several at a time, since small images leave a large device idle. From the measured steps
follows how many passes over the data fit, the same number for every network of a table; a training that runs out of
time ends its schedule early and says ``cut_short``.
Five folds of the hippocampus volumes stand after the first trainings (`benchmarks.gpu_folds`), as soon as a call has
the time for all of them at once.

    python -m benchmarks.gpu --merge OTHER --out OUT         # rows of calls that did not see each other
    python -m benchmarks.gpu --page --out docs/results       # writes gpu.md from the JSON
"""

from __future__ import annotations

if __name__ == "__main__":  # before the others are imported, which need what may have to be installed
    from benchmarks import gpu_wheels

    gpu_wheels.install()

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.gpu_folds import FOLDS
from benchmarks.gpu_rows import TRAININGS, Training
from benchmarks.gpu_speed import read, write
from benchmarks.gpu_training import FIRST, Place, choose, passes, passes_of, run
from medseg.runs.provenance import collect

SCRIPTS = common.BUNDLES.parent / "data_scripts"
ITEMS = ("networks", "engine", "drosophila", "dsb2018", "hippocampus")
_SPEED_SHARE, _ENGINE_SHARE = 0.14, 0.09  # of all minutes
_ATTEMPTS = 2
_LEAST = 60.0  # seconds left under which no training begins
_FOLD_SHARE = 0.2  # of all minutes, for each of five folds that share the device
_AROUND = 2.2  # minutes of planning, starting and scoring besides


def say(text: str) -> None:
    """Tell the terminal what goes on."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def prepare(data: Path, work: Path) -> dict[str, Path]:
    """Return the folder of each data set that is there, made by its script where it is still the release."""
    found: dict[str, Path] = {}
    for item, names in {"drosophila": ("drosophila", "drosophila_vnc"), "dsb2018": ("dsb2018",)}.items():
        for folder in (data / name for name in names if (data / name).is_dir()):
            if (folder / "datalist.json").is_file():
                found[item] = folder
                break
            source = next(folder.glob("*.zip"), folder)
            output = work / "data" / item
            command = [sys.executable, str(SCRIPTS / f"{item}.py"), "--source", str(source), "--output", str(output)]
            if subprocess.run(command, check=False).returncode == 0:
                found[item] = output
                break
    for folder in (data / "hippocampus", data / "msd_hippocampus", data / "Task04_Hippocampus"):
        if any((folder / name).is_file() for name in ("datalist.json", "dataset.json")):
            found.setdefault("hippocampus", folder)
    return found


class Calls:
    """What is there of all calls together.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out: Path = options.out
        self.began = time.monotonic()
        self.out.mkdir(parents=True, exist_ok=True)
        self.record = read(self.out / "gpu_run.json")
        self.earlier = sum(self.record.get("calls_seconds", []))
        allowed = min(60 * options.slice, 60 * options.minutes - self.earlier)
        self.deadline: float = self.began + allowed
        self.git = head(options)["environment"]["git"]

    @property
    def left(self) -> float:
        """Seconds of this call."""
        return self.deadline - time.monotonic()

    def save(self) -> None:
        """Write how long all calls took, and on what."""
        calls = [*self.record.get("calls_seconds", []), time.monotonic() - self.began]
        write(self.out / "gpu_run.json", {**head(self.options), **self.record, "calls_seconds": calls})

    def file(self, item: str) -> Path:
        """Return the file of an item."""
        return self.out / f"gpu_{item}.json"


def head(options: argparse.Namespace) -> dict[str, Any]:
    """Return what every file begins with."""
    environment = collect()
    if options.commit:
        environment["git"] = {"commit": options.commit, "dirty": False}
    command = f"python -m benchmarks.gpu --minutes {options.minutes:g} --slice {options.slice:g}"
    command += f" --concurrent {options.concurrent} --seed {options.seed} --data DATA --out OUT"
    return {"benchmark": "gpu", "command": command, "seed": options.seed, "environment": environment}


def speed(calls: Calls, data: dict[str, Path]) -> None:
    """Measure networks and engine, each in a process of its own, where that is not done."""
    options = calls.options
    dry = ["--dry-run"] if options.dry_run else []
    limit = min(_SPEED_SHARE * 60 * options.minutes, calls.left)
    if "networks" in options.items and not read(calls.file("networks")).get("complete"):
        words = ["networks", "--seconds", f"{limit:.0f}", *dry]
        words += ["--compile_seconds", "0" if options.dry_run else "100"]
        for _ in range(_ATTEMPTS):  # again where a row took its process along
            if _measured(calls, "networks", words, limit + 150):
                break
    if "engine" in options.items and not read(calls.file("engine")).get("complete"):
        if "drosophila" in data:
            words = ["engine", "--data", str(data["drosophila"]), *dry]
            _measured(calls, "engine", words, max(60.0, _ENGINE_SHARE * 60 * options.minutes) * 2)
        else:
            write(calls.file("engine"), {**head(options), "error": "no data of drosophila"})


def _measured(calls: Calls, item: str, words: list[str], limit: float) -> bool:
    say(f"measuring {item}")
    path = calls.file(item)
    write(path, {**head(calls.options), **read(path)})
    try:
        common.call(["benchmarks.gpu_speed", *words, "--json", str(path)], timeout=max(1.0, min(limit, calls.left)))
        done = True
    except subprocess.SubprocessError:
        done = False
    write(path, {**read(path), "complete": done})
    calls.save()
    return done


def folds(calls: Calls, data: dict[str, Path]) -> None:
    """Cross-validate a plan on the hippocampus by `benchmarks.gpu_folds`, all folds at once, where time is left."""
    options, path = calls.options, calls.file("hippocampus")
    held = read(path)
    if "hippocampus" not in options.items or held.get("complete"):
        return
    if "hippocampus" not in data:
        write(path, {**head(options), "error": "no data of hippocampus"})
        return
    minutes = 0.1 if options.dry_run else _FOLD_SHARE * options.minutes
    if not options.dry_run and calls.left < 60 * (minutes + _AROUND):
        say(f"hippocampus: {minutes:.1f} minutes a fold do not fit into this call")
        return
    if "rows" not in held:
        path.unlink(missing_ok=True)
    say(f"hippocampus: five folds of {minutes:.1f} minutes at once")
    words = ["--data", str(data["hippocampus"]), "--minutes", f"{minutes:.2f}", "--limit", f"{calls.left / 60:.2f}"]
    words += ["--seed", str(options.seed), "--work", str(options.work / "hippocampus"), "--json", str(path)]
    words += ["--commit", options.commit] if options.commit else []
    if options.dry_run:
        words += ["--folds", "0", "--concurrent", "1", "--set", "iterations=1", "max_epochs=1"]
    try:
        common.call(["benchmarks.gpu_folds", *words], timeout=max(1.0, calls.left))
    except subprocess.SubprocessError as error:
        say(f"hippocampus: {type(error).__name__}")
    found = read(path)
    rows = [row for row in found.get("rows", []) if "error" not in row]
    write(path, {**head(options), **found, "complete": len(rows) == (1 if options.dry_run else FOLDS)})
    calls.save()


def pending(calls: Calls, *, first: bool = False) -> list[Training]:
    """Return the trainings that have no scores yet, by worth.

    Args:
        calls: so far.
        first: those alone that stand before the folds of volumes.
    """
    named = calls.options.rows
    rows = [row for row in TRAININGS if row.item in calls.options.items and (not named or row.name in named)]
    if first:
        rows = [row for row in rows if [r for r in rows if r.item == row.item].index(row) < FIRST[row.item]]
    if calls.options.dry_run:
        rows = [next(r for r in rows if r.item == i and r.network == "U-Net") for i in {r.item: None for r in rows}]
    held = {item: read(calls.file(item)).get("rows", {}) for item in ITEMS}
    return [row for row in rows if _open(held[row.item].get(row.name))]


def _open(result: dict[str, Any] | None) -> bool:
    return result is None or ("error" in result and result.get("attempts", 1) < _ATTEMPTS)


def keep(calls: Calls, row: Training, result: dict[str, Any]) -> None:
    """Put a training's result into its item's file."""
    content = {**head(calls.options), **read(calls.file(row.item))}
    rows = content.setdefault("rows", {})
    result["attempts"] = rows.get(row.name, {}).get("attempts", 0) + 1
    result["git"] = calls.git
    rows[row.name] = result
    write(calls.file(row.item), content)
    calls.save()
    shown = result.get("error", "").splitlines()
    say(f"{row.item}: {row.name}: {shown[0] if shown else result['mean_iou']} after {result['wall_seconds']:.0f} s")


def trainings(calls: Calls, data: dict[str, Path], *, first: bool = False) -> None:
    """Train what fits into the time, by worth, several at a time; ``first`` as in `pending`."""
    options = calls.options
    figures = read(calls.file("networks"))
    planned = calls.record.setdefault("passes", passes(figures, options.minutes))
    if options.dry_run:
        planned = dict.fromkeys(planned, 1)
    place = Place(data, options.work, options.concurrent, options.seed, options.dry_run)
    failed: set[str] = set()
    while calls.left > (0 if options.dry_run else _LEAST):
        rows = [row for row in pending(calls, first=first) if row.item + row.name not in failed]
        chosen = rows if options.dry_run or options.rows else choose(rows, figures, planned, calls.left)
        if not chosen:
            break
        say(f"{len(chosen)} trainings, {options.concurrent} at a time, of passes {planned}")
        with ThreadPoolExecutor(options.concurrent) as pool:
            jobs = {pool.submit(run, row, place, passes_of(row, planned), calls.deadline): row for row in chosen}
            for job in as_completed(jobs):
                result = job.result()
                if result is not None:
                    keep(calls, jobs[job], result)
                if result is None or "error" in result:
                    failed.add(jobs[job].item + jobs[job].name)


def merge(out: Path, other: Path) -> None:
    """Add what other calls wrote; a training that both have done is there twice, the second time as ``..., again``.

    Args:
        out: folder that is added to.
        other: folder of the other calls.
    """
    for name in ("gpu_run", *(f"gpu_{item}" for item in ITEMS)):
        ours, theirs = (read(folder / f"{name}.json") for folder in (out, other))
        if name == "gpu_hippocampus":  # of one plan, which folds of another do not belong to
            write(out / f"{name}.json", theirs if theirs.get("complete") and not ours.get("complete") else ours)
            continue
        if name == "gpu_run":
            seconds = [*ours.get("calls_seconds", []), *theirs.get("calls_seconds", [])]
            write(out / f"{name}.json", {**theirs, **ours, "calls_seconds": list(dict.fromkeys(seconds))})
            continue
        rows = dict(ours.get("rows", {}))
        for key, row in theirs.get("rows", {}).items():
            if key not in rows or ("error" in rows[key] and "error" not in row):
                rows[key] = row
            elif row != rows[key] and "error" not in row:
                rows[f"{key}, again"] = row
        write(out / f"{name}.json", {**theirs, **ours, **({"rows": rows} if rows else {})})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=28, help="of all calls together (default: %(default)s)")
    parser.add_argument("--slice", type=float, default=9, help="minutes of this call at most (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON, read where it is there")
    parser.add_argument("--work", type=Path, default=Path("build/gpu"), help="folder for runs")
    parser.add_argument("--items", nargs="+", default=list(ITEMS), choices=ITEMS)
    parser.add_argument(
        "--rows", nargs="+", default=[], metavar="NAME", help="of trainings, done whether they seem to fit or not"
    )
    parser.add_argument("--concurrent", type=int, default=4, help="trainings at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", help="of this code, where it lies in no checkout")
    parser.add_argument("--dry-run", action="store_true", help="tiny networks, a row of each kind")
    parser.add_argument(
        "--merge", type=Path, metavar="OTHER", help="add the JSON of another folder to OUT, and no more"
    )
    parser.add_argument("--page", action="store_true", help="write gpu.md from the JSON in OUT, and nothing else")
    options = parser.parse_args(arguments)
    if options.merge:
        merge(options.out, options.merge)
        return 0
    if options.page:
        from benchmarks.gpu_page import render

        (options.out / "gpu.md").write_text(render(options.out))
        return 0
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    calls = Calls(options)
    if calls.left <= 0:
        say(f"all {options.minutes:g} minutes are spent")
        return 0
    data = prepare(options.data, options.work)
    say(f"data: {', '.join(data) or 'none'}; {calls.left / 60:.1f} minutes")
    speed(calls, data)
    trainings(calls, data, first=True)
    folds(calls, data)
    trainings(calls, data)
    calls.save()
    say(f"{len(pending(calls))} trainings are not done; this call took {(time.monotonic() - calls.began) / 60:.1f} min")
    return 0


if __name__ == "__main__":
    sys.exit(main())
