"""What README and docs tell a reader to type: short enough to copy, and it works."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "results")])
BUNDLES = sorted((ROOT / "bundles").glob("*/docs/README.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = ("medseg", "python", "pip", "make", "mkdocs", "mlflow", "torchrun")
LONGEST = 110
NOT_RUN = re.compile(r"# not run\b.*: \S|# not run here: \S")


def identify(path):
    return str(path.relative_to(ROOT))


def commands(text):
    """Yield the shell's lines of a page: those of bash blocks and indented ones, continued lines as one."""
    blocks = [block for language, block in FENCE.findall(text) if language == "bash"]
    indented = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))
    for block in (*blocks, indented):
        for line in block.replace("\\\n", " ").splitlines():
            if line.split(" ")[0] in PROGRAMS:
                yield line.split("  #")[0].rstrip()


def blocks_to_run(text):
    """Return the blocks of a page that are run; each of the others says why in its first line."""
    found = [(language, block) for language, block in FENCE.findall(text) if language in ("bash", "python")]
    return [(language, block) for language, block in found if not NOT_RUN.match(block)]


@pytest.mark.parametrize("page", [*PAGES, *BUNDLES], ids=identify)
def test_no_command_is_long(page):
    assert [line for line in commands(page.read_text(encoding="utf-8")) if len(line) > LONGEST] == []


def test_commands_are_found_at_all():
    assert len(list(commands((ROOT / "README.md").read_text(encoding="utf-8")))) == 7


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
    quick = ["max_epochs=1", "patch=[32,32]", "network_def#channels=[4,8]", "mlflow=false", "device=cpu"]
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
