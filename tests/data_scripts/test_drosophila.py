import hashlib
import os
import shutil
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist

VALUES = np.array([0, 32, 64, 96, 128, 191, 223, 159, 255], np.uint8)


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("drosophila")


def make_stack(folder, numbers=range(20), size=512):
    """Write a stack like the release's, with made-up pixels."""
    for name in ("raw", "labels"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in numbers:
        Image.fromarray(rng.integers(0, 255, (size, size), dtype=np.uint8)).save(folder / f"raw/{number:02d}.tif")
        Image.fromarray(VALUES[rng.integers(0, 9, (size, size))]).save(folder / f"labels/labels{number:08d}.png")
    return folder


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    return make_stack(tmp_path_factory.mktemp("release") / "stack1")


def run(script, source, output, *more, hashes=None):
    return script.main(["--source", str(source), "--output", str(output), *more], hashes=hashes)


def test_labels_become_classes(script, stack, tmp_path):
    assert run(script, stack, tmp_path) == 0
    raw = np.asarray(Image.open(stack / "labels/labels00000003.png"))[256:, :256]
    crop = np.asarray(Image.open(tmp_path / "labels/03_1_0.png"))
    for value, index in zip(VALUES, (0, 0, 0, 0, 0, 1, 2, 3, 4), strict=True):
        assert set(crop[raw == value]) == {index}
    image = np.asarray(Image.open(tmp_path / "images/03_1_0.png"))
    np.testing.assert_array_equal(image, np.asarray(Image.open(stack / "raw/03.tif"))[256:, :256])


def test_second_run_writes_nothing(script, stack, tmp_path, capsys):
    assert run(script, stack, tmp_path) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert run(script, "/nowhere", tmp_path) == 0
    assert "complete already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == before
    assert run(script, stack, tmp_path, "--crop-size", "128") == 1
    assert "choose another output folder or overwrite" in capsys.readouterr().err
    assert run(script, stack, tmp_path, "--crop-size", "128", "--overwrite") == 0
    assert len(list((tmp_path / "images").iterdir())) == 20 * 16


@pytest.mark.parametrize("inside", ["stack1", "groundtruth-drosophila-vnc-4a5f051/stack1", ""])
def test_layouts_of_folder_and_archive(script, tmp_path, inside):
    make_stack(tmp_path / "release" / inside, numbers=[4], size=256)
    shutil.make_archive(str(tmp_path / "release"), "zip", tmp_path / "release")
    for source in (tmp_path / "release", tmp_path / "release.zip"):
        output = tmp_path / f"from-{source.suffix}"
        assert run(script, source, output, "--allow-partial") == 0
        (entry,) = Datalist.load(output / "datalist.json").training
        assert (entry["group"], entry["fold"]) == ("section_04", 1)
        assert sorted(path.name for path in output.iterdir()) == sorted(
            ["datalist.json", "images", "labels", "sections", "sections.json"]
        )


def test_odd_layouts_are_named(script, stack, tmp_path, capsys):
    def fails(source, *parts):
        assert run(script, source, tmp_path / "out") == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        for part in parts:
            assert part in said
        assert not (tmp_path / "out" / "datalist.json").exists()

    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "holds no stack", "raw/00.tif", "labels/labels00000000.png")
    for name in ("a", "b"):
        make_stack(tmp_path / "two" / name / "stack1", numbers=[])
    fails(tmp_path / "two", "several stacks", "a/stack1", "b/stack1")
    copy = tmp_path / "copy"
    shutil.copytree(stack, copy)
    os.rename(copy / "labels/labels00000007.png", copy / "labels/07.png")
    fails(copy, "labels00000007.png: no such file", "--allow-partial")
    fails(tmp_path / "none.zip", "none.zip: no such file")
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04")
    fails(tmp_path / "bad.zip", "bad.zip: damaged or incomplete")


