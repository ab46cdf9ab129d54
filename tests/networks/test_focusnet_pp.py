"""FocusNet++: the block, group by group, and the whole against its definition."""

from typing import Any

import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, interpolate, leaky_relu, linear, max_pool2d
from torch.utils.flop_counter import FlopCounterMode

from medseg.layers.conv_block import Named
from medseg.networks.focusnet_pp import LEAKY_RELU, FocusNetPP, ResidualGroupAttention


def block_by_hand(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The block of section 2.1 in evaluation: four groups, each convolved by itself; attends first, features last."""

    def normalised(x: Tensor, name: str, cut: slice = slice(None)) -> Tensor:
        if f"{name}.weight" not in weights:
            return x
        kept = (weights[f"{name}.{part}"][cut] for part in ("running_mean", "running_var", "weight", "bias"))
        return batch_norm(x, *kept)

    def convolved(x: Tensor, name: str, cut: slice = slice(None)) -> Tensor:
        kernel, bias = weights[f"{name}.weight"][cut], weights.get(f"{name}.bias")
        return conv2d(x, kernel, None if bias is None else bias[cut], padding=kernel.shape[-1] // 2)

    def act(x: Tensor) -> Tensor:
        return leaky_relu(x, 0.3)

    split = convolved(x, "split")
    width = split.shape[1] // 4
    embedded = []
    for pair in range(2):
        cut, wide = slice(pair * width, (pair + 1) * width), slice(2 * pair * width, 2 * (pair + 1) * width)
        attention, features = split[:, cut], split[:, 2 * width :][:, cut]
        shortcut = features
        for unit in ("0", "1"):
            attention = normalised(attention, f"attention.{unit}.0", cut)
            attention = convolved(act(attention), f"attention.{unit}.2", cut)
            features = normalised(features, f"features.{unit}.0", cut)
            features = convolved(act(features), f"features.{unit}.2", cut)
        weighed = convolved(attention, "attention.2", cut).sigmoid() * (shortcut + features)
        embedded.append(act(normalised(convolved(weighed, "embed.0", wide), "embed.1", wide)))
    joined = normalised(convolved(torch.cat(embedded, 1), "join.0"), "join.1")
    squeezed = act(linear(joined.mean((2, 3)), weights["join.2.fc.0.weight"], weights["join.2.fc.0.bias"]))
    excited = linear(squeezed, weights["join.2.fc.2.weight"], weights["join.2.fc.2.bias"]).sigmoid()
    if "shortcut.0.weight" in weights:
        x = normalised(convolved(x, "shortcut.0"), "shortcut.1")
    return act(x + joined * excited[:, :, None, None])


def part(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


@pytest.mark.parametrize("size", [(37, 64), (5, 9), (16, 18, 21)])
def test_contract(size: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    network = FocusNetPP(len(size), 2, 3, channels=(8, 12, 16), blocks=(1, 2, 1), se_ratio=2)
    assert_contract(network, torch.rand(2, 2, *size), out_channels=3)


@pytest.mark.parametrize("norm", ["batch", None])
def test_exports(norm: str | None) -> None:
    network = FocusNetPP(2, 1, 3, channels=(4, 8, 8), blocks=(1, 1, 1), se_ratio=2, norm=norm)
    assert_exports(network, torch.rand(1, 1, 20, 24), onnx=norm == "batch")


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_exports_open_sizes(spatial_dims: int) -> None:
    assert_exports_open_sizes(
        FocusNetPP(spatial_dims, 1, 3, channels=(4, 8, 8), blocks=(1, 1, 1), se_ratio=2), spatial_dims
    )


@pytest.mark.parametrize(
    ("configuration", "expected", "papers"),
    [("published", 7_782_165, 7.80e6), ("text", 3_752_397, None), ("light", 956_113, 0.98e6)],
)
def test_parameters(configuration: str, expected: int, papers: float | None) -> None:
    with torch.device("meta"):
        network = FocusNetPP(2, 3, 1, configuration=configuration)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == expected  # what the weights of a release fit
    if papers is not None:
        assert parameters == pytest.approx(papers, rel=0.03)


def test_default_is_the_published_configuration() -> None:
    with torch.device("meta"):
        default, named = FocusNetPP(2, 3, 1), FocusNetPP(2, 3, 1, configuration="published")
    assert {n: p.shape for n, p in default.named_parameters()} == {n: p.shape for n, p in named.named_parameters()}
    assert default.dropout.p == 0.5


@pytest.mark.parametrize(("configuration", "gmacs"), [("published", 22.42), ("light", 2.70)])
def test_multiply_adds_at_256(configuration: str, gmacs: float) -> None:
    with torch.device("meta"):
        network, image = FocusNetPP(2, 3, 1, configuration=configuration).eval(), torch.rand(1, 3, 256, 256)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=1e-2)


@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize(("before", "after"), [(8, 8), (8, 6)])
def test_block_equals_groups_by_hand(before: int, after: int, norm: str | None) -> None:
    torch.manual_seed(2)
    block = ResidualGroupAttention(2, before, after, se_ratio=2, norm=norm)
    with torch.no_grad():
        block(3 * torch.randn(4, before, 9, 9) + 1)  # moves the running statistics
        for parameter in block.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    block.eval()
    x = torch.randn(2, before, 7, 5)
    kept = x.clone()
    torch.testing.assert_close(block(x), block_by_hand(x, block.state_dict()))
    assert torch.equal(x, kept)  # activations in place touch nobody else's map


@pytest.mark.parametrize(("norm", "act"), [("batch", None), (None, LEAKY_RELU)])
def test_equals_the_definition(norm: str | None, act: Named | None) -> None:
    """Figure 1 written out for two levels, at an odd size, over the network's own weights; the decoder has a ReLU."""
    torch.manual_seed(3)
    given: dict[str, Any] = {} if act is None else {"decoder_act": act}
    network = FocusNetPP(2, 2, 3, channels=(8, 12, 16), blocks=(1, 2, 1), se_ratio=2, norm=norm, dropout=0.4, **given)
    with torch.no_grad():
        network(torch.randn(4, 2, 16, 16))
    network.eval()
    weights = dict(network.state_dict())

    def conv(x: Tensor, name: str, padding: int = 0) -> Tensor:
        return conv2d(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), padding=padding)

    def block(x: Tensor, name: str) -> Tensor:
        return block_by_hand(x, part(weights, name))

    def decoder_act(x: Tensor) -> Tensor:
        return x.relu() if act is None else leaky_relu(x, 0.3)

    def up(x: Tensor, size: tuple[int, int], factor: int = 2) -> Tensor:
        rows, columns = (torch.arange(length) // factor for length in size)
        return x[:, :, rows][:, :, :, columns]

    def output(x: Tensor, name: str) -> Tensor:
        x = conv(x, f"{name}.0")
        if norm:
            names = ("running_mean", "running_var", "weight", "bias")
            x = batch_norm(x, *(weights[f"{name}.1.0.{n}"] for n in names))
        return conv(leaky_relu(x, 0.3), f"{name}.1.2")

    image = torch.randn(2, 2, 13, 10)
    fine = block(conv(image, "first", 2), "encoder.0.0")
    middle = block(block(max_pool2d(fine, 2, ceil_mode=True), "encoder.1.0"), "encoder.1.1")
    x = block(max_pool2d(middle, 2, ceil_mode=True), "encoder.2.0")
    x = decoder_act(conv(middle + block(up(x, (7, 5)), "decoder.0.block"), "decoder.0.conv.0", 1))
    coarse_map = up(output(x, "scales.0").sigmoid(), (13, 10))
    x = decoder_act(conv(fine + block(up(x, (13, 10)), "decoder.1.block"), "decoder.1.conv.0", 1))
    fine_map = output(x, "scales.1").sigmoid()
    torch.testing.assert_close(network(image), output(torch.cat([coarse_map, fine_map], 1), "head"))


def test_maps_of_all_scales_reach_full_size() -> None:
    """Five levels: the coarsest decoded map repeats its values 8 times, as interpolation to the exact size would."""
    network = FocusNetPP(2, 1, 1, channels=(4,) * 5, blocks=(1,) * 5, se_ratio=2).eval()
    maps: list[Tensor] = []
    for scale in network.scales:
        scale.register_forward_hook(lambda _, __, result: maps.append(result))
    network(torch.rand(1, 1, 48, 32))
    assert [tuple(m.shape[2:]) for m in maps] == [(48, 32)] * 4
    for m, factor in zip(maps, (8, 4, 2, 1), strict=True):
        torch.testing.assert_close(m, interpolate(m[..., ::factor, ::factor], scale_factor=factor))
    assert all(0 < float(m.detach().min()) <= float(m.detach().max()) < 1 for m in maps)


def test_dropout_acts_on_the_bottom_alone() -> None:
    torch.manual_seed(4)
    network = FocusNetPP(2, 1, 1, channels=(8, 8), blocks=(1, 1), se_ratio=2, norm=None, dropout=0.5)
    seen: list[Tensor] = []
    network.dropout.register_forward_hook(lambda _, given, result: seen.extend((given[0], result)))
    network(torch.rand(2, 1, 32, 32))
    given, result = seen
    assert given.shape == (2, 8, 16, 16)
    dropped = result == 0
    assert 0.4 < float(dropped.float().mean()) < 0.6
    assert not dropped.flatten(2).all(dim=2).any()  # values, not channels
    torch.testing.assert_close(result[~dropped], 2 * given[~dropped])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"configuration": "large"}, "configuration is 'large'; choose one of published, text, light"),
        ({"channels": (8, 16, 30), "blocks": (1, 1, 1)}, r"channels is \(8, 16, 30\); .* multiple of 4"),
        ({"channels": (16,), "blocks": (1,)}, "two or more levels"),
        ({"channels": (16, 0), "blocks": (1, 1)}, "multiple of 4"),
        ({"channels": (16, 32)}, r"blocks is \(1, 3, 3, 3, 2\), channels is \(16, 32\); give one number"),
        ({"blocks": (1, 0, 1, 1, 1)}, r"blocks is \(1, 0, 1, 1, 1\)"),
        ({"configuration": "light", "se_ratio": 17}, "se_ratio is 17, .* it must be in 1 to 16"),
        ({"se_ratio": 0}, "se_ratio is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"norm": "bathc"}, "norm is 'bathc'; choose one of"),
        ({"decoder_act": "rleu"}, "decoder_act is 'rleu'; choose one of .*relu"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FocusNetPP(2, 3, 1, **options)  # type: ignore[arg-type]


def test_block_refuses_channels_without_four_groups() -> None:
    with pytest.raises(ValueError, match=r"in_channels is 10; .* multiple of 4"):
        ResidualGroupAttention(2, 10, 8)
