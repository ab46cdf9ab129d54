"""Run a data script, which lays out a release and writes its datalist; without a name, list them."""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from medseg.errors import MedsegError
from medseg.resources import data_scripts_root

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("name", nargs="?", help="a data set's name")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of its script; --help explains them")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    scripts = {path.stem: path for path in sorted(data_scripts_root().glob("*.py"))}
    if options.name is None:
        width = max(map(len, scripts))
        sys.stdout.writelines(f"{name:{width}}  {_first_line(path)}\n" for name, path in scripts.items())
        return 0
    if options.name not in scripts:
        near = difflib.get_close_matches(options.name, scripts, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(scripts)}"
        raise MedsegError(f"there is no data script {options.name!r}; {hint}")
    module = _load(options.name, scripts[options.name])
    program = sys.argv[0]
    sys.argv[0] = f"medseg data {options.name}"  # argparse names the program by it
    try:
        return int(module.main(options.arguments))
    finally:
        sys.argv[0] = program


def _first_line(script: Path) -> str:
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").split("\n", 1)[0].rstrip(".:")


def _load(name: str, script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"medseg_data_{name}", script)
    if spec is None or spec.loader is None:
        raise MedsegError(f"{script}: cannot be loaded; install medseg again")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
