"""Puts together what a bundle's YAML names: data, split, network, trainer, evaluator, evaluation.

Everything a function here needs is an argument; the generated YAML hands it on by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.inferers import Inferer
from monai.transforms import Compose
from torch import Tensor, nn

from medseg.bundle import feeding
from medseg.bundle.command import Command, owns_process
from medseg.bundle.description import Description
from medseg.bundle.evaluation import evaluate
from medseg.bundle.fit import check, check_files
from medseg.bundle.library import PLACE
from medseg.bundle.networks import recipe_of
from medseg.bundle.options import Options
from medseg.bundle.start import folder as folder_of
from medseg.data.datalist import Datalist, Entry
from medseg.engines.evaluator import Evaluator
from medseg.engines.loading import SegmentationDataset
from medseg.engines.parallel import parallel
from medseg.engines.trainer import Trainer
from medseg.errors import MedsegError
from medseg.runs.processes import pick_device, rank, world_size
from medseg.runs.run import Run
from medseg.transforms.postprocess import Postprocess
from medseg.transforms.scene import RandPadCropd

__all__ = [
    "channels", "check", "check_files", "datalist", "described", "description", "evaluation", "evaluator", "inferer",
    "place", "preprocessing", "samples", "scored", "scored_samples", "split", "trainer", "training_inferer",
]  # fmt: skip

_TRAINER = (
    "batch_size", "num_workers", "val_interval", "schedule", "schedule_power", "warmup", "max_minutes", "precision",
    "channels_last", "compile", "accumulation_steps", "clip_grad_norm", "ema_decay", "early_stop", "seed", "select_by",
)  # fmt: skip
_EVALUATOR = ("batch_size", "num_workers", "precision", "channels_last")
_NAMES = ("datalist.json", "dataset.json")


# ---------------------------------------------------------------------------------------------- data


def datalist(options: Mapping[str, Any], dataset_dir: Any, command: Command | None = None) -> Datalist:
    """Load the datalist: the option of that name, else ``datalist.json`` or ``dataset.json`` of the folder.

    Args:
        options: of the configuration.
        dataset_dir: folder of the data set, as the configuration holds it.
        command: what was typed.
    """
    command = command or Command()
    named = options.get("datalist")
    if named:
        return Datalist.load(folder_of(named, "datalist", command))
    root = Path(folder_of(dataset_dir, "dataset_dir", command))
    found = next((root / name for name in _NAMES if (root / name).is_file()), root / _NAMES[0])
    return Datalist.load(found)


def split(data: Datalist, options: Mapping[str, Any]) -> tuple[list[Entry], list[Entry], list[Entry]]:
    """Return training, validation and test entries by ``fold_key``, ``fold`` and ``validation_fold``."""
    wanted = Options.of(options)
    fold: Any = wanted.fold
    return data.split(fold, fold_key=wanted.fold_key, validation_fold=wanted.validation_fold)


def scored(parts: Sequence[list[Entry]], name: str) -> list[Entry]:
    """Return the part of a split that an evaluation scores: ``training``, ``validation`` or ``test``."""
    names = ("training", "validation", "test")
    if name not in names:
        raise MedsegError(f"scored is {name!r}; choose one of {', '.join(names)}")
    return parts[names.index(name)]


def channels(data: Datalist) -> int:
    """Return the channels of the data set's images, read from its first one."""
    from medseg.io.images import read_image

    _, entry = data.entries()[0]
    return read_image(data.absolute(entry)["image"]).channels


def samples(
    entries: Sequence[Entry],
    description: Description,
    augmentation: Sequence[Callable[..., Any]],
    crop_size: Sequence[int] | None,
    data: Datalist,
    seed: int = 0,
) -> SegmentationDataset:
    """Return training samples.

    Args:
        entries: of the training part.
        description: the model, which says how they are fed.
        augmentation: random transforms.
        crop_size: window that samples are cut to before them, at a random place; smaller ones are padded.
        data: the datalist, for its ignore label.
        seed: of crops and augmentation.
    """
    random = list(augmentation)
    if crop_size is not None:
        random.insert(0, RandPadCropd(["image", "label"], crop_size, ignore_index=data.ignore_index))
    return SegmentationDataset(entries, feeding.training(description), augmentation=random, seed=seed)


def scored_samples(entries: Sequence[Entry], description: Description, cache: bool = True) -> SegmentationDataset:
    """Return samples to validate or score, each at its own size."""
    return SegmentationDataset(entries, feeding.evaluation(description), cache=cache)


