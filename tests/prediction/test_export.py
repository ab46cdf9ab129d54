"""Exports give what PyTorch gives or are not kept, say how they are fed, and predict in its place."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import medseg
from medseg.bundle.description import Description
from medseg.bundle.networks import create
from medseg.bundle.record import header_of, read_weights, rewrite
from medseg.cli import main
from medseg.errors import MedsegError
from medseg.prediction import export as exporting
from medseg.prediction.backends import Exported, ExportedError, load_exported
from medseg.prediction.export import ExportError, export
from medseg.prediction.predict import predict
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.header import write_header

WINDOW = [16, 24]
pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 10), reason="open sizes are exported with newer torch"
)


def save(path: Path, seed: int = 0, **options: Any) -> Path:
    """Write weights of a tiny network with instance normalisation that know how they are fed."""
    network = create("unet", 2, 1, 3, channels=[4, 8], norm=["instance", {"affine": True}], seed=seed).eval()
    *_, last = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():  # so that every class occurs
        logits = network(torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
        last.bias -= logits.flatten(2).median(2).values[0]
    content = {"name": "cells", "classes": ["a", "b", "c"], "input": {"intensity": {"scheme": "range"}}}
    described = Description.of({**content, "network": network.recipe, **options})
    save_checkpoint(write_header(network.state_dict(), header_of(described)), path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, size in enumerate(((33, 47), (20, 61))):
        pixels = np.random.default_rng(number).integers(0, 256, size).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """Weights with an ONNX export of them for any size beside them."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install medseg[export])")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (pip install medseg[export])")
    folder = tmp_path_factory.mktemp("run")
    save(folder / "model.pt")
    report = export(folder, "onnx", images=images)
    assert report.path == folder / "model.onnx"
    assert 0 < report.probability < 1e-4
    assert report.changed < 1e-3
    assert report.sizes == [(33, 47), (20, 61), (23, 33)]  # each image, and an odd size that none has
    assert list(report.seconds) == ["torch", "onnx"]
    return folder


def masks(model: Any, images: Path) -> list[np.ndarray[Any, Any]]:
    return [model.predict(path).mask for path in sorted(images.glob("*.png"))]


def test_onnx_predicts_in_the_place_of_torch(run: Path, images: Path, tmp_path: Path) -> None:
    expected = masks(medseg.load(run, device="cpu"), images)
    for found in (medseg.load(run, device="cpu", backend="onnx"), medseg.load(run / "model.onnx", device="cpu")):
        assert isinstance(found.networks[0], Exported)
        assert found.description == read_weights(run / "model.pt").description
        for mask, wanted in zip(masks(found, images), expected, strict=True):
            assert (mask != wanted).mean() < 1e-3
            assert len(np.unique(mask)) == 3
    given = {"overrides": {"device": "cpu"}}
    assert predict(run, images, tmp_path / "a", backend="onnx", **given).written == 2
    assert predict(run / "model.onnx", images, tmp_path / "a", **given).skipped == 2  # the same maker
    with pytest.raises(MedsegError, match=r"0\.png was made by other weights"):
        predict(run, images, tmp_path / "a", **given)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
def test_the_command(run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(run), "--images", str(images), "--to"]
    assert main([*words, "onnx", "--half", "-o", str(tmp_path / "half.onnx")]) == 0
    said = capsys.readouterr().out
    assert "compared on 2 images, 3 forwards of 33 x 47, 20 x 61, 23 x 33" in said
    assert "times as fast" in said
    assert main([*words, "torchscript", "--half", "--tolerance", "1e-7", "-o", str(tmp_path / "no.ts")]) == 2
    assert "in a probability (1e-07 is the most) and was not kept" in capsys.readouterr().err
    assert main([*words, "tensorrt"]) == 2
    assert "trtexec --onnx=model.onnx --saveEngine=model.plan --shapes=image:" in capsys.readouterr().err
    onnx = pytest.importorskip("onnx")
    (given,) = onnx.load(tmp_path / "half.onnx").graph.input
    free = [bool(edge.dim_param) for edge in given.type.tensor_type.shape.dim]
    assert (given.name, free) == ("image", [True, False, True, True])  # what trtexec's --shapes must name
    assert [path.name for path in tmp_path.iterdir()] == ["half.onnx"]


