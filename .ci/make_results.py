"""Write docs/results/*.md from the measurements beside them, and docs/demo.jpg from the last `make demo`."""

import json
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from PIL import Image
from results_backends import backends
from results_clinic import clinic
from results_cohort import cohort
from results_gpu import device_of, folds, large_volumes, patches_on_a_gpu
from results_networks import networks
from results_nuclei import nuclei
from results_reproduction import reproduction
from results_scenes import compiled, scenes
from results_settings import settings
from results_tests import paired_tests

from medseg.reports.score_tables import mean_text, score_tables
from medseg.reports.summary import summarise
from medseg.studies.comparison import table_of

ROOT = Path(__file__).parents[1]
RUN = ROOT / "build" / "demo" / "run"
WIDTH = 1000
RESULTS = ROOT / "docs" / "results"


# file, key in its result, what it is, the target
SPEED = (
    ("trainer_cpu", "trainer_over_bare", "trainer step / bare PyTorch loop, the paper's network", "at most 1.05"),
    ("trainer_cpu", "real_over_synthetic", "real data / tensors in memory, same trainer", "at most 1.03"),
    ("sliding_window_cpu", "ratio", "sliding window over 1024 x 1024 / bare forwards", "at most 1.10"),
    ("zoo_style_cpu", "ratio", "images/s, medseg / model-zoo style configuration", "at least 1.5"),
    ("patch_training_cpu", "over_nnunet", "patches/s, medseg / nnU-Net's trainer, same 3D network", "at least 1.3"),
    ("patch_training_cpu", "over_monai", "patches/s, medseg / a plain MONAI script, same 3D network", "at least 1.5"),
    ("patch_training_cpu", "over_bare", "patches/s, medseg / the bare PyTorch step on the same network", ""),
    (
        "patch_training_cpu",
        "data_wait_share_medseg",
        "waiting for augmented 3D patches, share of the time",
        "at most 0.03",
    ),
    ("patches_2d_cpu", "patch_share", "making a 2D patch, share of patch and step, U-Net 16 to 256", "at most 0.03"),
    ("allocator_cpu", "ratio", "CPU step, allocator as it comes / keeping freed memory", ""),
    ("startup_cpu", "import_medseg_cpu", "`import medseg`, processor seconds", "under 0.1"),
    ("startup_cpu", "medseg_help_cpu", "`medseg --help`, processor seconds", "under 0.15"),
    ("startup_cpu", "import_torch_cpu", "`import torch`, processor seconds", ""),
    ("startup_cpu", "import_monai_cpu", "`import monai`, processor seconds, PyTorch included", ""),
    ("startup_cpu", "import_monai_lean_cpu", "the same as `medseg predict` imports it", ""),
    (
        "startup_cpu",
        "import_monai_parts",
        "what that leaves out, seconds, each with what it imports first",
        "",
    ),
    ("startup_cpu", "import_monai_bundle", "`medseg train`: importing MONAI, seconds", ""),
    ("startup_cpu", "import_medseg_on_top", "importing medseg on top, seconds", ""),
    ("startup_cpu", "configuration_checks_and_assembly", "configuration, data check, assembly, seconds", ""),
)


def speed() -> str:
    """Return the table of what was measured."""
    rows = ["| what | measured | target |", "| --- | --- | --- |"]
    for file, key, what, target in SPEED:
        path = RESULTS / f"{file}.json"
        if path.is_file():
            value = json.loads(path.read_text())["result"].get(key)  # None: measured before it was asked for
            if value is not None:
                rows.append(f"| {what} | {_number(value)} | {target} |")
    path = RESULTS / "lfa_cost_cpu.json"
    if path.is_file():
        for row in json.loads(path.read_text())["ratios"]:
            target = "expected 0.063; the paper states 0.0466" if row["what"] == "FLOPs" and row["size"] == 256 else ""
            rows.append(
                f"| LFA local / global, {row['what']}, {row['size']} x {row['size']} | {row['ratio']:.3g} | {target} |"
            )
    sections = (cohort(RESULTS), backends(RESULTS), large_volumes(RESULTS), patches_on_a_gpu(RESULTS))
    sections += (scenes(RESULTS), compiled(RESULTS))
    return "\n\n".join(filter(None, ["\n".join(rows), *sections]))


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part:.2g}" for name, part in sorted(value.items(), key=lambda pair: -pair[1]))
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def recipes() -> str:
    """Return a table for each result of `benchmarks.recipes`."""
    parts = []
    for path in sorted(RESULTS.glob("recipes_*.json")):
        record = json.loads(path.read_text())
        held = record["result"]
        data = held["data"]
        scheme = "" if data["fold_key"] == "fold" else f" of {data['fold_key']}"
        fold = "" if data["fold"] is None else f", fold {data['fold']}{scheme}"
        parts.append(
            f"`{held['bundle']}` on {data['name']}, {data['images']} {data['split']} images{fold}, at most "
            f"{held['minutes']:g} minutes of training, {record['environment']['threads']} thread(s), seed "
            f"{held['seed']} (docs/results/{path.name}), by `{record['command']}`:\n\n"
            f"{table_of(held['rows']).to_markdown()}" + "".join(f"\n{note}\n" for note in record.get("notes", []))
        )
    return "\n".join(parts)


