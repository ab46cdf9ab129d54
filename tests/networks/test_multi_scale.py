"""Multi-scale networks against the papers' equations in plain functions, and what must hold of any weights."""

import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from networks.multi_scale_examples import CLASSES, ROWS, SINGLE, SIZE, base_of, build, scaled, settled, to
from torch import Tensor
from torch.nn.functional import conv2d

from medseg.engines.parameter_groups import parameter_groups
from medseg.layers.multi_scale import MultiScaleBase
from medseg.layers.scene_base import BASES
from medseg.networks.deeplab_largefov import DeepLabLargeFOV
from medseg.networks.multi_scale import AttentionToScale, MultiScalePooling, MultiScaleRefinement

# ---------------------------------------------------------------------------------------------- the house's contract


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (SIZE, {}),
        ((48, 33), {"base": "resnet34_dilated", "scales": (0.75, 1.5, 1.0), "dilations": {0.75: 2, 1.5: 4, 1.0: 3}}),
        (SIZE, {"base": "resnet34_psp", "location": False, "norm": "batch"}),
        (SIZE, {"recalibration": "add", "stages": ()}),
        (SIZE, {"recalibration": "none", "stages": (0, 4)}),
        (SIZE, {"merge": "attention", "base": "resnet34_dilated"}),
        ((48, 33), {"merge": "average", "scales": (1.0, 0.5, 2.0)}),
        (SIZE, {"merge": "max"}),
    ],
)
def test_contract(size: tuple[int, int], options: dict[str, object]) -> None:
    torch.manual_seed(0)
    assert_contract(build(**options), torch.rand(2, 3, *size), out_channels=CLASSES)  # type: ignore[arg-type]


def test_contract_with_vgg() -> None:
    torch.manual_seed(1)
    network = build(encoder="vgg11")
    assert network.columns == [2, 3, 4, -1]  # conv3, conv4, conv5 and fc7
    assert_contract(network, torch.rand(2, 3, 33, 49), out_channels=CLASSES)


@pytest.mark.parametrize(
    ("options", "onnx"),
    [
        ({}, True),
        ({"location": False, "recalibration": "add", "base": "resnet34_psp"}, False),
        ({"merge": "attention", "base": "resnet34_dilated", "scales": (1.0, 0.75, 0.5)}, True),
        ({"merge": "max"}, True),
    ],
)
def test_exports(options: dict[str, object], onnx: bool) -> None:
    assert_exports(build(**options), torch.rand(1, 3, *SIZE), onnx=onnx)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("merge", "scales"), [("average", (0.7, 1.3)), ("attention", (1.0, 0.5)), ("refinement", (1.0, 0.5))]
)
def test_exports_open_sizes(merge: str, scales: tuple[float, ...]) -> None:
    assert_exports_open_sizes(build(merge, scales=scales), spatial_dims=2, in_channels=3)


