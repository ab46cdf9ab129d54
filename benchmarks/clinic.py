"""Trained models beside an archive: series from Orthanc through `medseg node` and back, read by programs of others.

    medseg train DATA/msd_hippocampus --minutes 8 -o build/mr
    python -m benchmarks.clinic --raw DATA --slabs build/slabs
    medseg train build/slabs --dimensions 2 --minutes 4 -o build/ct
    unshare --net sh -c 'ip link set lo up && python -m benchmarks.clinic --raw DATA --mr build/mr --ct build/ct \
        --work build/clinic --json docs/results/clinic.json'

Orthanc holds MR and CT series and sends them to a node with both models, which sends DICOM SEG back; each series is
sent again, which must add nothing. What Orthanc then holds is fetched, read by dcmqi and put onto the grid that
SimpleITK reads of the series, where it is compared voxel by voxel with the mask of ``medseg predict``, read by nibabel.
Volumes are counted there too, beside those that ``medseg predict`` says and those of the labels that were trained on.
The CT has labels of its own, so there is a Dice; its model has seen slabs of one patient (`benchmarks.own_data`).
No UID, name or path of a patient is written to the JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.common import call, report, training_of
from benchmarks.orthanc import Orthanc, free_port, program
from benchmarks.own_data import slabs
from medseg.io.dicom_heads import is_dicom

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

TITLE = "MEDSEG"
RULES = {"mr": {"modality": ["MR"], "slice_distance": [0.8, 1.2]}, "ct": {"modality": ["CT"]}}
_OFF = 0.02  # of a voxel, that a place of another program's may lie beside it
_PATIENCE = 300.0  # seconds
_WHOLE = "all"  # the row of a whole class in measurements.csv


@dataclass(frozen=True)
class Series:
    """A series.

    Args:
        name: that the JSON calls it.
        model: which one it is for.
        files: of it.
        truth: by class, a mask that is not ours.
    """

    name: str
    model: str
    files: Sequence[Path]
    truth: Mapping[str, Path]

    @cached_property
    def grid(self) -> sitk.Image:
        """The series as SimpleITK reads it."""
        import SimpleITK as sitk  # noqa: N813

        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(self.files[0].parent)))
        return reader.Execute()


def series_of(raw: Path, folder: Path) -> list[Series]:
    """Return the series, each linked into a folder of its own."""
    ct = raw / "dicom_ct_dcmqi"
    places = {
        "study1": ("mr", raw / "dicom_mr_hippocrop" / "study1", {}),
        "study2": ("mr", raw / "dicom_mr_hippocrop" / "study2", {}),
        "ct": ("ct", ct / "ct-3slice", {"liver": ct / "liver_seg.nrrd"}),
    }
    found = []
    for name, (model, source, truth) in places.items():
        target = folder / model / name
        target.mkdir(parents=True)
        files = []
        for path in sorted(filter(is_dicom, source.iterdir())):
            files.append(target / path.name)
            files[-1].symlink_to(path.resolve())
        found.append(Series(name, model, files, truth))
    return found


def ran(*words: object) -> str:
    """Run a program of others; return what it said."""
    command = [program(str(words[0])), *map(str, words[1:])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    if done.returncode:
        raise SystemExit(f"{words[0]}: status {done.returncode}: {done.stderr[-500:]}")
    return done.stdout + done.stderr


def on_grid(labels: NDArray[Any], affine: NDArray[Any], grid: sitk.Image) -> NDArray[np.uint8]:
    """Put voxels onto a grid by where they lie.

    Args:
        labels: classes ``(X, Y, Z)``.
        affine: of them, in DICOM's directions.
        grid: of `Series.grid`.

    Returns:
        Classes on the grid.

    Raises:
        SystemExit: if one lies between voxels of the grid, or outside.
    """
    points = np.argwhere(labels > 0)
    patient = points @ affine[:3, :3].T + affine[:3, 3]
    places = (patient - affine_of(grid)[:3, 3]) @ np.linalg.inv(affine_of(grid)[:3, :3]).T
    near = places.round().astype(int)
    size = np.array(grid.GetSize())
    if np.abs(places - near).max(initial=0) > _OFF or (near < 0).any() or (near >= size).any():
        raise SystemExit("a mask lies beside the voxels of its series")
    made = np.zeros(size, np.uint8)
    made[tuple(near.T)] = labels[tuple(points.T)]
    return made


def affine_of(image: sitk.Image) -> NDArray[np.float64]:
    """Return where the voxels of an image of SimpleITK lie, in DICOM's directions."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


def by_dcmqi(seg: Path, folder: Path, classes: Sequence[str], grid: sitk.Image) -> NDArray[np.uint8]:
    """Return a DICOM SEG as dcmqi reads it, on the grid; a segment is the class of its label."""
    import SimpleITK as sitk  # noqa: N813

    folder.mkdir(parents=True)
    ran("segimage2itkimage", "--inputDICOM", seg, "--outputDirectory", folder, "--outputType", "nrrd")
    segments = [each for (each,) in json.loads((folder / "meta.json").read_text())["segmentAttributes"]]
    made = np.zeros(grid.GetSize(), np.uint8)
    for number, segment in enumerate(segments, 1):
        image = sitk.ReadImage(str(folder / f"{number}.nrrd"))
        array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
        here = on_grid(array, affine_of(image), grid) > 0
        if made[here].any():
            raise SystemExit("two segments share a voxel")
        made[here] = classes.index(segment["SegmentLabel"])
    return made


