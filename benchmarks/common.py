"""What the benchmarks share: repeated timing, and a record of where it was measured."""

from __future__ import annotations

import argparse
import compileall
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUNDLES = Path(__file__).parents[1] / "bundles"
_SHOWN = 1500  # characters of a log's end


@dataclass
class Budget:
    """How long a training goes on, and how far it has come: by the clock, or by a number of steps on a busy machine.

    Args:
        minutes: from `start` on; not looked at where there are steps.
        steps: in all; ``None`` for minutes.
    """

    minutes: float
    steps: int | None = None
    started: float = field(default_factory=time.perf_counter)

    def start(self) -> None:
        """Begin: what came before, loading and planning, is not counted."""
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since `start`."""
        return time.perf_counter() - self.started

    def progress(self, step: int) -> float:
        """Return the share that is over before step ``step`` (from 0); 1 or more ends the training."""
        return step / self.steps if self.steps else self.seconds / (60 * self.minutes)


def compile_medseg() -> None:
    """Compile medseg's modules as an installation does, where Python is told to write none of it as it runs."""
    compileall.compile_dir(BUNDLES.with_name("medseg"), quiet=1)


def add_training(parser: argparse.ArgumentParser, widths: Sequence[int]) -> None:
    """Add how long a network of which widths is trained, and from what seed."""
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--widths", type=int, nargs="+", default=widths)


def alternate(first: Callable[[], None], second: Callable[[], None], repeats: int) -> dict[str, Any]:
    """Time two pieces of work in turn, so that a machine whose speed drifts treats both alike.

    Args:
        first: numerator of the ratio.
        second: denominator.
        repeats: pairs, after one that is not counted.

    Returns:
        Medians in seconds and the median of the ratios pair by pair.
    """
    pairs = []
    for number in range(repeats + 1):
        times = []
        for work in (first, second):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        if number:
            pairs.append(times)
    return {
        "seconds_first": statistics.median(p[0] for p in pairs),
        "seconds_second": statistics.median(p[1] for p in pairs),
        "ratio": statistics.median(p[0] / p[1] for p in pairs),
        "ratios": [round(p[0] / p[1], 4) for p in pairs],
    }


def train_words(
    bundle: str,
    data: Path | str,
    run: Path | str,
    overlays: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return the words of `call` that train a bundle.

    Args:
        bundle: its name.
        data: folder of the datalist.
        run: folder of the run.
        overlays: by name.
        settings: single keys of the configuration.
    """
    return ["medseg.cli", "train", bundle, "--data", str(data), "--output", str(run), *_changes(overlays, settings)]


def evaluate_words(
    run: Path | str, output: Path | str, overlays: Sequence[str] = (), settings: Mapping[str, Any] | None = None
) -> list[str]:
    """Return the words of `call` that score a run, which knows its data, split and model.

    Args:
        run: folder of the run.
        output: folder of the scores.
        overlays: that change how whole images are predicted, by name.
        settings: options of the evaluation.
    """
    return ["medseg.cli", "evaluate", str(run), "--output", str(output), *_changes(overlays, settings)]


def _changes(overlays: Sequence[str], settings: Mapping[str, Any] | None) -> list[str]:
    words = [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in (settings or {}).items()
    ]
    return [*words, "--with", *overlays] if overlays else words


def call(words: Sequence[str], **options: Any) -> None:
    """Run a module in a process of its own, so that no measurement is helped by what another has loaded.

    Args:
        words: the module and its command line.
        options: of `subprocess.run`.

    Raises:
        subprocess.CalledProcessError: if it fails.
        subprocess.TimeoutExpired: if it takes longer than the option ``timeout``.
    """
    subprocess.run([sys.executable, "-m", *words], check=True, **options)


def at_once(
    jobs: Mapping[Any, Callable[[], dict[str, Any]]],
    number: int,
    keep: Callable[[Any, dict[str, Any]], None],
) -> None:
    """Do several jobs at a time; what fails is a row with an ``error``, and the others go on.

    Args:
        jobs: by a name of any kind.
        number: of them at a time.
        keep: called with the name and the row of each, one after the other, as soon as it is there.
    """
    with ThreadPoolExecutor(number) as pool:
        running = {pool.submit(job): name for name, job in jobs.items()}
        try:
            for done in as_completed(running):
                error = done.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                keep(running[done], done.result() if error is None else {"error": f"{type(error).__name__}: {error}"})
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def call_logged(words: Sequence[str], log: Path, deadline: float | None = None, threads: int | None = None) -> None:
    """Do as `call`, with what it says in a file, until a deadline.

    Args:
        words: as there.
        log: is written to at its end.
        deadline: on the monotonic clock, at which the process is ended.
        threads: that it may compute with; ``None`` for its own choice.

    Raises:
        RuntimeError: if it fails or is late, with the end of what it said, without folders.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **({} if threads is None else {"OMP_NUM_THREADS": str(threads)})}
    left = None if deadline is None else deadline - time.monotonic()
    try:
        if left is not None and left <= 0:
            raise subprocess.TimeoutExpired([], 0)
        with log.open("a") as said:
            call(words, stdout=said, stderr=said, env=environment, timeout=left)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{words[0]}: not done when the time was over") from error
    except subprocess.CalledProcessError as error:
        end = log.read_text(errors="replace")[-_SHOWN:]
        for place, shown in ((log.parent, "FOLDER"), (BUNDLES.parent, "."), (sys.prefix, "PYTHON"), (Path.home(), "~")):
            end = end.replace(str(place), shown)
        raise RuntimeError(f"{words[0]}: status {error.returncode}: {end}") from error


def report(name: str, result: Mapping[str, Any], json_path: Path | None) -> None:
    """Print a result as a table and write it with its provenance.

    Args:
        name: of the benchmark.
        result: values by name.
        json_path: where to write, or ``None``.
    """
    from medseg.runs.provenance import collect

    width = max(len(key) for key in result)
    lines = [name, *(f"  {key:<{width}}  {_short(value)}" for key, value in result.items())]
    sys.stdout.write("\n".join(lines) + "\n")
    if json_path is not None:
        module, *arguments = sys.argv
        shown = [Path(a).name if Path(a).is_absolute() else a for a in arguments]
        command = " ".join(["python", "-m", f"benchmarks.{Path(module).stem}", *shown])
        record = {"benchmark": name, "command": command, "result": dict(result), "environment": collect()}
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(record, indent=1) + "\n")


def merge_rows(
    path: Path, head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], Any]
) -> None:
    """Write rows into a JSON file, in the place of those with the same key, in the order of the keys.

    Args:
        path: of the file, made where there is none.
        head: what stands above them.
        rows: with what each was measured under.
        key: of a row.
    """
    held = json.loads(path.read_text())["rows"] if path.is_file() else []
    new = {key(row) for row in rows}
    merged = sorted([row for row in held if key(row) not in new] + list(rows), key=key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**head, "rows": merged}, indent=1) + "\n")


def training_of(run: Path) -> dict[str, Any]:
    """Return how long the training of a run took: steps, seconds, and the share of them that it waited for data.

    SGD counts no steps; there the average of the weights has counted them.
    """
    from medseg.runs.checkpoint import load_checkpoint

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    held = load_checkpoint(run / "checkpoints" / "last.pt")
    counted = (each["step"] for each in held["optimizer"]["state"].values() if "step" in each)
    return {
        "steps": int(next(counted, held["ema_steps"])),
        "seconds": lines[-1]["seconds"],
        "data_wait_share": sum(line["data_wait_share"] for line in lines) / len(lines),
    }


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
