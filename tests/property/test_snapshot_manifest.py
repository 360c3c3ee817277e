"""Manifests under arbitrary change: a `Manifest`, or `SnapshotInvalid`; never anything else."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from quickthaw.snapshot import Component, Kind, Manifest, Preview
from quickthaw.snapshot.classes import ALLOWED, Role
from quickthaw.snapshot.families import SD
from quickthaw.snapshot.input_properties import SizeRule
from quickthaw.snapshot.manifest import PROCESSOR_FILES, Blob, Processor, Scheduler
from quickthaw.snapshot.manifest_json import encode_manifest, parse_manifest
from quickthaw.wire.errors import SnapshotInvalid

MANIFEST = Manifest(
    family="sd",
    title="a model",
    licence="Apache-2.0",
    created_by="a test",
    pipeline_class="diffusers.StableDiffusionPipeline",
    pipeline_arguments={"requires_safety_checker": False},
    components=(
        Component(
            name="unet",
            kind=Kind.DENOISER,
            class_path="diffusers.UNet2DConditionModel",
            config={"sample_size": 8, "block_out_channels": [16, 32], "name": None},
            attention=None,
            dtypes=("F16",),
            digest="a" * 64,
            header_digest="b" * 64,
            data_start=4096,
            data_bytes=100,
            blocks="c" * 32,
            aliases={"x": "y"},
        ),
    ),
    schedulers=(Scheduler("scheduler", "diffusers.DDIMScheduler", {"steps_offset": 1}),),
    processors=(
        Processor("tokenizer", "transformers.CLIPTokenizer", {"vocab.json": Blob("d" * 64, 7)}),
    ),
    preview=Preview(((0.1, 0.2, 0.3),), (0.0, 0.5, 1.0), 0.9),
    input_schema=SD.input_schema(SizeRule(64, 8, 16, 128)),
    working_set_bytes=1 << 20,
)
DOCUMENT: dict[str, Any] = json.loads(encode_manifest(MANIFEST))

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "../../etc/passwd", "/etc/passwd", "os.system", "f" * 64, "\0"])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return found + [place for key, item in items for place in places(item, (*path, key))]


@given(place=st.sampled_from(places(DOCUMENT)), value=VALUES)
@settings(max_examples=500)
def test_a_changed_manifest_is_refused_or_still_safe(place: tuple[Any, ...], value: Any) -> None:
    document = copy.deepcopy(DOCUMENT)
    parent = document
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    try:
        manifest = parse_manifest(json.dumps(document).encode())
    except SnapshotInvalid:
        return
    assert ALLOWED[manifest.pipeline_class] is Role.PIPELINE
    for part in manifest.components:
        assert ALLOWED[part.class_path] is Role.MODEL
        assert set(part.digest) <= set("0123456789abcdef")
    for processor in manifest.processors:
        assert processor.files.keys() <= PROCESSOR_FILES
    assert parse_manifest(encode_manifest(manifest)) == manifest


@given(where=st.integers(0), bit=st.integers(0, 7))
@settings(max_examples=300)
def test_a_flipped_bit_never_crashes_the_parser(where: int, bit: int) -> None:
    encoded = bytearray(encode_manifest(MANIFEST))
    encoded[where % len(encoded)] ^= 1 << bit
    with suppress(SnapshotInvalid):
        parse_manifest(bytes(encoded))


def test_a_manifest_survives_being_read_and_written() -> None:
    assert parse_manifest(encode_manifest(MANIFEST)) == MANIFEST
