"""Weights of encoders: timm's and torchvision's files, other channels, and files that are refused."""

import logging
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from bombs import write_bomb
from test_encoders import TINY, assert_same, save, state_of, torchvision_vgg11
from torch import Tensor

from medseg.encoders import create_encoder


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(("name", "options"), [(TINY, {}), ("resnet18", {}), ("vgg11", {"mlp_ratio": 1 / 4096})])
def test_weights_of_timm(
    name: str, options: dict[str, float], suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = timm.create_model(name, **options).eval()
    if not hasattr(source, "forward_intermediates"):
        pytest.skip(f"this timm's {name} cannot give its inner maps, which ours are compared with")
    source.load_state_dict(state_of(source))
    path = save(source.state_dict(), tmp_path / f"weights{suffix}")
    with caplog.at_level(logging.INFO, "medseg"):
        encoder = create_encoder(name, weights=path).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert_same(encoder(image), source.forward_intermediates(image, intermediates_only=True))
    assert f"from weights{suffix}" in caplog.text
    assert "beyond the features: " in caplog.text
    assert "fc.weight" in caplog.text
    assert str(tmp_path) not in caplog.text


@pytest.mark.parametrize("output_stride", [8, 32])
def test_weights_of_torchvision(output_stride: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vgg, state = torchvision_vgg11()
    with caplog.at_level(logging.INFO, "medseg"):
        encoder = create_encoder("vgg11", output_stride=output_stride, weights=save(state, tmp_path / "vgg11.pth"))
    assert "left out 6 beyond the features: classifier.0.weight, classifier.0.bias" in caplog.text
    assert_same(list(encoder.state_dict().values()), list(vgg.state_dict().values()))
    resnet = torchvision.models.resnet18(weights=None)
    state = state_of(resnet)
    encoder = create_encoder("resnet18", output_stride=output_stride, weights=save(state, tmp_path / "resnet18.pth"))
    assert_same(list(encoder.state_dict().values()), [v for k, v in state.items() if not k.startswith("fc.")])


@pytest.mark.parametrize("in_channels", [1, 2, 3, 4, 7])
def test_other_channels_are_timms(in_channels: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = state_of(timm.create_model(TINY))
    path = save(state, tmp_path / "w.safetensors")
    overlay = {"state_dict": dict(state)}
    reference = timm.create_model(
        TINY, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True, in_chans=in_channels
    )
    with caplog.at_level(logging.INFO, "medseg"):
        encoder = create_encoder(TINY, in_channels, weights=path)
    assert_same(list(encoder.state_dict().values()), list(reference.state_dict().values()))
    assert (f"filters of conv1.0 adapted from 3 to {in_channels} channels" in caplog.text) is (in_channels != 3)


def test_weights_of_as_many_channels_are_left_alone(tmp_path: Path) -> None:
    state = state_of(timm.create_model(TINY, in_chans=5))
    encoder = create_encoder(TINY, 5, weights=save(state, tmp_path / "w.pth"))
    torch.testing.assert_close(encoder.state_dict()["body.conv1.0.weight"], state["conv1.0.weight"])
    with pytest.raises(ValueError, match=r"conv1\.0\.weight \(16, 5, 3, 3\) instead of \(16, 4, 3, 3\)"):
        create_encoder(TINY, 4, weights=tmp_path / "w.pth")


def test_files_of_training_programs_and_old_files(tmp_path: Path) -> None:
    """Weights inside a checkpoint, names of DistributedDataParallel, torch's format before 1.6, no batch counters."""
    state = state_of(timm.create_model(TINY))
    counted = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in counted.items()}},
        tmp_path / "w.pth",
        _use_new_zipfile_serialization=False,
    )
    encoder = create_encoder(TINY, weights=str(tmp_path / "w.pth"))
    assert_same(
        [v for k, v in encoder.state_dict().items() if not k.endswith("num_batches_tracked")],
        [v for k, v in counted.items() if not k.startswith("fc.")],
    )


