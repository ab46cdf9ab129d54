"""Networks that normalise keep their digits on a CPU, in the layout that trainings and predictions give them."""

import copy
import importlib

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from medseg.bundle import discovery
from medseg.bundle.networks import create
from medseg.engines.precision import network_to_channels_last
from medseg.inferers.memory_format import to_memory_format
from medseg.layers import norms
from medseg.layers.quicken import quicken

GROUP = ["group", {"num_groups": 2}]
NETWORKS = {
    "segresnet": {"channels": [8, 16, 32]},
    "dynunet": {"channels": [4, 6, 8], "norm": GROUP},
    "unet": {"channels": [4, 8], "norm": GROUP},
    "unet_pp": {"channels": [4] * 5, "norm": GROUP},
    "attention_unet": {"channels": [4, 8], "norm": GROUP},
    "monai.networks.nets.DynUNet": {
        "kernel_size": [3] * 3, "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 8],
        "norm_name": GROUP,
    },
}  # fmt: skip
OTHERS = {"unet": "batch", "dynunet": ["instance", {"affine": True}]}


KINDS = (nn.GroupNorm, nn.LayerNorm, _BatchNorm, _InstanceNorm)


def norms_of(network: nn.Module) -> dict[str, nn.Module]:
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, KINDS)}


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(
    ("name", "options"),
    [*NETWORKS.items(), *((name, NETWORKS[name] | {"norm": norm}) for name, norm in OTHERS.items())],
    ids=[*NETWORKS, *(f"{name} with {norm if norm == 'batch' else norm[0]}" for name, norm in OTHERS.items())],
)
def test_as_in_double_precision(name: str, options: dict[str, object], spatial_dims: int) -> None:
    """Each normalisation of a network, and the network: PyTorch's own group norm loses all digits of such a map."""
    torch.manual_seed(0)
    network = create(name, spatial_dims, 1, 3, seed=0, **options).train()
    exact = copy.deepcopy(network).double()
    size = {2: (24, 32), 3: (16, 16, 16)}[spatial_dims]
    network_to_channels_last(network)
    layers = norms_of(network)
    assert layers
    for place, layer in layers.items():
        channels = getattr(layer, "num_channels", None) or layer.num_features
        image = to_memory_format(1000 + torch.randn(2, channels, *size))
        wanted = exact.get_submodule(place)(image.double())
        assert (layer(image) - wanted).abs().max() < 0.001 * wanted.abs().max(), place
    image = torch.randn(2, 1, *size)
    wanted = exact(image.double())
    found = network(to_memory_format(image))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize("name", discovery.modules())
def test_no_normalisation_is_left_out(name: str) -> None:
    """Of any network of the package, whoever wrote its layers."""
    for kind in discovery.networks_of(importlib.import_module(f"{discovery.PACKAGE}.{name}")):
        with torch.device("meta"):
            network = create(f"{name}.{kind}", 2, 3, 2, seed=None)
        quicken(network)
        kinds = {type(layer) for layer in norms_of(network).values()} - {nn.BatchNorm1d}
        assert {each.__module__ for each in kinds} <= {norms.__name__}, kinds