def by_nibabel(mask: Path, grid: sitk.Image) -> NDArray[np.uint8]:
    """Return a NIfTI mask as nibabel reads it, on the grid."""
    image = nibabel.load(mask)
    return on_grid(np.asanyarray(image.dataobj), np.diag([-1, -1, 1, 1]) @ image.affine, grid)


def through_the_node(series: Sequence[Series], models: Mapping[str, Path], folder: Path) -> dict[str, list[Path]]:
    """Let Orthanc send all series to a node, twice, and take back what it sent; return the SEGs by series."""
    port = free_port()
    archive = Orthanc(folder / "orthanc", {"node": [TITLE, "127.0.0.1", port]})
    config = {
        **{"folder": "node", "title": TITLE, "port": port, "callers": [{"title": "ARCHIVE"}], "still_seconds": 3},
        "models": [{"name": name, "model": str(path), "rules": f"{name}.yaml"} for name, path in models.items()],
        "destinations": [{"name": "archive", "title": "ARCHIVE", "host": "127.0.0.1", "port": archive.port}],
    }
    for name in models:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"take": [RULES[name]]}))
    (folder / "node.yaml").write_text(yaml.safe_dump(config))
    found: dict[str, list[Path]] = {}
    command = [sys.executable, "-m", "medseg.cli", "node", "run", str(folder / "node.yaml")]
    with (folder / "node.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as node:
        try:
            until_listens(port, node)
            for number, each in enumerate(series, 1):
                ran("storescu", "-aec", "ARCHIVE", "127.0.0.1", archive.port, *each.files)
                (identifier,) = archive.series(each.model.upper()) - set(found)
                found[identifier] = []
                for _ in range(2):  # what comes again is not done again
                    archive.send(identifier, "node")
                    until_done(folder / "node.yaml", number, node)
            time.sleep(5)  # a second result would be on its way
            known = until_done(folder / "node.yaml", len(series), node)
            for identifier, each in zip(found, series, strict=True):
                found[identifier] = archive.fetch("SEG", identifier, folder / "fetched" / each.name)
        finally:
            node.send_signal(signal.SIGTERM)
            status = node.wait(120)
            archive.down()
    if status:
        raise SystemExit(f"the node ended with {status}; see node.log")
    if known != sum(len(each.files) for each in series):
        raise SystemExit(f"{known} instances came again, not those that were sent again")
    return {each.name: files for each, files in zip(series, found.values(), strict=True)}


def until_listens(port: int, node: subprocess.Popen[bytes]) -> None:
    """Wait until a node can be called.

    Raises:
        SystemExit: if it ends, or takes too long.
    """
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and node.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.2)
    raise SystemExit("the node does not listen; see node.log")


def until_done(config: Path, number: int, node: subprocess.Popen[bytes]) -> int:
    """Wait until a node has so many studies done, and nothing else; return how many instances came again.

    Raises:
        SystemExit: if one fails, the node ends, or it takes too long.
    """
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and node.poll() is None:
        command = [sys.executable, "-m", "medseg.cli", "node", "status", str(config), "--json"]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        status = json.loads(said.stdout) if said.stdout.startswith("{") else {"states": {}}
        if status["states"] == {"done": number}:
            return int(status["known"])
        if {"failed", "refused"} & set(status["states"]):
            break
        time.sleep(1)
    raise SystemExit(f"the node has not done {number}; see node.log")


