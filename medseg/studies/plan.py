"""A plan: from a data set to a bundle that can be trained on it in the minutes and the memory at hand."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from medseg.bundle import networks
from medseg.data.datalist import Datalist
from medseg.data.fingerprint import Fingerprint, fingerprint
from medseg.errors import counted
from medseg.reports.progress import progress_bar
from medseg.runs.processes import pick_device
from medseg.studies import plan_arguments, plan_doubts, plan_network, plan_rules
from medseg.studies.plan_asked import Asked
from medseg.studies.plan_network import Candidate, Limits, Measured
from medseg.studies.plan_rules import Chosen, PlanError
from medseg.transforms.postprocess import Postprocess

__all__ = ["DEFAULT_NETWORK", "MINUTES", "Plan", "make_plan"]

DEFAULT_NETWORK = "unet"
"""Of a plan for which nobody names one."""
MINUTES = 60.0
"""Of a training whose minutes nobody says."""

_LEARNING_RATE = 0.002
_AUX = 0.1  # of the loss: what auxiliary outputs weigh beside the network's own
_RECORDS = 20  # epochs that a training is divided into: each is recorded and can be resumed from
_SAVED, _WRITTEN, _SAVING = 4, 2e8, 0.05  # a record's numbers a weight, bytes a second, and most of the minutes for all
_SPARE = 20  # times the steps that are expected: the clock ends a training, even one planned beside other work
_LOADING = 4  # processes at most


@dataclass(frozen=True)
class Plan:
    """What a bundle is to hold, each value with its reason.

    Args:
        found: the data set's fingerprint.
        network: ``name`` and arguments.
        input: how images are fed, by key of a bundle's ``input``.
        inference: how whole images are predicted, by key of ``inference``.
        train: options and components of the training, by key of ``train``.
        scores: further scores of an evaluation, by name.
        postprocess: of masks, by class.
        measured: what the network costs on the device.
        device: where that was measured.
        minutes: that the training is planned for.
    """

    found: Fingerprint
    network: Chosen
    input: Mapping[str, Chosen]
    inference: Mapping[str, Chosen]
    train: Mapping[str, Chosen]
    scores: Mapping[str, Any]
    postprocess: Mapping[str, Any]
    measured: Measured
    device: str
    minutes: float

    @property
    def steps(self) -> int:
        """Steps of the optimiser that the training is expected to have."""
        return self.measured.steps(self.minutes)

    @property
    def doubts(self) -> list[str]:
        """What the plan can do little about, a line each."""
        return plan_doubts.doubts(self.found, int(self.network.value["spatial_dims"]), self.measured, self.minutes)


def make_plan(
    data: Datalist,
    *,
    network: str | None = None,
    dimensions: int | None = None,
    memory: float | None = None,
    minutes: float | None = None,
    device: str | None = None,
    asked: Asked | None = None,
    accept: Callable[[Plan], None] = lambda plan: None,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Plan a bundle for a data set.

    Args:
        data: the datalist.
        network: name of a network, see `medseg.bundle.networks.resolve`; U-Net by default.
        dimensions: 2 or 3, where it is asked for.
        memory: that a training step may take, in GiB; by default a share of what is free.
        minutes: of the training; 60 by default.
        device: ``"cpu"``, ``"cuda:0"``; by default a GPU where there is one.
        asked: what of the plan is settled already.
        accept: called with the plan as it may be before the device is measured; may refuse it.
        say: called with a line while networks are measured, and for each doubt.

    Raises:
        PlanError: if there is no plan for these data, or nothing fits.
        MedsegError: if data or network cannot be used.
    """
    place, name, kept = pick_device(device), network or DEFAULT_NETWORK, asked or Asked()
    networks.resolve(name)
    with progress_bar("measuring images") as update:
        found = fingerprint(data, progress=update)
    axes = int(plan_rules.dimensions(found, dimensions).value)
    kept.refuse_axes(axes)
    kept.refuse_turned(found.orientations)
    Postprocess({name: each.value for name, each in kept.over("postprocess", {}).items()}, data.class_names)
    if all(share == 0 for index, share in enumerate(found.class_shares()) if index != found.background):
        raise PlanError(f"{data.path}: no label holds anything but {found.classes[0]}; there is nothing to learn")
    seen = kept.plane(plan_rules.plane(found, axes))
    fed = kept.over("input", _fed(found, seen))
    channels = {"rgb": 3, "grey": 1}.get(str(fed["colour"].value), found.channels)
    target = fed["spacing"].value
    resized = fed["size"].value if "size" in fed else None
    edges = [float(edge) for edge in resized or plan_rules.across(list(plan_rules.resampled(found, target)), seen)]
    limit, wanted = plan_network.memory_limit(memory, place), MINUTES if minutes is None else minutes
    needed = plan_network.wanted_steps(len(found.classes))
    limits = Limits(channels, len(found.classes), wanted, int(limit.value), place, needed, kept.step, say)

    def planned(measured: Measured) -> Plan:
        return _kept(_plan(data, found, fed, measured, limits, limit.why, kept.value("train", "iterations")), kept)

    voxel = plan_rules.voxel(found, target, seen)
    tried = plan_network.candidates(name, kept.patch or plan_rules.full_patch(edges, axes), edges, voxel)
    measured = plan_network.choose(
        kept.kept(tried), limits, asked=str(kept), accept=lambda expected: accept(planned(expected))
    )
    if kept.batch is None:
        measured = plan_network.larger_batch(measured, limits, pixels=math.prod(edges) * len(found.cases))
    plan = planned(measured)
    for doubt in plan.doubts:
        say(f"warning: {doubt}")
    return plan


