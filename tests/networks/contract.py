"""What every network of medseg keeps to."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn


def assert_contract(network: nn.Module, x: Tensor, out_channels: int) -> None:
    """Check one network on one input ``(B, C, *S)``.

    Training gives a tensor or a flat dict with ``pred``; gradients reach every parameter; evaluation gives finite
    logits ``(B, out_channels, *S)``, sample by sample, also in bf16 and for a ``MetaTensor``; weights round-trip
    safely; the network can be copied and pickled.
    """
    expected = (x.shape[0], out_channels, *x.shape[2:])
    torch.manual_seed(0)
    _check_training(network, x, expected)
    network.eval()
    with torch.no_grad():
        logits = network(x)
        assert isinstance(logits, Tensor), "in evaluation a network returns `pred` alone"
        assert logits.shape == expected
        assert torch.isfinite(logits).all()
        torch.testing.assert_close(network(x), logits, rtol=0, atol=0)
        torch.testing.assert_close(network(x[:1]), logits[:1], rtol=1e-4, atol=1e-4)  # sums in another order
        tracked = network(MetaTensor(x))  # as MONAI's own engines and inferers hand images over
        torch.testing.assert_close(torch.Tensor(tracked), logits, rtol=0, atol=0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.isfinite(network(x).float()).all()
    _check_weights(network, x, logits)


def _check_training(network: nn.Module, x: Tensor, expected: tuple[int, ...]) -> None:
    network.train()
    outputs = network(x)
    named = {"pred": outputs} if isinstance(outputs, Tensor) else outputs
    assert isinstance(named, dict)
    assert "pred" in named
    assert all(isinstance(value, Tensor) for value in named.values())
    assert named["pred"].shape == expected
    network.zero_grad()
    # random targets: a plain sum would leave what feeds a normalisation without gradient
    sum((value * torch.randn_like(value)).sum() for value in named.values()).backward()  # type: ignore[union-attr]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {name}"
        assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"
        assert parameter.grad.abs().sum() > 0, f"the gradient of {name} is zero everywhere"
    network.zero_grad()


def _check_weights(network: nn.Module, x: Tensor, logits: Tensor) -> None:
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    buffer.seek(0)
    other = pickle.loads(pickle.dumps(copy.deepcopy(network)))
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    with torch.no_grad():
        torch.testing.assert_close(other(x), logits, rtol=0, atol=0)


_TRACED = {2: (64, 49), 3: (40, 37, 34)}  # even and odd, so that a choice between the two would show on either
_OTHER = {2: ((97, 131), (80, 66)), 3: ((37, 41, 35), (48, 36, 50))}
_SMALL = {2: (17, 18), 3: (17, 18, 19)}


def assert_exports_open_sizes(network: nn.Module, spatial_dims: int, in_channels: int = 1) -> None:
    """Check that one ``torch.export`` with an open batch and open lengths serves odd and even sizes alike.

    A length of one is the limit, and torch's own: its exporter settles whether a map inside the network is one pixel
    long, as on the traced image, so that this one is large enough for none to be. Images so small that one is may be
    refused, by a failed guard, and never give anything else than the network does.
    """
    network.eval()
    torch.manual_seed(0)
    traced = torch.rand(2, in_channels, *_TRACED[spatial_dims])
    free = dict.fromkeys((0, *range(2, 2 + spatial_dims)), torch.export.Dim.AUTO)
    exported = torch.export.export(network, (traced,), dynamic_shapes=(free,)).module()
    images = [traced, *(torch.rand(3 - 2 * i, in_channels, *size) for i, size in enumerate(_OTHER[spatial_dims]))]
    with torch.no_grad():
        for x in images:
            expected = network(x)
            assert expected.std() > 1e-3, "the logits of so flat a network would agree with any other's"
            torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-5)
        small = torch.rand(1, in_channels, *_SMALL[spatial_dims])
        try:
            result = exported(small)
        except (AssertionError, RuntimeError):  # the latter with torch 2.8
            return
        torch.testing.assert_close(result, network(small), rtol=1e-4, atol=1e-5)


def assert_exports(network: nn.Module, x: Tensor, *, onnx: bool = True) -> None:
    """Check that ``torch.export``, TorchScript and ONNX give what the network gives.

    Args:
        network: to export.
        x: ``(B, C, *S)``.
        onnx: seconds; without, for a network whose operations are among those of another that is checked so.
    """
    network.eval()
    with torch.no_grad():
        expected = network(x)
        exported = torch.export.export(network, (x,))
        torch.testing.assert_close(exported.module()(x), expected, rtol=1e-4, atol=1e-5)
        scripted = torch.jit.script(network)
        torch.testing.assert_close(scripted(x), expected, rtol=1e-4, atol=1e-5)
        odd = x[..., : math.ceil(x.shape[-1] * 0.7)]
        torch.testing.assert_close(scripted(odd), network(odd), rtol=1e-4, atol=1e-5)
    if not onnx:
        return
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install medseg[export])")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (pip install medseg[export])")
    program = torch.onnx.export(exported, (x,), dynamo=True, verbose=False)
    assert program is not None
    session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    result = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(result), expected, rtol=1e-4, atol=1e-4)