def test_content_is_verified(script, stack, tmp_path, capsys):
    assert run(script, stack, tmp_path / "out", hashes=script.PIXEL_HASHES) == 1
    assert "512x512 pixels, but the release has 1024x1024" in capsys.readouterr().err
    make_stack(tmp_path / "big", numbers=[0], size=1024)
    assert run(script, tmp_path / "big", tmp_path / "out", "--allow-partial", hashes=script.PIXEL_HASHES) == 1
    assert "its pixels have the hash" in capsys.readouterr().err
    make_stack(tmp_path / "odd", numbers=[0], size=256)
    Image.fromarray(np.full((256, 256), 77, np.uint8)).save(tmp_path / "odd/labels/labels00000000.png")
    assert run(script, tmp_path / "odd", tmp_path / "out", "--allow-partial") == 1
    assert "labels00000000.png: holds the value 77, but the release has 0, 32, 64" in capsys.readouterr().err
    Image.new("RGB", (256, 256)).save(tmp_path / "odd/raw/00.tif")
    assert run(script, tmp_path / "odd", tmp_path / "out", "--allow-partial") == 1


class Dropping(SimpleHTTPRequestHandler):
    """Serves one file with ranges, and hangs up half-way through the first time."""

    content = b""
    asked: ClassVar[list[str | None]] = []

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        first = not self.asked
        self.asked.append(self.headers.get("Range"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : len(self.content) // 2 if first else None])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def url(tmp_path):
    make_stack(tmp_path / "net" / "repository-1" / "stack1", numbers=[0, 5], size=256)
    archive = tmp_path / "net.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((tmp_path / "net").rglob("*.*")):
            file.write(path, path.relative_to(tmp_path / "net"))
    Dropping.content, Dropping.asked = archive.read_bytes(), []
    with ThreadingHTTPServer(("127.0.0.1", 0), Dropping) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/release.zip"
        server.shutdown()
        thread.join()


def test_interrupted_download_is_resumed(script, url, tmp_path):
    digest = hashlib.sha256(Dropping.content).hexdigest()
    assert run(script, url, tmp_path / "out", "--allow-partial", "--sha256", digest) == 0
    assert Dropping.asked == [None, f"bytes={len(Dropping.content) // 2}-"]
    assert len(Datalist.load(tmp_path / "out" / "datalist.json").training) == 2
    assert [path.name for path in (tmp_path / "out/download").iterdir()] == ["release.zip"]


def test_wrong_checksum_of_the_download(script, url, tmp_path, capsys):
    assert run(script, url, tmp_path / "out", "--allow-partial", "--sha256", "0" * 64) == 1
    said = capsys.readouterr().err
    assert f"{url}: sha256 is {hashlib.sha256(Dropping.content).hexdigest()}, but {'0' * 64} was expected" in said
    assert list((tmp_path / "out/download").iterdir()) == []


def test_wrong_checksum_of_an_archive(script, tmp_path, capsys):
    (tmp_path / "a.zip").write_bytes(b"1")
    assert run(script, tmp_path / "a.zip", tmp_path / "out", "--sha256", "0" * 64) == 1
    assert "a.zip: sha256 is 6b86b273" in capsys.readouterr().err


def test_real_sections(script, real_data, tmp_path):
    source = real_data / "drosophila_vnc"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    assert run(script, source, tmp_path, hashes=script.PIXEL_HASHES) == 0
    datalist = Datalist.load(tmp_path / "datalist.json")
    assert datalist.class_names == ["membrane", "mitochondria", "synapse", "extracellular", "intracellular"]
    assert len(datalist.training) == 320
    for key in ("fold", "fold_random"):
        for fold in range(5):
            parts = datalist.split(fold, fold_key=key)
            assert [len(part) for part in parts] == [192, 64, 64]
            groups = [{entry["group"] for entry in part} for part in parts]
            shared = [groups[0] & groups[1], groups[0] & groups[2], groups[1] & groups[2]]
            assert any(shared) == (key == "fold_random")
            assert len({entry["image"] for part in parts for entry in part}) == 320
    report = check_datalist(tmp_path / "datalist.json", in_channels=1, num_classes=5, roi_size=(256, 256))
    assert report.findings == ()
    assert report.files == 640
    assert check_datalist(tmp_path / "sections.json").ok
    counts = sum(
        np.bincount(np.asarray(Image.open(tmp_path / f"sections/labels/{n:02d}.png")).ravel(), minlength=5)
        for n in range(20)
    )
    np.testing.assert_allclose(counts / counts.sum(), [0.1716, 0.0538, 0.0056, 0.0285, 0.7406], atol=1e-4)
