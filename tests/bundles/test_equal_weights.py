"""Two processes with half the batch each have the weights of one with the whole batch, for every kind of bundle.

Network, loss and parallel wrapping are those of the bundle's own configuration, small, in double precision: what is not
of all processes (a batch statistic, EMANet's bases, a Dice over the batch, a draw of dropout) differs in the third
digit, rounding in the twelfth. `test_processes` runs trainings whole.
"""

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from bundles.helpers import DEPTH, ROOT, network_channels, small_network, takes_photographs, takes_volumes
from monai.bundle import ConfigParser
from torch import Tensor, nn
from two_processes import alone_and_shared

from medseg.engines.parallel import parallel
from medseg.engines.precision import network_to_channels_last
from medseg.losses.joined import over_processes

STEPS = 3
BATCH = 4

KINDS: dict[str, tuple[str, ...]] = {
    "lfa_unet_drosophila": (),
    "unet_drosophila": (),
    "lfa_unet_covid": (),
    "lfa_unet_hippocampus": (),
    "focusnet_pp_dsb2018": (),
    "focusnet_pp_isic2018": (),
    "mfnet_voc": (),
    "df_dam_voc": (),
    "df_dam_cityscapes": (),
    "refine_multi_scale_voc": (),
    "refine_multi_scale_ade20k": (),
    "lfa_unet_drosophila sa_unet": ("sa_unet",),  # DropBlock
    "mfnet_voc emanet": ("emanet",),  # bases
    "mfnet_voc deeplabv3_plus": ("deeplabv3_plus",),
    "mfnet_voc as_published": ("as_published",),  # dropout of values
    "focusnet_pp_isic2018 focusnet": ("focusnet",),
    "lfa_unet_hippocampus dynunet": ("dynunet",),  # deep supervision
    "refine_multi_scale_voc deeplab_largefov": ("deeplab_largefov",),
    "plan 2D": ("plan",),
    "plan 3D": ("plan",),
}

LIMIT = {"lfa_unet_drosophila sa_unet": 1e-5}  # DropBlock is in single precision

CHANGED: dict[str, dict[str, Any]] = {
    "mfnet_voc as_published": {"network_def#multi_grid": [2]},  # timm's small encoder has one block a stage
    "lfa_unet_hippocampus dynunet": {"network_def#channels": [4, 8, 8, 8]},
}
LEFT_OUT = {
    "focusnet_pp_isic2018 focusnet": ("blocks",),
    "refine_multi_scale_voc deeplab_largefov": ("head_options", "base"),
}


def planned(dims: int) -> dict[str, Any]:
    """What a plan for own data trains with."""
    return {
        "network_def": {
            "_target_": "medseg.bundle.networks.create",
            **{"name": "dynunet", "spatial_dims": dims, "in_channels": 1, "out_channels": 3, "channels": [4, 8, 8]},
        },
        "loss": {"_target_": "medseg.losses.focal_iou.FocalIoULoss", "gamma": 0.0},
    }


@functools.cache
def parts(kind: str) -> tuple[nn.Module, Any, tuple[int, ...], int, int | None]:
    """Return network, loss, an image's shape, the number of classes and the label that does not count."""
    name, overlays = kind.split()[0], KINDS[kind]
    parser = ConfigParser()
    if name == "plan":
        dims, channels, classes, ignored = int(kind[-2]), 1, 3, None
        parser.update(planned(dims))
    else:
        folder = ROOT / "bundles" / name
        channels, classes = network_channels(folder)
        dims, ignored = (3 if takes_volumes(folder) else 2), 255 if takes_photographs(folder) else None
        files = [folder / "configs" / f"{each}.yaml" for each in ("train", *overlays)]
        for file in files:
            parser.update(yaml.safe_load(file.read_text()))
        data = SimpleNamespace(num_classes=classes, ignore_index=ignored)
        parser.update({"data": data, "network_def#in_channels": channels, "class_weight": [0.5, 1, 2, 4][:classes]})
        parser.update({"encoder_weights": "random"} if "encoder_weights" in parser else {})
        parser.update({key.replace("__", "#"): value for key, value in small_network(folder).items()})
        parser.update(CHANGED.get(kind, {}))
        for key in LEFT_OUT.get(kind, ()):
            parser.config["network_def"].pop(key)
    network = parser.get_parsed_content("network_def")
    size = [16, 16, DEPTH] if dims == 3 else [32, 32]
    return network, parser.get_parsed_content("loss"), (channels, *size), classes, ignored


def batches(kind: str) -> list[tuple[Tensor, Tensor]]:
    _, _, shape, classes, ignored = parts(kind)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(STEPS):
        image = torch.randn(BATCH, *shape, generator=generator, dtype=torch.float64)
        image *= torch.arange(1, BATCH + 1).view(-1, *[1] * len(shape))  # parts of a batch differ
        label = torch.randint(0, classes, (BATCH, 1, *shape[1:]), generator=generator)
        label[1::2] = label[1::2].clamp(max=1)
        if ignored is not None:
            label[3, :, : shape[1] // 2] = ignored
        found.append((image, label))
    return found


def trained(kind: str, rank: int | None) -> dict[str, Any]:
    torch.manual_seed(0)
    network, loss, *_ = parts(kind)
    network = network.double().train()
    network_to_channels_last(network)  # as a training does, in whose memory's order numbers are drawn
    wrapped = network if rank is None else parallel(network, "cpu")
    whole = over_processes(loss)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    values = []
    for number, (image, label) in enumerate(batches(kind)):
        torch.manual_seed(number)
        own = slice(None) if rank is None else slice(rank, None, 2)
        value = whole(wrapped(image[own]), label[own])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.detach())
    return {"losses": values, "weights": {name: value.clone() for name, value in network.state_dict().items()}}


def all_trained(rank: int | None) -> dict[str, dict[str, Any]]:
    return {kind: trained(kind, rank) for kind in KINDS}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any]]:
    expected, found = alone_and_shared(all_trained, tmp_path_factory.mktemp("meet"))
    return expected, found


def test_every_bundle_is_among_the_kinds() -> None:
    bundles = {path.name for path in (ROOT / "bundles").iterdir() if (path / "bundle.yaml").is_file()}
    assert bundles <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one(kind: str, both: tuple[Any, list[Any]]) -> None:
    expected = both[0][kind]
    first = expected["losses"][0]
    assert first.isfinite()
    for rank, each in enumerate(both[1]):
        torch.testing.assert_close(
            each[kind],
            expected,
            rtol=LIMIT.get(kind, 1e-9),
            atol=LIMIT.get(kind, 1e-10),
            msg=lambda text, r=rank: f"{r}: {text}",
        )
