import ast
import contextlib
import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest

import medseg
from medseg import cli
from medseg.bundle.command import owns_process
from medseg.cli import load_command, main, names
from medseg.cli._arguments import own_process
from medseg.errors import MedsegError

ROOT = Path(__file__).parents[2]


def run(*command, **options):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, **options)


@pytest.fixture
def command(monkeypatch):
    """Let ``medseg check`` be a function of the test's."""

    def put(function):
        module = ModuleType("medseg.cli.check", "Do as the test says.")
        module.add_arguments = lambda parser: None
        module.run = function
        monkeypatch.setattr(cli, "load_command", lambda name: module)

    return put


@pytest.mark.parametrize(
    "arguments",
    [[], ["chekc"], ["check"], ["check", "a.json", "--workers", "0"], ["check", "unet_drosophila", "a.json", "b.json"]],
)
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: medseg" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"medseg {medseg.__version__}\n"


def test_every_command_is_one_file_of_two_functions(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for name in names():
        command = load_command(name)
        assert f"\n    {name}" in said
        first_line = command.__doc__.split("\n", 1)[0].rstrip(".")
        assert first_line.replace(" ", "") in "".join(said.split())
        public = [key for key in command.__all__ if not key.startswith("_")]
        assert public == ["add_arguments", "run"]
        tree = ast.parse(Path(command.__file__).read_text(encoding="utf-8"))
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert [name for name in functions if not name.startswith("_")] == public
    assert {"bundle", "check", "data", "evaluate", "predict", "report", "train"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: medseg {name}" in capsys.readouterr().out


def test_only_the_command_asked_for_is_imported():
    code = "import sys\nfrom medseg.cli import main\ntry: main(['report', '--help'])\nexcept SystemExit: pass\n"
    code += "sys.stderr.write(' '.join(m for m in sys.modules if m.startswith('medseg.')))"
    loaded = set(run("-c", code, check=True).stderr.split())
    assert loaded == {"medseg.caller", "medseg.cli", "medseg.cli._arguments", "medseg.cli.report", "medseg.errors"}


@pytest.mark.parametrize(
    ("code", "ours"),
    [
        ("import medseg", {"medseg"}),
        (
            "from medseg.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
            {"medseg", "medseg.caller", "medseg.cli", "medseg.cli._arguments", "medseg.errors"},
        ),
    ],
    ids=["import medseg", "medseg --help"],
)
def test_nothing_but_the_standard_library_is_loaded(code, ours):
    """What keeps `import medseg` and `medseg --help` fast (benchmarks/startup.py has the seconds)."""
    code = f"import sys\nbefore = set(sys.modules)\n{code}\nsys.stderr.write(' '.join(set(sys.modules) - before))"
    done = run("-c", code, check=True)
    assert "--help" not in code or "check" in done.stdout
    loaded = {name for name in done.stderr.split() if name.split(".")[0] not in sys.stdlib_module_names}
    assert loaded <= ours
    assert "medseg" in loaded


def test_an_error_is_one_line(command, capsys):
    def fail(options):
        raise MedsegError("a\x1b[31m\nb.png: is damaged; take it again")

    command(fail)
    assert main(["check"]) == 2
    assert capsys.readouterr().err == "medseg: error: a\\x1b[31m\\nb.png: is damaged; take it again\n"


def test_a_list_of_faults_keeps_its_lines(command, capsys):
    def fail(options):
        raise MedsegError("x.json: 2 errors in the data\n  a: one\n  b\r: two")

    command(fail)
    assert main(["check"]) == 2
    assert capsys.readouterr().err == "medseg: error: x.json: 2 errors in the data\n  a: one\n  b\\r: two\n"


def test_other_errors_are_defects_and_keep_their_trace(command):
    def fail(options):
        raise ValueError("a defect")

    command(fail)
    with pytest.raises(ValueError, match="a defect"):
        main(["check"])


def test_interrupted(command, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    command(interrupt)
    assert main(["check"]) == 130
    assert capsys.readouterr().err == "medseg: interrupted\n"


def state():
    loggers = [logging.getLogger(name) for name in (None, "medseg", "ignite", "monai.engines")]
    levels = [(logger.level, list(logger.handlers)) for logger in loggers]
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    return levels, handlers, sys.excepthook, list(warnings.filters), owns_process()


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError("x"), SystemExit(3)])
def test_the_process_is_left_as_it_was(command, error):
    """Python may call `main`, and goes on with its own log, signals and warnings."""
    during = []

    def work(options):
        own_process()
        during.append(state())
        if error is not None:
            raise error
        return 0

    command(work)
    before = state()
    with contextlib.suppress(ValueError, SystemExit):
        main(["check"])
    assert state() == before
    assert [one != other for one, other in zip(during[0], before, strict=True)] == [True] * 5


def test_a_pipe_that_is_not_ours_is_not_hidden(command, capfd):
    def fail(options):
        raise BrokenPipeError("a worker died")

    command(fail)
    with pytest.raises(BrokenPipeError, match="a worker died"):
        main(["check"])


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_has_ended_is_no_trace(lines, unbuffered):
    code = (
        "import sys, types\nfrom medseg import cli\n"
        "module = types.ModuleType('x', 'x')\nmodule.add_arguments = lambda parser: None\n"
        f"module.run = lambda options: sys.stdout.write('line\\n' * {lines}) and 0\n"
        "cli.load_command = lambda name: module\n"
        "sys.stdin.readline()\nsys.exit(cli.main(['check']))\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, **pipes) as process:
        process.stdout.close()
        process.stdin.write(b"go\n")
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 141


def test_as_a_process(datalist):
    (datalist.parent / "l1.png").write_bytes(b"nothing")
    done = run("-m", "medseg.cli", "check", str(datalist))
    assert done.returncode == 1
    assert "unreadable-file" in done.stdout
    assert done.stderr == ""
