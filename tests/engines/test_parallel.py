"""Batch statistics and random draws of two processes are those of one with the whole batch."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.networks.layers.drop_path import DropPath as MonaiDropPath
from timm.layers import BatchNormAct2d, DropPath
from torch import Tensor, nn
from two_processes import alone_and_shared

from medseg.engines.batch_norm import SharedBatchNorm, share_batch_norm
from medseg.engines.parallel import parallel
from medseg.engines.whole_batch import WholeBatch, draw_for_all
from medseg.errors import MedsegError
from medseg.losses.processes import alone, sum_over_processes
from medseg.networks.sa_unet import DropBlock

CPU = torch.device("cpu")
NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.BatchNorm1d(3), (5,)),
    "vectors": (lambda: nn.BatchNorm1d(3), ()),
    "2d": (lambda: nn.BatchNorm2d(3, momentum=0.3), (4, 5)),
    "3d": (lambda: nn.BatchNorm3d(3, eps=1e-2), (2, 3, 4)),
    "cumulative": (lambda: nn.BatchNorm2d(3, momentum=None), (4, 5)),
    "plain": (lambda: nn.BatchNorm2d(3, affine=False), (4, 5)),
    "untracked": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (4, 5)),
    "activated": (lambda: BatchNormAct2d(3), (4, 5)),
}
RANDOM: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Dropout(0.4),
    "channels": lambda: nn.Dropout2d(0.4),
    "blocks": lambda: DropBlock(2, 3, 0.7),
    "path": lambda: DropPath(0.4),
    "monai_path": lambda: MonaiDropPath(0.4),
}


def part(whole: Tensor, rank: int | None) -> Tensor:
    """Four images of five for the first process, one for the second; or all."""
    return whole if rank is None else (whole[:4], whole[4:])[rank]


def normalised(rank: int | None) -> dict[str, dict[str, Any]]:
    """What a normalisation gives in two steps of training, its gradients and its statistics."""
    found = {}
    for name, (make, size) in NORMS.items():
        generator = torch.Generator().manual_seed(0)
        norm = make()
        for number, parameter in enumerate(norm.parameters()):
            nn.init.uniform_(parameter, 0.5 + number, 2.0, generator=generator)
        if rank is not None:
            norm = share_batch_norm(norm, CPU)
        values = []
        for _ in range(2):
            # far from zero: a variance by squares' means would keep no digit of this
            x = torch.randn(5, 3, *size, generator=generator) + 64
            factors = torch.randn(x.shape, generator=generator)
            own = part(x, rank).clone().requires_grad_()
            result = norm(own)
            (result * part(factors, rank)).sum().backward()
            values += [result.detach(), own.grad]
        gradients = {name: p.grad for name, p in norm.named_parameters()}
        if rank is not None:  # each process has its part of them, which DistributedDataParallel brings together
            gradients = {name: sum_over_processes(g) for name, g in gradients.items() if g is not None}
        found[name] = {"images": values, "gradients": gradients, "state": dict(norm.named_buffers())}
    return found


def dropped(rank: int | None) -> dict[str, list[Any]]:
    """What random layers make of six images, of which each process has every second, in both memory layouts."""
    found: dict[str, list[Any]] = {}
    x = torch.randn(6, 4, 8, 9, generator=torch.Generator().manual_seed(1))
    for name, make in RANDOM.items():
        for layout in (torch.contiguous_format, torch.channels_last):
            network = nn.Sequential(make())
            own = x if rank is None else draw_for_all(network) and x[rank::2]
            torch.manual_seed(7)
            found.setdefault(name, []).append([network(own.contiguous(memory_format=layout)) for _ in range(2)])
    return found


def layers(rank: int | None) -> dict[str, Any]:
    return {"norm": normalised(rank), "drop": dropped(rank), "alone": inside_alone(rank)}


def inside_alone(rank: int | None) -> Tensor:
    with alone():
        return sum_over_processes(torch.tensor(0 if rank is None else rank))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any]]:
    expected, found = alone_and_shared(layers, tmp_path_factory.mktemp("meet"))
    return expected, found


@pytest.mark.parametrize("name", list(NORMS))
def test_statistics_are_of_all_images(name: str, both: tuple[Any, list[Any]]) -> None:
    expected = both[0]["norm"][name]
    for rank, one in enumerate(one["norm"][name] for one in both[1]):
        wanted = [part(value, rank) for value in expected["images"]]
        torch.testing.assert_close(one["images"], wanted, rtol=1e-5, atol=5e-5)
        torch.testing.assert_close(one["gradients"], expected["gradients"], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(one["state"], expected["state"])


@pytest.mark.parametrize("name", list(NORMS))
def test_parts_by_themselves_would_differ(name: str) -> None:
    """Else the test above could not tell."""
    make, size = NORMS[name]
    x = torch.randn(5, 3, *size, generator=torch.Generator().manual_seed(0)) + 64
    assert (make()(x[:4]) - make()(x)[:4]).abs().max() > 0.05


@pytest.mark.parametrize("name", list(RANDOM))
def test_each_image_loses_what_it_would_in_one_process(name: str, both: tuple[Any, list[Any]]) -> None:
    for rank, one in enumerate(both[1]):
        for layout, wanted in zip(one["drop"][name], both[0]["drop"][name], strict=True):
            torch.testing.assert_close(layout, [value[rank::2] for value in wanted], rtol=0, atol=0)
    assert any((value == 0).any() for value in both[0]["drop"][name][0])


def test_what_a_process_computes_by_itself_is_not_summed(both: tuple[Any, list[Any]]) -> None:
    assert [int(one["alone"]) for one in both[1]] == [0, 1]


def test_names_parameters_and_evaluation_stay() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5), BatchNormAct2d(3), nn.Dropout(0.0))
    changed = draw_for_all(share_batch_norm(copy.deepcopy(network), CPU))
    assert list(changed.state_dict()) == list(network.state_dict())
    assert isinstance(changed[1], SharedBatchNorm)
    assert [isinstance(layer, WholeBatch) for layer in changed] == [False, False, True, False, False]
    x = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(changed.eval()(x), network.eval()(x))
    for each in (changed, network):  # in one process it is PyTorch's own
        torch.manual_seed(0)
        each.train()
    torch.manual_seed(0)
    one = changed(x)
    torch.manual_seed(0)
    torch.testing.assert_close(one, network(x), rtol=0, atol=0)


class Odd(nn.BatchNorm2d):
    """A normalisation that does something else besides."""


@pytest.mark.parametrize("layer", [Odd(3), nn.AlphaDropout(0.5)])
def test_what_cannot_be_shared_is_refused(layer: nn.Module) -> None:
    with pytest.raises(MedsegError, match=f"^1 of Sequential is a {type(layer).__name__}.*train in one process"):
        parallel(nn.Sequential(nn.Conv2d(3, 3, 1), layer), "cpu")
