import pytest
import torch
from torch import nn

from medseg.layers.windowed_attention import WindowedAttention
from medseg.studies import measures
from medseg.studies.measures import StepSettings, TrainingStep, macs, parameters, peak_bytes, seconds

CPU = torch.device("cpu")


def on_meta(build):
    with torch.device("meta"):
        return build()


def test_parameters_are_the_learned_values():
    network = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8))
    assert parameters(network) == 3 * 8 * 25 + 8 + 2 * 8


@pytest.mark.parametrize(
    ("build", "shape", "expected"),
    [
        (lambda: nn.Conv2d(3, 8, 5), (1, 3, 20, 30), 3 * 8 * 25 * 16 * 26),
        (lambda: nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), (1, 4, 20, 30), 2 * 8 * 9 * 10 * 15),
        (lambda: nn.Conv3d(2, 4, 3, padding=1), (2, 2, 5, 6, 7), 2 * 2 * 4 * 27 * 5 * 6 * 7),
        (lambda: nn.ConvTranspose2d(6, 4, 2, stride=2), (1, 6, 5, 7), 6 * 4 * 4 * 5 * 7),
        (lambda: nn.Linear(6, 4), (3, 6), 3 * 6 * 4),
        (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.MaxPool2d(2)), (1, 3, 8, 8), 0),
    ],
)
def test_macs_of_layers_by_hand(build, shape, expected):
    assert macs(on_meta(build), shape) == expected


@pytest.mark.parametrize(("window", "windows", "tokens"), [(None, 1, 80), (4, 6, 16)])
def test_macs_of_attention_by_hand(window, windows, tokens):
    """Queries by keys and weights by values: ``2 L^2 C`` a window of L tokens, padding included."""
    layer = on_meta(lambda: WindowedAttention(6, window))
    shape = (1, 6, 8, 10)  # 8 x 10 pixels: 2 x 3 windows of 4
    assert macs(layer, shape, shape) == 3 * 80 * 6 * 6 + windows * 2 * tokens**2 * 6


def test_macs_are_those_of_evaluation():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.pred, self.aux = nn.Linear(2, 3), nn.Linear(2, 100)

        def forward(self, x):
            return {"pred": self.pred(x), "aux": self.aux(x)} if self.training else self.pred(x)

    assert macs(on_meta(Auxiliary), (1, 2)) == 6


def test_macs_want_a_network_that_costs_nothing():
    with pytest.raises(ValueError, match=r"the network is on cpu; build it under torch.device\('meta'\)"):
        macs(nn.Linear(2, 2), (1, 2))


def test_peak_by_hand():
    def work():
        first = torch.zeros(1000)  # 4000 bytes
        second = torch.zeros(500, dtype=torch.float64)  # 4000
        del first
        third = torch.zeros(250)  # 1000 in place of the first
        del second, third
        torch.zeros(1500)  # 6000 alone

    assert peak_bytes(work, CPU) == 8000


def test_peak_is_above_what_was_there():
    there = [torch.zeros(10_000)]

    def work():
        there.clear()
        there.append(torch.zeros(1000))

    assert 0 < peak_bytes(work, CPU) <= 4000  # what is freed was not allocated by the work
    assert peak_bytes(lambda: None, CPU) == 0
    assert peak_bytes(lambda: torch.zeros(1000), CPU) == 4000


def test_peak_elsewhere_is_refused():
    with pytest.raises(ValueError, match="memory is measured on cpu and cuda; the device is meta"):
        peak_bytes(lambda: None, torch.device("meta"))


