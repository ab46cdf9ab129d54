"""MONAI's files of a bundle, written from its `bundle.yaml`: configurations, overlays, metadata, logging, licence.

MONAI merges files but cannot share parts between bundles, and a bundle's folder must work wherever it is copied; so
what is the same in all of them is written here once, and put into each by ``medseg bundle build``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.atomic import atomic_write
from medseg.bundle import metadata
from medseg.bundle.options import Options
from medseg.bundle.overlays import record
from medseg.bundle.source import Source, read_source

__all__ = ["build", "inference_texts", "outdated", "texts"]

_HEAD = "# Generated from bundle.yaml by `medseg bundle build`: change that file, not this one.\n"
_NEEDS = (
    "- $__import__('importlib').util.find_spec('medseg') or "
    "__import__('sys').exit('this bundle needs medseg; pip install medseg')\n"
)
_LOGGING = """[loggers]
keys=root

[handlers]
keys=consoleHandler

[formatters]
keys=plain

[logger_root]
level=INFO
handlers=consoleHandler

[handler_consoleHandler]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stdout,)

[formatter_plain]
format=%(asctime)s %(levelname)s %(message)s
datefmt=%H:%M:%S
"""


def build(folder: str | Path) -> list[Path]:
    """Write a bundle's generated files, and remove generated ones that it has no more.

    Args:
        folder: with `bundle.yaml`.

    Returns:
        The files that changed.

    Raises:
        DescriptionError: if `bundle.yaml` cannot be used.
    """
    source = read_source(folder)
    wanted = texts(source)
    changed = []
    for name in outdated(source):
        path = source.folder / name
        if name in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary:
                temporary.write_text(wanted[name], encoding="utf-8")
        else:
            path.unlink()
        changed.append(path)
    return changed


def outdated(source: Source) -> list[str]:
    """Return the generated files that are not as `bundle.yaml` says, by their names in the folder."""
    wanted = texts(source)
    there = {f"configs/{path.name}" for path in (source.folder / "configs").glob("*.yaml")}
    stale = [name for name, text in wanted.items() if _read(source.folder / name) != text]
    return sorted({*stale, *(there - wanted.keys())})


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def texts(source: Source) -> dict[str, str]:
    """Return every generated file: name in the bundle's folder to text."""
    files = {
        "configs/train.yaml": _train(source),
        "configs/evaluate.yaml": _evaluate(source),
        "configs/inference.yaml": _inference(source),
        "configs/multi_gpu_train.yaml": _multi_gpu(),
        "configs/logging.conf": _LOGGING,
        "configs/metadata.json": _json(metadata.of(source)),
    }
    files |= {f"configs/{name}.yaml": _overlay(name, changes) for name, changes in source.overlays.items()}
    return files