# ---------------------------------------------------------------------------------------------- model


def description(model: Mapping[str, Any], data: Datalist, network_def: nn.Module) -> Description:
    """Return the model that is trained or scored: as the bundle describes it, with the data's classes.

    Args:
        model: of the configuration.
        data: the datalist, whose classes it has.
        network_def: the network.
    """
    classes = {"classes": data.class_names, "colours": getattr(data, "colours", None) or model.get("colours") or {}}
    return described({**model, **classes}, network_def)


def described(model: Mapping[str, Any], network_def: nn.Module) -> Description:
    """Return the model as a configuration describes it, with the network that was built."""
    recipe = recipe_of(network_def)
    classes = list(model.get("classes") or [])
    given = recipe.get("out_channels", len(classes))
    if len(classes) != given:  # inference by weights of other classes: their names come with the weights
        classes, model = [str(index) for index in range(int(given))], {**model, "postprocess": {}}
    return Description.of({**model, "classes": classes, "network": recipe}, where="the configuration's model")


def preprocessing(description: Description) -> Compose:
    """Return the transforms of an image to predict."""
    return feeding.prediction(description)


def inferer(description: Description) -> Inferer:
    """Return what runs the network on an image of any size."""
    return feeding.inferer(description)


def training_inferer(description: Description) -> Inferer:
    """Return how a training forward is called."""
    return feeding.training_inferer(description)


def place(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Bring a network to its device, and under ``torchrun`` into all processes.

    Args:
        network: as its definition gives it.
        device: this process's.
    """
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
    from medseg.bundle.record import config_of, header_of
    from medseg.bundle.start import run_folder

    wanted = Options.of(options)
    if evaluator is not None:
        evaluator.postprocess = Postprocess(description.postprocess, description.classes)
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
        publish=publish or None,
        tracking=wanted.mlflow,
        header=header_of(description),
        command=command.words,
        overlays=command.overlays(),
        register_name=wanted.register,
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
    built.train_data = dataset
    built.add_event_handler(Events.STARTED, _keep_place, data)
    return built


def _keep_place(engine: Trainer, data: Datalist) -> None:
    """Write where the data lie, for later evaluations on this machine; the file is hidden, and never uploaded."""
    if rank() == 0:
        validated = [] if engine.evaluator is None else engine.evaluator.dataset.data
        used = {"training": engine.train_data.data, "validation": validated}
        seen = {part: sorted(str(Path(e["image"]).resolve()) for e in entries) for part, entries in used.items()}
        engine.run_record.files.write_json(PLACE, {"datalist": str(data.path.absolute()), "seen": seen})


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
        batch_size: images a forward; by default that of training where all images have one size, else 1.
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
) -> dict[str, Any]:
    """Score weights on the evaluator's samples and write the report into ``output_dir``.

    Args:
        evaluator: over the part to score.
        options: of the configuration.
        command: what was typed.
        description: the model; the weights must have been trained as it says.
        data: the datalist, for the title.
        ckpt: weights.

    Returns:
        The scores, as in ``scores.json``.
    """
    from medseg.bundle.record import config_of, load_described

    wanted = Options.of(options)
    weights = Path(folder_of(ckpt, "ckpt", command))
    trained = load_described(evaluator.network, weights, description)
    if list(trained.classes) != data.class_names:
        raise MedsegError(
            f"weights {weights} give the classes {', '.join(trained.classes)}, but {data.path} names "
            f"{', '.join(data.class_names)}; score them on labels of the same classes in the same order"
        )
    evaluator.postprocess = Postprocess(trained.postprocess, trained.classes)
    output = folder_of(wanted.output_dir or "evaluation", "output_dir", command)
    lists = wanted.fold in (None, "all") or not data.fold_keys
    part = f"{wanted.scored} list" if lists else f"{wanted.scored} fold {wanted.fold} of {wanted.fold_key}"
    record = {"name": data.name, "fingerprint": data.fingerprint(), "split": wanted.scored}
    return evaluate(
        evaluator,
        weights,
        output,
        title=f"{data.name}, {part}",
        tracking=wanted.mlflow,
        data={**record, "images": len(evaluator.dataset), **wanted.only("fold_key", "fold", "validation_fold")},
        scores=description.scores,
        beside_paper=description.beside_paper,
        config=config_of(command, options, description),
        seed=wanted.seed,
        **_tracking(wanted, description),
    )


def _tracking(options: Options, description: Description) -> dict[str, Any]:
    return {"tracking_uri": options.tracking_uri, "experiment": options.experiment or description.name}