def test_one_size(images: Path, tmp_path: Path) -> None:
    """A window's: what the network sees of any image."""
    pytest.importorskip("onnxscript")
    weights = save(tmp_path / "model.pt", inference={"window": WINDOW, "overlap": 0.5})
    report = export(weights, "onnx", images=images, size=WINDOW)
    assert report.sizes == [tuple(WINDOW)]
    expected = masks(medseg.load(weights, device="cpu"), images)
    for mask, wanted in zip(masks(medseg.load(weights, device="cpu", backend="onnx"), images), expected, strict=True):
        assert (mask != wanted).mean() < 1e-3
    with pytest.raises(ExportError, match=r"predicts images of \[16, 24\] pixels at a time, not of \[8, 8\]"):
        export(weights, "onnx", tmp_path / "b.onnx", images=images, size=[8, 8])
    network, _ = load_exported(tmp_path / "model.onnx")
    with pytest.raises(ExportedError, match="was exported for images of 16 x 24, and gets 9 x 9; export it for any"):
        network(torch.zeros(1, 1, 9, 9))


@pytest.mark.parametrize(("to", "suffix"), [("onnx", ".onnx"), ("openvino", ".xml")])
def test_an_export_made_before_the_model_was_changed(
    run: Path, images: Path, tmp_path: Path, to: str, suffix: str
) -> None:
    """As a calibration and a choice of postprocessing change it, which leave the values of the weights as they are."""
    for path in run.iterdir():
        shutil.copy(path, tmp_path)
    weights, exported = tmp_path / "model.pt", tmp_path / f"model{suffix}"
    if to == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed (pip install medseg[openvino])")
        export(weights, to, images=images)
    image = images / "0.png"
    bare = medseg.load(exported, device="cpu").predict(image, probabilities=True).probabilities
    trained = read_weights(weights).description
    assert trained is not None
    steps = {"b": {"fill_holes": True}}
    for made, apart in (
        ({"temperature": 2.5}, r"temperature 1.0 \(now 2.5\)"),
        ({"postprocess": steps}, "postprocess b"),
    ):
        rewrite(weights, replace(trained, **made))
        message = rf"model{suffix} was made before the model in model.pt was changed: {apart}.*; export it again"
        with pytest.raises(ExportedError, match=message):
            medseg.load(weights, device="cpu", backend=to)
        with pytest.raises(ExportedError, match=message):
            medseg.load(exported, device="cpu")
        for words in ([weights, images, tmp_path / "a", "--backend", to], [exported, images, tmp_path / "a"]):
            assert main(["predict", *map(str, words), "device=cpu"]) == 2
        assert not (tmp_path / "a").exists()

    rewrite(weights, replace(trained, temperature=2.5))
    export(weights, to, images=images)
    wanted = medseg.load(weights, device="cpu").predict(image, probabilities=True).probabilities
    assert wanted is not None
    assert bare is not None
    assert np.abs(wanted - bare).max() > 0.05
    for found in (medseg.load(weights, device="cpu", backend=to), medseg.load(exported, device="cpu")):
        np.testing.assert_allclose(found.predict(image, probabilities=True).probabilities, wanted, atol=2e-3)  # type: ignore[arg-type]


def test_an_export_alone_and_beside_other_weights(run: Path, tmp_path: Path) -> None:
    exported = Path(shutil.copy(run / "model.onnx", tmp_path))
    described = medseg.load(exported, device="cpu").description
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.pth")  # of another program
    assert medseg.load(exported, device="cpu").description == described
    save(tmp_path / "model.pt", seed=1)
    with pytest.raises(ExportedError, match=r"model.onnx was made of other weights than model.pt holds now; export it"):
        medseg.load(exported, device="cpu")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
@pytest.mark.parametrize(("to", "suffix"), [("torch-export", "pt2"), ("torchscript", "ts")])
def test_pytorchs_own(run: Path, images: Path, tmp_path: Path, to: str, suffix: str) -> None:
    path = tmp_path / f"model.{suffix}"
    assert export(run, to, path, images=images).probability < 1e-4
    stated = {"medseg.json": ""}
    if to == "torchscript":
        torch.jit.load(path, _extra_files=stated)
    else:
        torch.export.load(path, extra_files=stated)
    assert json.loads(stated["medseg.json"])["model"]["input"]["intensity"]["scheme"] == "range"