def inference_texts(source: Source, weights: str) -> dict[str, str]:
    """Return the files of a bundle that predicts and is not trained, such as a packed model: name to text.

    Args:
        source: of which the training and the overlays are not used.
        weights: name of their file in ``models``.
    """
    return {
        "configs/inference.yaml": _inference(source, weights),
        "configs/logging.conf": _LOGGING,
        "configs/metadata.json": _json(metadata.of(source)),
    }


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _train(source: Source) -> str:
    described = source.description
    extra = source.extra()
    imports = {"assembly": "medseg.bundle.assembly", "start": "medseg.bundle.start", **source.imports}
    network = dict(described.network)
    network["out_channels"] = "$@data.num_classes"
    network.setdefault("in_channels", "$assembly.channels(@data)")
    cut = source.cuts_patches
    lines = [
        _HEAD,
        f"# {source.texts['title']}:\n",
        "#   python -m monai.bundle run --config_file configs/train.yaml --dataset_dir FOLDER_OF_DATALIST\n",
        "imports:\n",
        *(f"- $import {module} as {name}\n" for name, module in sorted(imports.items())),
        "\nbundle_root: .\n",
        "dataset_dir: data\n",
        *(_entry(name, value) for name, value in source.options().items()),
        f"options: {{{', '.join(f'{name}: {_quote(name)}' for name in Options.names())}}}\n",
        "overlays: {}\n\n",
        _entry("model", _model(source, window="@patch" if source.window_is_patch else None)),
        _entry("network_def", {"_target_": "medseg.bundle.networks.create", **network, "seed": "@seed"}),
        *(_entry(key, value) for key, value in extra.items() if key not in ("augmentation", "handlers")),
        _entry("augmentation", extra.get("augmentation", [])),
        _entry("handlers", extra.get("handlers", [])),
        f"""
command: $start.command()
device: $start.pick_device()
data:
  _target_: medseg.bundle.assembly.datalist
  options: '@options'
  dataset_dir: '@dataset_dir'
  command: '@command'
split: $assembly.split(@data, @options, @command)
description: $assembly.description(@model, @data, @network_def)
network: $assembly.place(@network_def, @device, @options, @command)
train:
  inferer: $assembly.training_inferer(@description)
  dataset:
    _target_: medseg.bundle.assembly.samples
    entries: $@split[0]
    description: '@description'
    augmentation: '@augmentation'
    patch: {_quote("patch") if cut else "null"}
    foreground: {_quote("foreground") if cut else "0.0"}
    slices: '@slices'
    balance_kinds: '@balance_kinds'
    data: '@data'
    seed: '@seed'
  trainer:
    _target_: medseg.bundle.assembly.trainer
    options: '@options'
    command: '@command'
    description: '@description'
    device: '@device'
    data: '@data'
    dataset: '@train#dataset'
    network: '@network'
    loss_function: '@loss'
    optimizer: '@optimizer'
    inferer: '@train#inferer'
    evaluator: '@validate#evaluator'
    handlers: '@handlers'
    bundle_root: '@bundle_root'
validate:
  inferer: $assembly.inferer(@description)
  dataset: {{_target_: medseg.bundle.assembly.scored_samples, entries: '$@split[1]', description: '@description'}}
  evaluator:
    _target_: medseg.bundle.assembly.evaluator
    options: '@options'
    device: '@device'
    data: '@data'
    dataset: '@validate#dataset'
    network: '@network'
    inferer: '@validate#inferer'
    loss_function: '@loss'
initialize:
{_NEEDS}- $start.start(@_meta_, @command, @overlays, @seed)
- $assembly.check(@data, @options, @description, @train#dataset, @network_def)
run:
- $@train#trainer.run()
""",
    ]
    return "".join(lines)


def _evaluate(source: Source) -> str:
    """Return the overlay that scores weights."""
    weights = "network_def#weights: random   # those of ckpt come in their place\n"
    return f"""{_HEAD}# Score weights (overlay on train.yaml):
#   python -m monai.bundle run --config_file "['configs/train.yaml','configs/evaluate.yaml']" --dataset_dir FOLDER
ckpt: $@bundle_root + '/models/model.pt'
allow_seen: false   # whether cases that the weights have seen are scored, too
{weights if "weights" in source.description.network else ""}\
validate#dataset:
  _target_: medseg.bundle.assembly.scored_samples
  entries: $assembly.scored(@split, @scored)
  description: '@description'
  cache: false
  native: true
validate#evaluator:
  _target_: medseg.bundle.assembly.evaluator
  options: '@options'
  device: '@device'
  data: '@data'
  dataset: '@validate#dataset'
  network: '@network'
  inferer: '@validate#inferer'
  batch_size: 1
evaluation:
  _target_: medseg.bundle.assembly.evaluation
  _mode_: callable
  evaluator: '@validate#evaluator'
  options: '@options'
  command: '@command'
  description: '@description'
  data: '@data'
  ckpt: '@ckpt'
  allow_seen: '@allow_seen'
initialize:
{_NEEDS}- $start.start(@_meta_, @command, @overlays, @seed)
- $assembly.check_files(@data)
run:
- $@evaluation()
"""


