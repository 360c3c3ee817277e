"""Any tensors, any part of them changed, base upon base: assembled bytes are those of the file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.hashes import BLOCK_BYTES
from quickthaw.snapshot.stored import StoredTensors
from support.deltas import add_component, read_all

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
SHAPES = st.one_of(
    st.just(()),
    st.tuples(st.integers(0, 300)),
    st.tuples(st.integers(1, 40), st.integers(1, 9)),
)
# Over several blocks, so that some blocks are the layer's alone.
LARGE = st.tuples(st.just(torch.uint8), st.just((3 * BLOCK_BYTES // 4,)))
TENSORS = st.tuples(st.sampled_from(DTYPES), SHAPES)
LAYOUTS = st.lists(st.one_of(TENSORS, TENSORS, LARGE), min_size=1, max_size=7)


def drawn(layout: list[tuple[torch.dtype, tuple[int, ...]]], seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {
        f"layer.{index}": torch.randint(0, 2 if dtype is torch.bool else 100, shape).to(dtype)
        for index, (dtype, shape) in enumerate(layout)
    }


@given(
    layout=LAYOUTS,
    changes=st.lists(st.sets(st.integers(0, 6), min_size=1), min_size=1, max_size=5),
    span_blocks=st.integers(1, 4),
)
@settings(max_examples=30)
def test_a_delta_gives_the_bytes_of_the_full_file(
    layout: list[tuple[torch.dtype, tuple[int, ...]]], changes: list[set[int]], span_blocks: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = SnapshotStore(Path(folder) / "deltas")
        plain = SnapshotStore(Path(folder) / "plain")
        tensors = drawn(layout, 0)
        part = add_component(store, tensors)
        for seed, changed in enumerate(changes, 1):
            other = drawn(layout, seed)
            tensors |= {
                name: other[name] for name in (f"layer.{i}" for i in changed) if name in other
            }
            part = add_component(store, tensors, part)
            whole = add_component(plain, tensors)
            assert part.digest == whole.digest
            assert part.blocks == whole.blocks
            expected = plain.component_path(whole.digest).read_bytes()[whole.data_start :]
            assert read_all(store, part, span_blocks * BLOCK_BYTES) == expected
            with StoredTensors(store, part) as stored, StoredTensors(plain, whole) as full:
                assert all(stored[name] == full[name] for name in full)
