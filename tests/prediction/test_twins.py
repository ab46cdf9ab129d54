"""Small images are predicted several at a time by networks that share their weights; nothing else becomes of them."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from medseg.bundle import feeding
from medseg.bundle.description import Description
from medseg.io.placement import Grid
from medseg.prediction.case import Fed
from medseg.prediction.forward import Forward
from medseg.prediction.predictor import ImageFolder, Predictor
from medseg.prediction.sinks import Case
from medseg.prediction.twins import Twins

CPU = torch.device("cpu")


class Keeps(nn.Module):
    """Values above 0.5 are class 1; keeps what it computes on itself, as networks of other packages do."""

    def __init__(self, meeting: threading.Barrier | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("offset", torch.full((1,), 0.5))
        self._meeting = [meeting]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Keeps":
        other = type(self)(*self._meeting)  # a barrier is what both share
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            setattr(other, name, memo[id(tensor)])
        return other

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x * self.scale - self.offset
        if self._meeting[0] is not None:
            self._meeting[0].wait(20)  # until the other one has kept its own
        return torch.cat([torch.zeros_like(self.kept), self.kept], dim=1)


class Locked(Keeps):
    """Cannot be copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Keeps":
        raise TypeError("cannot pickle '_thread.lock' object")


def described(batch: int = 4) -> Description:
    network = {"name": "toy", "spatial_dims": 2, "in_channels": 1, "out_channels": 2}
    inference = {"window": [16, 16], "batch": batch, "overlap": 0.0}
    fed = {"intensity": {"scheme": "range", "low": 0, "high": 255, "clip": True}}
    content = {"name": "toy", "network": network, "classes": ["no", "yes"], "inference": inference, "input": fed}
    return Description.of(content)


def forward_of(network: nn.Module, device: torch.device = CPU) -> Forward:
    model = described()
    return Forward([network.eval()], model, feeding.inferer(model), precision="fp32", device=device)


def case(number: int, edge: int = 16) -> tuple[Case, Fed]:
    image = torch.rand(1, edge, edge, generator=torch.Generator().manual_seed(number))
    return Case(f"{number}.png", (Path(f"{number}.png"),), Path(f"masks/{number}.png")), Fed(image, Grid((edge, edge)))


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_are_predicted_at_a_time_and_neither_sees_what_the_other_keeps() -> None:
    """Each forward waits for the other: one after the other, this would break off."""
    twins = Twins(forward_of(Keeps(threading.Barrier(2))))
    assert twins.number == 2
    groups = [[case(number)] for number in range(4)]
    found = list(twins.each(groups))
    assert [group for group, _ in found] == groups
    for ((_, fed),), results in found:
        assert isinstance(results, list)
        np.testing.assert_array_equal(results[0].result().mask, (fed.image[0] > 0.5).numpy())


def test_they_share_their_weights() -> None:
    network = Keeps()
    twins = Twins(forward_of(network))
    with torch.no_grad():
        network.scale.mul_(0)  # of both: nothing is above 0.5 any more
        network.offset.fill_(1)
    for _, results in twins.each([[case(number)] for number in range(6)]):
        assert isinstance(results, list)
        assert not results[0].result().mask.any()


def test_what_is_large_is_predicted_alone_with_all_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[int, tuple[bool, int]] = {}
    collect = Forward.collect

    def noting(self: Forward, feds: Any) -> Any:
        here = threading.current_thread() is threading.main_thread()
        used[feds[0].image.shape[-1]] = (here, torch.get_num_threads())
        return collect(self, feds)

    monkeypatch.setattr(Forward, "collect", noting)
    monkeypatch.setattr("medseg.prediction.twins._SMALL", 5 * 16 * 16)  # windows of a forward, and one
    groups = [[case(0)], [case(1, edge=40)], [case(2, edge=15)]]
    assert [group for group, _ in Twins(forward_of(Keeps())).each(groups)] == groups
    assert used == {16: (False, 1), 40: (True, 2), 15: (False, 1)}


@pytest.mark.parametrize(("network", "threads"), [(Locked(), 2), (Keeps(), 1)])
def test_one_at_a_time_where_there_can_be_no_other(network: nn.Module, threads: int) -> None:
    torch.set_num_threads(threads)
    twins = Twins(forward_of(network))
    assert twins.number == 1
    (_, results), *_ = twins.each([[case(0)]])
    assert isinstance(results, list)


def test_one_at_a_time_on_a_gpu() -> None:
    assert Twins(forward_of(Keeps(), torch.device("cuda"))).number == 1


def test_what_a_network_raises_comes_in_its_place() -> None:
    class Fails(Keeps):
        def forward(self, x: Tensor) -> Tensor:
            if float(x.max()) > 1:
                raise RuntimeError("too bright")
            return super().forward(x)

    name, bright = case(1)
    groups = [[case(0)], [(name, Fed(bright.image * 9, bright.grid))], [case(2)]]
    found = [results for _, results in Twins(forward_of(Fails())).each(groups)]
    assert [isinstance(results, list) for results in found] == [True, False, True]
    assert str(found[1]) == "too bright"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_cohort_is_the_same_however_many_threads_there_are(tmp_path: Path, threads: int) -> None:
    """Of 12 pictures one holds no number for the network: the one beside it in its forward has its mask."""
    torch.set_num_threads(threads)
    folder = tmp_path / "in"
    folder.mkdir()
    values = {}
    for number in range(12):
        edges = (16 + 9 * (number % 3), 16)
        values[number] = np.random.default_rng(number).integers(0, 255, edges).astype(np.uint8)
        values[number][0, 0] = 255 if number == 6 else 0
        Image.fromarray(values[number]).save(folder / f"{number:02}.png")

    class Refuses(Keeps):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / (x.amax((1, 2, 3), keepdim=True) < 1)  # no number, of one image alone

    model = described()
    images = ImageFolder(folder, model, tmp_path / "out")
    run = Predictor(CPU, images, Refuses(), feeding.inferer(model), None, description=model, precision="fp32")
    with pytest.raises(Exception, match="1 of 12"):
        run.run()
    assert [(path.name, "not finite" in why or "NaN" in why) for path, why in run.failures] == [("06.png", True)]
    for number in set(range(12)) - {6}:
        with Image.open(tmp_path / "out" / f"{number:02}.png") as mask:
            np.testing.assert_array_equal(np.asarray(mask), values[number] > 127)
