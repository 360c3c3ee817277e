"""Whatever tensors a module has: bound to one buffer after another, it has their bytes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quickthaw.snapshot.format import Header, encode_header, lay_out, parse_header
from quickthaw.snapshot.skeleton import Skeleton
from quickthaw.snapshot.tensors import collect, contents

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
tensors = st.lists(
    st.tuples(st.sampled_from(DTYPES), shapes, st.booleans(), st.booleans()), min_size=1, max_size=8
)


def a_module(described: list[tuple[torch.dtype, tuple[int, ...], bool, bool]]) -> nn.Module:
    """Parameters and buffers in turn, some of them in a part that goes by two names."""
    module, part = nn.Module(), nn.Module()
    for index, (dtype, shape, is_parameter, in_part) in enumerate(described):
        holder, name = part if in_part else module, f"tensor_{index}"
        tensor = torch.zeros(shape, dtype=dtype)
        if is_parameter:
            holder.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        else:
            holder.register_buffer(name, tensor, persistent=index % 2 == 0)
    module.add_module("one", part)
    module.add_module("other", part)
    return module


def fill(module: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    for tensor in [*module.parameters(), *module.buffers()]:
        tensor.copy_(torch.randint(0, 2, tensor.shape, generator=chance))
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.clone() for name, tensor in named}


def frozen(module: nn.Module, room: int) -> tuple[Header, dict[str, str], torch.Tensor]:
    """`room` bytes lie before the data section in the memory that it is part of."""
    found = collect(module, "module")
    entries = lay_out(found.specs("module"))
    header = parse_header(encode_header(entries), entries[-1].end, "module")
    memory = torch.zeros(room + -(-header.data_bytes // 256) * 256, dtype=torch.uint8)
    for entry, content in zip(header.tensors, contents(found.tensors), strict=True):
        if content.nbytes:
            memory[room + entry.start : room + entry.end] = torch.frombuffer(
                content, dtype=torch.uint8
            )
    return header, dict(found.aliases), memory[room:]


@settings(max_examples=60)
@given(described=tensors, room=st.sampled_from([0, 256, 4096]))
def test_a_bound_module_has_the_bytes_of_its_buffer(
    described: list[tuple[torch.dtype, tuple[int, ...], bool, bool]], room: int
) -> None:
    module = a_module(described)
    wanted = {seed: fill(module, seed) for seed in (1, 2)}
    laid = {}
    for seed in wanted:
        fill(module, seed)
        laid[seed] = frozen(module, room)
    assert laid[1][0].digest == laid[2][0].digest
    skeleton = Skeleton("any", module.to("meta"))
    for seed in (1, 2, 1):
        header, aliases, data = laid[seed]
        skeleton.bind(data, header, aliases, "module")
        bound = dict([*module.named_parameters(), *module.named_buffers()])
        for name, tensor in wanted[seed].items():
            assert bound[name].dtype == tensor.dtype
            assert torch.equal(bound[name], tensor), name
        skeleton.unbind()
        assert all(each.is_meta for each in [*module.parameters(), *module.buffers()])
