"""Masks, and what else is asked for, for a cohort by a trained model: what `medseg predict` runs."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.bundle.early import refuse_inference, refuse_unread
from medseg.bundle.ensemble import members
from medseg.bundle.library import weights_file
from medseg.caller import spelt
from medseg.data.coding import read_codes
from medseg.errors import MedsegError, counted, shown
from medseg.io.dicom_rules import Rule, read_rules
from medseg.io.dicomweb_address import is_address
from medseg.io.folder import refuse_missing
from medseg.runs.paths import resolve_path

if TYPE_CHECKING:
    from medseg.bundle.description import Description
    from medseg.prediction.archive_input import ArchiveOptions, Pulled, Reached
    from medseg.prediction.cases import ImageFolder
    from medseg.prediction.model import Model
    from medseg.prediction.predictor import Predictor
    from medseg.prediction.shared import Asked, Shared
    from medseg.prediction.sinks import Case, Sink

__all__ = ["Outcome", "predict"]

logger = logging.getLogger(__name__)

TAKES = ("device", "precision", "num_workers", "postprocess")
_LOADS = ("device", "precision")  # of those, what is decided where a model is loaded
_READERS = 2
_OBJECT, _SEGMENTATION = ".dcm", ".seg.dcm"
_DEFAULT_OBJECT = "dicom-seg"


@dataclass(frozen=True)
class Outcome:
    """What became of the images.

    Args:
        written: masks written.
        skipped: images whose outputs by this model were there.
        failures: images that could not be done, with the reason.
        left_out: files that were left out, with the reason.
        missed: those of them that somebody may take for images.
        stored: DICOM objects that were sent to the archive that the images came from.
        present: DICOM objects that were there before.
        pixels: of all masks that were written, by class.
        device: that computed.
    """

    written: int
    skipped: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    missed: int = 0
    stored: int = 0
    present: int = 0
    pixels: Mapping[int, int] = field(default_factory=dict)
    device: str = ""


def predict(
    model: str | Path | Sequence[str | Path] | Model,
    images: str | Path,
    masks: str | Path,
    *,
    outputs: Sequence[str] = (),
    tta: bool = False,
    overlays: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    series: str | Path | None = None,
    codes: str | Path | None = None,
    keep_identifiers: bool = False,
    trust: bool = False,
    backend: str = "torch",
    signed_by: str | Path | None = None,
    archive: ArchiveOptions | None = None,
    cases: Sequence[str] | None = None,
    shared: Shared | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Predict an image, a folder of images, the images of a datalist, or studies of an archive.

    Args:
        model: a run, bundle, packed model, ensemble's folder, or weights, see `medseg.prediction.model.load`; they
            know how they are fed. Several are an ensemble. Or a model that is loaded, which then computes where and in
            which precision it was asked to.
        images: a file, a folder, a datalist or a folder that holds one, or the address of an archive:
            ``dicomweb://HOST:PORT/PATH``.
        masks: folder of the masks and of all other outputs; made if missing.
        outputs: what is written beside masks, see `medseg.prediction.outputs`.
        tta: average over the mirror images that the model was trained on.
        overlays: of the model's bundle that change how whole images are predicted, such as ``multi_scale``.
        overrides: ``device``, ``precision``, ``num_workers`` (threads that read ahead), ``postprocess`` (steps by class
            in place of the weights' own), and ``inference#window``, ``inference#overlap``, ``inference#scales``,
            ``inference#flip_axes``, ``inference#batch``: how whole images are predicted is free, how they are fed is
            not.
        overwrite: also do images whose mask is there, whatever made it; without it, only this model's may be there.
        series: a rule file that says which DICOM series of a folder the model takes, see `medseg.io.dicom_rules`.
        codes: a file of coded concepts for classes, see `medseg.data.coding.read_codes`, which go before the model's.
        keep_identifiers: keep what names a patient: an image's header beside its geometry, and DICOM's tags in the
            record of the run.
        trust: also build a network of another package than medseg and MONAI, as `medseg.prediction.model.load` does.
        backend: ``"torch"``, ``"onnx"`` or ``"openvino"``, as there.
        signed_by: public key that must have signed the packed model, as there.
        archive: which studies of an archive, and how it is asked; a DICOM segmentation at least is stored there.
        cases: names of the cases that are done, as reports call them; all by default.
        shared: who does the cohort in parts; by default this process does all of it.
        progress: called as ``progress(images done, images in all)``.

    Raises:
        MedsegError: if the model, the images or the archive cannot be used, an override is not one of those, an output
            cannot be had, or a mask is there that other weights made.
    """
    given = dict(overrides or {})
    plain = {key: given.pop(key) for key in TAKES if key in given}
    changes = {key: given.pop(key) for key in list(given) if key.startswith("inference#")}
    refuse_unread("predict", given, TAKES, " and inference#...; how images are fed comes with the weights")
    refuse_inference(changes)
    named = [model] if isinstance(model, str | Path) else model if isinstance(model, Sequence) else []
    weights = [weights_file(member) for each in named for member in members(each)]
    if not isinstance(model, str | Path | Sequence):
        how = {"trust": trust, "backend": backend != "torch", "signed_by": signed_by, "shared": shared}
        _refuse_loading([*(name for name, given in how.items() if given), *(key for key in _LOADS if key in plain)])
    target = resolve_path(masks)
    reached = _reached(images, archive)
    rules = None if series is None else read_rules(resolve_path(series))
    if reached is not None and reached.options.push and not any(map(_is_object, outputs)):
        outputs = (*outputs, _DEFAULT_OBJECT)
    if reached is not None:
        from medseg.prediction.archive_input import refuse_unanswered

        refuse_unanswered(reached)
    from medseg.bundle import feeding
    from medseg.prediction.cases import ImageFolder
    from medseg.prediction.dicom_objects import refuse_uncoded
    from medseg.prediction.faults import FailuresError
    from medseg.prediction.model import Model, load
    from medseg.prediction.outputs import make_sinks
    from medseg.prediction.predictor import Predictor
    from medseg.prediction.shared import Asked

    sinks = make_sinks(outputs)
    trained = (
        model
        if isinstance(model, Model)
        else load(
            weights,
            device=plain.get("device") if shared is None else "cpu",  # it only says what the workers' masks are
            precision=str(plain.get("precision", "auto")),
            trust=trust,
            backend=backend,
            signed_by=signed_by,
            given=[*changes, *(["postprocess"] if "postprocess" in plain else ())],
        )
    )
    description = _described(trained.description, overlays, changes, codes, tta, plain.get("postprocess"))
    if reached is not None and any(map(_is_object, outputs)):
        refuse_uncoded(description)  # before the download, not after it
    with _source(images, reached, rules, target) as (source, pulled):
        folder = ImageFolder(source, description, target, overwrite=overwrite, rules=rules, only=cases)
        folder.left_out += () if pulled is None else pulled.left_out
        if pulled is None and cases is None:
            _say(folder)
        predictor = Predictor(
            trained.device,
            folder,
            trained.networks,
            feeding.inferer(description),
            None,
            description=description,
            hashes=trained.hashes,
            temperatures=trained.temperatures,
            num_workers=int(plain.get("num_workers", _READERS)),
            precision=trained.precision,
            keep_header=keep_identifiers,
            sinks=sinks,
            options=_options(description, outputs, overwrite, trained),
            progress=progress,
        )
        work = None
        if shared is not None:
            paths = {"series": series, "codes": codes, "signed_by": signed_by}
            flags = {"tta": tta, "keep_identifiers": keep_identifiers, "trust": trust}
            options = [*_words(flags, paths), "--backend", backend, *(f"--{name}" for name in outputs)]
            options += ["--with", *overlays] if overlays else []
            asked = Asked([_absolute(each) for each in named], source, {**plain, **changes}, options)
            work = _sharing(predictor, asked, shared)
        with contextlib.suppress(FailuresError):  # the outcome has them
            predictor.run(work)
        outcome = _outcome(predictor, folder)
        if pulled is None or not pulled.reached.options.push:
            return outcome
        return _push(outcome, predictor, sinks, pulled)


