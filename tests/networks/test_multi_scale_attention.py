"""What the attention over scales shows, and what it leaves of one scale."""

import pytest
import torch
from networks.multi_scale_examples import CLASSES, SIZE, base_of, build, scaled, settled, to
from torch import nn

from medseg.layers.multi_scale import AttentiveMultiScale
from medseg.networks.deeplab_largefov import DeepLabLargeFOV


@pytest.mark.parametrize("scales", [(1.0, 0.5), (0.5, 0.75, 1.0, 1.25)])
@pytest.mark.parametrize("merge", ["refinement", "attention"])
def test_weights_sum_to_one_over_scales(merge: str, scales: tuple[float, ...]) -> None:
    torch.manual_seed(7)
    options = {"dilations": dict.fromkeys(scales, 3)} if merge == "refinement" else {}
    network = settled(build(merge, scales=scales, **options))
    assert isinstance(network, AttentiveMultiScale)
    with torch.no_grad():
        maps = network.attention(torch.rand(2, 3, *SIZE))
    grid = {"refinement": (17, 25), "attention": (9, 13) if max(scales) == 1 else (11, 16)}[merge]
    weights = maps["scale_weights"]
    assert weights.shape == (2, len(scales), *grid)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, *grid))
    assert 0 < float(weights.min()) < float(weights.max()) < 1
    assert set(maps) == ({"scale_weights"} if merge == "attention" else {"scale_weights", "recalibration"})
    if "recalibration" in maps:
        assert maps["recalibration"].shape == (2, CLASSES, *grid)
        assert 0 < float(maps["recalibration"].min()) < float(maps["recalibration"].max()) < 1


@pytest.mark.parametrize("chosen", [0, 1])
@pytest.mark.parametrize("merge", ["refinement", "attention"])
def test_one_hot_weights_leave_one_scale(merge: str, chosen: int) -> None:
    torch.manual_seed(8)
    options = {"recalibration": "none"} if merge == "refinement" else {}
    network = settled(build(merge, **options))
    last = network.attend.location[-1]
    nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([0.0, -200.0] if chosen == 0 else [-200.0, 0.0]))
        image = torch.rand(2, 3, *SIZE)
        scores = base_of(network, scaled(image, (1.0, 0.5)[chosen]))[1]
        grid = (17, 25) if merge == "refinement" else (9, 13)
        torch.testing.assert_close(network(image), to(to(scores, grid), SIZE), rtol=1e-4, atol=1e-5)
        assert network.attention(image)["scale_weights"][:, chosen].unique().tolist() == [1.0]


def test_equal_scales_are_one_scale_whatever_the_weights() -> None:
    torch.manual_seed(9)
    single = settled(DeepLabLargeFOV(2, 3, CLASSES, encoder="test_resnet", channels=16))
    network = settled(build("attention", scales=(1.0, 1.0, 1.0)))
    assert network.load_state_dict(single.state_dict(), strict=False).unexpected_keys == []
    image = torch.rand(2, 3, *SIZE)
    weights = network.attention(image)["scale_weights"]
    assert weights.std() > 0
    torch.testing.assert_close(network(image), single(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("how", "bias"), [("multiply", 50.0), ("add", -200.0)])
def test_open_recalibration_is_none(how: str, bias: float) -> None:
    torch.manual_seed(10)
    network, plain = settled(build(recalibration=how)), build(recalibration="none").eval()
    last = network.attend.recalibration[-1]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, bias)
    own = plain.state_dict()
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if name in own})
    image = torch.rand(2, 3, *SIZE)
    torch.testing.assert_close(network(image), plain(image))
    nn.init.zeros_(last.bias)  # a sigmoid of one half
    torch.testing.assert_close(network(image), plain(image) / 2 if how == "multiply" else plain(image) + 0.5)


def test_attention_leaves_the_network_as_it_was() -> None:
    network = settled(build())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.attention(torch.rand(1, 3, *SIZE))
    assert not network.training
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
