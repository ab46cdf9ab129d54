"""Train every bundle of natural images on a few real images until it knows them: proof that its network can learn.

    python -m benchmarks.overfit --voc DATA --ade DATA --minutes 4

DATA are folders that data_scripts/voc2012.py and ade20k.py wrote (``--allow-partial`` will do). Each bundle trains with
its own loss, network and transforms; what is changed is said in the result: few images, a small encoder from random
weights, Adam, no random scale, a window of the images' size, of ADE20K's classes those that occur (and windows of
images, as there are three in its sample); Cityscapes cannot be had without a login, and its bundle is given VOC's
images. The same images are then scored, with several scales and flips too, and predicted. What is in the work folder
already is not done again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from benchmarks.common import BUNDLES, report
from medseg.bundle import workflow
from medseg.data.datalist import Datalist
from medseg.prediction.predict import predict

_MANY_CLASSES = 100  # ADE20K's 150, of which three images have 15: the logits of the others would be most of the time
_LEAST_SHARE = 0.01  # of a window's pixels
SCENES = ("df_dam_cityscapes", "df_dam_voc", "mfnet_voc", "refine_multi_scale_ade20k", "refine_multi_scale_voc")


def few_images(source: Path, folder: Path, images: int, edge: int) -> Path:
    """Write a training list of ``images`` labelled images.

    They are the first ones, scaled to a longer edge of ``edge`` pixels; where there are fewer, windows of ``edge``
    pixels as they are: those with most classes of which each covers 1 % or more (at stride 8 a network cannot draw what
    covers a few pixels).
    A validation list there must be, and no image may be in both: it is the mirror image of the first.

    Args:
        source: folder of a datalist.
        folder: to write to.
        images: how many.
        edge: in pixels; labels by nearest neighbour.
    """
    data = Datalist.load(source / "datalist.json")
    entries = [data.absolute(entry) for _, entry in data.entries() if "label" in entry]
    if len(entries) >= images:
        pairs = [_scaled(entry, edge) for entry in entries[:images]]
    else:
        pairs = _windows(entries, edge, data.ignore_index)[:images]
    content = json.loads((source / "datalist.json").read_text())
    kept = []
    for number, pair in enumerate(pairs):
        made = {}
        for key, picture in zip(("image", "label"), pair, strict=True):
            made[key] = f"{key}s/{number}.png"
            (folder / f"{key}s").mkdir(parents=True, exist_ok=True)
            picture.save(folder / made[key])
            if not number:
                picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / f"mirrored_{key}.png")
        kept.append({**made, "group": str(number)})
    mirrored = {"image": "mirrored_image.png", "label": "mirrored_label.png", "group": "mirrored"}
    content |= {"training": kept, "validation": [mirrored], "test": []}
    content.pop("preparation", None)
    if len(data.labels) > _MANY_CLASSES:
        content["labels"] = _leave_out_absent(folder, data)
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


def _opened(entry: dict[str, Any]) -> tuple[Image.Image, Image.Image]:
    with Image.open(entry["image"]) as image, Image.open(entry["label"]) as label:
        return image.copy(), label.copy()


def _scaled(entry: dict[str, Any], edge: int) -> tuple[Image.Image, Image.Image]:
    image, label = _opened(entry)
    scale = edge / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS), label.resize(size, Image.Resampling.NEAREST)


def _windows(entries: list[dict[str, Any]], edge: int, ignored: int | None) -> list[tuple[Image.Image, Image.Image]]:
    """Return windows that do not overlap and whose classes all cover enough, those with most classes first."""
    found = []
    for entry in entries:
        image, label = _opened(entry)
        for top in range(0, label.height - edge + 1, edge):
            for left in range(0, label.width - edge + 1, edge):
                box = (left, top, left + edge, top + edge)
                values, counts = np.unique(np.asarray(label.crop(box)), return_counts=True)
                counts = counts[values != ignored]
                if len(counts) and counts.min() >= _LEAST_SHARE * edge**2:
                    found.append((len(counts), image.crop(box), label.crop(box)))
    return [(image, label) for _, image, label in sorted(found, key=lambda window: -window[0])]


def _leave_out_absent(folder: Path, data: Datalist) -> dict[str, str]:
    """Number the classes that the labels hold from 0 on, in place, and return their names."""
    paths = [*sorted((folder / "labels").iterdir()), folder / "mirrored_label.png"]
    labels = [np.asarray(Image.open(path)) for path in paths]
    present = [value for value in np.unique(np.concatenate([x.ravel() for x in labels])) if value != data.ignore_index]
    table = np.full(256, 255, dtype=np.uint8)
    table[present] = np.arange(len(present))
    for path, label in zip(paths, labels, strict=True):
        Image.fromarray(table[label]).save(path)
    return {str(number): data.labels[int(value)] for number, value in enumerate(present)}


def changes(bundle: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what is changed of a bundle's recipe, as an overlay."""
    changed: dict[str, Any] = {
        "encoder_weights": "random",
        "network_def#encoder": options.encoder,
        "patch": [options.edge, options.edge],
        "learning_rate": options.learning_rate,
        "optimizer": {"_target_": "torch.optim.Adam", "params": "$@network.parameters()", "lr": "@learning_rate"},
        "max_epochs": options.epochs,
        "max_minutes": options.minutes,
        "val_interval": options.epochs,
        "schedule": "poly",
        "clip_grad_norm": 1.0,
        "mlflow": False,
        "seed": options.seed,
    }
    crop: dict[str, Any] = {"_target_": "medseg.transforms.scene.RandPadCropd", "keys": ["image", "label"]}
    crop |= {
        "roi_size": "@patch",
        "image_fill": [124, 116, 104],
        "ignore_index": "$@data.ignore_index",
        "method": "symmetric",
    }
    changed["augmentation"] = [crop]
    if bundle == "mfnet_voc":  # pads to its window, as in training
        changed["model#inference#window"] = [options.edge, options.edge]
    if "multi_scale" in bundle:  # the paper's widths take seconds a step on a CPU
        changed |= {"network_def#scale_channels": 64, "network_def#channels": 128}
    if bundle == "refine_multi_scale_voc":
        changed["network_def#head_options"] = {"channels": 256}
    if "warmup_share" in yaml.safe_load((BUNDLES / bundle / "configs" / "train.yaml").read_text()):
        changed["warmup_share"] = min(10, options.epochs // 4) / options.epochs
        changed["network_def#factor_size"] = [-(-options.edge // 16)] * 2
    return changed


def overfit(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train a bundle on few images, score it on the same, predict them, and return the row; what is there is kept."""
    work = options.work / name
    if (work / "row.json").is_file():
        return dict(json.loads((work / "row.json").read_text()))
    shutil.rmtree(work, ignore_errors=True)
    source = options.ade if "ade20k" in name else options.voc
    data = few_images(source, work / "data", options.images, options.edge)
    few = Datalist.load(data / "datalist.json")
    changed = changes(name, options) | {"batch_size": len(few.training)}
    overlay = work / "overfit.yaml"
    overlay.write_text(yaml.safe_dump(changed))
    started = time.monotonic()
    folder = workflow.train(name, data=data, overlays=[str(overlay)], overrides={"output_dir": str(work / "run")})
    minutes = (time.monotonic() - started) / 60
    same = {"scored": "training"}
    scores = {
        kind: workflow.evaluate(folder, output=work / kind, overlays=overlays, overrides=same).scores
        for kind, overlays in (("single_scale", []), ("multi_scale_flip", ["multi_scale"]))
    }
    predict(folder, data / "images", work / "masks")
    masks = sorted((work / "masks").glob("*.png"))
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    row = {
        "bundle": name,
        "data": few.name,
        "images": len(masks),
        "edge": options.edge,
        "encoder": changed["network_def#encoder"],
        "steps": len(epochs),
        "minutes": minutes,
        "mean_iou": scores["single_scale"]["mean_iou"],
        "mean_iou_multi_scale_flip": scores["multi_scale_flip"]["mean_iou"],
        "boundary_f": scores["single_scale"]["boundary"]["mean_f_score"],
        "classes_present": sum(row["iou"] is not None for row in scores["single_scale"]["classes"]),
        "agreement_of_masks": _agreement(masks, data / "labels", few.ignore_index),
        "overlay": changed,
    }
    (work / "row.json").write_text(json.dumps(row))
    return row


def _agreement(masks: list[Path], labels: Path, ignored: int | None) -> float:
    """Return the share of labelled pixels that the written masks have right."""
    right = total = 0
    for path in masks:
        label, mask = (np.asarray(Image.open(p)) for p in (labels / path.name, path))
        counted = label != ignored
        right += int((label == mask)[counted].sum())
        total += int(counted.sum())
    return right / max(total, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voc", type=Path, required=True)
    parser.add_argument("--ade", type=Path, required=True)
    parser.add_argument("--bundles", nargs="+", default=list(SCENES), choices=SCENES)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--edge", type=int, default=161)
    parser.add_argument("--encoder", default="test_resnet", help="by timm's name (its smallest ResNet)")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--learning_rate", type=float, default=0.001)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("build/overfit"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.bundles:
        rows.append(overfit(name, options))
        sys.stdout.write(f"{name}: mean IoU {rows[-1]['mean_iou']:.3f} on {rows[-1]['images']} images\n")
    report("bundles overfit to a few real images", {row["bundle"]: row for row in rows}, options.json)


if __name__ == "__main__":
    main()