def _fed(found: Fingerprint, seen: Chosen | None) -> dict[str, Chosen]:
    return {
        "intensity": plan_rules.intensity(found),
        "polarity": plan_rules.polarity(found),
        "colour": plan_rules.colour(found),
        "spacing": plan_rules.spacing(found, seen),
        **({"plane": seen} if seen else {}),
    }


def _kept(plan: Plan, asked: Asked) -> Plan:
    """Return a plan with what was asked for in its place."""
    scores = asked.over("scores", {name: Chosen(options, "") for name, options in plan.scores.items()})
    return replace(
        plan,
        inference=asked.over("inference", plan.inference),
        train=asked.over("train", plan.train),
        scores={name: chosen.value for name, chosen in scores.items()},
        postprocess={name: chosen.value for name, chosen in asked.over("postprocess", {}).items()},
    )


def _plan(
    data: Datalist,
    found: Fingerprint,
    fed: Mapping[str, Chosen],
    measured: Measured,
    limits: Limits,
    why: str,
    iterations: int | None,
) -> Plan:
    """Return the plan of what was measured."""
    seen, wanted, place = fed.get("plane"), limits.minutes, limits.device
    steps, batches = measured.steps(wanted), limits.step.accumulation_steps
    several = f" of {batches} batches" if batches > 1 else ""
    chosen = Chosen(
        {**measured.candidate.network, "in_channels": limits.channels},
        f"{measured.seconds:.3g} s a step{several}, {measured.memory / 2**30:.2f} GiB on {place.type}: about {steps} "
        f"steps in {counted(wanted, 'minute')} (limit {limits.memory / 2**30:.2f} GiB: {why})",
    )
    inference = {
        "window": Chosen(list(measured.candidate.patch), "the patch that is trained on"),
        "overlap": Chosen(0.5, "half a window, as nnU-Net: the middle of a window is surer than its edge"),
        "mirror_axes": plan_rules.mirrors(found, seen),
    }
    made_for = Chosen(found.data, "other data are refused: null where images of the same kind are meant")
    train = {
        "planned_for": made_for,
        **_schedule(steps, wanted, parameters=measured.parameters, batches=batches, asked=iterations),
        **_samples(found, measured, seen),
        **_loading(place),
        **_learning(data, measured.candidate),
    }
    scores = {"distances": {"tolerance": 1.0}} if found.spacings is not None and found.dimensions == 3 else {}
    return Plan(found, chosen, fed, inference, train, scores, {}, measured, str(place), wanted)


