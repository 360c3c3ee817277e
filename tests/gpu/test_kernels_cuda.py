"""What runs in a real device's own kernels: eight-bit layers, and what is warmed ahead."""

from __future__ import annotations

import logging
import time

import pytest
import torch
from torch import nn

from quickthaw.snapshot import prewarm
from quickthaw.snapshot.quantized import (
    Method,
    QuantizedConv2d,
    QuantizedLinear,
    encode,
    has_fp8_kernels,
    has_int8_kernels,
)
from quickthaw.worker.steps import FirstStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
GPU = torch.device("cuda", 0)


def quantized(like: nn.Linear, method: Method) -> QuantizedLinear:
    layer = QuantizedLinear(like, method, like.weight.dtype)
    layer.weight_quantized, layer.weight_scale = encode(like.weight.detach(), method)
    return layer.to(GPU)


@pytest.mark.parametrize("shape", [(2, 40, 128), (1, 128), (17, 128)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", Method)
def test_an_eight_bit_layer_agrees_with_the_plain_one(
    method: Method, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    like = nn.Linear(128, 96, dtype=dtype)
    layer = quantized(like, method)
    x = torch.randn(shape, dtype=dtype)
    with torch.inference_mode():
        found = layer(x.to(GPU)).cpu().float()
        wanted = nn.functional.linear(x.float(), layer.weight.cpu().float(), like.bias.float())
    assert found.shape == wanted.shape
    error = (found - wanted).norm() / wanted.norm()
    # The device's kernels round the rows to eight bits as well.
    assert error < 0.05


def test_the_device_has_the_kernels_that_its_generation_has() -> None:
    capability = torch.cuda.get_device_capability(GPU)
    assert has_int8_kernels(GPU) == (capability >= (7, 5))
    assert has_fp8_kernels(GPU) == (capability >= (8, 9))
    layer = quantized(nn.Linear(128, 96, dtype=torch.bfloat16), Method.FP8)
    rows = torch.randn(32, 128, device=GPU, dtype=torch.bfloat16)
    assert layer.weight_scale is not None
    product = layer._multiplied(rows, layer.weight_scale)
    assert (product is not None) == (capability >= (8, 9))


def test_an_eight_bit_convolution_agrees_with_the_plain_one() -> None:
    torch.manual_seed(1)
    like = nn.Conv2d(16, 32, 3, padding=1, dtype=torch.float16)
    layer = QuantizedConv2d(like, Method.FP8, torch.float16)
    layer.weight_quantized, layer.weight_scale = encode(like.weight.detach(), Method.FP8)
    layer, bias = layer.to(GPU), like.bias
    assert bias is not None
    x = torch.randn(1, 16, 8, 8, dtype=torch.float16)
    with torch.inference_mode():
        found = layer(x.to(GPU)).cpu().float()
        wanted = nn.functional.conv2d(
            x.float(), layer.weight.cpu().float(), bias.float(), padding=1
        )
    assert (found - wanted).norm() / wanted.norm() < 0.01


def test_everything_that_is_warmed_is_there(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=prewarm.__name__)
    prewarm._warm.cache_clear()
    prewarm.warm_kernels(GPU, (torch.float16, torch.bfloat16, torch.float32))
    assert "has no kernels" not in caplog.text


def test_a_first_step_is_over_when_the_device_is_through_with_it() -> None:
    latents = torch.zeros(1, device=GPU)
    keep_busy(1_000_000_000)  # the first one loads it, and the clock has risen by its end
    torch.cuda.synchronize(GPU)
    began = time.monotonic()
    first = FirstStep(began)
    keep_busy(200_000_000)  # a tenth of a second
    first.note(latents)
    told = time.monotonic() - began
    keep_busy(200_000_000)
    seconds = first.seconds
    whole = time.monotonic() - began
    assert told < 0.8 * seconds, "whoever told it did not wait"
    assert 0.3 * whole < seconds < 0.8 * whole


def keep_busy(cycles: int) -> None:
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]  # torch's own gap
