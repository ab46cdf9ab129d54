"""Run tests with the oldest versions that pyproject.toml names, so that no minimum is a guess.

`build/oldest` becomes an environment of its own: what medseg names at its minimum, what those need in turn at its
newest, as a person gets it who has an old package and installs medseg beside it. uv links the files from its cache, so
that a second time costs seconds and no disk; the first downloads about 4 GB (8 GB on disk), with --make beside other
work. It is removed afterwards unless --keep is given. Every module is imported, and of the tests those run that `TESTS`
names: what medseg asks of each package. `tests/test_wheel.py`, from data to masks with the wheel alone, can be named
instead, as any test can.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "oldest"
MADE = FOLDER / "required.txt"  # what it was made for
TOOLS = ("build", "hatchling", "pytest", "pytest-timeout", "simpleitk", "torchmetrics")  # of the tests, not of medseg
# what each package is asked for; tests/test_dependencies.py holds that none is left out
TESTS = {
    "": ("test_dependencies.py::test_every_module_is_imported",),
    "cryptography": ("bundle/test_pack.py",),
    "fire": ("bundle/test_command.py", "bundles/test_bad_input.py::test_unknown_key"),
    "imagecodecs": ("io/test_formats.py", "io/test_integrity.py"),
    "itk": ("io/test_dicom.py", "io/test_mask_volumes.py"),
    "jinja2": ("studies/test_report.py",),
    "jsonschema": ("bundle/test_pack.py",),
    "matplotlib": ("reports/test_figures.py", "reports/test_overlays.py", "reports/test_planes.py"),
    "mlflow": ("runs/test_mlflow_run.py", "runs/test_tracking.py"),
    "monai": (
        *("transforms", "inferers/test_sliding_window.py", "inferers/test_way_back.py", "engines/test_augmenting.py"),
        *("engines/test_evaluator.py", "engines/test_patches.py", "prediction/test_places.py"),
    ),
    "nibabel": ("io/test_placement.py", "io/test_load.py", "prediction/test_maps.py"),
    "numpy": ("io", "metrics"),
    "packaging": ("bundles/test_bad_input.py::test_old_medseg",),
    "pillow": ("io/test_images.py", "io/test_masks.py"),
    "pydicom": ("io/test_dicom.py", "io/test_dicom_damaged.py", "io/test_dicom_series.py"),
    "pytorch-ignite": ("engines/test_trainer.py", "engines/test_trainer_resume.py", "engines/test_failures.py"),
    "pyyaml": ("runs/test_run_folder.py", "bundle/test_command.py"),
    "rich": ("engines/test_progress.py", "cli/test_check.py"),
    "safetensors": ("runs/test_checkpoint.py", "runs/test_header.py"),
    "scikit-image": ("metrics", "importers/test_drawing.py"),
    "scikit-learn": ("data/test_folds.py",),
    "scipy": ("metrics", "prediction/test_measurements.py"),
    "tifffile": ("io/test_formats.py", "io/test_masks.py"),
    "timm": ("test_encoders.py", "test_encoder_weights.py"),
    "torch": ("networks/test_unet.py", "engines/test_trainer.py", "inferers/test_memory_format.py"),
    "torchvision": ("test_encoder_weights.py", "layers/test_aspp.py", "networks/test_sa_unet.py"),
    "dicomweb-client": ("io/test_dicomweb.py", "prediction/test_archive_input.py"),
    "highdicom": ("prediction/test_dicom_seg.py", "prediction/test_dicom_measurements.py"),
    "pynetdicom": ("node/test_receive.py", "node/test_send.py"),
    "requests": ("io/test_dicomweb.py",),
    "urllib3": ("io/test_dicomweb.py",),
    "ray": ("jobs/test_cluster.py",),
    "submitit": ("jobs/test_batch.py",),
    "onnx": ("networks/test_unet.py",),
    "onnxruntime": ("networks/test_unet.py",),
    "onnxscript": ("networks/test_unet.py",),
}
# two processes of one thread each: these rooms in the one, the others in the other
ROOMS = ("bundle", "bundles", "engines", "jobs", "node", "prediction", "runs", "studies")
LEFT_OUT = ("io/test_fuzz.py",)  # files made up at random: a minute, and nothing new is asked
NO_ENVIRONMENT = 75  # EX_TEMPFAIL: no package index, no room; nothing was tested
NOT_NAMED = "not two_processes and not left_open"


def requirements() -> list[str]:
    """Return what medseg requires, its extras ``dicom``, ``export``, ``ray`` and ``submitit``, and the tests' tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    tools = [given for given in extras["dev"] if given.split(">=")[0] in TOOLS]
    return [*project["dependencies"], *extras["dicom"], *extras["export"], *extras["ray"], *extras["submitit"], *tools]


