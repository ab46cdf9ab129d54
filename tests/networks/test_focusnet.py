"""FocusNet: the gates, and the whole against its definition."""

import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, linear, pad
from torch.utils.flop_counter import FlopCounterMode

from medseg.networks.focusnet import AttentionAutoencoder, FocusNet


@pytest.mark.parametrize("size", [(37, 64), (9, 13), (17, 16, 21)])
def test_contract(size: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    network = FocusNet(len(size), 2, 3, channels=(8, 12, 16), se_ratio=1)
    assert_contract(network, torch.rand(2, 2, *size), out_channels=3)


@pytest.mark.parametrize("norm", ["batch", None])
def test_exports(norm: str | None) -> None:
    network = FocusNet(2, 1, 3, channels=(4, 8, 8), se_ratio=2, norm=norm)
    assert_exports(network, torch.rand(1, 1, 20, 24), onnx=norm == "batch")


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_exports_open_sizes(spatial_dims: int) -> None:
    assert_exports_open_sizes(FocusNet(spatial_dims, 1, 3, channels=(4, 8, 8), se_ratio=2), spatial_dims)


@pytest.mark.parametrize(
    ("channels", "expected", "papers", "tolerance"),
    [((64, 128, 256, 512), 18_924_537, 19.07e6, 0.05), ((32, 64, 128, 256), 4_738_813, 5.03e6, 0.1)],
)
def test_parameters(channels: tuple[int, ...], expected: int, papers: float, tolerance: float) -> None:
    with torch.device("meta"):
        network = FocusNet(2, 3, 1, channels=channels)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == pytest.approx(papers, rel=tolerance)
    assert parameters == expected  # what the weights of a release fit


def test_multiply_adds_at_256() -> None:
    with torch.device("meta"):
        network, image = FocusNet(2, 3, 1).eval(), torch.rand(1, 3, 256, 256)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    assert counter.get_total_flops() / 2e9 == pytest.approx(61.1, rel=1e-2)


@pytest.mark.parametrize("norm", ["batch", None])
def test_equals_the_definition(norm: str | None) -> None:
    """Both networks written out for three levels, at an odd size, over the network's own weights."""
    torch.manual_seed(2)
    network = FocusNet(2, 2, 3, channels=(8, 12, 16), se_ratio=2, norm=norm, dropout=0.4)
    with torch.no_grad():
        network(torch.randn(4, 2, 16, 16))  # moves the running statistics
    network.eval()
    weights = dict(network.state_dict())

    def conv(x: Tensor, name: str, padding: int = 0, stride: int = 1) -> Tensor:
        return conv2d(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), stride, padding)

    def active(x: Tensor, name: str) -> Tensor:
        if norm:
            names = ("running_mean", "running_var", "weight", "bias")
            x = batch_norm(x, *(weights[f"{name}.{n}"] for n in names))
        return x.relu()

    def unit(x: Tensor, name: str, stride: int = 1) -> Tensor:
        result = conv(active(x, f"{name}.convs.0.0"), f"{name}.convs.0.2", 1, stride)
        result = conv(active(result, f"{name}.convs.1.0"), f"{name}.convs.1.2", 1)
        return result + (conv(x, f"{name}.shortcut", 0, stride) if f"{name}.shortcut.weight" in weights else x)

    def recalibrated(x: Tensor, name: str) -> Tensor:
        hidden = linear(x.mean((2, 3)), weights[f"{name}.fc.0.weight"], weights[f"{name}.fc.0.bias"]).relu()
        factors = linear(hidden, weights[f"{name}.fc.2.weight"], weights[f"{name}.fc.2.bias"]).sigmoid()
        return x * factors[:, :, None, None]

    def decoded(skip: Tensor, x: Tensor, name: str) -> Tensor:
        rows, columns = (torch.arange(length) // 2 for length in skip.shape[2:])
        enlarged = pad(x[:, :, rows][:, :, :, columns], [1, 0, 1, 0])
        return unit(torch.cat([skip, conv(enlarged, f"{name}.up.1").relu()], 1), f"{name}.unit")

    image = torch.randn(2, 2, 13, 10)
    fine = active(conv(image, "attention.first.0", 1), "attention.first.1")
    middle = unit(unit(fine, "attention.encoder.0.0", 2), "attention.encoder.0.1")
    deep = unit(unit(middle, "attention.encoder.1.0", 2), "attention.encoder.1.1")
    middle = decoded(middle, deep, "attention.decoder.0")
    fine = decoded(fine, middle, "attention.decoder.1")

    def gated(x: Tensor, gate: Tensor, name: str) -> Tensor:
        x = recalibrated(unit(x, f"{name}.ungated.0"), f"{name}.ungated.1") * gate.sigmoid()
        return unit(recalibrated(x, f"{name}.gated.0"), f"{name}.gated.1", 2)

    full = active(conv(image, "first.0", 3), "first.1")
    half = gated(full, fine, "encoder.0")
    quarter = gated(half, middle, "encoder.1")
    x = unit(recalibrated(unit(quarter, "bottom.0"), "bottom.1"), "bottom.2", 2)
    for level, skip in enumerate((quarter, half, full)):
        x = decoded(skip, x, f"decoder.{level}")
    expected = conv(active(x, "head.0"), "head.2")
    torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)


def test_gates_lie_between_0_and_1_at_the_sizes_they_gate() -> None:
    gates = AttentionAutoencoder(3, 1, (4, 8, 12, 16))(torch.rand(2, 1, 9, 16, 11))
    assert [tuple(g.shape) for g in gates] == [(2, 12, 3, 4, 3), (2, 8, 5, 8, 6), (2, 4, 9, 16, 11)]
    assert all(0 < float(g.detach().min()) < float(g.detach().max()) < 1 for g in gates)


def test_closed_gates_cut_the_image_off() -> None:
    """With every gate at zero only the skip of the first convolution still carries the image."""
    torch.manual_seed(3)
    network = FocusNet(2, 1, 2, channels=(8, 12), se_ratio=2).eval()
    below: list[Tensor] = []
    network.bottom.register_forward_hook(lambda _, __, result: below.append(result))
    with torch.no_grad():
        for image in (torch.zeros(1, 1, 16, 16), torch.rand(1, 1, 16, 16)):
            network(image)
        assert not torch.allclose(below[0], below[1])
        network.attention.register_forward_hook(lambda _, __, gates: [torch.zeros_like(g) for g in gates])
        below.clear()
        logits = [network(image) for image in (torch.zeros(1, 1, 16, 16), torch.rand(1, 1, 16, 16))]
    assert torch.equal(below[0], below[1])
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (64,)}, "two or more levels"),
        ({"channels": (64, 127)}, r"channels is \(64, 127\); .* even"),
        ({"channels": (8, 16)}, "se_ratio is 16, .* it must be in 1 to 8"),
        ({"se_ratio": 0}, "se_ratio is 0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"act": "rleu"}, "act is 'rleu'; choose one of"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FocusNet(2, 3, 1, **options)  # type: ignore[arg-type]
