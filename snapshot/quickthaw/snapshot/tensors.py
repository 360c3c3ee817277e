"""Between torch modules and the format: dtypes, the canonical order, tied tensors, views."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, cast

import torch

from quickthaw.snapshot.format import Header, Problem, TensorSpec, invalid

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

Holder: TypeAlias = dict[str, torch.Tensor | None]


class Slot(NamedTuple):
    """Where a module keeps one tensor: `holder[key]`, in its `_parameters` or its `_buffers`.

    A tuple, as there are thousands of them to a model, which is made while somebody waits.
    """

    name: str
    holder: Holder
    key: str
    is_parameter: bool


def walk(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The modules in it, itself first, each after its parent, under each of its names.

    As `named_modules(remove_duplicate=False)`, whose generators in generators take several times
    as long for thousands of modules.
    """
    found: list[tuple[str, torch.nn.Module]] = []
    stack = [("", module)]
    while stack:
        name, part = here = stack.pop()
        found.append(here)
        start = f"{name}." if name else ""
        children = reversed(part._modules.items())
        stack.extend((start + key, child) for key, child in children if child is not None)
    return found


def slots(module: torch.nn.Module) -> Iterator[Slot]:
    """All places for tensors, in module order: the canonical order of a component file.

    Non-persistent buffers are among them, although state_dict leaves them out: a module built on
    the meta device has no other source for their values. Shared modules appear once per name.
    """
    for prefix, part in walk(module):
        start = f"{prefix}." if prefix else ""
        # torch types the two by what they hold; assigning either kind is up to `is_parameter`.
        holders = cast("tuple[Holder, Holder]", (part._parameters, part._buffers))
        for holder, is_parameter in zip(holders, (True, False), strict=True):
            for key, tensor in holder.items():
                if tensor is not None:
                    yield Slot(start + key, holder, key, is_parameter)


@dataclass(frozen=True, slots=True)
class Collected:
    """A module's tensors in canonical order, tied ones once."""

    tensors: Mapping[str, torch.Tensor]
    aliases: Mapping[str, str]

    def specs(self, where: str) -> tuple[TensorSpec, ...]:
        found: list[TensorSpec] = []
        for name, tensor in self.tensors.items():
            if (dtype := NAMES.get(tensor.dtype)) is None:
                invalid(Problem.UNKNOWN_DTYPE, where, f"{name} is {tensor.dtype}: not supported")
            found.append(TensorSpec(name, dtype, tuple(tensor.shape)))
        return tuple(found)


def collect(module: torch.nn.Module, where: str) -> Collected:
    """Raises `SnapshotInvalid` for tensors without data (meta, offloaded) or not plain ones."""
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for slot in slots(module):
        tensor = slot.holder[slot.key]
        assert tensor is not None
        if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
            invalid(
                Problem.MANIFEST,
                where,
                f"{slot.name} has no plain data (offloaded, sparse or quantised); load the "
                "pipeline without offloading or quantisation before packing",
            )
        identity = (
            tensor.untyped_storage().data_ptr() if tensor.numel() else id(tensor),
            tensor.storage_offset(),
            tensor.shape,
            tensor.stride(),
            tensor.dtype,
        )
        if (stored := first.get(identity)) is not None:
            aliases[slot.name] = stored
        else:
            first[identity] = slot.name
            tensors[slot.name] = tensor.detach()
    return Collected(tensors, aliases)


def contents(tensors: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    """The bytes of each tensor, contiguous and in this machine's (little-endian) order."""
    for tensor in tensors.values():
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


class Place(NamedTuple):
    """Where a tensor lies in a data section seen as items of `dtype`; strides count items too."""

    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def places(header: Header) -> dict[str, Place]:
    """The places of a component's tensors by name, in file order, pads left out."""
    found: dict[str, Place] = {}
    for entry in header.tensors:
        stride: list[int] = []
        step = 1
        for extent in reversed(entry.shape):
            stride.append(step)
            step *= max(extent, 1)
        dtype = DTYPES[entry.dtype]
        offset = entry.start // dtype.itemsize
        found[entry.name] = Place(dtype, offset, entry.shape, tuple(reversed(stride)))
    return found


def views(data: torch.Tensor, header: Header) -> dict[str, torch.Tensor]:
    """Tensors over `data`, the component's data section as one uint8 tensor; nothing is copied.

    `data` must be as long as the data section rounded up to 256 bytes, so that it can be seen as
    items of any dtype.
    """
    laid = places(header)
    typed = {dtype: data.view(dtype) for dtype in {place.dtype for place in laid.values()}}
    return {
        name: typed[place.dtype].as_strided(place.shape, place.stride, place.offset)
        for name, place in laid.items()
    }