def uv(*arguments: str, given: str | None = None) -> str:
    """Run uv, which can resolve to the lowest versions."""
    command = [sys.executable, "-m", "uv", "--no-progress", *arguments]
    return subprocess.run(command, check=True, cwd=ROOT, input=given, text=True, stdout=subprocess.PIPE).stdout


def made() -> Path:
    """Return the environment's Python; make it, unless it is there and what medseg requires has not changed."""
    python, wanted = FOLDER / "bin" / "python", "\n".join(requirements())
    if not (python.exists() and MADE.is_file() and MADE.read_text(encoding="utf-8") == wanted):
        make(python, wanted)
        MADE.write_text(wanted, encoding="utf-8")
    return python


def make(python: Path, wanted: str) -> None:
    """Make the environment."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    uv("venv", "--quiet", "--seed", "--python", sys.executable, str(FOLDER))
    lowest = uv(
        *("pip", "compile", "--quiet", "--no-header", "--no-annotate", "--resolution", "lowest-direct"),
        *("--python", str(python), "-"),
        given=wanted,
    )
    (FOLDER / "requirements.txt").write_text(lowest, encoding="utf-8")
    uv("pip", "install", "--quiet", "--python", str(python), "-r", str(FOLDER / "requirements.txt"))
    uv("pip", "install", "--quiet", "--python", str(python), "--no-deps", "--editable", str(ROOT))


def main() -> int:
    """Make the environment where it is missing, run the tests; return their status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", action="store_true", help="make the environment for the next time, and run nothing")
    parser.add_argument("--keep", action="store_true", help="leave the environment for the next time")
    parser.add_argument("tests", nargs="*", help="tests to run (default: those that exercise other packages)")
    options = parser.parse_args()
    try:
        python = made()
    except subprocess.CalledProcessError as error:
        sys.stdout.write(f"oldest: SKIPPED, the environment cannot be made here: {error}\n")
        return NO_ENVIRONMENT
    if options.make:
        return 0
    status = run(python, [options.tests] if options.tests else chosen())
    if not options.keep:
        shutil.rmtree(FOLDER)
    return status


def chosen() -> list[list[str]]:
    """Return the arguments of each of the two pytests: what `TESTS` names, once."""
    named = dict.fromkeys(name for names in TESTS.values() for name in names)
    once = [name for name in named if "/" not in name or name.split("/")[0] not in named]
    parts = [[f"tests/{name}" for name in once if (name.split("/")[0] in ROOMS) is there] for there in (False, True)]
    return [["-k", NOT_NAMED, *part, *(f"--ignore=tests/{name}" for name in LEFT_OUT)] for part in parts]


def run(python: Path, parts: Sequence[Sequence[str]]) -> int:
    """Run tests, each part in a process of its own beside the others; return the worst status.

    Args:
        python: of the environment.
        parts: arguments of pytest.
    """
    # an old package may warn of what a newer one beside it deprecates: that is no fault of either
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    started = []
    for number, part in enumerate(parts):
        with open(FOLDER / f"tests_{number}.log", "w", encoding="utf-8") as log:
            started.append(
                (subprocess.Popen([*command, *part], cwd=ROOT, env=environment, stdout=log, stderr=log), log)
            )
    status = 0
    for process, log in started:
        status = max(status, abs(process.wait()))
        sys.stdout.write(Path(log.name).read_text(encoding="utf-8"))
    return status


if __name__ == "__main__":
    sys.exit(main())