def overfit() -> str:
    """Return the table of `benchmarks.overfit`."""
    path = RESULTS / "overfit_scenes_cpu.json"
    if not path.is_file():
        return ""
    record = json.loads(path.read_text())
    heads = ["bundle", "images", "encoder", "steps", "minutes", "mean IoU", "with scales and flip", "boundary F"]
    heads.append("pixels right in the written masks")
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    scores = ("mean_iou", "mean_iou_multi_scale_flip", "boundary_f", "agreement_of_masks")
    for name, row in sorted(record["result"].items()):
        values = (f"{row[key]:.3f}" for key in scores)
        lines.append(
            f"| `{name}` | {row['images']} of {row['data']} | {row['encoder']} | {row['steps']} "
            f"| {row['minutes']:.1f} | " + " | ".join(values) + " |"
        )
    return "\n".join(lines)


def hippocampus() -> str:
    """Return the table of `benchmarks.hippocampus`, with what nnU-Net has published."""
    path = RESULTS / "hippocampus.json"
    if not path.is_file():
        return ""
    record = json.loads(path.read_text())
    data, published, rows = record["data"], record["published"], record["rows"]
    classes = list(published["dice"])
    scores = (("dice", "Dice", 3), ("hd95", "HD95 mm", 2), ("nsd", "NSD 1 mm", 3))
    heads = ["system", "seed", "length", "steps", "s a step", "mean Dice"]
    heads += [f"{title} {' / '.join(name.lower() for name in classes)}" for _, title, _ in scores]
    heads += ["load", "network"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row in rows:
        length = f"{row['planned_steps']} steps" if row["planned_steps"] else f"{row['minutes']:g} min"
        cells = [row["system"], row["seed"], length, row["steps"], f"{row['seconds_a_step']:.2f}"]
        cells.append(f"{mean(row['scores']['dice'][name] for name in classes):.3f}")
        cells += [" / ".join(f"{row['scores'][key][name]:.{n}f}" for name in classes) for key, _, n in scores]
        cells += [f"{row['load_at_start']:.1f}, {row['load_at_end']:.1f}", row["about"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    whole = mean(published["dice"].values())
    each = " / ".join(f"{value:.3f}" for value in published["dice"].values())
    cells = ["published", "-", "-", "-", "-", f"{whole:.3f}", each]
    lines.append(f"| {' | '.join([*cells, '-', '-', '-', '-'])} |")
    return (
        "\n".join(lines)
        + f"\n\nFold {data['fold']}: {data['training']} volumes are trained on, {data['held_out']} are scored, the "
        f"same by all; data of fingerprint {data['fingerprint'][:12]}. `published`: {published['what']} "
        f"({published['source']}): more volumes, other folds, a training of hours on a GPU."
    )


def own_data() -> str:
    """Return the tables of `benchmarks.own_data`: plans as they are, then networks on equal minutes."""
    return "\n\n".join(filter(None, map(_trained, ("own_data", "own_data_networks", "own_data_networks_gpu"))))


def _trained(name: str) -> str:
    """Return the table of one of its results."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return ""
    heads = ["data", "network", "threads", "load", "minutes", "steps", "images scored"]
    heads += ["Dice", "without a network", "more"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    record = json.loads(path.read_text())
    rows = [row for row in record["rows"] if "error" not in row]
    for row in rows:
        sides = [
            "<br>".join(f"{kind} {mean_text(each['mean'] or 0.0, each['interval'])}" for kind, each in held.items())
            for held in (row["scores"][side]["dice"] for side in ("network", "baseline"))
        ]
        better = mean_text(row["difference"]["dice"], row["difference"]["interval"])
        threads = max(1, row["environment"]["threads"] // row.get("at_once", 1))  # each training has its share
        load = f"{row['load_at_start']:.1f}, {row['load_at_end']:.1f}" if "load_at_start" in row else "-"
        cells = [row["data"], f"`{row['network']}`", threads, load, f"{row['minutes']:g}", row["steps"]]
        cells += [row["cases"], sides[0], f"{row['baseline_title']}:<br>{sides[1]}", better]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for row in filter(lambda row: row["kinds"], rows):
        columns = list(row["kinds"][0])
        lines += ["", f"`{row['network']}` on {row['data']} by kind of image:", "", f"| {' | '.join(columns)} |"]
        lines.append("| --- " * len(columns) + "|")
        lines += [f"| {' | '.join(str(each[column]) for column in columns)} |" for each in row["kinds"]]
    lines += _shared(record)
    return "\n".join(lines)


def _shared(record: dict[str, Any]) -> list[str]:
    """Return what trainings that shared a device came to: networks by rank, and what failed."""
    lines = []
    if len(record.get("ranks", ())) > 1:
        names = list(dict.fromkeys(data for line in record["ranks"] for data in line["relative"]))
        about = "Dice beside the best network of each data set (1 is the best), and the mean over data sets:"
        cases = {row["data"]: row["cases"] for row in record["rows"] if "error" not in row}
        heads = ["network", "mean", "data sets", *(f"{name} ({cases.get(name, 0)} images)" for name in names)]
        lines += ["", about, "", f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
        for line in record["ranks"]:
            each = ("-" if name not in line["relative"] else f"{line['relative'][name]:.3f}" for name in names)
            lines.append(f"| `{line['network']}` | {line['mean']:.3f} | {line['data']} | {' | '.join(each)} |")
    for row in filter(lambda row: "error" in row, record["rows"]):
        lines += ["", f"`{row['network']}` on {row['data']} failed: {row['error'].splitlines()[0][:200]}"]
    shares = {row["at_once"] for row in record["rows"] if row.get("at_once", 1) > 1}
    if shares:
        name = device_of(next(row for row in record["rows"] if "error" not in row and row.get("at_once", 1) > 1))
        lines += ["", f"{' or '.join(map(str, sorted(shares)))} trainings at a time shared {name}."]
    return [*lines, *(line for note in record.get("notes", ()) for line in ("", note))]


def demo() -> str:
    """Return the table of the last `make demo`, and put its picture into docs/demo.jpg; nothing without one."""
    if not (RUN / "test" / "scores.json").is_file():
        return ""
    summary, scores = summarise(RUN)
    if not summary.startswith("synthetic"):
        raise SystemExit(f"{RUN} holds no synthetic sections: real ones may not be published here; run `make demo`")
    with Image.open(RUN / "test" / "overlays.png") as picture:
        height = round(picture.height * WIDTH / picture.width)
        picture.convert("RGB").resize((WIDTH, height)).save(ROOT / "docs" / "demo.jpg", quality=88)
    table = "\n\n".join(each.to_text() for each in score_tables(scores))
    return f"```text\n{table}\n\nmean IoU {scores['mean_iou']:.3f}\n```"


PAGES = {
    "demo": (
        "The demo",
        "`make demo` on two CPU cores: a small LFA U-Net on **synthetic** sections that medseg draws itself.\n\n"
        "![Image, truth, prediction and error of test crops](../demo.jpg)",
        demo,
    ),
    "hippocampus": (
        "Beside nnU-Net and a plain script",
        "The hippocampus of the Medical Segmentation Decathlon (Task 4), trained equally long by `medseg train DATA`, "
        "by nnU-Net's own code and by a script with MONAI alone (`python -m benchmarks.hippocampus`), each mask scored "
        "by `medseg score`. nnU-Net has its own plan, preprocessing, augmentation, trainer and predictor; its widths "
        "and batch are those of the plain script, its optimiser and its lack of mirroring are variants of its own, and "
        "its learning rate falls over the budget: with its stock recipe, some hundred steps teach it nothing. `load` "
        "is the machine's at the start and at the end of a training.",
        hippocampus,
    ),
    "hippocampus-folds": (
        "Five folds of the hippocampus on one GPU",
        "The 200 volumes of the Medical Segmentation Decathlon (Task 4) that are at hand, in the folds that medseg "
        "proposes: planned once by `medseg plan`, each fold trained by `medseg train` and scored by `medseg evaluate`, "
        "all at once on one device (`python -m benchmarks.gpu_folds`). No fold picks weights; every volume is scored "
        "at its own size by the network that did not see it, and pooled with 95 % intervals over volumes. The release "
        "names no persons: two volumes of one may be on both sides.",
        partial(folds, RESULTS),
    ),
    "own-data": (
        "Own data",
        "`medseg train DATA --minutes M`, nothing else changed (`python -m benchmarks.own_data`): mean Dice over the "
        "images of the held-out fold with 95 % intervals, beside what needs no network, and by how much an image's "
        "mean Dice is above that. COVID's slices and ISIC's lesions are parts of the releases, and of the CT four "
        "slabs of one patient were cut, with a network's labels: they show that the command learns, not what it can "
        "reach.",
        own_data,
    ),
    "which-network": (
        "Which network, in minutes",
        "`medseg compare-networks` as a user types it, by `python -m benchmarks.which_network`. The ranking is of "
        "these images, minutes and processors: other minutes rank otherwise.",
        partial(networks, RESULTS),
    ),
    "nuclei": (
        "Five folds of nuclei: rare kinds of images",
        "The 200 images of the Data Science Bowl 2018 that are at hand, each scored at its own size by a network that "
        "did not see it: each of five folds planned, trained and scored by `medseg train DATA --minutes M fold=N` "
        "(`python -m benchmarks.nuclei_folds`). Kinds of images are drawn as the square roots of how many images they "
        "have (`balance_kinds=0.5`, as plans do); where said, images alike (0) or kinds alike (1). Otsu's "
        "threshold takes the lesser side of each image. The release names no patient or plate: images of one plate "
        "may stand on both sides, and an interval says nothing of how far another training would differ.",
        partial(nuclei, RESULTS),
    ),
    "plan-settings": (
        "Settings of a plan at equal steps",
        "A small U-Net (8 to 128 channels, patch 128 x 112, batch 4) is trained on one CPU thread for so many steps, "
        "fed and trained as a plan says, or said before this was measured, but for what a row names "
        "(`python -m benchmarks.equal_steps`): the load of the machine does not matter. One training each: an interval "
        "is over images, and says nothing of how far another training would differ.",
        partial(settings, RESULTS),
    ),
    "recipes": (
        "Recipes on small real data",
        "Minutes on one or two CPU cores and a part of each data set: they show that a bundle learns, not what it can "
        "reach. `train` is the paper's recipe, `modern` the one of the overlay `modern`.",
        recipes,
    ),
    "reproduction": (
        "The papers' tables: printed, and run here",
        "Every table and figure of the five papers, each row beside what was run of it here, with budget and hardware. "
        "**None of these runs has a paper's whole budget**: most are minutes, of small networks or parts of the data, "
        "and are labelled so. `-` is what a paper, or a run, does not have. A gap of the means over the classes (where "
        "ours are not the paper's classes, of each that is the same) is told where it is larger than the spread: the "
        "standard deviation over folds or seeds, or by how much two trainings with one seed differed; "
        "where there is no spread, always. What is known of it stands below, with what that rests on. What networks "
        "cost, printed and counted, and a step of each on a GPU stand at the end of each paper; more is counted in "
        "[networks](../networks.md#beside-the-papers).",
        partial(reproduction, RESULTS),
    ),
    "overfit": (
        "Four images by heart",
        "The networks for natural images learn four real images by heart, from random weights and with timm's smallest "
        "ResNet, each by its bundle's training, evaluation and inference (`python -m benchmarks.overfit`). VOC's are "
        "scaled to 129 or 193 pixels; of ADE20K's three there are windows of 161. They were trained at one scale, "
        "so that scales and flips take away here. Cityscapes has no images to be had without a login: its bundle was "
        "given VOC's.",
        overfit,
    ),
    "clinic": (
        "Beside an archive",
        "Real series in Orthanc are sent to `medseg node` with trained models; the DICOM SEG that it sends back is "
        "fetched from the archive, read by dcmqi's `segimage2itkimage`, put where SimpleITK reads the series, and "
        "compared voxel by voxel with the mask of `medseg predict`, read by nibabel. Each series is sent twice: one "
        "SEG is right. `study1` and `study2` are crops of MR series around a hippocampus; `ct` has three slices and a "
        "liver drawn by others, and is of another source than the slabs that were trained on.",
        partial(clinic, RESULTS),
    ),
    "paired-tests": (
        "What a difference that holds is worth",
        "Made-up scores of networks through the tests of a study's table, by `python -m benchmarks.paired_tests`: "
        "Wilcoxon's test on the groups' means, corrected after Holm over all pairs, and the BCa interval of the "
        "difference on the same side of 0. At a level of 5 %, at most 5 of 100 tables of networks that are alike "
        "may have a difference. The test alone asks whether most groups gain, not whether the mean does: where few"
        " failures weigh up many gains it says yes, and the interval is what keeps such differences out of the "
        "table. Few groups may lack the failures altogether.",
        partial(paired_tests, RESULTS),
    ),
    "speed": (
        "Speed",
        "Measured on a CPU by `make bench`, unless a GPU is named, with commit, command and hardware in the JSON files "
        "here.",
        speed,
    ),
}


def page(name: str) -> str:
    """Return a page; nothing of what was not measured."""
    title, about, table = PAGES[name]
    text = table()
    return text and f"# {title}\n\n{about}\n\n{text.rstrip()}\n"


def main() -> None:
    """Write docs/results."""
    for name in PAGES:
        text = page(name)
        if text:
            (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
