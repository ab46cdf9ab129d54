"""Where a report's numbers come from: what was asked for, versions, hashes. No person, host or folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.bundle.evaluation import describe_weights
from medseg.errors import counted
from medseg.reports.page import Facts, Item, Text
from medseg.runs.privacy import scrub
from medseg.runs.run_folder import METRICS, MODEL

__all__ = ["asked", "reservations", "versions"]

_DID = {"training": "trained on", "validation": "picked by"}


def asked(
    run: Path | None, record: Mapping[str, Any], config: Mapping[str, Any], objects: Sequence[str]
) -> list[tuple[str, str]]:
    """Return the question, the model, its training and what it was scored on.

    Args:
        run: folder of the training.
        record: of the evaluation.
        config: of the training.
        objects: names of the classes without the background.
    """
    data, network = record.get("data", {}), record.get("network", {})
    facts = [("question", f"How well does the model find {', '.join(objects)} in images it was not trained on?")]
    members = len(record.get("weights", {}).get("members", ()))
    if network:
        together = f"the mean of {counted(members, 'model')}, the first: " if members else ""
        facts.append(("model", f"{together}{network['name']}, {network['parameters']:,} parameters"))
    facts += _input(config)
    facts += _training(run, config)
    if data:
        scheme = "" if data.get("fold_key", "fold") == "fold" else f" of {data['fold_key']}"
        fold = "" if data.get("fold") in (None, "all") else f", fold {data['fold']}{scheme}"
        number = counted(int(data.get("images", 0)), "image")
        facts.append(("scored on", f"{number} of {data.get('name')}: the {data.get('split')} part{fold}"))
    if data.get("tested_before"):
        times = counted(int(data["tested_before"]), "time")
        facts.append(("looked at before", f"{times}: who looks often chooses by it"))
    if record.get("grid"):
        where = {"file": "as the labels lie in their files", "model": "on the model's grid"}
        facts.append(("compared", where.get(str(record["grid"]), str(record["grid"]))))
    return [(name, scrub(value)) for name, value in facts]


def reservations(run: Path | None, record: Mapping[str, Any], split: str) -> Iterator[str]:
    """Yield for what reasons the scores are not those of the run's model on cases that are new to it, a sentence each.

    Args:
        run: folder of the training.
        record: of the evaluation.
        split: what was scored.
    """
    if split != "test":
        yield (
            f"These are scores on the {split} cases, which the training has seen or which picked its weights. On new "
            "cases the model may be worse."
        )
    data = record.get("data", {})
    seen = data.get("seen", {})
    for part, did in _DID.items() if split == "test" else ():
        if seen.get(part):
            yield (
                f"{seen[part]} of the {counted(int(data.get('images', 0)), 'image')} that were scored are no test: the "
                f"model was {did} them, or others of their group. On new cases it may be worse."
            )
    if unsaid := seen.get("runs_that_do_not_say"):
        yield f"{counted(unsaid, 'model')} did not say which cases it was trained on: some of these may be among them."
    weights = record.get("weights", {})
    scored = {each.get("sha256") for each in weights.get("members", [weights])}
    file = None if run is None or not weights else run / MODEL
    if file is not None and file.is_file() and describe_weights(file)["sha256"] not in scored:
        yield (
            "The run's weights are not those that were scored: it went on, or its postprocessing or temperature were "
            "chosen since. Score it again: medseg evaluate RUN"
        )


def _input(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model = config.get("model")
    fed = model.get("input") if isinstance(model, Mapping) else None
    if isinstance(fed, Mapping) and fed.get("spacing"):
        edges = " x ".join("as stored" if edge is None else f"{edge:g} mm" for edge in fed["spacing"])
        yield "seen by the model", f"resampled to {edges}"


def _training(run: Path | None, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if run is None or not (run / METRICS).is_file():
        return
    lines = [line for line in (run / METRICS).read_text(encoding="utf-8").splitlines() if line.strip()]
    if lines:
        last = json.loads(lines[-1])
        seconds = last.get("seconds")
        minutes = f", {counted(round(seconds / 60), 'minute')}" if isinstance(seconds, float) else ""
        patch = config.get("patch")
        window = f", patches of {' x '.join(map(str, patch))}" if isinstance(patch, list) else ""
        batch = f", {config['batch_size']} a step" if isinstance(config.get("batch_size"), int) else ""
        epochs = counted(int(last.get("epoch", len(lines))), "epoch")
        steps = f", {counted(int(last['steps']), 'step')}"
        yield "trained", f"{epochs}{steps}{minutes}{window}{batch}, seed {config.get('seed')}"


def versions(run: Path | None, folder: Path, record: Mapping[str, Any]) -> Iterator[Item]:
    """Yield what is needed to get the numbers again.

    Args:
        run: folder of the training.
        folder: of the evaluation.
        record: of the evaluation.
    """
    weights, data = record.get("weights", {}), record.get("data", {})
    facts = []
    for each in (each for each in weights.get("members", [weights]) if each):
        facts.append(("weights, SHA-256 of the file", str(each.get("sha256"))))
        if each.get("values"):
            facts.append(("weights, SHA-256 of their values, as masks and packs name them", str(each["values"])))
    if data:
        facts.append(("data, fingerprint", str(data.get("fingerprint"))))
    for name, place in (("training", run), ("evaluation", folder)):
        path = None if place is None else place / "environment.json"
        if path is not None and path.is_file():
            facts += _environment(name, json.loads(path.read_text(encoding="utf-8")))
    yield Facts([(name, scrub(value)) for name, value in facts], code=True)
    if not facts:
        yield Text("The folder holds no record of its origin.", "warning")
    elif any(value.endswith("changed since") for _, value in facts):
        yield Text("The code was changed after its last commit: the numbers may not come out again.", "warning")


def _environment(name: str, held: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    packages = [f"{key} {value}" for key, value in held.get("packages", {}).items() if value]
    yield f"{name}, versions", f"Python {held.get('python')}, {', '.join(packages)}"
    git = held.get("git")
    if git:
        yield f"{name}, code", f"{git['commit']}{', changed since' if git.get('dirty') else ''}"
    gpus = ", ".join(gpu["name"] for gpu in held.get("gpus", ()))
    yield f"{name}, on", f"{gpus or held.get('cpu', {}).get('model')}, {held.get('os')}"
