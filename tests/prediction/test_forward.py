"""Results are those of plain arithmetic on the networks' outputs: groups, ensembles, entropies, whatever the memory."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medseg.bundle import feeding
from medseg.bundle.description import Description
from medseg.io.placement import Grid
from medseg.prediction import collected, forward
from medseg.prediction.case import Fed, PredictionError
from medseg.prediction.forward import Forward
from medseg.prediction.sinks import PROBABILITIES, UNCERTAINTY, Result

CPU = torch.device("cpu")
ALL = (PROBABILITIES, UNCERTAINTY)


class Counting(nn.Conv2d):
    """One convolution; counts the windows of its forwards."""

    def __init__(self, seed: int = 0, classes: int = 3) -> None:
        super().__init__(1, classes, 3, padding=1)
        assert self.bias is not None
        self.batches: list[int] = []
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.weight.copy_(3 * torch.randn(self.weight.shape, generator=generator))
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return super().forward(x)


def described(classes: int = 3, **inference: Any) -> Description:
    network = {"name": "toy", "spatial_dims": 2, "in_channels": 1, "out_channels": classes}
    names = ["background", "front", "more"][: max(2, classes)]
    return Description.of({"name": "toy", "network": network, "classes": names, "inference": inference})


def picture(*size: int) -> Fed:
    image = torch.rand(1, *size, generator=torch.Generator().manual_seed(sum(size)))
    return Fed(image, Grid(size))


def predicted(feds: list[Fed], networks: list[nn.Module], model: Description, **options: Any) -> list[Result]:
    options = {"wants": ALL, "precision": "fp32", "device": CPU, **options}
    return Forward(networks, model, feeding.inferer(model), **options)(feds)


def softmax_of(network: nn.Module, fed: Fed) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        logits: Tensor = network(fed.image[None])
    logits = torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
    return logits.softmax(1)[0].numpy()


def entropy_of(p: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(-(p * np.log(np.maximum(p, 1e-30))).sum(0) / math.log(len(p)))


# ---------------------------------------------------------------------------------------------- several images


@pytest.mark.parametrize(
    "inference", [{"window": [16, 16], "batch": 4}, {"window": [16, 16], "batch": 4, "flip_axes": [0, -1]}], ids=str
)
def test_small_images_share_a_forward(inference: dict[str, Any]) -> None:
    feds = [picture(*size) for size in ((16, 16), (9, 14), (16, 5), (12, 12))]
    network, model = Counting(), described(**inference)
    together = predicted(feds, [network], model)
    views = 2 ** len(inference.get("flip_axes", ()))
    assert network.batches == [4] * views
    assert all(
        Forward([network], model, feeding.inferer(model), precision="fp32", device=CPU).one_forward(f) for f in feds
    )
    for fed, result in zip(feds, together, strict=True):
        (alone,) = predicted([fed], [network], model)
        np.testing.assert_array_equal(result.mask, alone.mask)
        np.testing.assert_allclose(result.probabilities, alone.probabilities, atol=1e-3)
        assert result.mask.shape == fed.grid.shape


def test_images_of_one_size_for_the_network_share_a_forward() -> None:
    model = Description.of({**described().to_dict(), "input": {"size": [16, 16]}})
    feds, network = [picture(*size) for size in ((40, 30), (16, 16), (7, 50))], Counting()
    together = predicted(feds, [network], model)
    assert network.batches == [3]
    for fed, result in zip(feds, together, strict=True):
        np.testing.assert_array_equal(result.mask, predicted([fed], [network], model)[0].mask)


def test_large_images_do_not() -> None:
    model = described(window=[16, 16])
    predict = Forward([Counting()], model, feeding.inferer(model), precision="fp32", device=CPU)
    assert not predict.one_forward(picture(17, 16))


# ---------------------------------------------------------------------------------------------- ensembles, entropies


@pytest.mark.parametrize("classes", [3, 1])
def test_an_ensemble_is_the_mean_of_probabilities(classes: int) -> None:
    members: list[nn.Module] = [Counting(seed, classes) for seed in range(3)]
    fed = picture(20, 24)
    (result,) = predicted([fed], members, described(classes))
    each = np.stack([softmax_of(member, fed) for member in members])
    mean = each.mean(0)
    np.testing.assert_allclose(result.probabilities, mean, atol=1e-3)
    np.testing.assert_array_equal(result.mask, mean.argmax(0))
    np.testing.assert_allclose(result.entropy, entropy_of(mean), atol=1e-3)
    likely = mean[0] < 0.95
    apart = entropy_of(mean) - np.mean([entropy_of(p) for p in each], 0)
    assert result.numbers["uncertainty"] == pytest.approx(entropy_of(mean)[likely].mean(), rel=1e-4)
    assert result.numbers["disagreement"] == pytest.approx(apart[likely].mean(), rel=1e-4)


def test_members_that_agree_do_not_disagree() -> None:
    (result,) = predicted([picture(12, 12)], [Counting(1), Counting(1)], described())
    assert result.numbers["disagreement"] == pytest.approx(0, abs=1e-6)
    assert result.numbers["uncertainty"] > 0.01


def test_an_ensemble_in_windows_goes_side_by_side() -> None:
    """Members see window after window, not one all of the image and then the next: one band of each is held."""
    order: list[int] = []

    def noting(number: int) -> nn.Module:
        network = Counting(number)
        network.register_forward_hook(lambda *_: order.append(number))
        return network

    model = described(window=[16, 16], batch=1, overlap=0.5)
    predicted([picture(40, 16)], [noting(0), noting(1)], model, wants=())
    assert order == [0, 1] * 4


def test_one_network_alone_has_no_disagreement_and_the_mask_of_its_logits() -> None:
    fed, network = picture(14, 18), Counting()
    (result,) = predicted([fed], [network], described())
    assert set(result.numbers) == {"uncertainty"}
    (plain,) = predicted([fed], [network], described(), wants=())
    np.testing.assert_array_equal(result.mask, plain.mask)
    assert plain.probabilities is None
    assert plain.entropy is None


def test_without_a_background_all_pixels_count() -> None:
    model = Description.of({**described().to_dict(), "classes": ["membrane", "cell", "more"]})
    fed, network = picture(14, 18), Counting()
    (result,) = predicted([fed], [network], model)
    assert result.numbers["uncertainty"] == pytest.approx(entropy_of(softmax_of(network, fed)).mean(), rel=1e-4)


def test_where_nothing_may_be_nothing_is_unsure() -> None:
    network = Counting()
    with torch.no_grad():
        assert network.bias is not None
        network.weight.zero_()
        network.bias.copy_(torch.tensor([20.0, 0.0, 0.0]))
    assert predicted([picture(8, 8)], [network], described())[0].numbers == {"uncertainty": 0.0}


def test_what_is_large_is_mapped_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fed, network = picture(20, 24), Counting()
    monkeypatch.setattr(collected, "_IN_MEMORY", 100)
    (result,) = predicted([fed], [network], described(), scratch=tmp_path)
    assert isinstance(result.probabilities, np.memmap)
    assert list(tmp_path.iterdir()) == []  # it has no name: however the process ends, it goes
    np.testing.assert_allclose(result.probabilities, softmax_of(network, fed), atol=1e-3)


# ---------------------------------------------------------------------------------------------- memory of a device


def volume(*size: int) -> Fed:
    image = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    affine = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))
    shape = tuple(2 * edge - 1 for edge in size)
    return Fed(MetaTensor(image, affine=affine), Grid(shape, np.diag([1.0, 1, 1, 1])))


def small(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(forward, "device_memory", lambda device: (free, 2**30))


def test_windows_are_put_together_where_there_is_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fed, network, model = volume(20, 18, 6), Counting(), described(window=[16, 16])
    (usual,) = predicted([fed], [network], model)
    small(monkeypatch, 2**14)
    predict = Forward([network], model, feeding.inferer(model), precision="fp32", device=CPU, wants=ALL)
    for _ in range(2):
        (result,) = predict([fed])
        np.testing.assert_array_equal(result.mask, usual.mask)
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == (
        "the memory of cpu has 0.00 GiB free, and about 0.00 are needed: windows are put together in the computer's "
        "memory"
    )


@pytest.mark.parametrize(("fails", "works"), [(1, True), (10, False)])
def test_a_device_that_is_too_small_after_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: int, works: bool
) -> None:
    """A GPU that runs out of memory: once more with windows put together in the computer's, else a way out is named."""
    fed, network, model = picture(30, 20), Counting(), described(window=[16, 16], batch=3)
    (usual,) = predicted([fed], [network], model)
    predict = Forward([network], model, feeding.inferer(model), precision="fp32", device=CPU, wants=ALL)
    left = [fails]
    inner: Callable[..., Any] = predict._predict

    def runs_out(feds: list[Fed], home: torch.device) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise torch.OutOfMemoryError("out of memory")
        assert home == CPU
        return inner(feds, CPU)

    monkeypatch.setattr(predict, "_predict", runs_out)
    monkeypatch.setattr(predict, "_home", lambda feds: torch.device("meta"))
    if not works:
        with pytest.raises(PredictionError, match=r"the memory of cpu does not hold a forward of 3 windows; predict"):
            predict([fed])
        return
    (result,) = predict([fed])
    np.testing.assert_array_equal(result.mask, usual.mask)
    assert "the memory of cpu did not hold it: windows are put together in the computer's memory" in caplog.text


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_voxels_are_counted_by_class(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collected, "_AT_ONCE", 7)  # the last piece is shorter
    mask = np.random.default_rng(0).choice([0, 2, np.iinfo(kind).max], (5, 4, 3)).astype(kind)
    values, counts = np.unique(mask, return_counts=True)
    assert collected.counts_of(mask) == dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert collected.counts_of(np.swapaxes(mask, 0, 2)) == collected.counts_of(mask)
    assert collected.counts_of(mask[:0]) == {}
