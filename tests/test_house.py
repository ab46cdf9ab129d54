"""The rules of the house that a test can hold: who imports whom, sizes, and what an import may cost."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "medseg"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
NETWORKS = sorted(path for path in (PACKAGE / "networks").glob("*.py") if path.name != "__init__.py")

MOST_LINES = 400
LARGEST_ROOM = 0.15

# Imports run down this list, never up (a TYPE_CHECKING import counts: the calls are real).
ORDER = (
    ("__main__", "cli"), ("api",), ("node",), ("studies",), ("prediction",), ("jobs",), ("bundle",), ("engines",),
    ("runs",), ("releases",), ("exporters",), ("importers",), ("data",), ("io",), ("networks",),
    ("encoders", "inferers", "layers", "losses", "metrics", "transforms"), ("reports",), ("affines",), ("resources",),
    ("atomic", "caller", "errors"),
)  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
BESIDE = {("inferers", "transforms")}  # a network must see what its training's transforms showed it
NETWORKS_MAY = {"encoders", "layers", "errors"}
# One paper a file: a network that takes over a class of another paper moves it to `layers` instead.
OWN_ROOM_FORBIDDEN = {"networks"}

HEAVY = {"mlflow", "itk", "onnx", "onnxruntime", "matplotlib", "ray", "submitit"}  # what most commands do without
FRAMEWORKS = {"torch", "torchvision", "monai", "ignite", "timm"}  # seconds each
WITHOUT_FRAMEWORKS = {"__init__", "cli", "data", "exporters", "importers", "jobs"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


@dataclass
class Module:
    path: Path
    text: str
    tree: ast.Module


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    """Those of medseg, read and parsed once for all that is asked of them."""
    texts = [(path, path.read_text(encoding="utf-8")) for path in MODULES]
    return [Module(path, text, ast.parse(text)) for path, text in texts]


def imports_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield ``(medseg module, line)`` of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "medseg":
                    yield alias.name.removeprefix("medseg").removeprefix("."), node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import"
            module = node.module or ""
            if module.split(".")[0] == "medseg":
                inner = module.removeprefix("medseg").removeprefix(".")
                for alias in node.names:
                    # `from medseg.data import check` may name a module: the room is the same, the rule too
                    yield ".".join(part for part in (inner, alias.name) if part), node.lineno


def offences(importer: str, tree: ast.AST) -> list[str]:
    """Return one line for each import that goes up or beside in `ORDER`."""
    room = importer.split(".")[0]
    if room == "__init__":
        room = "cli"
    assert room in LEVEL, f"medseg/{room} is no room of the house: name it in ORDER"
    found = []
    for imported, line in imports_of(tree):
        target = imported.split(".")[0]
        if target == "__version__":
            continue
        if target == room and (room not in OWN_ROOM_FORBIDDEN or imported.startswith(importer)):
            continue
        down = LEVEL.get(target, -1) > LEVEL[room] or (room, target) in BESIDE
        if not down or (room == "networks" and target not in NETWORKS_MAY):
            found.append(f"medseg/{importer.replace('.', '/')}.py:{line} imports medseg.{imported}")
    return found


def test_imports_run_one_way(modules: list[Module]) -> None:
    assert [found for module in modules for found in offences(name_of(module.path), module.tree)] == []


@pytest.mark.parametrize(
    ("importer", "source", "forbidden"),
    [
        ("networks.a", "from medseg.losses.focal_iou import FocalIoULoss", True),
        ("networks.a", "from medseg.networks.b import Block", True),
        ("networks.a", "import medseg.engines.trainer", True),
        ("networks.a", "from medseg.layers.crop import crop_end", False),
        ("layers.a", "from medseg.layers.crop import crop_end", False),
        ("layers.a", "def f():\n    from medseg.engines import trainer", True),
        ("losses.a", "from medseg import metrics", True),
        ("losses.a", "from medseg.errors import MedsegError", False),
        ("losses.a", "from medseg.data.datalist import Datalist", True),
        ("metrics.a", "from medseg.reports.tables import Table", False),
        ("reports.a", "from medseg.metrics.confusion_matrix import Scores", True),
        ("runs.a", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from medseg.engines import trainer", True),
        ("engines.a", "from medseg.runs.checkpoint import load_weights", False),
        ("runs.a", "from medseg.engines.trainer import Trainer", True),
        ("data.a", "try:\n    from medseg.runs import run\nexcept ImportError:\n    pass", True),
        ("cli.a", "from medseg.engines import trainer", False),
    ],
)
def test_the_rule_itself(importer: str, source: str, forbidden: bool) -> None:
    assert bool(offences(importer, ast.parse(source))) is forbidden


@pytest.mark.parametrize("name", ["atomic", "caller", "errors", "resources"])
def test_the_ground_floor_needs_the_standard_library_alone(name: str) -> None:
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in names:
            root = module.split(".")[0]
            assert root in sys.stdlib_module_names or module == "medseg.errors", f"{name}.py imports {module}"


def test_no_print(modules: list[Module]) -> None:
    lines = [
        f"{identify(module.path)}:{node.lineno}"
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert lines == [], "use logging, or rich in the command line"


def test_no_module_is_long() -> None:
    lines = {identify(path): len(path.read_text(encoding="utf-8").splitlines()) for path in [*MODULES, *TESTS]}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}, "split them into concepts"


def test_no_room_is_most_of_the_house() -> None:
    """``networks``, one paper a file, aside."""
    lines: dict[str, int] = {}
    for path in MODULES:
        room = path.relative_to(PACKAGE).parts[0]
        lines[room] = lines.get(room, 0) + len(path.read_text(encoding="utf-8").splitlines())
    most = LARGEST_ROOM * sum(lines.values())
    assert {room: count for room, count in lines.items() if room != "networks" and count > most} == {}


def test_every_module_says_what_it_is(modules: list[Module]) -> None:
    heads = {identify(each.path): ast.get_docstring(each.tree) or "\n" for each in modules if each.text}
    silent = [name for name, head in heads.items() if not head.splitlines()[0].endswith((".", ":"))]
    assert silent == [], "write at their heads what they are"


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


def test_heavy_packages_are_loaded_where_they_are_used(modules: list[Module]) -> None:
    loaded = {}
    for module in modules:
        barred = HEAVY | (FRAMEWORKS if name_of(module.path).split(".")[0] in WITHOUT_FRAMEWORKS else set())
        loaded[identify(module.path)] = barred.intersection(at_import(module.tree))
    assert {name: packages for name, packages in loaded.items() if packages} == {}, "import them in the function"


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
