"""LFA U-Net against the paper's numbers and against attention written out by hand."""

import io
import itertools

import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from medseg.layers.windowed_attention import WindowedAttention
from medseg.layers.windows import to_windows
from medseg.networks.lfa_unet import LFAUNet, LocalFeatureAggregation


def attention_by_hand(layer: WindowedAttention, asking: Tensor, giving: Tensor, scale: float) -> Tensor:
    """Eq. 1-2 of the paper, window by window and pixel by pixel, over real pixels alone."""
    size = asking.shape[2:]
    edge = layer.window_size or max(size)
    result = torch.zeros_like(asking)
    for image in range(asking.shape[0]):
        for corner in itertools.product(*(range(0, length, edge) for length in size)):
            cut = tuple(slice(c, c + edge) for c in corner)
            p = asking[(image, slice(None), *cut)]
            q = giving[(image, slice(None), *cut)].flatten(1).T  # (pixels, C)
            pixels = p.flatten(1).T
            weights = torch.softmax(scale * layer.query(pixels) @ layer.key(q).T, dim=-1)
            result[(image, slice(None), *cut)] = (weights @ layer.value(q)).T.reshape(p.shape)
    return result


@pytest.mark.parametrize("size", [(37, 64), (5, 6), (16, 32, 32), (64, 64)])
def test_contract(size: tuple[int, ...]) -> None:
    network = LFAUNet(len(size), 1, 5, channels=(8, 16, 32))
    assert_contract(network, torch.rand(2, 1, *size), out_channels=5)


@pytest.mark.parametrize(("window_size", "size"), [(7, (20, 24)), (4, (16, 16)), (None, (16, 16))])
def test_exports(window_size: int | None, size: tuple[int, ...]) -> None:
    network = LFAUNet(2, 1, 3, channels=(4, 8), window_size=window_size)
    assert_exports(network, torch.rand(1, 1, *size), onnx=window_size != 4)  # of 7, windows are padded beside


@pytest.mark.parametrize(("window_size", "spatial_dims"), [(7, 2), (7, 3), (None, 2)])
def test_exports_open_sizes(window_size: int | None, spatial_dims: int) -> None:
    network = LFAUNet(spatial_dims, 1, 3, channels=(4, 6), window_size=window_size)
    assert_exports_open_sizes(network, spatial_dims)