def test_openvino(run: Path, images: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed (pip install medseg[openvino])")
    assert export(run, "openvino", images=images).probability < 1e-3
    expected = masks(medseg.load(run, device="cpu"), images)
    for mask, wanted in zip(masks(medseg.load(run, device="cpu", backend="openvino"), images), expected, strict=True):
        assert (mask != wanted).mean() < 1e-3


def test_what_differs_is_not_kept(run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = exporting._reader
    monkeypatch.setattr(exporting, "_reader", lambda to, path: lambda x: reader(to, path)(x) * 1.1)
    with pytest.raises(ExportError, match=r"differs from PyTorch by 0\.0\d+ in a probability"):
        export(run, "torchscript", tmp_path / "a.ts", images=images)
    monkeypatch.setattr(exporting, "_reader", lambda to, path: lambda x: reader(to, path)(x) * float("nan"))
    with pytest.raises(ExportError, match="gives no finite logits"):
        export(run, "torchscript", tmp_path / "a.ts", images=images)
    assert not (tmp_path / "a.ts").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_with_logits_that_are_no_numbers_nothing_is_compared(value: float) -> None:
    """The largest difference was told to be 0."""
    report = exporting.Report(Path("a.onnx"), "onnx")
    pair = exporting._Pair(lambda batch: torch.full_like(batch, value), nn.Identity(), report, None)
    with pytest.raises(ExportError, match="PyTorch's own logits of an image are not all finite"):
        pair(torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize(("size", "way"), [(None, r"for one size \(--size\), or to another"), ((4, 4), "to another")])
def test_a_size_that_the_export_does_not_take(size: tuple[int, int] | None, way: str) -> None:
    """A guard of torch.export, such as of DynUNet below 17 voxels an edge, ended in a trace."""

    def refuses(batch: torch.Tensor) -> torch.Tensor:
        raise AssertionError("Guard failed: x.size()[2] != 4\nsee the log")

    pair = exporting._Pair(nn.Identity(), refuses, exporting.Report(Path("a.pt2"), "torch-export"), size)
    with pytest.raises(ExportError, match=rf"torch-export does not take 4 x 4, .*: Guard .* != 4; export it {way}"):
        pair(torch.zeros(1, 2, 4, 4))


def test_what_cannot_be_exported(run: Path, images: Path, tmp_path: Path) -> None:
    for to, given, said in (
        ("caffe", {}, "there is no format 'caffe'; choose one of onnx"),
        ("onnx", {"target": "a.bin"}, r"a file of onnx ends in \.onnx"),
        ("onnx", {"size": [8]}, r"size is \[8\]; give 2 edges"),
        ("onnx", {"images": None}, "the training's are not on this machine; name some: --images"),
    ):
        with pytest.raises(ExportError, match=said):
            export(run, to, **{"images": images, **given})
    torch.save({"a": torch.zeros(1)}, tmp_path / "bare.pt")
    with pytest.raises(ExportError, match="carries no record of its network"):
        export(tmp_path / "bare.pt", "onnx", images=images)


def test_exports_that_cannot_be_used(run: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "model.pt", seed=1)
    with pytest.raises(ExportedError, match=r"model\.onnx is not there; write it: medseg export MODEL --to onnx"):
        medseg.load(other, backend="onnx")
    with pytest.raises(MedsegError, match="there is no backend 'tensorrt'"):
        medseg.load(other, backend="tensorrt")
    shutil.copy(run / "model.onnx", tmp_path / "model.onnx")
    with pytest.raises(ExportedError, match=r"was made of other weights than model\.pt holds now"):
        medseg.load(other, backend="onnx")
    with pytest.raises(MedsegError, match="an export computes as it was exported"):
        medseg.load(run, backend="onnx", precision="bf16", device="cpu")
    with pytest.raises(MedsegError, match="is an export, which holds no weights for this"):
        read_weights(run / "model.onnx")
    content = (run / "model.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[:-500])
    (tmp_path / "foreign.onnx").write_bytes(content.replace(b"medseg", b"gesdem"))
    for name, said in (("cut", r"cut\.onnx cannot be read"), ("foreign", r"foreign\.onnx does not say how it is fed")):
        with pytest.raises(ExportedError, match=said):
            medseg.load(tmp_path / f"{name}.onnx")