@pytest.mark.parametrize("merge", ["refinement", "attention", "average"])
@pytest.mark.parametrize("scales", [(1.0, 0.5), (0.25, 0.5, 0.75, 1.0), (0.5, 1.3)])
@pytest.mark.parametrize("size", [(1, 1), (3, 70), (64, 50)])
def test_any_size_and_number_of_scales(size: tuple[int, int], scales: tuple[float, ...], merge: str) -> None:
    options = {"dilations": dict.fromkeys(scales, 2)} if merge == "refinement" else {}
    logits = build(merge, scales=scales, **options).eval()(torch.rand(1, 3, *size))
    assert logits.shape == (1, CLASSES, *size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("merge", ["refinement", "attention", "max"])
def test_training_gives_the_scores_of_each_scale(merge: str) -> None:
    torch.manual_seed(2)
    network = build(merge, freeze_batch_norm=True, head_options={"channels": 16, "dropout": 0.0}).train()
    image = torch.rand(2, 3, *SIZE)
    outputs = network(image)
    assert list(outputs) == ["pred", "aux_scale_0", "aux_scale_1"]  # 1 + S cross-entropies
    assert outputs["aux_scale_0"].shape == (2, CLASSES, 9, 13)  # stride 8 of 65 x 97
    assert outputs["aux_scale_1"].shape == (2, CLASSES, 5, 7)  # of 33 x 49
    for scale, name in ((1.0, "aux_scale_0"), (0.5, "aux_scale_1")):
        torch.testing.assert_close(outputs[name], base_of(network, scaled(image, scale))[1])
    network.eval()
    torch.testing.assert_close(outputs["pred"], network(image))


# ---------------------------------------------------------------------------------------------- the base


@pytest.mark.parametrize("base", list(BASES))
def test_the_base_is_the_network_for_one_scale_and_shared(base: str) -> None:
    """Its parameters are there once, under the same names, whatever the number of scales."""
    with torch.device("meta"):
        single = SINGLE[base](2, 3, 21).state_dict()
        own = {n: v.shape for n, v in single.items()}
        for scales in ((1.0,), (1.0, 0.5, 0.75)):
            pooled = MultiScalePooling(2, 3, 21, base=base, scales=scales).state_dict()
            assert {n: v.shape for n, v in pooled.items()} == own
        refined = MultiScaleRefinement(2, 3, 21, base=base)
    parts = {n: v.shape for n, v in refined.state_dict().items() if not n.startswith("attend.")}
    assert parts == own
    assert len({id(p) for p in refined.parameters()}) == len(list(refined.parameters()))


def test_one_scale_is_the_base() -> None:
    torch.manual_seed(3)
    single = settled(DeepLabLargeFOV(2, 3, CLASSES, encoder="test_resnet", channels=16))
    network = build("average", scales=(1.0,)).eval()
    network.load_state_dict(single.state_dict())
    image = torch.rand(2, 3, *SIZE)
    torch.testing.assert_close(network(image), single(image))


def test_the_encoder_gets_the_smaller_learning_rate() -> None:
    """The papers train the decoder at 10 times the encoder's rate."""
    network = build()
    encoder, decoder = parameter_groups(network, 1e-3)
    assert (encoder["lr"], decoder["lr"]) == pytest.approx((1e-3, 1e-2))
    assert len(encoder["params"]) == len(list(network.encoder.parameters()))
    rest = [network.head, network.classifier, network.attend]
    assert len(decoder["params"]) == sum(len(list(part.parameters())) for part in rest)


def test_parameters_of_the_defaults_by_hand() -> None:
    with torch.device("meta"):
        refined, attention = MultiScaleRefinement(2, 3, 21), AttentionToScale(2, 3, 21)
        resnet = MultiScaleRefinement(2, 3, 150, base="resnet34_psp")

    def convolution(edge: int, before: int, after: int) -> int:
        return edge * edge * before * after + after

    largefov = 20_505_429
    own = 2 * convolution(3, 256 + 512 + 512 + 1024, 256)
    heads = [convolution(3, 2 * 256, 512) + convolution(1, 512, outputs) for outputs in (2, 21, 150)]
    assert sum(p.numel() for p in refined.parameters()) == largefov + own + heads[0] + heads[1]
    head = convolution(3, 2 * 1024, 512) + convolution(1, 512, 2)
    assert sum(p.numel() for p in attention.parameters()) == largefov + head
    own = 2 * convolution(3, 64 + 128 + 256 + 512, 256)
    assert sum(p.numel() for p in resnet.attend.parameters()) == own + heads[0] + heads[2]


# ---------------------------------------------------------------------------------------------- merging


@pytest.mark.parametrize("merge", ["average", "max"])
@pytest.mark.parametrize("scales", [(1.0, 0.5), (0.5, 1.5, 1.0)])
def test_pooling_equals_its_definition(scales: tuple[float, ...], merge: str) -> None:
    torch.manual_seed(4)
    network = settled(build(merge, scales=scales))
    image = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        scores = [base_of(network, scaled(image, scale))[1] for scale in scales]
        grid = max((score.shape[2:] for score in scores), key=lambda size: size[0])
        assert tuple(grid) == ((9, 13) if max(scales) == 1 else (13, 19))
        merged = to(scores[0], grid)
        for score in scores[1:]:
            other = to(score, grid)
            merged = torch.where(other > merged, other, merged) if merge == "max" else merged + other
        expected = to(merged if merge == "max" else merged / len(scales), SIZE)
        torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0


def reference(
    network: MultiScaleBase,
    image: Tensor,
    scales: tuple[float, ...],
    stages: list[int],
    dilations: list[int | None],
    location: bool = True,
    recalibration: str = "multiply",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Equations 2 to 4, class by class, with the sum over scales taken once; dilation ``None``: no own convolution."""
    weights = network.state_dict()
    streams = [base_of(network, scaled(image, scale)) for scale in scales]
    grid = (17, 25) if stages else (9, 13)  # a quarter of 65 x 97, or stride 8

    def head(x: Tensor, name: str) -> Tensor:
        x = conv2d(x, weights[f"attend.{name}.0.weight"], weights[f"attend.{name}.0.bias"], padding=1).clamp(min=0)
        return conv2d(x, weights[f"attend.{name}.2.weight"], weights[f"attend.{name}.2.bias"])

    own = []
    for number, ((features, _), dilation) in enumerate(zip(streams, dilations, strict=True)):
        column = torch.cat([to(features[stage], grid) for stage in [*stages, -1]], 1)
        if dilation is not None:
            name = f"attend.own.{number}.0"
            column = conv2d(
                column, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=dilation, dilation=dilation
            ).clamp(min=0)
        own.append(column)
    joined = torch.cat(own, 1)
    maps = {"scale_weights": torch.full((len(image), len(scales), *grid), 1 / len(scales))}
    if location:
        exponents = head(joined, "location").exp()
        maps["scale_weights"] = exponents / exponents.sum(1, keepdim=True)
    if recalibration != "none":
        maps["recalibration"] = 1 / (1 + torch.exp(-head(joined, "recalibration")))
    merged = torch.zeros(len(image), CLASSES, *grid)
    for number, (_, scores) in enumerate(streams):
        for c in range(CLASSES):
            score = to(scores, grid)[:, c]
            if recalibration != "none":
                r = maps["recalibration"][:, c]
                score = score * r if recalibration == "multiply" else score + r
            merged[:, c] += maps["scale_weights"][:, number] * score
    return to(merged, tuple(image.shape[2:])), maps


@pytest.mark.parametrize(("row", "dilations"), [*zip(ROWS, [[None, None], [1, 1], [12, 2], [12, 2]], strict=True)])
def test_rows_of_table_2_equal_their_definition(row: str, dilations: list[int | None]) -> None:
    torch.manual_seed(5)
    network = settled(build(**ROWS[row]))  # type: ignore[arg-type]
    image = torch.rand(2, 3, *SIZE)
    stages = [] if row == "base" else [1, 2, 3]
    recalibration = "multiply" if row == "extra branch" else "none"
    with torch.no_grad():
        expected, maps = reference(network, image, (1.0, 0.5), stages, dilations, recalibration=recalibration)
        torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network.attention(image), maps, rtol=1e-4, atol=1e-5)
    assert maps["scale_weights"].std() > 0
    assert ("recalibration" in maps) is (row == "extra branch")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"recalibration": "add"}, {"recalibration": "add"}),
        ({"location": False}, {"location": False}),
        ({"location": False, "recalibration": "add"}, {"location": False, "recalibration": "add"}),
        ({"stages": ()}, {"stages": []}),
        ({"stages": (4, 0)}, {"stages": [4, 0]}),
        ({"dilations": {1.0: 2, 0.5: 12}}, {"dilations": [2, 12]}),  # section 2.1
        ({"dilations": {"0.5": 12, "1": 2}}, {"dilations": [2, 12]}),  # as JSON gives it
        ({"scales": (0.5, 1.0)}, {"scales": (0.5, 1.0), "dilations": [2, 12]}),
        (
            {"scales": (1.0, 0.75, 0.5), "dilations": {0.5: 2, 0.75: 5, 1.0: 9}},
            {"scales": (1.0, 0.75, 0.5), "dilations": [9, 5, 2]},
        ),
        ({"base": "resnet34_dilated"}, {}),
        ({"base": "resnet34_psp"}, {}),
    ],
)
def test_variants_equal_their_definition(options: dict[str, object], expected: dict[str, object]) -> None:
    torch.manual_seed(6)
    network = settled(build(**options))  # type: ignore[arg-type]
    image = torch.rand(2, 3, *SIZE)
    known = {"scales": (1.0, 0.5), "stages": [1, 2, 3], "dilations": [12, 2], **expected}
    with torch.no_grad():
        logits, maps = reference(network, image, **known)  # type: ignore[arg-type]
        torch.testing.assert_close(network(image), logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network.attention(image), maps, rtol=1e-4, atol=1e-5)


def test_dilations_are_section_3s() -> None:
    with torch.device("meta"):
        network = MultiScaleRefinement(2, 3, 21)
        features = MultiScaleRefinement(2, 3, 21).streams(torch.rand(1, 3, 321, 321))[0]
    assert network.scales == [1.0, 0.5]
    first = [own[0] for own in network.attend.own]
    assert [(c.dilation, c.padding, c.in_channels) for c in first] == [
        ((12, 12), (12, 12), 2304),
        ((2, 2), (2, 2), 2304),
    ]
    assert [tuple(f.shape[1:]) for f in features[0]] == [(256, 81, 81), (512, 41, 41), (512, 41, 41), (1024, 41, 41)]
    assert [tuple(f.shape[1:]) for f in features[1]] == [(256, 41, 41), (512, 21, 21), (512, 21, 21), (1024, 21, 21)]


# ---------------------------------------------------------------------------------------------- bad options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "vgg"}, "base is 'vgg'; choose one of largefov, resnet34_dilated, resnet34_psp"),
        ({"merge": "max", "base": "vgg"}, "base is 'vgg'; choose one of largefov"),
        (
            {"head_options": {"chanels": 8}},
            "head_options has 'chanels'; the head of 'largefov' knows channels, dilation",
        ),
        ({"base": "resnet34_dilated", "head_options": {"channels": 8}}, "the head of 'resnet34_dilated' knows dropout"),
        ({"head_options": {"channels": 0}}, "channels is 0; it must be at least 1"),
        ({"merge": "max", "scales": ()}, r"scales is \(\); give one or more factors above 0"),
        ({"merge": "max", "scales": (1.0, 0.0)}, r"scales is \(1\.0, 0\.0\); give one or more"),
        ({"merge": "attention", "scales": (1.0,)}, "scales has 1 entry; weights are for two or more scales"),
        ({"scales": (1.0,), "dilations": {1.0: 2}}, "scales has 1 entry"),
        ({"scales": (1.0, 0.75)}, r"dilations is \{1\.0: 12, 0\.5: 2\}, but scales is \(1\.0, 0\.75\); give one"),
        ({"dilations": {1.0: 12}}, r"dilations is \{1\.0: 12\}, but scales is \(1\.0, 0\.5\)"),
        ({"dilations": {1.0: 12, 0.5: 0}}, "dilations has 0; each must be at least 1"),
        ({"stages": (5,)}, r"stages is \(5,\); the encoder has features 0 to 4, of strides 2, 4, 8, 8, 8"),
        ({"stages": (1, 1)}, "name each at most once"),
        ({"stages": (-1,)}, r"stages is \(-1,\); the encoder has features 0 to 4"),
        ({"recalibration": "divide"}, "recalibration is 'divide'; choose one of multiply, add, none"),
        ({"location": False, "recalibration": "none"}, "nothing is refined; use MultiScalePooling"),
        ({"channels": 0}, "channels is 0, scale_channels is 6"),
        ({"scale_channels": 0}, "channels is 8, scale_channels is 0"),
        ({"act": "rleu"}, "act is 'rleu'; choose one of"),
        ({"norm": "bathc"}, "norm is 'bathc'; choose one of"),
        ({"encoder": "densenet121"}, "densenet121 cannot have output stride 8"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("network", [MultiScalePooling, AttentionToScale, MultiScaleRefinement])
def test_two_dimensions_alone(network: type[MultiScaleBase]) -> None:
    with pytest.raises(ValueError, match=f"spatial_dims is 3; the encoders of {network.__name__} are for 2D images"):
        network(3, 3, 2)
    with pytest.raises(ValueError, match="out_channels is 0"):
        network(2, 3, 0)


def test_unknown_merge() -> None:
    with pytest.raises(ValueError, match="merge is 'sum'; choose one of average, max"):
        MultiScalePooling(2, 3, 2, merge="sum")
