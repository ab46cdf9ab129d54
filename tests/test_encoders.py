"""Encoders against torchvision's and timm's own models, and against what dilation must keep."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from networks.contract import assert_exports
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medseg.encoders import Encoder, create_encoder

VGG16 = (64, 128, 256, 512, 512, 512)
BASIC = (64, 64, 128, 256, 512)
BOTTLENECK = (64, 256, 512, 1024, 2048)
TINY = "test_resnet"


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return weights and statistics that are all different from their initial values."""
    generator = torch.Generator().manual_seed(7)
    state = model.state_dict()
    for name, value in state.items():
        if value.is_floating_point():  # vectors are moved off 0 and 1, filters keep their scale
            noise = 0.1 * torch.rand(value.shape, generator=generator)
            state[name] = value * (1 + noise) if value.ndim > 1 else value + noise
    return state


def torchvision_vgg11() -> tuple[nn.Module, dict[str, Tensor]]:
    """Return torchvision's features and a state dict of the whole, without the 120 M weights of its classifier."""
    with torch.device("meta"):
        names = [name for name in torchvision.models.vgg11().state_dict() if name.startswith("classifier.")]
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"], batch_norm=False)
    features.load_state_dict(state_of(features))
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    return features, state | {name: torch.zeros(1) for name in names}


