"""Networks by name: the same as by class, with a record of what they were built from."""

import inspect

import pytest
import torch

from medseg.bundle import discovery
from medseg.bundle.networks import NetworkError, create, rebuild, recipe_of, resolve
from medseg.networks.focusnet_pp import FocusNetPP
from medseg.networks.lfa_unet import LFAUNet
from medseg.networks.multi_scale import AttentionToScale
from medseg.networks.unet import UNet


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lfa_unet", LFAUNet),
        ("unet", UNet),
        ("multi_scale.AttentionToScale", AttentionToScale),
        ("medseg.networks.unet.UNet", UNet),
    ],
)
def test_names(name: str, kind: type) -> None:
    assert resolve(name) is kind


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lfa_unt", "there is no network 'lfa_unt'; the nearest is 'lfa_unet'"),
        ("multi_scale", "multi_scale has AttentionToScale, MultiScalePooling, MultiScaleRefinement; name one as"),
        ("unet.Nothing", "unet has UNet; name one as unet.UNet"),
        ("os.system", "there is no network 'os.system'"),
        ("", "there is no network ''"),
    ],
)
def test_names_of_none(name: str, said: str) -> None:
    with pytest.raises(NetworkError) as caught:
        resolve(name)
    assert said in str(caught.value)


def test_a_network_knows_what_it_was_built_from() -> None:
    network = create("lfa_unet", 2, 1, 3, channels=[4, 8], window_size=None)
    assert isinstance(network, LFAUNet)
    recipe = {"name": "lfa_unet", "spatial_dims": 2, "in_channels": 1, "out_channels": 3}
    assert recipe_of(network) == {**recipe, "channels": [4, 8], "window_size": None}
    assert recipe_of(UNet(2, 1, 2, channels=[4, 8])) == {"name": "medseg.networks.unet.UNet"}


def test_default_takes_an_argument_back() -> None:
    network = create("focusnet_pp", 2, 3, 2, configuration="default")
    assert isinstance(network, FocusNetPP)
    assert "configuration" not in recipe_of(network)


def test_the_seed_decides_the_weights_and_nothing_else() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (create("unet", 2, 1, 2, channels=[4, 8], seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"chanels": [4, 8]}, "network lfa_unet takes no 'chanels'; did you mean 'channels'?"),
        ({"query": "nobody"}, "network lfa_unet: query is 'nobody'; choose one of"),
        ({"out_channels": 0}, "network lfa_unet: out_channels is 0; give a whole number of at least 1"),
        ({"in_channels": "one"}, "network lfa_unet: in_channels is 'one'"),
        ({"spatial_dims": True}, "network lfa_unet: spatial_dims is True"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, object], said: str) -> None:
    given = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, **arguments}
    with pytest.raises(NetworkError) as caught:
        create("lfa_unet", **given)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_a_record_builds_the_network_again() -> None:
    network = create("lfa_unet", 3, 1, 2, channels=[4, 8])
    again = rebuild(recipe_of(network))
    again.load_state_dict(network.state_dict())
    x = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), network.eval()(x))


def test_a_record_names_no_first_weights() -> None:
    recipe = {"name": "df_dam", "spatial_dims": 2, "in_channels": 3, "out_channels": 2, "encoder": "test_resnet"}
    assert recipe_of(rebuild({**recipe, "channels": 8, "weights": "imagenet"}))["weights"] == "random"


@pytest.mark.parametrize("name", ["torch.nn.Linear", "subprocess.Popen", "os.system", "medseg.cli.main"])
def test_a_record_builds_nothing_else(name: str) -> None:
    with pytest.raises(NetworkError):
        rebuild({"name": name, "spatial_dims": 2, "in_channels": 1, "out_channels": 1})


def test_a_record_without_a_recipe() -> None:
    with pytest.raises(NetworkError, match="does not say how to build it"):
        rebuild({"name": "medseg.networks.unet.UNet"})


def test_arguments_that_sources_tell_are_those_of_the_classes() -> None:
    """What is refused before PyTorch is imported is what a network refuses."""
    names = discovery.modules()
    told = {name: found for name in names if (found := discovery.arguments_of(name)) is not None}
    assert {"lfa_unet", "unet", "attention_unet"} <= told.keys()
    assert told == {name: list(inspect.signature(resolve(name)).parameters) for name in told}
    assert discovery.arguments_of("monai.networks.nets.DynUNet") is discovery.arguments_of("nowhere") is None
