"""Push damaged files through the prediction: each is predicted or refused in one line, and nothing else happens.

``python tests/fuzz_predictions.py --count 200`` damages so many files of each format, gives them to models of all kinds
and prints what became of them; memory is bounded, and who takes a minute over a file is ended with a trace.
"""

from __future__ import annotations

import faulthandler
import random
import re
import resource
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
from dicom_series import write_series
from fuzz_dicom import damage_dicom
from fuzz_images import ALLOWANCE, SECONDS, damage, main, originals
from tiny_models import KINDS, write_model

from medseg.errors import MedsegError
from medseg.prediction.predict import predict

PATIENT = "CompressedSamples"  # of pydicom's files, which may stand in no message
_UNTIDY = re.compile(r"\n|Traceback|^\w+(Error|Exception|Interrupt)\b")
_SPACE = 2 << 30  # more than the program itself, for the script


@dataclass(frozen=True)
class Attempt:
    """What came of a prediction.

    Args:
        end: ``"written"``, ``"failed"``, ``"refused"``, or what was raised.
        said: every line that a person gets.
        masks: how many.
        seconds: of this process.
        memory: bytes at most.
    """

    end: str
    said: tuple[str, ...]
    masks: int
    seconds: float
    memory: int


def attempt(model: Path, source: Path, output: Path) -> Attempt:
    """Predict in this process.

    Args:
        model: weights.
        source: an image or a folder.
        output: folder for masks, which is new.
    """
    Path("/proc/self/clear_refs").write_text("5")
    before, start = _memory("VmRSS"), time.process_time()
    said: tuple[str, ...] = ()
    masks = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            outcome = predict(model, source, output, overrides={"device": "cpu", "num_workers": 0})
        masks = outcome.written
        end = "failed" if outcome.failures or not masks else "written"
        said = tuple(reason for _, reason in (*outcome.failures, *outcome.left_out))
    except MedsegError as error:
        end, said = "refused", (str(error),)
    except Exception as error:
        end = f"raised {error!r}"[:400]
    return Attempt(end, said, masks, time.process_time() - start, max(_memory("VmHWM") - before, 0))


def faults_of(found: Attempt, source: Path, output: Path) -> list[str]:
    """Return what is wrong with what came of an image or a folder of one.

    Args:
        found: what came of it.
        source: the folder.
        output: folder of its mask.
    """
    faults = [found.end] * found.end.startswith("raised")
    faults += [f"untidy: {line!r}" for line in found.said if not line.strip() or _UNTIDY.search(line)]
    faults += [f"names a patient: {line!r}" for line in found.said if PATIENT in line]
    if found.end == "failed" and not found.said:
        faults.append("left out without a word")
    if found.seconds > SECONDS or found.memory > 2 * ALLOWANCE:
        faults.append(f"{found.seconds:.1f} s, {found.memory >> 20} MiB")
    for mask in sorted(output.glob("*.nii*")) if found.masks else ():
        (image,) = [path for path in (source / mask.name,) if path.exists()] or [None]
        faults += [] if image is None else _misplaced(image, mask)
    return faults


def _misplaced(image: Path, mask: Path) -> list[str]:
    """Compare where a mask and its image lie, as nibabel has it."""
    lies, placed = nibabel.load(image), nibabel.load(mask)
    same = np.allclose(lies.affine, placed.affine, rtol=1e-4, atol=1e-3)  # type: ignore[attr-defined]
    shapes = [tuple(edge for edge in each.shape[:3] if edge > 1) for each in (lies, placed)]  # type: ignore[attr-defined]
    return [] if same and shapes[0] == shapes[1] else [f"mask lies elsewhere: {placed}"]


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def _damaged(name: str, healthy: Sequence[Path], series: Path, own: Path, rng: random.Random) -> str:
    """Write a damaged file into a folder of its own, a slice among its series; return how it was damaged."""
    if name == "dicom" and rng.random() < 0.6:
        shutil.copytree(series, own)
        path = own / f"0{rng.randint(1, 4)}.dcm"
    else:
        own.mkdir(parents=True)
        source = rng.choice(healthy)
        path = own / f"x{'.nii.gz' if name == 'nii.gz' else source.suffix}"
        shutil.copyfile(source, path)
    content = path.read_bytes()
    kind, changed = damage_dicom(content, rng) if name == "dicom" else damage(content, rng, packed=name == "nii.gz")
    path.write_bytes(changed)
    return f"{kind} of {path.name}"


def fuzz(
    count: int,
    folder: Path,
    *,
    seed: int = 0,
    formats: Sequence[str] = (),
    kinds: Sequence[str] = tuple(KINDS),
    bounded: bool = False,
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Damage and predict files of each format; return what became of them, and every fault.

    Args:
        count: of files of a format.
        folder: to work in.
        seed: of the damage.
        formats: of `fuzz_images.originals`; all by default.
        kinds: of models, which take turns.
        bounded: give this process little more memory than it has, and a minute a file.
    """
    rng = random.Random(seed)
    models = {kind: write_model(folder / f"{kind}.pt", kind) for kind in kinds}
    (folder / "healthy").mkdir()
    series = write_series(folder / "series", [0, 1, 2, 3])
    made = originals(folder / "healthy")
    for number, model in enumerate(models.values()):  # loads what is needed
        for path in (series, *(paths[number % len(paths)] for paths in made.values())):
            attempt(model, path, folder / "warm" / f"{number}" / path.name)
    if bounded:
        resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + _SPACE,) * 2)
    tally: dict[str, Counter[str]] = {}
    faults: list[str] = []
    for name in formats or made:
        counts = tally[name] = Counter()
        for number in range(count):
            own, output = folder / "in" / f"{name}{number}", folder / "out" / f"{name}{number}"
            how = _damaged(name, made[name], series, own, rng)
            kind = kinds[number % len(kinds)]
            if bounded:
                faulthandler.dump_traceback_later(60, exit=True)
            found = attempt(models[kind], own, output)
            counts[found.end.split()[0]] += 1
            counts["most MiB"] = max(counts["most MiB"], found.memory >> 20)
            counts["slowest ms"] = max(counts["slowest ms"], round(found.seconds * 1000))
            wrong = faults_of(found, own, output)
            faults += [f"{name} {number} ({how}, {kind}): {fault}" for fault in wrong]
            shutil.rmtree(output, ignore_errors=True)
            if not wrong:
                shutil.rmtree(own)
    faulthandler.cancel_dump_traceback_later()
    return tally, faults


if __name__ == "__main__":
    main(partial(fuzz, bounded=True), __doc__)
