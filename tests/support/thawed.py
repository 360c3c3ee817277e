"""A module through the format and back, without a store: what a component goes through."""

from __future__ import annotations

from typing import Any

import torch

from quickthaw.snapshot import Component, Kind
from quickthaw.snapshot.describe_pipeline import module_attention, module_config
from quickthaw.snapshot.format import Header, encode_header, lay_out, parse_header
from quickthaw.snapshot.skeleton import Skeleton, build, skeleton_key
from quickthaw.snapshot.tensors import collect, contents


def frozen(module: Any, class_path: str) -> tuple[Component, Header, torch.Tensor]:
    """A component as packing describes it, its layout, and its data section."""
    found = collect(module, "component tested")
    entries = lay_out(found.specs("component tested"))
    raw = encode_header(entries)
    header = parse_header(raw, entries[-1].end, "component tested")
    data = torch.zeros(-(-header.data_bytes // 256) * 256, dtype=torch.uint8)
    for entry, content in zip(header.tensors, contents(found.tensors), strict=True):
        data[entry.start : entry.end] = torch.frombuffer(content, dtype=torch.uint8)
    component = Component(
        name="tested",
        kind=Kind.DENOISER,
        class_path=class_path,
        config=module_config(module, "component tested"),
        attention=module_attention(module),
        dtypes=(),
        digest="0" * 64,
        header_digest=header.digest,
        data_start=header.data_start,
        data_bytes=header.data_bytes,
        blocks="",
        aliases=found.aliases,
    )
    return component, header, data


def thawed(module: Any, class_path: str) -> Any:
    """A new module, built from the config alone, over the bytes of `module`."""
    component, header, data = frozen(module, class_path)
    skeleton = Skeleton(skeleton_key(component), build(component))
    skeleton.bind(data, header, component.aliases, "component tested")
    return skeleton.module