def save(state: Mapping[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(dict(state), path)
    return path


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


# ---------------------------------------------------------------------------------------------- strides and dilations


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(
    ("name", "channels", "strides", "parameters"),
    [
        ("resnet18", BASIC, (2, 4, 8, 16, 32), 11_176_512),
        ("resnet34", BASIC, (2, 4, 8, 16, 32), 21_284_672),
        ("resnet50", BOTTLENECK, (2, 4, 8, 16, 32), 23_508_032),
        ("resnet101", BOTTLENECK, (2, 4, 8, 16, 32), 42_500_160),
        ("vgg16", VGG16, (1, 2, 4, 8, 16, 32), 14_714_688),
    ],
)
def test_channels_and_strides(
    name: str, channels: tuple[int, ...], strides: tuple[int, ...], parameters: int, output_stride: int
) -> None:
    with torch.device("meta"):
        encoder, image = create_encoder(name, output_stride=output_stride), torch.rand(1, 3, 321, 224)
    reductions = tuple(min(stride, output_stride) for stride in strides)
    assert encoder.channels == channels
    assert encoder.reductions == reductions
    assert sum(p.numel() for p in encoder.parameters()) == parameters  # dilation costs none
    floor = name == "vgg16" and output_stride == 32  # 2x2 poolings without padding
    sizes = [(321 // r, 224 // r) if floor else (-(-321 // r), -(-224 // r)) for r in reductions]
    features = encoder(image)
    assert [tuple(f.shape) for f in features] == [(1, c, *s) for c, s in zip(channels, sizes, strict=True)]


@pytest.mark.parametrize(("name", "macs"), [("resnet18", 7.40e9), ("resnet101", 31.83e9)])
def test_cost_at_640x320(name: str, macs: float) -> None:
    with torch.device("meta"):
        encoder, image = create_encoder(name), torch.rand(1, 3, 640, 320)
    with FlopCounterMode(display=False) as counter:
        encoder(image)
    assert counter.get_total_flops() / 2 == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["resnet18", "resnet26"])  # of basic and of bottleneck blocks
@pytest.mark.parametrize("size", [(64, 96), (75, 61)])
def test_a_dilated_resnet_sees_what_the_strided_one_sees(name: str, output_stride: int, size: tuple[int, int]) -> None:
    strided, dilated = create_encoder(name).eval(), create_encoder(name, output_stride=output_stride).eval()
    strided.load_state_dict(state_of(strided))
    dilated.load_state_dict(strided.state_dict())
    image = torch.rand(2, 3, *size)
    with torch.no_grad():
        steps = [a // b for a, b in zip(strided.reductions, dilated.reductions, strict=True)]
        features = [f[..., ::step, ::step] for f, step in zip(dilated(image), steps, strict=True)]
        assert max(steps) == 32 // output_stride
        assert_same(features, strided(image))


def test_a_dilated_resnet_is_torchvisions() -> None:
    reference = torchvision.models.resnet.ResNet(
        torchvision.models.resnet.Bottleneck, [2, 2, 2, 2], replace_stride_with_dilation=[False, True, True]
    ).eval()
    reference.load_state_dict(state_of(reference))
    encoder = create_encoder("resnet26", output_stride=8).eval()
    encoder.body.load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")})
    image = torch.rand(1, 3, 49, 65)
    with torch.no_grad():
        stem = reference.relu(reference.bn1(reference.conv1(image)))
        expected = [stem]
        x = reference.maxpool(stem)
        for stage in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
            x = stage(x)
            expected.append(x)
        assert_same(encoder(image), expected)


def test_multi_grid() -> None:
    """DeepLabv3's table 3: of a stage of dilation 2 the three blocks have 2, 4 and 8; sizes and weights stay."""
    torch.manual_seed(0)
    plain, encoder = (create_encoder("resnet50", output_stride=16, multi_grid=grid) for grid in (None, (1, 2, 4)))
    stage = encoder.body.layer4
    assert [block.conv2.dilation for block in stage] == [(2, 2), (4, 4), (8, 8)]  # type: ignore[union-attr]
    assert [block.conv2.dilation for block in plain.body.layer4] == [(1, 1), (2, 2), (2, 2)]  # type: ignore[union-attr]
    encoder.load_state_dict(plain.state_dict())
    image = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        assert [f.shape for f in encoder(image)] == [f.shape for f in plain(image)]
    with pytest.raises(
        ValueError, match=r"multi_grid is \(1, 2\), but the last stage of resnet50 has 3 residual blocks"
    ):
        create_encoder("resnet50", multi_grid=(1, 2))
    with pytest.raises(ValueError, match="the last stage of vgg11 has 0 residual blocks"):
        create_encoder("vgg11", multi_grid=(1,))


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("size", [(64, 96), (75, 61)])
def test_a_dilated_vgg_sees_what_the_strided_one_sees(output_stride: int, size: tuple[int, int]) -> None:
    """Up to conv5: the last pooling takes neighbours of the finer grid, as in DeepLab."""
    reference, state = torchvision_vgg11()
    encoder = create_encoder("vgg11", output_stride=output_stride)
    encoder.load_state_dict({f"body.{k.replace('.', '_', 1)}": v for k, v in state.items() if k.startswith("features")})
    expected, x = [], torch.rand(1, 3, *size)
    with torch.no_grad():
        features = encoder(x)
        for layer in reference:
            if isinstance(layer, nn.MaxPool2d):
                expected.append(x)
                x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
            else:
                x = layer(x)
        pooled = nn.functional.max_pool2d(features[-2], 3, stride=1, padding=1)
        torch.testing.assert_close(features[-1], pooled, rtol=0, atol=0)
    steps = [2**i // r for i, r in enumerate(encoder.reductions[:-1])]
    assert max(steps) == 16 // output_stride
    assert_same([f[..., ::step, ::step] for f, step in zip(features, steps, strict=False)], expected)


def test_vgg16_is_deeplabs() -> None:
    with torch.device("meta"):
        layers = list(create_encoder("vgg16", output_stride=8).body.children())
    assert [c.dilation[0] for c in layers if isinstance(c, nn.Conv2d)] == [1] * 10 + [2] * 3
    pools = [(p.kernel_size, p.stride, p.padding) for p in layers if isinstance(p, nn.MaxPool2d)]
    assert pools == [(3, 2, 1)] * 3 + [(3, 1, 1)] * 2


def test_reach_of_conv5() -> None:
    """conv5 of VGG16 at output stride 8: three 3x3 convolutions of dilation 2 reach 6 pixels of conv4's map."""
    encoder = create_encoder("vgg16", output_stride=8)
    conv5 = nn.Sequential(*list(encoder.body.children())[24:30])
    for layer in conv5:
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 0.01)
    x = torch.rand(1, 512, 17, 17, requires_grad=True)
    conv5(x)[..., 8, 8].sum().backward()
    assert x.grad is not None
    reached = x.grad[0].abs().sum(0).nonzero()
    assert sorted({int(i) for i in reached[:, 0]}) == [2, 4, 6, 8, 10, 12, 14]


@pytest.mark.parametrize(
    ("name", "output_stride", "width"),
    [
        ("test_resnet", 8, 96),
        ("test_convnext", 16, 96),
        ("test_efficientnet", 8, 96),
        ("test_mambaout", 32, 96),  # channels last inside
        ("test_vit", 16, 160),  # of one size alone
    ],
)
def test_other_models(name: str, output_stride: int, width: int, tmp_path: Path) -> None:
    source = timm.create_model(name)
    path = save(state_of(source), tmp_path / "model.safetensors")
    encoder = create_encoder(name, output_stride=output_stride, weights=path).eval()
    features = encoder(torch.rand(1, 3, 160, width))
    assert max(encoder.reductions) == output_stride
    expected = [(1, c, 160 // r, width // r) for c, r in zip(encoder.channels, encoder.reductions, strict=True)]
    assert [tuple(f.shape) for f in features] == expected


def test_chosen_features_leave_out_what_comes_after() -> None:
    encoder = create_encoder(TINY, out_indices=(1, 3))
    assert encoder.reductions == (4, 16)
    assert encoder.channels == (32, 192)
    sum(f.square().sum() for f in encoder(torch.rand(2, 3, 64, 64))).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("name", [TINY, "resnet18"])
def test_gradients_reach_every_parameter_from_the_start(name: str) -> None:
    encoder = create_encoder(name)
    sum((f * torch.randn_like(f)).sum() for f in encoder(torch.rand(2, 3, 64, 64))).backward()  # type: ignore[union-attr]
    for parameter, value in encoder.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.abs().sum() > 0, parameter


class _Sum(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        return features[0].mean((2, 3)).sum(1) + features[-1].mean((2, 3)).sum(1)


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*deprecated:DeprecationWarning", "ignore:.*torch.jit.*deprecated:FutureWarning"
)
@pytest.mark.parametrize(("name", "output_stride"), [(TINY, 8), (TINY, 32), ("vgg11", 8), ("test_mambaout", 32)])
def test_exports(name: str, output_stride: int) -> None:
    encoder = create_encoder(name, 1, output_stride=output_stride, freeze_batch_norm=True)
    assert_exports(_Sum(encoder), torch.rand(1, 1, 64, 96), onnx=(name, output_stride) != (TINY, 32))


# ---------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet81", {}, "has no model 'resnet81'; did you mean resnet18"),
        ("hf-hub:timm/resnet18", {}, "has no model 'hf-hub:timm/resnet18'"),
        ("resnet18.nope", {}, "no weights 'nope' for resnet18; choose one of a1_in1k, .*tv_in1k"),
        ("mixer_s32_224", {"weights": "imagenet"}, "timm has no weights for mixer_s32_224"),
        (TINY, {"output_stride": 4}, "output_stride is 4; choose one of 8, 16, 32"),
        (TINY, {"in_channels": 0}, "in_channels is 0"),
        ("densenet121", {"output_stride": 8}, "densenet121 cannot have output stride 8; it can have 32"),
        ("densenet121", {"output_stride": 8, "weights": "imagenet"}, "cannot have output stride 8"),
        ("test_vit", {}, "test_vit cannot have output stride 32; it can have 16"),
        ("levit_128", {}, "levit_128 cannot have output stride 32; choose another encoder"),
        ("inception_v3", {"freeze_stem": True}, "does not say what the stem of inception_v3 is"),
    ],
)
def test_bad_options(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_encoder(name, **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- freezing


def changed_by_training(encoder: Encoder) -> set[str]:
    """Return the tensors that two steps of training change."""
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.train()
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        sum((f * torch.randn_like(f)).mean() for f in encoder(torch.rand(2, 3, 32, 32))).backward()  # type: ignore[union-attr]
        optimizer.step()
    return {n.removeprefix("body.") for n, v in encoder.state_dict().items() if not torch.equal(v, before[n])}


def test_nothing_is_frozen_unless_asked() -> None:
    encoder = create_encoder(TINY)
    assert changed_by_training(encoder) == {n.removeprefix("body.") for n in encoder.state_dict()}


def test_frozen_batch_norm_keeps_statistics_scale_and_shift() -> None:
    encoder = create_encoder(TINY, freeze_batch_norm=True)
    assert not any(module.training for module in encoder.modules() if isinstance(module, nn.BatchNorm2d))
    assert changed_by_training(encoder) == {name for name, p in encoder.body.named_parameters() if p.ndim == 4}
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 10
    network = nn.Sequential(encoder).train()
    assert not any(module.training for module in norms)
    assert network.training
    assert encoder.training


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_frozen_stem(name: str) -> None:
    encoder = create_encoder(name, freeze_stem=True)
    frozen = {n.removeprefix("body.") for n, p in encoder.named_parameters() if not p.requires_grad}
    assert frozen == {"resnet18": {"conv1.weight", "bn1.weight", "bn1.bias"}}.get(
        name, {"features_0.weight", "features_0.bias"}
    )
    unchanged = {n.removeprefix("body.") for n in encoder.state_dict()} - changed_by_training(encoder)
    assert unchanged >= frozen
    if name == "resnet18":
        assert unchanged - frozen == {"bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"}


def test_synchronised_batch_norm_stays_frozen() -> None:
    """What several GPUs train with is converted after the encoder is built."""
    network = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(create_encoder(TINY, freeze_batch_norm=True)))  # type: ignore[no-untyped-call]
    network.train()
    norms = [module for module in network.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert norms
    assert not any(module.training or module.weight.requires_grad for module in norms)
    with torch.no_grad():
        network(torch.rand(2, 3, 32, 32))


def test_a_copy_stays_frozen() -> None:
    encoder = pickle.loads(pickle.dumps(create_encoder(TINY, freeze_batch_norm=True))).train()
    assert not any(module.training for module in encoder.modules() if isinstance(module, nn.BatchNorm2d))