def _refuse_loading(asked: Sequence[str]) -> None:
    """Refuse what only loading a model decides, of one that is loaded.

    Raises:
        MedsegError: if anything of it is asked for.
    """
    if asked:
        remedy = "name the model's file or folder" if "shared" in asked else "give it to medseg.load"
        raise MedsegError(f"{', '.join(asked)} is given for a model that is loaded already; {remedy}")


def _say(folder: ImageFolder) -> None:
    """Say what a datalist lists; warn of labels among images that none lists: each of them gets a mask, too."""
    if folder.datalist is not None:
        logger.info("%s", folder.told)
        return
    from medseg.importers.pairing import all_labels, labels_among

    files = [case.image for case in folder.cases if len(case.files) == 1]
    if len(files) == len(folder) and all_labels(path.relative_to(folder.folder) for path in files):
        logger.warning(
            "all of %s are labels by their names, such as %s, and get masks as if they were images; name the folder of "
            "the images, if that is not meant",
            counted(len(folder), "image"),
            shown(files[0].relative_to(folder.folder)),
        )
        return
    found = labels_among(files)
    for label, image in list(found.items())[:1]:
        logger.warning(
            "%d of %s are labels of others by their names, such as %s of %s, and get a mask like every image; name a "
            "folder of images alone, or a datalist, if that is not meant",
            len(found),
            counted(len(folder), "image"),
            *(shown(path.relative_to(folder.folder)) for path in (label, image)),
        )


