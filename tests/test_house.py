"""The rules of the house that a test can hold: who imports whom, sizes, and what an import may cost."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "medseg"
MODULES = sorted(PACKAGE.rglob("*.py"))
NETWORKS = sorted(path for path in (PACKAGE / "networks").glob("*.py") if path.name != "__init__.py")

MOST_LINES = 400

ATOMIC = "data.atomic"  # needs the standard library alone, so that every room may write files whole or not at all
ANYTHING = {"*"}
MAY_IMPORT = {
    # room: what it may import from medseg besides itself, anywhere | only inside functions
    "layers": ({ATOMIC}, set()),
    "losses": ({ATOMIC}, set()),
    "metrics": ({ATOMIC}, set()),
    "data": (set(), set()),
    "transforms": ({ATOMIC}, set()),
    "inferers": ({ATOMIC, "transforms"}, set()),  # a network must see what its training's transforms showed it
    "encoders": ({ATOMIC}, set()),
    "dicom": ({ATOMIC}, set()),
    "networks": ({"encoders", "layers"}, set()),
    "engines": ({"losses", "metrics", "inferers", "data", "transforms"}, {"reports"}),  # a run writes its own report
    "studies": ({"engines", "data", "metrics", "reports"}, set()),
    "reports": ({"metrics", ATOMIC}, set()),
    "cli": (ANYTHING, set()),
    "__init__": (set(), set()),
}
# One paper a file: a network that takes over a class of another paper moves it to `layers` instead.
OWN_ROOM_FORBIDDEN = {"networks"}

HEAVY = {"mlflow", "itk", "onnx", "onnxruntime", "matplotlib"}  # what most commands do without
FRAMEWORKS = {"torch", "torchvision", "monai", "ignite", "timm"}  # seconds each: the data room does without


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_of(tree: ast.AST, inside_function: bool = False) -> Iterator[tuple[str, bool, int]]:
    """Yield ``(medseg module, inside a function, line)``; imports for type checkers alone are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports_of(ast.Module([other], []), inside_function)
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "medseg":
                    yield alias.name.removeprefix("medseg").removeprefix("."), inside_function, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import"
            module = node.module or ""
            if module.split(".")[0] == "medseg":
                inner = module.removeprefix("medseg").removeprefix(".")
                for alias in node.names:
                    # `from medseg.data import check` may name a module: the room is the same, the rule too
                    yield ".".join(part for part in (inner, alias.name) if part), inside_function, node.lineno
        function = inside_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from imports_of(node, function)


