"""Layers whose weights are stored in eight bits, and computed with in the type they came in.

They hold nothing but plain tensors, so that a snapshot's views can be bound to them like any other:
`weight_quantized` as the file has it and, where the method scales, `weight_scale`, one number per
output channel. Both are buffers: parameters are what libraries read a module's working type from.

Why not a library: torchao 0.18 keeps such weights in wrapper subclasses of `torch.Tensor`, which
have no address of their own (`data_ptr()` is 0), so they can be no view of a snapshot's buffer; and
importing it takes seconds.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from enum import StrEnum
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

FP8_MAX = 448.0
INT8_MAX = 127.0
_KERNEL_STEP = 16
"""The devices' eight-bit matrix kernels take sides that are multiples of this."""
_INT_ROWS_MIN = 17
"""cuBLAS refuses eight-bit integers for fewer rows."""


class Method(StrEnum):
    """How weights became eight bits. The value is what a manifest says (FORMAT.md §5)."""

    FP8 = "fp8"
    """F8_E4M3, one scale per output channel."""
    INT8 = "int8"
    """I8, symmetric, one scale per output channel."""
    FP8_UNSCALED = "fp8_unscaled"
    """F8_E4M3 without scales: as checkpoints are commonly shared."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.int8 if self is Method.INT8 else torch.float8_e4m3fn

    @property
    def scaled(self) -> bool:
        return self is not Method.FP8_UNSCALED


def encode(weight: torch.Tensor, method: Method) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The eight-bit weight and its scales (float32, one per output channel, the first axis)."""
    if not method.scaled:
        return weight.to(method.dtype), None
    limit = INT8_MAX if method is Method.INT8 else FP8_MAX
    rows = weight.detach().float().flatten(1)
    scale = rows.abs().amax(1) / limit
    scale[scale == 0] = 1.0  # a row of zeros
    rows = (rows / scale[:, None]).clamp_(-limit, limit)
    if method is Method.INT8:
        rows = rows.round_()
    return rows.to(method.dtype).view(weight.shape), scale