def test_imagenet_is_timms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the transfer is replaced: which file, which names and which filters are timm's business."""
    fetched = []
    state = state_of(timm.create_model(TINY))

    def transfer(source: str, **_: object) -> dict[str, Tensor]:
        fetched.append(source)
        return dict(state)

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", transfer)
    encoder = create_encoder(TINY, 1, output_stride=8, weights="imagenet")
    assert fetched == ["timm/test_resnet.r160_in1k"]
    stem = encoder.state_dict()["body.conv1.0.weight"]
    torch.testing.assert_close(stem, state["conv1.0.weight"].sum(1, keepdim=True))
    expected = [v for k, v in state.items() if not k.startswith(("fc.", "conv1.0."))]
    assert_same([v for k, v in encoder.state_dict().items() if k != "body.conv1.0.weight"], expected)


def test_imagenet_weights_fit_the_dilated_vgg16(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in timm.create_model("vgg16").state_dict().items()}
    state = {name: torch.full((), 0.01 * n).expand(shape) for n, (name, shape) in enumerate(shapes.items())}
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(state))
    own = create_encoder("vgg16", output_stride=8, weights="imagenet").state_dict()
    assert len(own) == 26  # 13 convolutions
    for name, value in own.items():
        torch.testing.assert_close(value, state[name.removeprefix("body.").replace("_", ".", 1)])


def test_imagenet_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="ImageNet weights of resnet18 could not be loaded") as caught:
        create_encoder("resnet18", weights="imagenet")
    assert "https://huggingface.co/timm/resnet18.a1_in1k and give the file: weights=<path" in str(caught.value)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_malicious_pickle_is_not_executed(tmp_path: Path, writer: str) -> None:
    path, proof = tmp_path / "w.pth", tmp_path / "executed"
    write_bomb(path, proof, writer, "state_dict")
    with pytest.raises(ValueError, match=r"w\.pth hold Python objects besides tensors"):
        create_encoder(TINY, weights=path)
    assert not proof.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_bad_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    with pytest.raises(ValueError, match=rf"w{suffix} do not exist; give a \.safetensors or \.pth file"):
        create_encoder(TINY, weights=path)
    save({"x": torch.rand(100, 100)}, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=rf"w{suffix} \(5000 bytes\) cannot be read, the file may be truncated: \w+"):
        create_encoder(TINY, weights=path)


def test_files_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"no state dict .* but a list"):
        create_encoder(TINY, weights=path)
    torch.save({"epoch": 3, "lr": 0.1}, path)
    with pytest.raises(ValueError, match=r"no state dict .* but a dict with 2 keys: epoch, lr"):
        create_encoder(TINY, weights=path)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    """ResNet-34 has all that ResNet-18 has, and more; ResNet-26 has other shapes; some files lack something."""
    path = tmp_path / "w.pth"
    for other in ("resnet34", "resnet26"):
        save(timm.create_model(other).state_dict(), tmp_path / f"{other}.pth")
    with pytest.raises(
        ValueError, match=r"resnet34\.pth do not fit resnet18: \d+ in the file but not in the model: "
    ) as caught:
        create_encoder("resnet18", weights=tmp_path / "resnet34.pth")
    assert "layer1.2.conv1.weight" in str(caught.value)
    assert "missing" not in str(caught.value)
    with pytest.raises(ValueError, match=r"of another shape: .*layer1\.0\.conv1\.weight \(64, 64, 1, 1\) instead of"):
        create_encoder("resnet18", weights=tmp_path / "resnet26.pth")
    state = timm.create_model(TINY).state_dict()
    del state["layer2.0.conv1.weight"]
    save(state, path)
    with pytest.raises(ValueError, match=r"fit test_resnet: 1 missing from the file: layer2\.0\.conv1\.weight\. Name"):
        create_encoder(TINY, weights=path)
    create_encoder(TINY, weights=path, out_indices=(0, 1))  # layer2 is not in it