def _schedule(
    steps: int, minutes: float, *, parameters: int = 0, batches: int = 1, asked: int | None = None
) -> dict[str, Chosen]:
    passes = steps * batches  # iterations are counted in batches, whether or not the optimiser steps after each
    saving = 4 * _SAVED * parameters / _WRITTEN
    records = min(_RECORDS, max(1, int(_SAVING * 60 * minutes / saving))) if saving else _RECORDS
    iterations = asked or max(10, passes // records)
    epochs = max(1, math.ceil(passes * _SPARE / iterations))
    decay = min(0.999, max(0.9, round(1 - 20 / max(steps, 1), 4)))
    several = f", of {batches} batches each," if batches > 1 else ""
    warmup = max(min(10, steps // 2), steps // 20) * batches
    return {
        "iterations": Chosen(
            iterations, f"an epoch is so many batches of the {steps} steps{several} that are expected"
        ),
        "max_epochs": Chosen(epochs, f"{_SPARE} times what is expected: the minutes end the training"),
        "max_minutes": Chosen(minutes, "as it was asked for; the schedule is fitted to it"),
        "val_interval": Chosen(epochs, "the minutes are for training; the last, averaged weights are kept"),
        "validation_fold": Chosen(None, "all folds but the test's are trained on, as no choice is left to make"),
        "schedule": Chosen("cosine", "falls to zero when the minutes end"),
        "warmup": Chosen(warmup, "a twentieth of the steps; of few, 10 or half of them"),
        "learning_rate": Chosen(_LEARNING_RATE, "of AdamW with a warm-up, see docs/plans.md"),
        "clip_grad_norm": Chosen(1.0, "one odd batch must not undo the others in a short training"),
        "ema_decay": Chosen(decay, "averages over about the last twentieth of the steps"),
    }


def _samples(found: Fingerprint, measured: Measured, seen: Chosen | None) -> dict[str, Chosen]:
    return {
        "patch": Chosen(list(measured.candidate.patch), "the largest that memory and minutes allow, see network"),
        "batch_size": Chosen(
            measured.candidate.batch,
            "2 volumes; pictures that make one of 256 x 256 together, 4 at least; more where a GPU is faster so",
        ),
        "foreground": plan_rules.foreground(found),
        "balance_kinds": plan_rules.balance(found),
        **({"slices": Chosen(True, f"the network sees {seen.value} slices")} if seen else {}),
    }


def _loading(device: torch.device) -> dict[str, Chosen]:
    if device.type == "cpu":
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    number = min(_LOADING, cores - 1)
    return {"num_workers": Chosen(number, "loading processes, so that the GPU need not wait; none on a CPU")}


def _learning(data: Datalist, candidate: Candidate) -> dict[str, Chosen]:
    loss: dict[str, Any] = {"_target_": "medseg.losses.focal_iou.FocalIoULoss", "gamma": 0.0}
    if data.ignore_index is not None:
        loss["ignore_index"] = "$@data.ignore_index"
    why = "cross-entropy and soft IoU in equal parts: small classes count as much as large ones"
    if beside := plan_arguments.beside_pred(candidate.network, candidate.patch):
        terms = [{"output": "pred", "loss": loss}, *(_term(name, loss) for name in beside)]
        loss = {"_target_": "medseg.losses.multi_output.MultiOutputLoss", "terms": terms}
        why += f"; of the outputs beside it a tenth as much (DF-DAM, MFNet): {', '.join(beside)}"
    optimizer = {
        "_target_": "torch.optim.AdamW", "params": "$@network.parameters()", "lr": "@learning_rate",
        "weight_decay": 0.01, "fused": True,
    }  # fmt: skip
    augmentation = {
        "_target_": "medseg.transforms.augmentation.augmentation", "roi_size": "@patch",
        "mirror_axes": "@model#inference#mirror_axes",
    }  # fmt: skip
    return {
        "loss": Chosen(loss, why),
        "optimizer": Chosen(
            optimizer, "learns within hundreds of steps where SGD needs tens of thousands; in one pass"
        ),
        "augmentation": Chosen([augmentation], "nnU-Net's changes"),
        "augment_on": Chosen("auto", "by loading processes or on the GPU, which a training measures as it begins"),
    }


def _term(name: str, loss: Mapping[str, Any]) -> dict[str, Any]:
    """Return the term of an output beside the network's own: compared with the label, or a difference to vanish."""
    if name.startswith("aux_"):
        return {"output": name, "loss": loss, "weight": _AUX}
    vanishing = {"_target_": "medseg.losses.reconstruction.ReconstructionLoss"}
    return {"output": name, "loss": vanishing, "weight": _AUX, "resize": False}
