import importlib.util
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent.parent / "data_scripts"


@pytest.fixture(scope="session")
def load_script():
    """Import a script of data_scripts by its name."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"data_scripts_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(params=["traversal", "symlink", "bomb", "truncated"])
def hostile_archive(request, tmp_path):
    """An archive that must be refused, and a part of the message; a bomb unpacks to more than a million bytes."""
    if request.param == "symlink":
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        with tarfile.open(tmp_path / "a.tgz", "w:gz") as file:
            file.addfile(link)
        return tmp_path / "a.tgz", "it is a link or a device"
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("good.png", np.random.default_rng(0).bytes(10_000))
        if request.param == "traversal":
            file.writestr("../evil", b"1")
        if request.param == "bomb":
            file.writestr("zeros", bytes(5_000_000))
    if request.param == "truncated":
        archive.write_bytes(archive.read_bytes()[:5_000])
    messages = {"traversal": "leads outside the folder", "bomb": "more than 1000000 bytes", "truncated": "damaged"}
    return archive, messages[request.param]


@pytest.fixture
def assert_refused(hostile_archive, tmp_path, capsys, monkeypatch):
    """Run a script on a hostile archive and see that nothing is left behind."""

    def run(script):
        archive, message = hostile_archive
        monkeypatch.setattr(script, "MAX_BYTES", 1_000_000)
        assert script.main(["--source", str(archive), "--output", str(tmp_path / "out")]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: {archive}: ")
        assert message in said
        assert list(tmp_path.iterdir()) == [archive]

    return run


@pytest.fixture
def assert_named(tmp_path, capsys):
    """See that a script has failed by an error that names a place and says what is wrong, and left no datalist."""

    def check(code, place, message):
        assert code == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: {place}: ")
        assert message in said
        assert not (tmp_path / "out/datalist.json").exists()

    return check
