"""Each dependency that pyproject.toml declares is imported somewhere, or says what else needs it; and the reverse."""

import ast
import functools
import importlib
import importlib.util
import pkgutil
import re
import sys
import tomllib
from pathlib import Path

import pytest

import medseg

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOR_USERS = ("dicom", "export", "openvino", "ray", "submitit")
MODULES = {
    "dicomweb-client": "dicomweb_client",
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
# what who works on medseg needs: a file, and the word in it that needs the package
TOOLS = {
    "build": ("tests/test_wheel.py", '"-m", "build"'),
    "dcmqi": ("tests/dicom_tools.py", "pip install dcmqi"),
    "hatchling": ("pyproject.toml", 'build-backend = "hatchling.build"'),
    "medseg": ("pyproject.toml", 'name = "medseg"'),  # its own extras
    "mkdocs-material": ("mkdocs.yml", "name: material"),
    "mkdocstrings": ("mkdocs.yml", "mkdocstrings:"),
    "mypy": ("Makefile", ".venv/bin/mypy"),
    "pre-commit": (".pre-commit-config.yaml", "repos:"),
    "pytest": ("Makefile", ".venv/bin/pytest"),
    "pytest-timeout": ("pyproject.toml", "timeout = "),
    "ruff": ("Makefile", ".venv/bin/ruff"),
    "simpleitk": ("tests/prediction/test_places.py", "SimpleITK"),
    "torchmetrics": ("tests/metrics/test_confusion_matrix.py", "torchmetrics"),
    "types-pyyaml": ("pyproject.toml", "[tool.mypy]"),
    "uv": (".ci/oldest.py", '"uv"'),
}


def names(requirements):
    return [re.split(r"[<>=!\[; ]", requirement)[0].lower() for requirement in requirements]


@functools.cache
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
    [*names(PROJECT["dependencies"]), *(name for extra in FOR_USERS for name in names(EXTRAS[extra]))],
)
def test_every_dependency_is_used(name):
    assert name in BY_OTHERS or MODULES.get(name, name) in imported(), f"{name} is declared, but nothing imports it"


@pytest.mark.parametrize("name", sorted({*names(EXTRAS["dev"]), *names(EXTRAS["docs"])}))
def test_every_tool_is_used(name):
    file, word = TOOLS[name]
    assert word in (ROOT / file).read_text(encoding="utf-8"), f"{name} is declared, but {file} has no {word}"


def test_whatever_is_imported_is_declared():
    declared = {
        MODULES.get(name, name)
        for name in names([*PROJECT["dependencies"], *(each for extra in FOR_USERS for each in EXTRAS[extra])])
    }
    assert imported() - declared - set(sys.stdlib_module_names) - {"medseg"} == set()


def test_every_extra_is_known():
    assert set(EXTRAS) == {"dev", "dicom", "docs", "export", "openvino", "ray", "submitit"}


def test_every_dependency_has_a_minimum():
    assert [given for given in PROJECT["dependencies"] if ">=" not in given] == []


def test_every_module_is_imported():
    """With what is installed, as `.ci/oldest.py` asks of the oldest versions."""
    modules = [found.name for found in pkgutil.walk_packages(medseg.__path__, "medseg.")]
    assert len(modules) > 300
    for name in modules:
        if not name.endswith(".__main__"):
            importlib.import_module(name)


def test_every_minimum_is_tested():
    path = ROOT / ".ci" / "oldest.py"
    if not path.is_file():
        pytest.skip("not in a source distribution")
    spec = importlib.util.spec_from_file_location("oldest", path)
    oldest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oldest)
    declared = names(
        [*PROJECT["dependencies"], *(each for e in ("dicom", "export", "ray", "submitit") for each in EXTRAS[e])]
    )
    assert set(oldest.TESTS) - {""} == set(declared)
    for name in (name for names in oldest.TESTS.values() for name in names):
        file, _, test = name.partition("::")
        assert (ROOT / "tests" / file).exists(), name
        assert not test or f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), name