def test_peak_of_a_training_step_by_hand():
    """One convolution that a ReLU follows, and nothing else that counts."""
    edge, channels = 64, 16

    def work():
        step = TrainingStep(nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU()), image)
        step()
        step()

    image = torch.rand(2, 1, edge, edge)
    feature_map = 4 * 2 * channels * edge**2
    state = 4 * 4 * (9 * channels + channels)  # weights, gradients, Adam's two moments
    # at the peak: the ReLU's result (the convolution's is freed or not) and the gradients of square and ReLU
    peak = peak_bytes(work, CPU)
    assert peak >= 3 * feature_map + state
    assert peak < 7 * feature_map + state


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_peak_on_a_gpu():
    device = torch.device("cuda")
    there = torch.zeros(100_000, device=device)

    def work():
        torch.zeros(1 << 20, device=device)
        torch.zeros(1 << 20, device=device)

    assert peak_bytes(work, device) == 4 << 20
    assert there.numel() == 100_000


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        assert self.training
        return {"pred": self.first(x), "aux_other": self.second(x)[:, :1]}


def test_a_step_trains_every_output():
    network = Several()
    before = {name: value.clone() for name, value in network.named_parameters()}
    TrainingStep(network.eval(), torch.rand(4, 2))()
    assert all((value != before[name]).any() for name, value in network.named_parameters())


def test_a_step_is_taken_in_the_precision_asked_for():
    seen = []
    network = nn.Linear(2, 2)
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    TrainingStep(network, torch.rand(4, 2), StepSettings("bf16"))()
    TrainingStep(network, torch.rand(4, 2), StepSettings.of({}))()
    assert seen == [torch.bfloat16, torch.float32]  # a CPU trains in float32
    assert network.weight.grad.dtype == torch.float32


def test_a_step_of_several_batches_holds_the_gradients_of_those_before(monkeypatch):
    """Two are taken for the memory; the time is that of each batch and of one step of the optimiser."""
    network, image = nn.Linear(2, 2), torch.rand(4, 2)
    once, several = (TrainingStep(network, image, StepSettings(accumulation_steps=number)) for number in (1, 5))
    network.zero_grad()
    once.batch()
    gradient = network.weight.grad.clone()
    weights = network.weight.detach().clone()
    once.batch()
    assert torch.allclose(network.weight.grad, 2 * gradient)
    assert torch.equal(network.weight, weights)
    several()
    assert torch.allclose(network.weight.grad, 2 * gradient)
    assert not torch.equal(network.weight, weights)
    monkeypatch.setattr(measures, "seconds", lambda work, device: ({several.batch: 2.0}.get(work, 0.25), 3))
    assert several.seconds() == (5 * 2.0 + 0.25, 3)
    assert once.seconds() == (0.25, 3)


def test_compiling_is_not_timed(monkeypatch):
    calls = []

    def compiled(network):
        calls.append("compile")
        return network

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(measures, "seconds", lambda work, device: (float(calls.append("timed") or 1), 1))
    network = nn.Linear(2, 2)
    network.register_forward_hook(lambda module, inputs, output: calls.append("step"))
    TrainingStep(network, torch.rand(4, 2), StepSettings(compile=True)).seconds()
    assert calls == ["compile", "step", "timed"]


@pytest.mark.parametrize("wanted", [True, False])
def test_a_step_has_the_memory_format_of_the_training(wanted):
    network = nn.Conv2d(3, 3, 3)
    step = TrainingStep(network, torch.rand(2, 3, 8, 8), StepSettings(channels_last=wanted))
    for tensor in (step.image, network.weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last) is wanted
    step()


def test_seconds_warm_up_and_repeat():
    calls = []
    median, runs = seconds(lambda: calls.append(None), CPU)
    assert median > 0
    assert runs == 20
    assert len(calls) == runs + 2


def test_what_takes_long_is_done_twice(monkeypatch):
    clock = iter([0.0, 24.0, 24.0, 46.0])  # seconds at the begin and end of each call
    monkeypatch.setattr("medseg.studies.measures.time.perf_counter", lambda: next(clock))
    calls = []
    assert seconds(lambda: calls.append(None), CPU) == (22.0, 1)
    assert len(calls) == 2


def test_what_takes_very_long_is_done_once(monkeypatch):
    clock = iter([0.0, 31.0])
    monkeypatch.setattr("medseg.studies.measures.time.perf_counter", lambda: next(clock))
    assert seconds(lambda: None, CPU) == (31.0, 1)