def _inference(source: Source, weights: str = "model.pt") -> str:
    described = source.description
    network = {**described.network, "in_channels": metadata.channels(source)}
    if "weights" in network:
        network["weights"] = "random"  # those of ckpt come in their place
    return f"""{_HEAD}# Masks for images, in the format, size and geometry of each:
#   python -m monai.bundle run --config_file configs/inference.yaml --dataset_dir IMAGES --output_dir MASKS
imports:
- $import medseg.bundle.assembly as assembly
- $import medseg.bundle.start as start

bundle_root: .
dataset_dir: images
output_dir: masks
ckpt: $@bundle_root + '/models/{weights}'
overwrite: false
keep_header: false
num_workers: 0
precision: auto
overlays: {{}}

{_entry("model", _model(source))}\
{_entry("network_def", {"_target_": "medseg.bundle.networks.create", **network})}
command: $start.command()
device: $start.pick_device()
description: $assembly.described(@model, @network_def)
network: $@network_def.to(@device)
inferer: $assembly.inferer(@description)

# For programs that run a bundle by its parts, such as MONAI Label: from an image's path to logits, and to the mask on
# the grid of the image's file. The evaluator does both itself.
trained: $assembly.trained(@description, @ckpt)
preprocessing: $assembly.preprocessing(@trained)
postprocessing: $assembly.postprocessing(@trained)

dataset:
  _target_: medseg.prediction.predictor.ImageFolder
  folder: $start.folder(@dataset_dir, 'dataset_dir', @command)
  description: '@description'
  output_dir: $start.folder(@output_dir, 'output_dir', @command)
  overwrite: '@overwrite'
evaluator:
  _target_: medseg.prediction.predictor.Predictor
  device: '@device'
  dataset: '@dataset'
  network: '@network'
  inferer: '@inferer'
  postprocessing: null
  description: '@description'
  ckpt: $start.folder(@ckpt, 'ckpt', @command)
  num_workers: '@num_workers'
  precision: '@precision'
  keep_header: '@keep_header'

initialize:
{_NEEDS}- $start.start(@_meta_, @command, @overlays)
run:
- $@evaluator.run()
"""


def _multi_gpu() -> str:
    return f"""{_HEAD}# Several processes (overlay on train.yaml); batch_size is that of one process:
#   torchrun --nproc_per_node=2 -m monai.bundle run \\
#     --config_file "['configs/train.yaml','configs/multi_gpu_train.yaml']"
initialize:
{_NEEDS}- $start.start_processes()
- $start.start(@_meta_, @command, @overlays, @seed)
- $assembly.check(@data, @options, @description, @train#dataset, @network_def)
finalize:
- $start.stop_processes()
"""


def _overlay(name: str, changes: Mapping[str, Any]) -> str:
    about = changes.get("about", "Overlay")
    values = {key: value for key, value in changes.items() if key != "about"}
    lines = [_HEAD, f"# {about} (overlay on train.yaml and inference.yaml)\n"]
    lines += [_entry(key, value) for key, value in values.items()]
    return "".join([*lines, _entry(f"overlays#{name}", record(values))])


def _model(source: Source, window: str | None = None) -> dict[str, Any]:
    content = source.description.to_dict()
    if window is not None:
        content["inference"]["window"] = window
    return {key: value for key, value in content.items() if key != "network"}


def _quote(name: str) -> str:
    return f"'@{name}'"


def _entry(key: str, value: Any) -> str:
    """Return one top-level key; mappings and lists of components a line each, other values in flow style."""
    name = _flow(key)
    if isinstance(value, Mapping) and value and "_target_" not in value and key != "network_def":
        return f"{name}:\n" + "".join(f"  {_flow(inner)}: {_flow(item)}\n" for inner, item in value.items())
    if isinstance(value, list) and value and any(isinstance(item, Mapping) for item in value):
        return f"{name}:\n" + "".join(f"- {_flow(item)}\n" for item in value)
    return f"{name}: {_flow(value)}\n"


def _flow(value: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True, explicit_end=False
    )
    return text.removesuffix("\n").removesuffix("\n...")