def _described(
    description: Description,
    overlays: Sequence[str],
    changes: Mapping[str, Any],
    codes: str | Path | None,
    tta: bool,
    postprocess: Mapping[str, Any] | None,
) -> Description:
    """Return a model with what is asked of its inference, and codes of its classes."""
    from medseg.bundle.inference import mirrored, with_inference

    made = with_inference(description, overlays, changes, postprocess)
    if codes is not None:
        made = replace(made, codes={**made.codes, **read_codes(resolve_path(codes), made.classes)})
    return mirrored(made) if tta else made


def _is_object(output: str) -> bool:
    """Return whether an output is a DICOM object, which an archive can take."""
    return output.startswith("dicom-") or output == "rtstruct"


def _reached(images: str | Path, archive: ArchiveOptions | None) -> Reached | None:
    """Return the archive that is asked for; ``None`` where images lie in a folder, which is there then."""
    if is_address(images):
        from medseg.prediction.archive_input import ArchiveOptions, reach

        return reach(str(images), archive or ArchiveOptions())
    if archive is not None:
        raise MedsegError(
            f"{images} is no archive, but {spelt('study')} or another option of an archive is given; "
            "write dicomweb://HOST:PORT/PATH, or leave it out"
        )
    refuse_missing(resolve_path(images))
    return None


@contextlib.contextmanager
def _source(
    images: str | Path, reached: Reached | None, rules: Sequence[Rule] | None, target: Path
) -> Iterator[tuple[Path, Pulled | None]]:
    """Yield where the images lie, and what was brought from an archive."""
    if reached is None:
        yield resolve_path(images), None
        return
    from medseg.prediction.archive_input import pulled

    with pulled(reached, rules, target.parent) as found:
        yield found.folder, found


def _outcome(predictor: Predictor, folder: ImageFolder) -> Outcome:
    failures = [(str(path), reason) for path, reason in predictor.failures]
    left_out = [(str(path), reason) for path, reason in folder.left_out]
    return Outcome(
        len(predictor.written),
        predictor.skipped,
        failures,
        left_out,
        len(folder.missed),
        pixels=dict(predictor.pixels),
        device=predictor.device.type,
    )


def _sharing(predictor: Predictor, asked: Asked, shared: Shared) -> Callable[[Sequence[Case]], None]:
    from medseg.prediction.shared import share

    def work(cases: Sequence[Case]) -> None:
        predictor.begin()
        share(predictor, cases, asked, shared)

    return work


def _words(flags: Mapping[str, bool], paths: Mapping[str, str | Path | None]) -> list[str]:
    """Return options as ``medseg predict`` takes them."""
    words = [f"--{name.replace('_', '-')}" for name, given in flags.items() if given]
    for name, path in paths.items():
        words += [] if path is None else [f"--{name.replace('_', '-')}", str(resolve_path(path))]
    return words


def _absolute(model: str | Path) -> str:
    """Return a model as another process finds it, which may work in another folder."""
    return str(Path(model).absolute()) if Path(model).exists() else str(model)


def _push(outcome: Outcome, predictor: Predictor, sinks: Sequence[Sink], pulled: Pulled) -> Outcome:
    """Store the DICOM objects of all cases that are done, also by an earlier run, and record what became of them."""
    from medseg.prediction.audit import record_push

    failed = {name for name, _ in outcome.failures}
    done = [case for case in predictor.folder.cases if case.name not in failed]
    made = dict.fromkeys(file for case in done for sink in sinks for file in sink.files(case))
    files = [file for file in made if file.suffix == _OBJECT and file.exists()]
    files.sort(key=lambda file: not file.name.endswith(_SEGMENTATION))  # which reports refer to
    began = time.time()
    report = pulled.reached.archive.store(files)
    if report.beside:
        logger.warning(
            "%s stored beside others of the same model and series, as of an earlier mask; see which shall stay there",
            counted(len(report.beside), "object"),
        )
    folder = predictor.folder.output_dir
    if report.stored or report.present or report.failed:
        record_push(folder, began, report.stored, report.present, report.failed)
    failures = [(file.relative_to(folder).as_posix(), f"not stored: {reason}") for file, reason in report.failed]
    return replace(
        outcome,
        failures=[*outcome.failures, *failures],
        stored=len(report.stored),
        present=len(report.present),
    )


def _options(description: Description, outputs: Sequence[str], overwrite: bool, trained: Model) -> dict[str, Any]:
    held = description.to_dict()
    said = {"inference": held["inference"], "postprocess": held["postprocess"]}
    several = {"members_differ": [each.plain() for each in trained.unlike]} if len(trained.networks) > 1 else {}
    return {**said, **several, "outputs": list(outputs), "overwrite": overwrite, "precision": trained.precision}
