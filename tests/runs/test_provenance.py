import getpass
import json
import os
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import medseg
from medseg.runs import provenance


def test_versions_and_hardware():
    found = provenance.collect()
    assert found["packages"]["monai"] == version("monai")
    assert found["packages"]["torch"] == version("torch")
    assert found["packages"]["ignite"] == version("pytorch-ignite")
    assert found["cpu"]["cores"] == os.cpu_count()
    assert found["threads"] == torch.get_num_threads()
    assert len(found["gpus"]) == torch.cuda.device_count()
    assert json.loads(json.dumps(found)) == found


def test_nothing_private(monkeypatch):
    monkeypatch.setenv("MEDSEG_SECRET", "hunter2-in-the-environment")
    text = json.dumps(provenance.collect())
    private = {
        "host": socket.gethostname(),
        "home": str(Path.home()),
        "package": str(Path(medseg.__file__).parent),
        "folder": str(Path.cwd()),
        "secret": "hunter2",
    }
    assert {what for what, value in private.items() if value in text} == set()
    assert f'"{getpass.getuser()}"' not in text
    assert "/" not in text.replace("GNU/Linux", "").replace("(R)/", "")


@pytest.fixture
def checkout(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "module.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return tmp_path, git("rev-parse", "HEAD")


def test_git_state_of_a_checkout(checkout):
    folder, commit = checkout
    assert provenance.git_state(folder / "code") == {"commit": commit, "dirty": False}
    (folder / "code" / "module.py").write_text("x = 2\n")
    assert provenance.git_state(folder / "code") == {"commit": commit, "dirty": True}


def test_source_hash_is_of_what_lies_there(checkout):
    code = checkout[0] / "code"
    first = provenance.source_hash(code)
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "module.pyc").write_bytes(b"compiled")
    assert provenance.source_hash(code) == first
    (code / "module.py").write_text("x = 2\n")
    second = provenance.source_hash(code)
    (code / "module.py").rename(code / "other.py")
    third = provenance.source_hash(code)
    (code / "other.py").rename(code / "module.py")
    (code / "module.py").write_text("x = 1\n")
    assert len({first, second, third}) == 3
    assert provenance.source_hash(code) == first


def test_git_state_ignores_a_hook_s_environment(checkout, monkeypatch):
    folder, commit = checkout
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert provenance.git_state(folder / "code") == {"commit": commit, "dirty": False}


def test_code_that_the_checkout_does_not_track(checkout):
    folder, _ = checkout
    installed = folder / ".venv" / "medseg"
    installed.mkdir(parents=True)
    assert provenance.git_state(installed) is None


@pytest.mark.parametrize("problem", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 5.0)])
def test_git_missing_or_slow(monkeypatch, problem):
    def fail(*_, **__):
        raise problem

    monkeypatch.setattr(provenance.subprocess, "run", fail)
    assert provenance.collect()["git"] is None