def offences(importer: str, tree: ast.AST) -> list[str]:
    """Return one line for each import that the table forbids."""
    room = importer.split(".")[0]
    assert room in MAY_IMPORT, f"medseg/{room} is no room of the house: name it in MAY_IMPORT, with what it may import"
    anywhere, lazily = MAY_IMPORT[room]
    found = []
    for imported, inside_function, line in imports_of(tree):
        target = imported.split(".")[0]
        if target == "__version__" or anywhere == ANYTHING:
            continue
        if target == room and (room not in OWN_ROOM_FORBIDDEN or imported.startswith(importer)):
            continue
        allowed = anywhere | (lazily if inside_function else set())
        if not any(imported == name or imported.startswith(f"{name}.") for name in allowed):
            found.append(f"medseg/{importer.replace('.', '/')}.py:{line} imports medseg.{imported}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_imports_run_one_way(path: Path) -> None:
    assert offences(name_of(path), ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("importer", "source", "forbidden"),
    [
        ("networks.a", "from medseg.losses.focal_iou import FocalIoULoss", True),
        ("networks.a", "from medseg.networks.b import Block", True),
        ("networks.a", "import medseg.engines.trainer", True),
        ("networks.a", "from medseg.layers.crop import crop_end", False),
        ("layers.a", "from medseg.layers.crop import crop_end", False),
        ("layers.a", "def f():\n    from medseg.engines import run", True),
        ("losses.a", "from medseg import metrics", True),
        ("losses.a", "from medseg.data.atomic import atomic_write", False),
        ("losses.a", "from medseg.data.datalist import Datalist", True),
        ("reports.a", "from medseg.metrics.confusion_matrix import Scores", False),
        ("reports.a", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from medseg.engines import run", False),
        ("engines.a", "from medseg.reports.tables import to_csv", True),
        ("engines.a", "def f():\n    from medseg.reports.tables import to_csv", False),
        ("engines.a", "class A:\n    def f(self):\n        from medseg.networks.unet import UNet", True),
        ("data.a", "try:\n    from medseg.engines import run\nexcept ImportError:\n    pass", True),
        ("cli", "from medseg.engines import run", False),
    ],
)
def test_the_rule_itself(importer: str, source: str, forbidden: bool) -> None:
    assert bool(offences(importer, ast.parse(source))) is forbidden


def test_atomic_needs_the_standard_library_alone() -> None:
    tree = ast.parse((PACKAGE / "data" / "atomic.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.split(".")[0] in sys.stdlib_module_names, f"data/atomic.py imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_no_print(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert lines == [], f"{identify(path)} prints; use logging, or rich in the command line"


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_no_module_is_long(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{identify(path)} has {lines} lines; split it into concepts"


@pytest.mark.parametrize("path", [path for path in MODULES if path.stat().st_size], ids=identify)
def test_every_module_says_what_it_is(path: Path) -> None:
    header = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert header, f"{identify(path)} has no docstring at its head"
    assert header.splitlines()[0].endswith((".", ":"))


def test_networks_are_imported_by_file() -> None:
    assert (PACKAGE / "networks" / "__init__.py").read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("path", NETWORKS, ids=identify)
def test_every_network_keeps_the_contract(path: Path) -> None:
    test = ROOT / "tests" / "networks" / f"test_{path.name}"
    assert test.is_file(), f"{identify(path)} has no test; write tests/networks/{test.name} with assert_contract"
    calls = [
        node
        for node in ast.walk(ast.parse(test.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "assert_contract"
    ]
    assert calls, f"tests/networks/{test.name} does not call assert_contract"


@pytest.mark.parametrize("path", NETWORKS, ids=identify)
def test_every_network_names_its_paper(path: Path) -> None:
    header = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert "https://" in header, f"the header of {identify(path)} has no link to the paper"
    assert "eviation" in header, f"the header of {identify(path)} does not say how it deviates from the paper"


def at_import(tree: ast.AST) -> Iterator[str]:
    """Yield the packages that a module loads when it is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]
        yield from at_import(node)


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_heavy_packages_are_loaded_where_they_are_used(path: Path) -> None:
    barred = HEAVY | (FRAMEWORKS if name_of(path).split(".")[0] in {"__init__", "cli", "data"} else set())
    loaded = barred.intersection(at_import(ast.parse(path.read_text(encoding="utf-8"))))
    assert loaded == set(), f"{identify(path)} loads {sorted(loaded)} at import; move that into the function"


def loaded_by(*modules: str) -> list[set[str]]:
    """Import modules one after the other in a fresh process; return the packages that are there after each."""
    code = "import sys, importlib\nfor name in sys.argv[1:]:\n importlib.import_module(name)\n"
    code += " sys.stdout.write(' '.join({m.split('.')[0] for m in sys.modules}) + '\\n')"
    command = [sys.executable, "-W", "ignore", "-c", code, *modules]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return [set(line.split()) for line in result.stdout.splitlines()]


def test_the_trainer_loads_nothing_that_training_may_not_need() -> None:
    """Nothing heavy beyond what ``import monai`` loads by itself: monai.utils.jupyter_utils tries matplotlib,
    monai.data.image_writer itk and monai.handlers.mlflow_handler mlflow, whatever of MONAI one imports."""
    monais, ours = loaded_by("monai", "medseg.engines.trainer")
    assert "torch" in ours
    assert HEAVY & ours - monais == set()


def test_the_command_line_loads_no_framework() -> None:
    *_, loaded = loaded_by("medseg", "medseg.cli", "medseg.data.check")
    assert (HEAVY | FRAMEWORKS | {"scipy", "skimage"}) & loaded == set()
