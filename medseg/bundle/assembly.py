"""Puts together what a bundle's YAML names: data, split, network, trainer, evaluator, evaluation.

Everything a function here needs is an argument; the generated YAML hands it on by name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Events
from monai.inferers import Inferer
from torch import Tensor, nn

from medseg.bundle import feeding
from medseg.bundle.by_parts import postprocessing, preprocessing, trained
from medseg.bundle.command import Command, owns_process
from medseg.bundle.data import channels, datalist, scored, split
from medseg.bundle.description import Description
from medseg.bundle.evaluation import evaluate
from medseg.bundle.fit import check, check_files
from medseg.bundle.library import PLACE, run_of, weights_file
from medseg.bundle.looks import looking
from medseg.bundle.networks import recipe_of
from medseg.bundle.options import Options
from medseg.bundle.samples import samples, scored_samples
from medseg.bundle.seen import Seen, refuse_scoring, seen_by
from medseg.bundle.start import folder as folder_of
from medseg.data.coding import propose_codes
from medseg.data.datalist import Datalist, Entry
from medseg.engines.ensemble import members_of
from medseg.engines.evaluator import Evaluator
from medseg.engines.loading import SegmentationDataset
from medseg.engines.parallel import parallel
from medseg.engines.trainer import Trainer
from medseg.errors import MedsegError, counted
from medseg.runs.checkpoint import load_weights
from medseg.runs.processes import pick_device, rank, world_size
from medseg.runs.run import Run
from medseg.transforms.postprocess import Postprocess

if TYPE_CHECKING:
    from medseg.bundle.ensemble import Unlike

__all__ = [
    "channels", "check", "check_files", "datalist", "described", "description", "evaluation", "evaluator", "inferer",
    "place", "postprocessing", "preprocessing", "samples", "scored", "scored_samples", "split", "trained", "trainer",
    "training_inferer",
]  # fmt: skip

logger = logging.getLogger(__name__)

_TRAINER = (
    "batch_size", "num_workers", "val_interval", "schedule", "schedule_power", "schedule_steps", "warmup",
    "max_minutes", "precision", "channels_last", "compile", "accumulation_steps", "clip_grad_norm", "ema_decay",
    "early_stop", "seed", "select_by", "iterations", "augment_on",
)  # fmt: skip
_EVALUATOR = ("batch_size", "hide_names", "num_workers", "precision", "channels_last")


# ---------------------------------------------------------------------------------------------- model


def description(model: Mapping[str, Any], data: Datalist, network_def: nn.Module) -> Description:
    """Return the model that is trained or scored: as the bundle describes it, with the data's classes.

    Args:
        model: of the configuration.
        data: the datalist, whose classes it has.
        network_def: the network.
    """
    same = list(model.get("classes") or []) == data.class_names
    known = data.codes or (same and model.get("codes")) or {}  # of other classes they would be wrong
    codes = {str(index): code for index, code in propose_codes(dict(enumerate(data.class_names)), data.name).items()}
    codes |= {str(index): code for index, code in known.items()}
    own = {"classes": data.class_names, "colours": data.colours or model.get("colours") or {}, "codes": codes}
    several = 1 < len(data.modality) == recipe_of(network_def).get("in_channels")
    return described({**model, **own, "channels": list(data.modality) if several else ()}, network_def)


def described(model: Mapping[str, Any], network_def: nn.Module) -> Description:
    """Return the model as a configuration describes it, with the network that was built."""
    recipe = recipe_of(network_def)
    classes = list(model.get("classes") or [])
    given = recipe.get("out_channels", len(classes))
    if len(classes) != given:  # inference by weights of other classes: their names come with the weights
        classes, model = [str(index) for index in range(int(given))], {**model, "postprocess": {}}
    return Description.of({**model, "classes": classes, "network": recipe}, where="the configuration's model")


def inferer(description: Description) -> Inferer:
    """Return what runs the network on an image of any size."""
    return feeding.inferer(description)


def training_inferer(description: Description) -> Inferer:
    """Return how a training forward is called."""
    return feeding.training_inferer(description)


def place(network: nn.Module, device: torch.device | str, options: Mapping[str, Any], command: Command) -> nn.Module:
    """Bring a network to its device, and under ``torchrun`` into all processes, with the weights that it starts from.

    Args:
        network: as its definition gives it.
        device: this process's.
        options: of the configuration; a run that is resumed has weights of its own.
        command: what was typed.

    Raises:
        MedsegError: if the weights to start from are not there, or are another network's.
    """
    wanted = Options.of(options)
    if wanted.start_from is not None and not wanted.resume:
        from medseg.bundle.record import read_weights

        weights = read_weights(weights_file(folder_of(wanted.start_from, "start_from", command)))
        load_weights(network, weights.content, origin=f"start_from {weights.path}")
        logger.info("the network starts from %s", weights.path)
    network = network.to(pick_device(device))
    return parallel(network, device) if world_size() > 1 else network


# ---------------------------------------------------------------------------------------------- engines


def trainer(
    options: Mapping[str, Any],
    command: Command,
    description: Description,
    device: torch.device | str,
    data: Datalist,
    dataset: SegmentationDataset,
    network: nn.Module,
    loss_function: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    inferer: Inferer | None = None,
    evaluator: Evaluator | None = None,
    handlers: Sequence[Any] = (),
    bundle_root: str = ".",
) -> Trainer:
    """Build the trainer and its run's record.

    Args:
        options: of the configuration.
        command: what was typed.
        description: the model, which the weights carry.
        device: where to train.
        data: the datalist, for the record.
        dataset: training samples.
        network: on ``device``.
        loss_function: as in `Trainer`.
        optimizer: over the network's parameters.
        inferer: of the training forward.
        evaluator: validates.
        handlers: further ones, such as `FactorisationWarmUp`: each is attached to the trainer.
        bundle_root: folder of the bundle, for ``publish: true``.
    """
    from medseg.bundle.record import config_of, header_of, read_weights, refuse_other_channels
    from medseg.bundle.start import run_folder

    wanted = Options.of(options)
    if evaluator is not None:
        evaluator.postprocess = Postprocess(description.postprocess, description.classes)  # at temperature 1
    publish: str | bool = wanted.publish
    if publish is True:
        publish = str(Path(bundle_root) / "models" / "model.pt")
    elif isinstance(publish, str):
        publish = folder_of(publish, "publish", command)
    run = Run(
        run_folder(wanted, description.name, command),
        config=lambda: config_of(command, options, description),
        datalist=data,
        split=wanted.only("fold_key", "fold", "validation_fold"),
        fed=asdict(description.input),
        publish=publish or None,
        tracking=wanted.mlflow,
        header=lambda: header_of(_as_trained(description, data, dataset.data)),
        command=command.words,
        overlays=command.overlays(),
        register_name=wanted.register,
        colours=description.colours,
        **_tracking(wanted, description),
    )
    built = Trainer(
        wanted.max_epochs,
        device,
        dataset,
        network,
        loss_function,
        optimizer,
        run,
        inferer=inferer,
        evaluator=evaluator,
        resume=bool(wanted.resume),
        process_owner=owns_process(),
        **wanted.only(*_TRAINER),
    )
    for handler in handlers:
        handler.attach(built)
    before = run.folder if wanted.resume and (run.folder / PLACE).is_file() else None
    if wanted.start_from is not None and not wanted.resume:
        first = read_weights(weights_file(folder_of(wanted.start_from, "start_from", command)))
        if first.description is not None:
            refuse_other_channels(f"start_from: weights {first.path} were", first.description, data)
        before = first.path.parent
    built.add_event_handler(Events.STARTED, _keep_place, data, before)
    return built


def _as_trained(description: Description, data: Datalist, entries: Sequence[Entry]) -> Description:
    """Return a model that knows what it was trained on."""
    from medseg.bundle import intensities, usual

    facts = usual.facts_of_training(data, entries)
    return replace(
        description,
        intensities=intensities.trained_on(facts, entries, description.input),
        usual=usual.trained_on(facts, entries, description),
    )


def _keep_place(engine: Trainer, data: Datalist, before: Path | None) -> None:
    """Write where the data lie, for later evaluations on this machine; the file is hidden, and never uploaded."""
    if rank() == 0:
        validated = [] if engine.evaluator is None else engine.evaluator.dataset.data
        used = {"training": engine.train_data.data, "validation": validated}
        held = {"datalist": str(data.path.absolute()), "seen": seen_by(data, used, before)}
        engine.run_record.files.write_json(PLACE, held)


def evaluator(
    options: Mapping[str, Any],
    device: torch.device | str,
    data: Datalist,
    dataset: SegmentationDataset,
    network: nn.Module,
    inferer: Inferer | None = None,
    loss_function: Callable[..., Tensor] | None = None,
    batch_size: int | None = None,
) -> Evaluator:
    """Build the evaluator.

    Args:
        options: of the configuration.
        device: where to evaluate.
        data: the datalist, for its classes and ignore label.
        dataset: samples to score.
        network: on ``device``.
        inferer: sliding window, resizing or simple.
        loss_function: of the training, for the validation loss.
        batch_size: images a forward; 1 by default, as images may differ in size.
    """
    wanted = Options.of(options)
    settings = wanted.only(*_EVALUATOR)
    settings["batch_size"] = 1 if batch_size is None else batch_size
    return Evaluator(
        device,
        dataset,
        network,
        data.labels,
        ignore_index=data.ignore_index,
        inferer=inferer,
        loss_function=loss_function,
        **settings,
    )


def evaluation(
    evaluator: Evaluator,
    options: Mapping[str, Any],
    command: Command,
    description: Description,
    data: Datalist,
    ckpt: Any,
    seen: Seen | None = None,
    unlike: Sequence[Unlike] | None = None,
    *,
    allow_seen: bool = False,
    noted: bool = False,
) -> dict[str, Any]:
    """Score weights on the evaluator's samples and write the report into ``output_dir``.

    Where these are of the datalist's test list, that is written down, see `medseg.bundle.looks`.

    Args:
        evaluator: over the part to score.
        options: of the configuration.
        command: what was typed.
        description: the model; the weights must have been trained as it says.
        data: the datalist, for the title.
        ckpt: weights: their file, or as they were read, of each member where the evaluator has an ensemble.
        seen: which of the cases the weights have seen, where that was asked.
        unlike: settings in which the weights of an ensemble differ; where given, ``description`` is what they say
            together, and its postprocessing holds, not the first's.
        allow_seen: where ``seen`` was not asked, score cases that they have seen, too.
        noted: whether the look at the test list that this is a part of is written down already.

    Returns:
        The scores, as in ``scores.json``.

    Raises:
        MedsegError: if the weights are another model's, or their run has seen the cases.
    """
    from medseg.bundle.record import Weights, load_described, read_weights, refuse_other_data

    if not isinstance(allow_seen, bool):  # a word that MONAI's command line makes nothing of
        raise MedsegError(f"allow_seen is {allow_seen!r}; give True or False")
    wanted = Options.of(options)
    given: Sequence[Weights] = ckpt if isinstance(ckpt, list) else [read_weights(folder_of(ckpt, "ckpt", command))]
    loaded = []
    for network, weights in zip(members_of(evaluator.network), given, strict=True):
        own = weights.description if len(given) > 1 else None  # members may have networks of their own
        here = description if own is None else replace(description, network=own.network)
        loaded.append(load_described(network, weights, here))
    trained = loaded[0]
    refuse_other_data(given[0].path, trained, data)
    evaluator.postprocess = Postprocess((trained if unlike is None else description).postprocess, trained.classes)
    evaluator.temperatures = [each.temperature for each in loaded]
    runs = Path(folder_of(wanted.runs_dir, "runs_dir", command))
    files = {run_of(weights.path, runs): weights.path for weights in given}
    if seen is None:
        seen = refuse_scoring(list(files), data, evaluator.dataset.data, options, allowed=allow_seen)
    alone = noted or rank() > 0
    with nullcontext() if alone else looking(data, evaluator.dataset.data, files, hidden=wanted.hide_names) as look:
        if look is not None:
            logger.info("%s: %s", counted(len(look["cases"]), "test case"), look["said"])
        paths = [each.path for each in given]
        return _scored(evaluator, options, command, description, data, paths, seen, look, unlike)


def _scored(
    evaluator: Evaluator,
    options: Mapping[str, Any],
    command: Command,
    description: Description,
    data: Datalist,
    ckpt: Sequence[Path],
    seen: Seen,
    look: Mapping[str, Any] | None,
    unlike: Sequence[Unlike] | None,
) -> dict[str, Any]:
    """Score as `evaluation` does, once nothing speaks against it."""
    from medseg.bundle.record import config_of
    from medseg.reports.summary import summarise

    wanted = Options.of(options)
    output = folder_of(wanted.output_dir or "evaluation", "output_dir", command)
    held = {"name": data.name, "fingerprint": data.fingerprint(), "split": wanted.scored, "seen": seen.plain()}
    folds = wanted.only("fold_key", "validation_fold")
    held |= {} if look is None else {"tested_before": look["before"]}
    scores = evaluate(
        evaluator,
        ckpt,
        output,
        title=f"{data.name}, {_part(data, wanted)}{seen.said()}",
        tracking=wanted.mlflow,
        data={**held, "images": len(evaluator.dataset), "fold": data.fold_on_record(wanted.fold), **folds},
        scores=description.scores,
        beside_paper=description.beside_paper,
        config=config_of(command, options, description),
        seed=wanted.seed,
        colours=description.colours,
        unlike=[each.plain() for each in unlike or ()],
        **_tracking(wanted, description),
    )
    if rank() == 0 and command.program != "medseg":  # whose command prints it
        logger.info("%s", summarise(Path(output))[0])
    return scores


def _part(data: Datalist, wanted: Options) -> str:
    """Return what is scored, for a heading."""
    if wanted.fold in (None, "all") or not data.fold_keys:
        return f"{wanted.scored} list"
    scheme = "" if wanted.fold_key == "fold" else f" of {wanted.fold_key}"
    if wanted.scored == "test":
        return f"test fold {wanted.fold}{scheme}"
    return f"{wanted.scored} images beside test fold {wanted.fold}{scheme}"


def _tracking(options: Options, description: Description) -> dict[str, Any]:
    return {"tracking_uri": options.tracking_uri, "experiment": options.experiment or description.name}
