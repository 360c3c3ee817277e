"""Component files under arbitrary tensors and arbitrary damage."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from quickthaw.snapshot import Component, CpuDevice, Kind, Slab, SnapshotStore
from quickthaw.snapshot.format import (
    ITEM_BYTES,
    TENSOR_ALIGNMENT,
    TensorSpec,
    check_aligned,
    encode_header,
    lay_out,
    parse_header,
    read_header,
)
from quickthaw.snapshot.hashes import BLOCK_BYTES
from quickthaw.snapshot.headers import read_component_header
from quickthaw.snapshot.manifest_json import parse_manifest
from quickthaw.snapshot.tensors import DTYPES, contents, views
from quickthaw.snapshot.transfer import Transfer
from quickthaw.wire.errors import SnapshotCorrupt, SnapshotInvalid
from support.transfers import fill

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20
).filter(lambda name: not name.startswith("__"))
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
SPECS = st.lists(
    st.builds(TensorSpec, NAMES, st.sampled_from(sorted(ITEM_BYTES)), SHAPES),
    max_size=12,
    unique_by=lambda spec: spec.name,
)


@st.composite
def tensor_dicts(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for spec in draw(SPECS):
        raw = draw(st.binary(min_size=spec.nbytes, max_size=spec.nbytes))
        if spec.dtype == "BOOL":
            raw = bytes(byte & 1 for byte in raw)
        flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.zeros(0).byte()
        found[spec.name] = flat.view(DTYPES[spec.dtype]).reshape(spec.shape)
    return found


def specs_of(tensors: dict[str, torch.Tensor]) -> list[TensorSpec]:
    names = {dtype: name for name, dtype in DTYPES.items()}
    return [TensorSpec(key, names[each.dtype], tuple(each.shape)) for key, each in tensors.items()]


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def write(root: Path, tensors: dict[str, torch.Tensor]) -> Component:
    with SnapshotStore(root).writing() as writer:
        written = writer.add_component(specs_of(tensors), contents(tensors))
    return Component(
        name="part",
        kind=Kind.DENOISER,
        class_path="diffusers.UNet2DConditionModel",
        config={},
        attention=None,
        dtypes=(),
        digest=written.digest,
        header_digest=written.header_digest,
        data_start=written.data_start,
        data_bytes=written.data_bytes,
        blocks=written.blocks,
        aliases={},
    )


@pytest.fixture(scope="module")
def transfer() -> Iterator[Transfer]:
    slab = Slab(2 * BLOCK_BYTES, staging_bytes=BLOCK_BYTES, touch_threads=1)
    with ThreadPoolExecutor(1) as pool:
        yield Transfer(slab, CpuDevice(1 << 24), pool, 1, perf_counter)


@given(tensors=tensor_dicts())
@settings(max_examples=60)
def test_any_tensors_round_trip_and_open_with_safetensors(
    tensors: dict[str, torch.Tensor], transfer: Transfer
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        component = write(root, tensors)
        path = SnapshotStore(root).component_path(component.digest)
        header = read_component_header(path, component)
        device = CpuDevice(1 << 24)
        buffer = device.allocate(component.data_bytes)
        fill(transfer, component, path, None, buffer)
        ours = views(buffer.data, header)
        assert ours.keys() == tensors.keys()
        theirs = load_file(path)
        with safe_open(path, "pt") as opened:
            assert opened.metadata() == {"format": "pt", "quickthaw": "component/1"}
        for name, tensor in tensors.items():
            for found in (ours[name], theirs[name]):
                assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
                assert bits(found) == bits(tensor)
            assert ours[name].data_ptr() % TENSOR_ALIGNMENT == 0 or tensor.numel() == 0


@given(tensors=tensor_dicts())
@settings(max_examples=40)
def test_any_file_of_safetensors_is_read_as_safetensors_reads_it(
    tensors: dict[str, torch.Tensor],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "theirs.safetensors"
        save_file(tensors, path)
        with path.open("rb") as file:
            header = read_header(file, "theirs")
        assert {each.name: each.shape for each in header.tensors} == {
            name: tuple(tensor.shape) for name, tensor in tensors.items()
        }


@given(specs=SPECS)
def test_layouts_are_aligned_tiled_and_depend_on_the_specs_alone(specs: list[TensorSpec]) -> None:
    entries = lay_out(specs)
    raw = encode_header(entries)
    assert raw == encode_header(lay_out(tuple(specs)))
    header = parse_header(raw, entries[-1].end if entries else 0, "part")
    check_aligned(header, "part")
    assert [each.name for each in header.tensors] == [spec.name for spec in specs]
    assert header.entries == entries


TENSORS = {
    "a.weight": torch.arange(1000, dtype=torch.float32).reshape(10, 100),
    "a.bias": torch.arange(7, dtype=torch.float16),
    "b.ids": torch.arange(77).reshape(1, 77),
}
DAMAGE = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, 1 << 30), st.integers(0, 7)),
    st.tuples(st.just("cut"), st.integers(0, 1 << 30), st.just(0)),
    st.tuples(st.just("grow"), st.integers(1, 5000), st.just(0)),
    st.tuples(st.just("zero"), st.integers(0, 1 << 30), st.integers(1, 300)),
)


def damaged(content: bytes, kind: str, where: int, amount: int) -> bytes:
    changed = bytearray(content)
    place = where % len(content)
    match kind:
        case "flip":
            changed[place] ^= 1 << amount
        case "cut":
            del changed[place:]
        case "grow":
            changed += bytes(where)
        case _:
            changed[place : place + amount] = bytes(len(changed[place : place + amount]))
    return bytes(changed)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Component, Path, bytes]:
    """A component, its file, which examples damage in turn, and what was in it."""
    root = tmp_path_factory.mktemp("store")
    component = write(root, TENSORS)
    path = SnapshotStore(root).component_path(component.digest)
    return component, path, path.read_bytes()


@given(damage=DAMAGE)
@settings(max_examples=250)
def test_no_damage_gets_past_a_verifying_load(
    damage: tuple[str, int, int], transfer: Transfer, written: tuple[Component, Path, bytes]
) -> None:
    component, path, original = written
    changed = damaged(original, *damage)
    path.write_bytes(changed)
    buffer = CpuDevice(1 << 20).allocate(component.data_bytes)
    try:
        header = read_component_header(path, component)
        fill(transfer, component, path, None, buffer)
    except (SnapshotCorrupt, SnapshotInvalid):
        refused = True
    else:
        refused = False
        for name, tensor in views(buffer.data, header).items():
            assert bits(tensor) == bits(TENSORS[name])
    assert refused == (changed != original), "every byte of the file is covered by a hash"


@given(damage=DAMAGE)
@settings(max_examples=400)
def test_a_damaged_header_is_refused_or_still_describes_the_file(
    damage: tuple[str, int, int],
) -> None:
    """Without any digest, as when a stranger's file is packed."""
    entries = lay_out(specs_of(TENSORS))
    raw, data_bytes = encode_header(entries), entries[-1].end
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.safetensors"
        path.write_bytes(damaged(raw.rstrip(b" "), *damage) + bytes(data_bytes))
        with path.open("rb") as file:
            try:
                header = read_header(file, "part")
            except SnapshotInvalid:
                pass
            else:
                assert header.file_bytes == path.stat().st_size
                assert sum(each.end - each.start for each in header.entries) == header.data_bytes


@given(raw=st.binary(max_size=300), data_bytes=st.integers(0, 100))
def test_arbitrary_bytes_never_crash_the_parsers(raw: bytes, data_bytes: int) -> None:
    for parse in (
        lambda: parse_header(raw, data_bytes, "part"),
        lambda: parse_manifest(raw),
    ):
        with pytest.raises(SnapshotInvalid):
            parse()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(entry=st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), JSON))
def test_arbitrary_entries_never_crash_the_parser(entry: dict[str, object]) -> None:
    import json

    text = json.dumps({"a": entry}).encode()
    with pytest.raises(SnapshotInvalid):
        parse_header(len(text).to_bytes(8, "little") + text, 1, "part")
