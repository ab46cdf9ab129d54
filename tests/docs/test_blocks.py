"""The code blocks of README and docs work, and so do README's steps from data to a mask."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from docs.pages import FENCE, PAGES, ROOT, identify

NOT_RUN = re.compile(r"# not run\b.*: \S|# not run here: \S")


def blocks_to_run(text):
    """Return the blocks of a page that are run; each of the others says why in its first line."""
    found = [(language, block) for language, block in FENCE.findall(text) if language in ("bash", "python")]
    return [(language, block) for language, block in found if not NOT_RUN.match(block)]


def run(arguments, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MEDSEG_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}: {done.stdout[-500:]}{done.stderr[-1500:]}"
    return done.stdout


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks_to_run(page.read_text(encoding="utf-8"))], ids=identify
)
def test_blocks_work(page, tmp_path):
    for language, block in blocks_to_run(page.read_text(encoding="utf-8")):
        if language == "python":
            run(["-c", block], tmp_path)
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "medseg", f"{line}: only medseg's commands are run here; say '# not run: why'"
            run(["-m", "medseg.cli", *arguments], tmp_path)


def test_the_way_from_data_to_a_mask(tmp_path):
    """README's five lines and the service's, with a training of one epoch."""
    quick = ["max_epochs=1", "crop_size=[32,32]", "network_def#channels=[4,8]", "mlflow=false", "device=cpu"]
    medseg = ["-m", "medseg.cli"]
    run([*medseg, "data", "synthetic", *shlex.split("--output data --sections 5 --size 64 --crop-size 32")], tmp_path)
    name = "lfa_unet_drosophila"
    assert "0 errors" in run([*medseg, "check", name, "data/datalist.json", *quick], tmp_path)
    said = run([*medseg, "train", name, "--data", "data", "--output", "runs/first", *quick], tmp_path)
    assert said.splitlines()[-1] == str(tmp_path / "runs" / "first")
    assert "mitochondria" in run([*medseg, "evaluate", "runs/first", "device=cpu"], tmp_path)
    assert "20 written" in run([*medseg, "predict", "runs/first", "data/images", "masks", "device=cpu"], tmp_path)
    (service,) = (
        block for _, block in FENCE.findall((ROOT / "docs/how-to/python.md").read_text()) if "medseg.load" in block
    )
    image = next((tmp_path / "data" / "images").iterdir())
    run(["-c", re.sub(r"data/images/\S+\.png", str(image), service)], tmp_path)
    assert (tmp_path / "mask.png").read_bytes() == (tmp_path / "masks" / image.name).read_bytes()