@pytest.mark.filterwarnings(
    # MONAI's onnx_export takes this way with a torch below 2.9; the exporter is deprecated, and warns of what it does
    "ignore:.*legacy TorchScript-based ONNX export:DeprecationWarning",
    "ignore:The feature will be removed. Please remove usage of this function:DeprecationWarning",
    "ignore:.*aten..index:UserWarning",
)
@pytest.mark.parametrize(
    ("window_size", "size", "other"),
    [(7, (20, 24), (33, 14)), (4, (16, 16), (7, 9)), (None, (20, 24), (9, 14)), (3, (6, 5, 7), (9, 4, 6))],
)
def test_exports_from_torchscript_to_onnx(
    window_size: int | None, size: tuple[int, ...], other: tuple[int, ...]
) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install medseg[export])")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (pip install medseg[export])")
    network = LFAUNet(len(size), 1, 3, channels=(4, 6, 8), window_size=window_size)
    with torch.no_grad():
        network(torch.rand(2, 1, *size))  # settles the normalisation
    network.eval()
    file = io.BytesIO()
    axes = {"image": dict(enumerate(("batch", "channel", *"dhw"[-len(size) :])))}
    del axes["image"][1]
    script = torch.jit.script(network)
    torch.onnx.export(script, (torch.rand(1, 1, *size),), file, dynamo=False, input_names=["image"], dynamic_axes=axes)
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for image in (torch.rand(1, 1, *size), torch.rand(2, 1, *other)):
        with torch.no_grad():
            expected = network(image)
        (result,) = session.run(None, {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(result), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("query", ["encoder", "decoder"])
@pytest.mark.parametrize(("window_size", "size"), [(7, (21, 26)), (None, (10, 12)), (3, (6, 5, 7))])
def test_attention_is_what_the_levels_receive(query: str, window_size: int | None, size: tuple[int, ...]) -> None:
    torch.manual_seed(4)
    network = LFAUNet(len(size), 2, 3, channels=(4, 6, 8), window_size=window_size, query=query, norm="instance")
    image = torch.rand(2, 2, *size)
    with torch.no_grad():
        for level in network.decoder:
            torch.nn.init.normal_(level.merge.attention.query.weight)
        features = network.encoder(image)
        x, expected = features.pop(), {}
        for i, level in ((1, network.decoder[0]), (0, network.decoder[1])):
            fine = features.pop()
            enlarged = level.up(x)[(..., *(slice(length) for length in fine.shape[2:]))]
            maps = (fine, enlarged) if query == "encoder" else (enlarged, fine)
            expected[f"window_{i}"] = level.merge.attention.received(*maps)
            x = level.block(level.merge(fine, enlarged))
        shown = network.attention(image)
    assert {name: m.shape for name, m in shown.items()} == {
        "window_0": (2, 1, *size),
        "window_1": (2, 1, *((length + 1) // 2 for length in size)),
    }
    torch.testing.assert_close(shown, expected)
    assert all(float(m.std()) > 0.01 for m in shown.values())
    for level in network.decoder:
        assert not level.merge._forward_pre_hooks


def test_attention_runs_in_the_mode_the_network_is_in() -> None:
    network = LFAUNet(2, 1, 3, channels=(4, 8))
    image = torch.rand(2, 1, 16, 16)
    trained = network.attention(image)["window_0"]
    assert network.training
    assert not torch.allclose(network.eval().attention(image)["window_0"], trained)
    assert not network.training


def test_parameters_are_the_papers() -> None:
    with torch.device("meta"):
        network = LFAUNet(2, 1, 5)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == pytest.approx(28.95e6, rel=0.01)
    assert parameters == 28_950_661  # what the weights of a release fit


@pytest.mark.parametrize("window_size", [3, 4, 7, None])
@pytest.mark.parametrize("size", [(8, 12), (5, 9), (4, 6, 5)])
@pytest.mark.parametrize("scale", [1.0, None])
def test_equals_attention_by_hand(window_size: int | None, size: tuple[int, ...], scale: float | None) -> None:
    torch.manual_seed(1)
    layer = WindowedAttention(6, window_size, scale)
    asking, giving = torch.randn(2, 2, 6, *size)
    expected = attention_by_hand(layer, asking, giving, 6**-0.5 if scale is None else scale)
    torch.testing.assert_close(layer(asking, giving), expected, rtol=1e-4, atol=1e-5)


def test_one_window_is_torch_multihead_attention() -> None:
    torch.manual_seed(2)
    layer = WindowedAttention(8, window_size=6, scale=None)
    reference = torch.nn.MultiheadAttention(8, 1, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key.weight, layer.value.weight]))
        reference.in_proj_bias.copy_(torch.cat([layer.query.bias, layer.key.bias, layer.value.bias]))
        reference.out_proj.weight.copy_(torch.eye(8))
        reference.out_proj.bias.zero_()
    asking, giving = torch.randn(2, 3, 8, 6, 6)
    expected, _ = reference(*(t.flatten(2).transpose(1, 2) for t in (asking, giving, giving)))
    torch.testing.assert_close(layer(asking, giving).flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in the padded pixels, no real pixel sees it."""
    import medseg.layers.windowed_attention as module

    layer = WindowedAttention(4, window_size=7)
    asking, giving = torch.randn(2, 1, 4, 10, 9)
    expected = layer(asking, giving)

    def cut_with_noise(x: Tensor, edge: int) -> Tensor:
        padding = [0, 0]
        for size in reversed(x.shape[1:-1]):
            padding += [0, (-size) % edge]
        return to_windows(torch.nn.functional.pad(x, padding, value=1e4), edge)

    received = layer.received(asking, giving)
    monkeypatch.setattr(module, "cut_windows", cut_with_noise)
    torch.testing.assert_close(layer(asking, giving), expected)
    torch.testing.assert_close(layer.received(asking, giving), received)


@pytest.mark.parametrize("query", ["encoder", "decoder"])
@pytest.mark.parametrize("residual", ["encoder", "decoder", "none"])
def test_query_and_residual(query: str, residual: str) -> None:
    torch.manual_seed(3)
    layer = LocalFeatureAggregation(4, 3, query, residual)
    maps = {"encoder": torch.randn(1, 4, 6, 6), "decoder": torch.randn(1, 4, 6, 6)}
    other = "decoder" if query == "encoder" else "encoder"
    expected = attention_by_hand(layer.attention, maps[query], maps[other], 1.0)
    if residual != "none":
        expected = expected + maps[residual]
    torch.testing.assert_close(layer(maps["encoder"], maps["decoder"]), expected, rtol=1e-4, atol=1e-5)


def test_channels_last_stays_channels_last() -> None:
    layer = WindowedAttention(8, 7)
    maps = torch.randn(2, 2, 8, 14, 21)
    asking, giving = (m.contiguous(memory_format=torch.channels_last) for m in maps)
    out = layer(asking, giving)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, layer(*maps))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": "both"}, "query is 'both'; choose one of encoder, decoder"),
        ({"residual": "sum"}, "residual is 'sum'; choose one of encoder, decoder, none"),
        ({"window_size": 0}, "window_size is 0"),
        ({"channels": (8,)}, "two or more levels"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LFAUNet(2, 1, 5, **options)  # type: ignore[arg-type]


def test_maps_must_agree() -> None:
    with pytest.raises(ValueError, match="must agree"):
        WindowedAttention(4)(torch.rand(1, 4, 6, 6), torch.rand(1, 4, 6, 7))


def test_windows_save_what_they_should() -> None:
    """FLOPs of the whole network at 256x256 and the paper's widths: 84.99 G in windows, 1340 G over whole maps."""
    totals = []
    for window_size in (7, None):
        with torch.device("meta"):
            network, image = LFAUNet(2, 1, 5, window_size=window_size).eval(), torch.rand(1, 1, 256, 256)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(image)
        totals.append(counter.get_total_flops())
    assert totals == pytest.approx([84.99e9, 1339.6e9], rel=1e-3)