def widened(stored: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    """F8_E4M3 as `dtype` numbers, and the factor that they are too small by; exact.

    torch converts these one by one on a CPU. Moving the bits to where wider types have theirs takes
    a tenth of the time; exponents are then read with another bias, which is the factor. Weights are
    finite: what encodes NaN in eight bits would become 480.
    """
    bits = stored.view(torch.int8).to(torch.int16)
    if dtype is torch.bfloat16:
        # Sign to bit 15; exponent and mantissa to bits 10 to 4.
        bits = bits.bitwise_left_shift_(4).bitwise_and_(_signed(0x87F0))
        return bits.view(torch.bfloat16), 2.0**120
    # Sign to bit 15; exponent and mantissa to bits 13 to 7.
    bits = bits.bitwise_left_shift_(7).bitwise_and_(_signed(0xBFFF))
    return bits.view(torch.float16).to(dtype), 2.0**8


def _signed(mask: int) -> int:
    return mask - (1 << 16)


def _is_traced() -> bool:
    """Compilers have ways of their own, and may not know these."""
    return torch.compiler.is_compiling() or torch.compiler.is_exporting()


class QuantizedLayer(nn.Module):
    """What the eight-bit layers have in common. `dtype` is the type they compute in."""

    weight_quantized: torch.Tensor
    weight_scale: torch.Tensor | None
    bias: nn.Parameter | None
    replaces: ClassVar[type[nn.Module]]

    def __init__(
        self, shape: torch.Size, method: Method, dtype: torch.dtype, bias: torch.Tensor | None
    ) -> None:
        super().__init__()
        assert bias is None or isinstance(bias, nn.Parameter)
        self.method = method
        self.dtype = dtype
        self.register_parameter("bias", bias)
        self.register_buffer("weight_quantized", torch.empty(shape, dtype=method.dtype))
        scale = torch.empty(shape[0], dtype=torch.float32) if method.scaled else None
        self.register_buffer("weight_scale", scale)

    @property
    def weight(self) -> torch.Tensor:
        """The weight as one computes with it: made anew each time."""
        stored, scale = self.weight_quantized, self.weight_scale
        # Scales of small weights are below what float16 has in full precision.
        narrow = self.dtype is torch.float16 and scale is not None
        dtype = torch.float32 if narrow else self.dtype
        factor = 1.0
        if stored.dtype is torch.float8_e4m3fn and not stored.is_cuda and not _is_traced():
            weight, factor = widened(stored, dtype)
        else:
            weight = stored.to(dtype)
        if scale is None:
            return weight if factor == 1.0 else weight.mul_(factor)
        # The factor is a power of two, so nothing is rounded twice.
        scale = (scale * factor).to(dtype).view(-1, *[1] * (weight.dim() - 1))
        return weight.mul_(scale).to(self.dtype)

    @abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor: ...

    def extra_repr(self) -> str:
        return f"{tuple(self.weight_quantized.shape)}, {self.method.value}, {self.dtype}"


class QuantizedLinear(QuantizedLayer):
    """`nn.Linear` with an eight-bit weight of shape (out, in)."""

    replaces = nn.Linear

    def __init__(self, like: nn.Linear, method: Method, dtype: torch.dtype) -> None:
        super().__init__(like.weight.shape, method, dtype, like.bias)
        self.in_features, self.out_features = like.in_features, like.out_features
        self._kernel_sides = not (like.in_features | like.out_features) % _KERNEL_STEP

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cuda and self.weight_scale is not None and self._kernel_sides:
            rows = x.reshape(-1, self.in_features)
            if (product := self._multiplied(rows, self.weight_scale)) is not None:
                product = product.view(*x.shape[:-1], self.out_features)
                return product if self.bias is None else product + self.bias
        return functional.linear(x, self.weight, self.bias)

    def _multiplied(self, rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor | None:
        """In the device's eight-bit kernels; None if it has none for this."""
        if self.method is Method.FP8:
            if has_fp8_kernels(rows.device) and rows.dtype is torch.bfloat16:
                return fp8_product(rows, self.weight_quantized, scale)
        elif rows.shape[0] >= _INT_ROWS_MIN and has_int8_kernels(rows.device):
            return int8_product(rows, self.weight_quantized, scale)
        return None


class QuantizedConv2d(QuantizedLayer):
    """`nn.Conv2d` with an eight-bit weight of shape (out, in / groups, height, width)."""

    replaces = nn.Conv2d

    def __init__(self, like: nn.Conv2d, method: Method, dtype: torch.dtype) -> None:
        super().__init__(like.weight.shape, method, dtype, like.bias)
        self.in_channels, self.out_channels = like.in_channels, like.out_channels
        self.kernel_size, self.stride = like.kernel_size, like.stride
        self.padding, self.dilation, self.groups = like.padding, like.dilation, like.groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


LAYERS: tuple[type[QuantizedLinear] | type[QuantizedConv2d], ...] = (
    QuantizedLinear,
    QuantizedConv2d,
)


@functools.cache
def has_fp8_kernels(device: torch.device) -> bool:
    """Ada, Hopper and later multiply F8_E4M3 matrices with a scale per row."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


@functools.cache
def has_int8_kernels(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 5)


def fp8_product(rows: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`rows` (n, in; bfloat16) times `weight` (out, in; F8_E4M3), its rows scaled by `scale`.

    The kernels multiply eight bits by eight, so `rows` are scaled and rounded, each by itself.
    """
    row_scale = (rows.float().abs().amax(1, keepdim=True) / FP8_MAX).clamp_(min=1e-12)
    encoded = (rows.float() / row_scale).clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    product: torch.Tensor = torch.ops.aten._scaled_mm(
        encoded, weight.t(), scale_a=row_scale, scale_b=scale[None, :], out_dtype=rows.dtype
    )
    return product


def int8_product(rows: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """As `fp8_product`, for I8; the sum is exact in 32 bits."""
    row_scale = (rows.float().abs().amax(1, keepdim=True) / INT8_MAX).clamp_(min=1e-12)
    encoded = (rows.float() / row_scale).round_().to(torch.int8)
    product: torch.Tensor = torch.ops.aten._int_mm(encoded, weight.t())
    return product.float().mul_(row_scale).mul_(scale).to(rows.dtype)
