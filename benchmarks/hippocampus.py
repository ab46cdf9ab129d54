"""Train on the hippocampus (decathlon, Task 4) by medseg, nnU-Net and a plain MONAI script, equally long; score alike.

    python -m benchmarks.hippocampus --data DATA --minutes 8 --seeds 0 1 2 --json docs/results/hippocampus.json
    python -m benchmarks.hippocampus --data DATA --system monai --seeds 0 --steps 300 --json busy.json

- ``medseg``: ``medseg train DATA --minutes M`` as it is, then ``medseg predict``. ``--plan`` trains a bundle of
  ``medseg plan`` instead of a new plan's.
- ``nnunet``: `benchmarks.hippocampus_nnunet`, in which nnU-Net's own code plans, prepares, trains and predicts.
- ``monai``: `benchmarks.hippocampus_monai`.

Fold 0 of those that medseg proposes is held out, the others are trained on, by all three; each trains in a process of
its own, and the masks that it writes are scored by ``medseg score``. The minutes are those of training: what comes
before the first step and after the last is written beside them. ``--steps`` trains so many steps instead, to which
schedules are fitted, so that a busy machine gives the same result; planning still measures, unless ``--plan`` is given.
What is in the work folder already is not trained again.
Data: A. L. Simpson et al., https://arxiv.org/abs/1902.09063, CC-BY-SA 4.0. The release does not say which volumes are
one person's, so that two of one may stand on both sides.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import call, merge_rows, train_words, training_of
from medseg.bundle.data import load_data, split
from medseg.cli._arguments import setting
from medseg.data.datalist import Datalist
from medseg.exporters.nnunet import export_nnunet
from medseg.runs.provenance import collect
from medseg.studies.mask_classes import read_classes
from medseg.studies.score_folders import score_folders

FOLD = 0
SCORES = ("dice", "hd95", "nsd")
DATASET = "Dataset004_Hippocampus"
EPOCHS = 20  # that steps are divided into, at most
INSTALL = (
    "nnunetv2 is not here: pip install --no-deps --target build/nnunet nnunetv2==2.8.1 acvl-utils==0.2.6 "
    "batchgenerators batchgeneratorsv2 dynamic-network-architectures connected-components-3d SimpleITK blosc2 numexpr "
    "ndindex msgpack einops yacs seaborn graphviz httpx httpcore h11, and give --nnunet build/nnunet"
)
PUBLISHED = {
    "dice": {"Anterior": 0.8987, "Posterior": 0.8820},
    "what": "nnU-Net's 3D U-Net after its full training, five-fold cross-validation over the release's 260 volumes",
    "source": "F. Isensee et al., nnU-Net: Self-adapting Framework for U-Net-Based Medical Image Segmentation, "
    "arXiv:1809.10486, table 2",
}


@dataclass(frozen=True)
class Task:
    """What is trained, and for how long.

    Args:
        data: folder of the decathlon's ``dataset.json``.
        work: folder of everything that is made.
        minutes: of a training, and for which it is planned.
        steps: instead of the minutes.
        plan: bundle that medseg trains, instead of a new plan's.
        settings: single keys of medseg's configuration.
        nnunet: folder that holds nnunetv2, where it is not installed.
        words: further words of the plain script's and nnU-Net's command line.
    """

    data: Path
    work: Path
    minutes: float
    steps: int | None = None
    plan: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    nnunet: Path | None = None
    words: Sequence[str] = ()

    @property
    def cases(self) -> Path:
        """JSON of what is trained on and what is held out."""
        return self.work / "cases.json"

    def length(self) -> list[str]:
        """Return the words that say how long."""
        return ["--minutes", f"{self.minutes:g}", *(["--steps", str(self.steps)] if self.steps else [])]


def lay_out(task: Task) -> Datalist:
    """Write ``cases.json`` and folders of links to the images held out and their truths; return the datalist."""
    datalist = load_data(task.data)
    training, _, held_out = split(datalist, {"fold": FOLD, "validation_fold": None})
    for kind in ("image", "label"):
        folder = task.work / f"{kind}s"
        folder.mkdir(parents=True, exist_ok=True)
        for entry in held_out:
            link = folder / Path(entry["image"]).name
            if not link.is_symlink():
                link.symlink_to(Path(entry[kind]).resolve())
    found = {"training": _paths(training), "held_out": _paths(held_out), "classes": datalist.class_names}
    task.cases.write_text(json.dumps(found, indent=1))
    return datalist


def _paths(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [{key: str(Path(entry[key]).resolve()) for key in ("image", "label")} for entry in entries]


def medseg(task: Task, seed: int, folder: Path) -> dict[str, Any]:
    """Train by `medseg train`, predict by `medseg predict`."""
    run = folder / "run"
    settings: dict[str, Any] = {"seed": seed, **task.settings}
    started = time.perf_counter()
    if task.plan is None and task.steps is None:
        words = ["medseg.cli", "train", str(task.data), "--minutes", f"{task.minutes:g}", "--output", str(folder)]
        call([*words, *(f"{key}={json.dumps(value)}" for key, value in settings.items())])
    else:
        plan = task.plan or str(folder / "plan")
        if task.plan is None:
            call(["medseg.cli", "plan", str(task.data), "-o", plan, "--minutes", f"{task.minutes:g}"])
        settings |= {"max_minutes": task.minutes, "fold": FOLD, "validation_fold": None}
        if task.steps is not None:
            epochs = max(n for n in range(1, EPOCHS + 1) if task.steps % n == 0)
            settings |= {"max_minutes": None, "max_epochs": epochs, "iterations": task.steps // epochs}
            settings["val_interval"] = epochs
        call(train_words(plan, task.data, run, (), settings))
    trained = time.perf_counter()
    call(["medseg.cli", "predict", str(run), str(task.work / "images"), str(folder / "masks")])
    predicted = time.perf_counter()
    training = training_of(run)
    return {
        **training,
        "ready_seconds": trained - started - training["seconds"],  # planning, the scores of the run's own evaluation
        "predict_seconds": predicted - trained,
        "about": _network(run),
    }


def _network(run: Path) -> str:
    from medseg.prediction.model import load

    network = load(run, device="cpu").description.network
    return " ".join(f"{key}={value}" for key, value in network.items() if key in ("name", "channels"))


def nnunet(task: Task, seed: int, folder: Path) -> dict[str, Any]:
    """Train and predict by nnU-Net's own code, which plans and prepares once for all seeds."""
    place = task.work / "nnunet"
    environment = dict(os.environ)
    for name in ("raw", "preprocessed", "results"):
        (place / name).mkdir(parents=True, exist_ok=True)
        environment[f"nnUNet_{name}"] = str(place / name)
    if task.nnunet is not None:
        paths = [str(task.nnunet.resolve()), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if not (place / "raw" / DATASET).is_dir():
        export_nnunet(load_data(task.data), place / "raw" / DATASET)
    prepared = place / "prepared.json"
    if not prepared.is_file():
        call(["benchmarks.hippocampus_nnunet", "prepare", str(prepared)], env=environment)
    words = ["benchmarks.hippocampus_nnunet", "train", str(task.cases), str(folder), "--seed", str(seed)]
    environment["nnUNet_n_proc_DA"] = "0"  # loading processes, which take the cores from the training
    call([*words, *task.length(), *task.words], env=environment)
    found: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return {**found, **json.loads(prepared.read_text())}


def monai(task: Task, seed: int, folder: Path) -> dict[str, Any]:
    """Train and predict by the plain script."""
    words = ["benchmarks.hippocampus_monai", str(task.cases), str(folder), "--seed", str(seed)]
    call([*words, *task.length(), *task.words])
    found: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return found


SYSTEMS: dict[str, Callable[[Task, int, Path], dict[str, Any]]] = {"medseg": medseg, "nnunet": nnunet, "monai": monai}


def compare(task: Task, system: str, seed: int) -> dict[str, Any]:
    """Train and predict by one system, score its masks, and return a row.

    Args:
        task: what and how long.
        system: of `SYSTEMS`.
        seed: of the training.
    """
    budget = f"{task.steps}steps" if task.steps else f"{task.minutes:g}min"
    folder = task.work / f"{system}_{budget}_seed{seed}"
    kept = folder / "row.json"
    if kept.is_file():
        row: dict[str, Any] = json.loads(kept.read_text())
        return row
    folder.mkdir(parents=True, exist_ok=True)
    load, before = os.getloadavg()[0], _cpu_seconds()
    found = SYSTEMS[system](task, seed, folder)
    row = {"system": system, "seed": seed, "minutes": task.minutes, "planned_steps": task.steps, **found}
    row |= {"seconds_a_step": found["seconds"] / max(1, found["steps"]), "cpu_seconds": _cpu_seconds() - before}
    row |= {"load_at_start": load, "load_at_end": os.getloadavg()[0]}
    row |= {"scores": score(folder / "masks", task), "environment": collect()}
    kept.write_text(json.dumps(row))
    return row


def _cpu_seconds() -> float:
    """Return the processor seconds of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def score(masks: Path, task: Task) -> dict[str, Any]:
    """Return means over cases by score and class but the background, as `medseg score` gives them, and how many."""
    found = score_folders(masks, task.work / "labels", classes=read_classes([str(load_data(task.data).path)]))
    if not found.complete:
        raise SystemExit(f"{masks}: {found.said()[0]}")
    per_case = found.result.table["per_case"]
    rows = [row for row in per_case["classes"] if row["n"]["dice"] and row.get("hd95") is not None]
    means = {column: {row["name"]: row[column] for row in rows} for column in SCORES}
    return {"cases": per_case["cases"], **means}


def _key(row: Mapping[str, Any]) -> tuple[float, int, int, int]:
    return (row["minutes"], row["planned_steps"] or 0, list(SYSTEMS).index(row["system"]), row["seed"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the decathlon's dataset.json")
    parser.add_argument("--system", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--plan", help="name or folder of a bundle that medseg trains instead of a new plan's")
    parser.add_argument("--set", dest="settings", type=setting, nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--nnunet", type=Path, help="folder that holds nnunetv2, where it is not installed")
    parser.add_argument("--work", type=Path, default=Path("build/hippocampus"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    there = importlib.util.find_spec("nnunetv2") if options.nnunet is None else (options.nnunet / "nnunetv2").is_dir()
    if "nnunet" in options.system and not there:
        raise SystemExit(INSTALL)
    task = Task(
        options.data, options.work.absolute(), options.minutes, options.steps, options.plan, dict(options.settings),
        options.nnunet,
    )  # fmt: skip
    datalist = lay_out(task)
    cases = json.loads(task.cases.read_text())
    counts = {part: len(cases[part]) for part in ("training", "held_out")}
    data = {"name": datalist.name, "fold": FOLD, "fingerprint": datalist.fingerprint(), **counts}
    sys.stdout.write(f"{datalist.name}: {counts['training']} volumes are trained on, {counts['held_out']} are scored\n")
    rows = []
    for seed in options.seeds:
        for system in options.system:
            rows.append(compare(task, system, seed))
            shown = ", ".join(f"{name} {value:.3f}" for name, value in rows[-1]["scores"]["dice"].items())
            sys.stdout.write(f"{system}, seed {seed}: {rows[-1]['steps']} steps, Dice {shown}\n")
            sys.stdout.flush()
            if options.json is not None:
                head = {"benchmark": "hippocampus", "data": data, "published": PUBLISHED}
                merge_rows(options.json, head, rows, _key)


if __name__ == "__main__":
    main()
