"""DF-DAM: its two modules and the whole against their definition, its costs against the paper's."""

from functools import partial

import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, interpolate
from torch.utils.flop_counter import FlopCounterMode

from medseg.encoders import create_encoder
from medseg.networks.df_dam import DFDAM, FUSIONS, DualAttentionFusion, PositionAttention

TINY = "test_resnet"
SIZE = (65, 97)
CHANNELS = {"dafm_3_high": (2, 8), "dafm_3_low": (2, 8), "dafm_3_maps": (2, 8, 5, 7)}
MAPS = {
    "dafm_2dpam": {**CHANNELS, "confidence": (2, 1, 17, 25)},
    "dafm": CHANNELS,
    "sum": {},
}


def build(fusion: str = "dafm_2dpam", norm: str | None = "batch") -> DFDAM:
    return DFDAM(2, 3, 5, encoder=TINY, fusion=fusion, channels=8, norm=norm)


def settled(network: nn.Module, *shapes: tuple[int, ...]) -> nn.Module:
    """Move weights and running statistics off their initial values, and go over to evaluation."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        network.train()(*(torch.rand(shape) for shape in shapes))
    return network.eval()


class Reference:
    """The modules as functions of a state dict, in evaluation."""

    def __init__(self, weights: dict[str, Tensor], prefix: str = "") -> None:
        self.weights = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}

    def conv(self, x: Tensor, name: str) -> Tensor:
        kernel = self.weights[f"{name}.weight"]
        return conv2d(x, kernel, self.weights.get(f"{name}.bias"), padding=kernel.shape[-1] // 2)

    def unit(self, x: Tensor, name: str) -> Tensor:
        x = self.conv(x, f"{name}.0")
        if f"{name}.1.running_mean" in self.weights:
            parts = ("running_mean", "running_var", "weight", "bias")
            x = batch_norm(x, *(self.weights[f"{name}.1.{part}"] for part in parts))
        return x.clamp(min=0)

    def dafm(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Section 3.2, channel by channel: the sum and the two vectors."""
        vectors = []
        for name in ("weigh_high", "weigh_low"):
            matrix = self.weights[f"{name}.weight"][:, :, 0, 0]
            vectors.append(1 / (1 + torch.exp(-(high.mean((2, 3)) @ matrix.T + self.weights[f"{name}.bias"]))))
        enlarged = grown(high, low)
        fused = torch.empty_like(low)
        for channel in range(low.shape[1]):
            of_high, of_low = (vector[:, channel, None, None] for vector in vectors)
            fused[:, channel] = of_low * low[:, channel] + of_high * enlarged[:, channel]
        return fused, vectors[0], vectors[1]

    def pam(self, spatial: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Equations 9 and 10, pixel by pixel: the sum and the confidence map."""
        context = grown(context, spatial)
        hidden = self.unit(torch.cat([spatial, context], 1), "judge")
        confidence = 1 / (
            1 + torch.exp(-self.conv(hidden, "judge.3" if "judge.3.weight" in self.weights else "judge.2"))
        )
        fused = torch.empty_like(spatial)
        for i in range(spatial.shape[2]):
            for j in range(spatial.shape[3]):
                fused[:, :, i, j] = confidence[:, :, i, j] * spatial[:, :, i, j] + context[:, :, i, j]
        return fused, confidence


def grown(x: Tensor, like: Tensor) -> Tensor:
    return interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("size", [SIZE, (48, 33)])
def test_contract(size: tuple[int, int], fusion: str) -> None:
    torch.manual_seed(0)
    assert_contract(build(fusion), torch.rand(2, 3, *size), out_channels=5)


def test_contract_with_resnet18() -> None:
    torch.manual_seed(1)
    assert_contract(DFDAM(2, 1, 2, channels=16), torch.rand(2, 1, *SIZE), out_channels=2)


@pytest.mark.parametrize(("fusion", "norm"), [("dafm_2dpam", "batch"), ("dafm_2dpam", None), ("sum", "batch")])
def test_exports(fusion: str, norm: str | None) -> None:
    assert_exports(build(fusion, norm), torch.rand(1, 3, *SIZE), onnx=(fusion, norm) == ("dafm_2dpam", "batch"))


def test_exports_open_sizes() -> None:
    assert_exports_open_sizes(build(), spatial_dims=2, in_channels=3)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (64, 64), (127, 31)])
def test_any_size(size: tuple[int, int]) -> None:
    network = build().eval()
    logits = network(torch.rand(1, 3, *size))
    assert logits.shape == (1, 5, *size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_training_gives_auxiliary_logits_at_their_own_stride(fusion: str) -> None:
    outputs = build(fusion).train()(torch.rand(2, 3, *SIZE))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "pred": (2, 5, 65, 97),
        "aux_spatial": (2, 5, 17, 25),  # stride 4
        "aux_context": (2, 5, 5, 7),  # stride 16
    }


@pytest.mark.parametrize(
    ("encoder", "megaparameters", "gigamacs", "exact"),
    [("resnet18", 11.57, 10.31, 11_540_788), ("resnet101", 43.24, 35.52, 43_183_924)],
)
def test_costs_are_those_of_tables_4_and_6(encoder: str, megaparameters: float, gigamacs: float, exact: int) -> None:
    with torch.device("meta"):
        network, image = DFDAM(2, 3, 19, encoder=encoder).eval(), torch.rand(1, 3, 640, 320)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gigamacs, rel=0.015)
    auxiliary = (network.classify_spatial, network.classify_context)
    trained_alone = sum(p.numel() for head in auxiliary for p in head.parameters())
    parameters = sum(p.numel() for p in network.parameters())
    assert trained_alone == 2 * (128 * 19 + 19)
    assert parameters - trained_alone == pytest.approx(megaparameters * 1e6, rel=0.005)
    assert parameters - trained_alone == exact


def test_defaults_are_the_papers() -> None:
    with torch.device("meta"):
        default, named = DFDAM(2, 3, 19), DFDAM(2, 3, 19, encoder="resnet18", fusion="dafm_2dpam", channels=128)
    assert {n: p.shape for n, p in default.named_parameters()} == {n: p.shape for n, p in named.named_parameters()}
    assert [default.encoder.reductions[stage] for stage in default.stages] == [4, 16, 32]
    assert [default.encoder.channels[stage] for stage in default.stages] == [64, 256, 512]


def test_dafm_equals_its_definition() -> None:
    torch.manual_seed(2)
    low, high = torch.randn(2, 6, 5, 9), torch.randn(2, 6, 3, 5)
    module = settled(DualAttentionFusion(6), low.shape, high.shape)
    fused, of_high, of_low = Reference(module.state_dict()).dafm(low, high)
    torch.testing.assert_close(module(low, high), fused)
    torch.testing.assert_close(torch.stack(module.weights(high)).flatten(2), torch.stack([of_high, of_low]))
    assert not torch.allclose(of_high, of_low)
    assert not torch.allclose(of_high[0], of_high[1])  # each image has weights of its own


@pytest.mark.parametrize("norm", ["batch", None])
def test_2dpam_equals_its_definition(norm: str | None) -> None:
    torch.manual_seed(3)
    spatial, context = torch.randn(2, 8, 9, 7), torch.randn(2, 8, 3, 2)
    module = settled(PositionAttention(8, norm=norm), spatial.shape, context.shape)
    fused, confidence = Reference(module.state_dict()).pam(spatial, context)
    torch.testing.assert_close(module(spatial, context), fused)
    torch.testing.assert_close(module.confidence(spatial, grown(context, spatial)), confidence)
    assert confidence.std() > 0


@pytest.mark.parametrize("fusion", FUSIONS)
def test_equals_the_definition(fusion: str) -> None:
    """Figure 2 over the encoder's features of strides 4, 16 and 32, with what `attention` shows along the way."""
    torch.manual_seed(4)
    network = settled(build(fusion), (4, 3, *SIZE))
    image = torch.rand(2, 3, *SIZE)
    weights = dict(network.state_dict())
    whole = Reference(weights)
    shown = {}
    with torch.no_grad():
        by_width = {feature.shape[-1]: feature for feature in network.encoder(image)}
        low = whole.unit(by_width[25], "convert_low")  # 97 / 4, rounded up, and so on
        middle, high = whole.unit(by_width[7], "convert_middle"), whole.unit(by_width[4], "convert_high")
        context = middle + grown(high, middle)
        if fusion != "sum":
            context, shown["dafm_3_high"], shown["dafm_3_low"] = Reference(weights, "context_fusion.").dafm(
                middle, high
            )
            shown["dafm_3_maps"] = middle
        fused = low + grown(context, low)
        if fusion == "dafm_2dpam":
            fused, shown["confidence"] = Reference(weights, "spatial_fusion.").pam(low, context)
        logits = whole.conv(whole.unit(fused, "refine"), "classify")
        torch.testing.assert_close(network(image), grown(logits, image), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network.attention(image), shown, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_auxiliary_logits_are_of_each_information_alone(fusion: str) -> None:
    """Context comes from strides 16 and 32, spatial information from stride 4 before it is filtered."""
    torch.manual_seed(5)
    network = build(fusion).train()
    image = torch.rand(2, 3, *SIZE)
    before = network(image)
    for parameter in network.convert_low.parameters():
        nn.init.normal_(parameter)
    after = network(image)
    assert torch.equal(before["aux_context"], after["aux_context"])
    assert not torch.equal(before["aux_spatial"], after["aux_spatial"])
    for module in (network.convert_high, network.context_fusion, network.spatial_fusion):
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    last = network(image)
    assert torch.equal(after["aux_spatial"], last["aux_spatial"])
    assert not torch.equal(after["aux_context"], last["aux_context"])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_attention_shapes_and_ranges(fusion: str) -> None:
    torch.manual_seed(6)
    maps = settled(build(fusion), (4, 3, *SIZE)).attention(torch.rand(2, 3, *SIZE))
    assert {name: tuple(m.shape) for name, m in maps.items()} == MAPS[fusion]
    assert all(0 < m.min() < m.max() < 1 for name, m in maps.items() if name != "dafm_3_maps")


@pytest.mark.parametrize("fusion", ["dafm_2dpam", "dafm"])
def test_open_gates_are_the_baseline(fusion: str) -> None:
    torch.manual_seed(7)
    network, baseline = settled(build(fusion), (4, 3, *SIZE)), build("sum").eval()
    gates = [network.context_fusion.weigh_high, network.context_fusion.weigh_low]
    gates += [network.spatial_fusion.judge[-1]] if fusion == "dafm_2dpam" else []
    for gate in gates:
        nn.init.zeros_(gate.weight)
        nn.init.constant_(gate.bias, 50)  # a sigmoid of 1
    own = baseline.state_dict()
    baseline.load_state_dict({name: value for name, value in network.state_dict().items() if name in own})
    image = torch.rand(2, 3, *SIZE)
    torch.testing.assert_close(network(image), baseline(image))
    nn.init.constant_(gates[-1].bias, -50)  # now it takes something away
    assert not torch.allclose(network(image), baseline(image))


def test_no_confidence_leaves_the_context() -> None:
    torch.manual_seed(8)
    module = PositionAttention(4).eval()
    nn.init.constant_(module.judge[-1].bias, -200)
    spatial, context = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(module(spatial, context), grown(context, spatial))


def test_frozen_batch_norm_is_the_encoders_alone() -> None:
    network = DFDAM(2, 3, 2, encoder=TINY, channels=8, freeze_batch_norm=True).train()
    norms = {name: m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name.startswith("encoder.") for name, m in norms.items() if not m.training} == {True}
    assert {name.startswith("encoder.") for name, m in norms.items() if m.training} == {False}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "2dpam"}, "fusion is '2dpam'; choose one of dafm_2dpam, dafm, sum"),
        ({"channels": 3}, "channels is 3; it must be at least 4"),
        ({"spatial_dims": 3}, "spatial_dims is 3; DF-DAM's encoders are for 2D images: give 2"),
        ({"spatial_dims": 1}, "spatial_dims is 1; choose 2 or 3"),
        ({"out_channels": 0}, "out_channels is 0"),
        ({"norm": "bathc"}, "norm is 'bathc'; choose one of"),
        ({"act": "rleu"}, "act is 'rleu'; choose one of"),
        ({"encoder": "resnet1"}, "no model 'resnet1'; did you mean"),
        ({"weights": "nowhere.pth"}, r"weights nowhere\.pth do not exist"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    arguments = {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, "encoder": TINY} | options
    with pytest.raises(ValueError, match=message):
        DFDAM(**arguments)  # type: ignore[arg-type]


def test_an_encoder_without_a_stride_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.networks.df_dam.create_encoder", partial(create_encoder, out_indices=(2, 4)))
    with pytest.raises(ValueError, match=r"encoder 'test_resnet' has features at strides 8, 32; .* 4, 16, 32: choose"):
        DFDAM(2, 3, 2, encoder=TINY)
