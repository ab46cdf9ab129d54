"""Each dependency that pyproject.toml declares is imported somewhere in medseg, or says what else needs it."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MODULES = {
    "pillow": "PIL",
    "pytorch-ignite": "ignite",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
# what MONAI's and torch's commands import, which medseg documents
BY_OTHERS = {
    "fire": "python -m monai.bundle",
    "jsonschema": "python -m monai.bundle verify_metadata",
    "onnx": "python -m monai.bundle onnx_export",
    "onnxruntime": "python -m monai.bundle onnx_export",
    "onnxscript": "torch.onnx",
}
TOOLS = {"dev", "docs"}  # extras of who works on medseg


def names(requirements):
    return [re.split(r"[<>=!\[; ]", requirement)[0].lower() for requirement in requirements]


def imported():
    found = set()
    for path in [*(ROOT / "medseg").rglob("*.py"), *(ROOT / "data_scripts").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize(
    "name",
    [*names(PROJECT["dependencies"]), *(n for key, given in EXTRAS.items() if key not in TOOLS for n in names(given))],
)
def test_every_dependency_is_used(name):
    assert name in BY_OTHERS or MODULES.get(name, name) in imported(), f"{name} is declared, but nothing imports it"


def test_every_dependency_has_a_minimum():
    assert [given for given in PROJECT["dependencies"] if ">=" not in given] == []