def predicted(series: Sequence[Series], models: Mapping[str, Path], folder: Path) -> dict[str, dict[str, float]]:
    """Predict by ``medseg predict``, and report; return the volumes in ml that it says, by series and class."""
    volumes: dict[str, dict[str, float]] = {each.name: {} for each in series}
    for name, model in models.items():
        images, out = folder / "series" / name, folder / "masks" / name
        call(["medseg.cli", "predict", str(model), str(images), str(out), "--measurements", "--uncertainty"])
        call(["medseg.cli", "report", str(out), "--data", str(images), "-o", str(folder / f"report_{name}.html")])
        with (out / "measurements.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                if row["part"] == _WHOLE:
                    volumes[row["case"]][row["class_name"]] = float(row["volume_ml"])
    return volumes


def row_of(
    series: Series, segs: Sequence[Path], classes: Sequence[str], said: Mapping[str, float], folder: Path
) -> dict[str, Any]:
    """Return what became of a series."""
    import SimpleITK as sitk  # noqa: N813

    grid = series.grid
    mask = folder / "masks" / series.model / f"{series.name}.nii.gz"
    ours = by_nibabel(mask, grid)
    row: dict[str, Any] = {
        "series": series.name, "model": series.model, "slices": grid.GetSize()[2], "size": grid.GetSize(),
        "spacing": [round(edge, 4) for edge in grid.GetSpacing()], "segs_in_archive": len(segs),
        "voxels": int(ours.size), "dciodvfy_errors": 0,
    }  # fmt: skip
    (seg,) = segs
    checked = subprocess.run([program("dciodvfy"), str(seg)], capture_output=True, text=True, check=False)
    row["dciodvfy_errors"] = sum(line.startswith("Error") for line in (checked.stdout + checked.stderr).splitlines())
    theirs = by_dcmqi(seg, folder / "dcmqi" / series.name, classes, grid)
    row["voxels_that_differ"] = int(np.count_nonzero(theirs != ours))
    millilitres = float(np.prod(grid.GetSpacing())) / 1000
    row["classes"] = {
        name: {
            "voxels": int(np.count_nonzero(theirs == index)),
            "ml": float(np.count_nonzero(theirs == index)) * millilitres,
            "ml_said": said.get(name),
        }
        for index, name in enumerate(classes)
        if index
    }
    for name, path in series.truth.items():
        image = sitk.ReadImage(str(path))
        truth = on_grid(sitk.GetArrayFromImage(image).transpose(2, 1, 0), affine_of(image), grid) > 0
        made = theirs == classes.index(name)
        shared = np.count_nonzero(truth & made)
        row["classes"][name]["dice"] = float(2 * shared / (np.count_nonzero(truth) + np.count_nonzero(made)))
    if series.model == "mr":
        row["in_front_mm"] = in_front(theirs, affine_of(grid))
    return row


def in_front(mask: NDArray[Any], affine: NDArray[Any]) -> float:
    """Return by how many mm the centre of the first class lies in front of the second's; DICOM's y is to the back.

    Raises:
        SystemExit: if there is none of a class.
    """
    if not ((mask == 1).any() and (mask == 2).any()):
        raise SystemExit("a class of the hippocampus is not there")
    first, second = (np.argwhere(mask == index).mean(0) @ affine[:3, :3].T for index in (1, 2))
    return float(second[1] - first[1])


def labels_of(data: Path, classes: Sequence[str]) -> dict[str, Any]:
    """Return the volumes of all labels that were trained on or scored, least, most and mean, and `in_front`."""
    volumes, apart = [], []
    for path in sorted((data / "labelsTr").glob("*.nii.gz")):
        image = nibabel.load(path)
        mask = np.asanyarray(image.dataobj)
        edge = abs(np.linalg.det(image.affine[:3, :3])) / 1000
        volumes.append([np.count_nonzero(mask == index) * edge for index in range(1, len(classes))])
        apart.append(in_front(mask, np.diag([-1, -1, 1, 1]) @ image.affine))
    spans = {name: _span(values) for name, values in zip(classes[1:], np.array(volumes).T, strict=True)}
    return {"number": len(apart), "ml": spans, "in_front_mm": _span(np.array(apart))}


def _span(values: NDArray[np.float64]) -> dict[str, float]:
    return {"least": float(values.min()), "most": float(values.max()), "mean": float(values.mean())}


def training(run: Path) -> dict[str, Any]:
    """Return what a model was trained on and what it is worth, from its run."""
    from medseg.prediction.model import load

    scores = json.loads((run / "test" / "scores.json").read_text())["per_case"]
    dice = {row["name"]: {"mean": row["dice"], "interval": row["interval"]["dice"]} for row in scores["classes"]}
    described = load(run, device="cpu").description
    network = {key: value for key, value in described.network.items() if key in ("name", "channels", "spatial_dims")}
    classes = list(described.classes)
    return {**training_of(run), "network": network, "classes": classes, "held_out": scores["cases"], "dice": dice}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder that holds the data sets as they are released")
    parser.add_argument("--slabs", type=Path, help="write the CT's data here, and do nothing else")
    parser.add_argument("--mr", type=Path, help="folder of the run on the hippocampus")
    parser.add_argument("--ct", type=Path, help="folder of the run on the slabs")
    parser.add_argument("--work", type=Path, default=Path("build/clinic"), help="new folder of everything that is made")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.slabs is not None:
        slabs(options.raw, options.slabs)
        return
    folder = options.work.absolute()
    models = {name: (getattr(options, name) / "run").absolute() for name in RULES if getattr(options, name)}
    if not models:
        parser.error("give --mr or --ct, a folder of `medseg train DATA`")
    folder.mkdir(parents=True)
    series = [each for each in series_of(options.raw, folder / "series") if each.model in models]
    made = {name: training(run) for name, run in models.items()}
    segs = through_the_node(series, models, folder)
    said = predicted(series, models, folder)
    rows = [row_of(each, segs[each.name], made[each.model]["classes"], said[each.name], folder) for each in series]
    result: dict[str, Any] = {"models": made, "series": rows}
    if "mr" in models:
        result["labels"] = labels_of(options.raw / "msd_hippocampus", made["mr"]["classes"])
    report("series through a node beside Orthanc and back", result, options.json)


if __name__ == "__main__":
    main()
