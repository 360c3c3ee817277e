"""Skeletons: weights come and go, the modules stay; nothing is left on meta, nothing is stale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from quickthaw.snapshot import Component, SnapshotStore, Tier
from quickthaw.snapshot.binding import Binding
from quickthaw.snapshot.format import Header
from quickthaw.snapshot.headers import read_component_header
from quickthaw.snapshot.skeleton import Skeleton, build, skeleton_key
from quickthaw.snapshot.skeleton_pool import SkeletonPool
from quickthaw.wire.errors import SnapshotInvalid
from support.snapshots import BUILDERS, a_loader, draw, fine_tune, tensors_of

CPU = torch.device("cpu")


@pytest.fixture
def unet(store: SnapshotStore, digests: dict[str, str]) -> tuple[Component, Header]:
    part = store.open(digests["sd"]).manifest.component("unet")
    return part, read_component_header(store.component_path(part.digest), part)


def a_skeleton(part: Component) -> Skeleton:
    return Skeleton(skeleton_key(part), build(part))


def zeros(header: Header) -> torch.Tensor:
    return torch.zeros(-(-header.data_bytes // 256) * 256, dtype=torch.uint8)


def without(header: Header, name: str) -> Header:
    return replace(
        header, digest="0" * 64, entries=tuple(each for each in header.entries if each.name != name)
    )


def test_a_fine_tune_gets_the_very_tensors_of_the_evicted_base(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    with a_loader(store) as loader:
        with loader.load(digests["sd"]) as base:
            before = {id(each) for each in base.pipeline.unet.parameters()}
            picture = draw(base.pipeline)
        loader.evict(base.manifest.component("unet").digest, Tier.VRAM)
        with loader.load(digests["sd-tuned"]) as tuned:
            assert {id(each) for each in tuned.pipeline.unet.parameters()} == before
            tuned_picture = draw(tuned.pipeline)
            assert torch.equal(tuned_picture, draw(fine_tune(1)))
            assert not torch.equal(tuned_picture, picture)


def half(module: nn.Module) -> None:
    nn.Module.to(module, dtype=torch.float16)


def channels_last(module: Any) -> None:
    module.to(memory_format=torch.channels_last)


def one_parameter(module: Any) -> None:
    weight = module.conv_in.weight
    module.conv_in.weight = nn.Parameter(torch.zeros_like(weight), requires_grad=False)


def other_data(module: Any) -> None:
    module.conv_in.weight.data = torch.ones_like(module.conv_in.weight)


@pytest.mark.parametrize("change", [half, channels_last, one_parameter, other_data])
def test_an_idle_module_that_was_changed_is_put_right(
    change: Callable[[nn.Module], None], store: SnapshotStore, digests: dict[str, str]
) -> None:
    original = tensors_of(BUILDERS["sd"](0).unet)
    with a_loader(store) as loader:
        with loader.load(digests["sd"]) as loaded:
            change(loaded.pipeline.unet)
        with loader.load(digests["sd"]) as loaded:
            ours = tensors_of(loaded.pipeline.unet)
            assert ours.keys() == original.keys()
            for name, tensor in original.items():
                assert ours[name].dtype == tensor.dtype
                assert ours[name].stride() == tensor.stride()
                assert torch.equal(ours[name], tensor)


def test_an_idle_module_that_nobody_changed_is_not_bound_again(
    store: SnapshotStore, digests: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bound: list[int] = []
    bind = Binding.bind

    def counting(self: Binding, data: torch.Tensor) -> None:
        bound.append(data.nbytes)
        bind(self, data)

    monkeypatch.setattr(Binding, "bind", counting)
    with a_loader(store) as loader:
        loader.load(digests["sd"]).release()
        assert len(bound) == 3
        loader.load(digests["sd"]).release()
        assert len(bound) == 3


def test_a_module_shared_with_a_running_model_is_left_alone(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    """The other model may be casting its VAE right now, as SDXL's does in every call."""
    with a_loader(store) as loader, loader.load(digests["sd"]) as base:
        half(base.pipeline.vae)
        with loader.load(digests["sd-tuned"]) as tuned:
            assert tuned.pipeline.vae is base.pipeline.vae
            assert tuned.pipeline.vae.dtype == torch.float16


def test_weights_may_come_and_go_in_and_out_of_inference_mode(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    with a_loader(store) as loader:
        pictures: list[torch.Tensor] = []
        for inference in (True, False, True):
            with torch.inference_mode(mode=inference), loader.load(digests["sd"]) as loaded:
                pictures.append(draw(loaded.pipeline))
            for part in loaded.manifest.components:
                loader.evict(part.digest, Tier.VRAM)
        assert torch.equal(pictures[0], pictures[1])
        assert torch.equal(pictures[0], pictures[2])


def test_an_evicted_buffer_is_held_by_nothing(unet: tuple[Component, Header]) -> None:
    part, header = unet
    skeleton = a_skeleton(part)
    data = zeros(header)
    storage = data.untyped_storage()
    alone = torch._C._storage_Use_Count(storage._cdata)
    skeleton.bind(data, header, part.aliases, "unet")
    assert torch._C._storage_Use_Count(storage._cdata) > alone
    skeleton.unbind()
    assert torch._C._storage_Use_Count(storage._cdata) == alone
    assert all(each.is_meta for each in tensors_of(skeleton.module).values())


def test_a_file_that_would_leave_a_tensor_on_meta_is_refused(
    unet: tuple[Component, Header],
) -> None:
    part, header = unet
    skeleton = a_skeleton(part)
    with pytest.raises(SnapshotInvalid, match=r"lacks 1 tensors.*'conv_in.bias'") as caught:
        skeleton.prepare(without(header, "conv_in.bias"), part.aliases, CPU, "component unet")
    assert caught.value.metadata["problem"] == "missing"
    skeleton.bind(zeros(header), header, part.aliases, "component unet")
    assert not any(each.is_meta for each in tensors_of(skeleton.module).values())


def test_a_tensor_of_another_shape_or_name_is_refused(unet: tuple[Component, Header]) -> None:
    part, header = unet
    skeleton = a_skeleton(part)
    odd = tuple(
        replace(each, shape=(each.shape[0] // 2, 2)) if each.name == "conv_in.bias" else each
        for each in header.entries
    )
    with pytest.raises(SnapshotInvalid, match=r"conv_in.bias is \(8, 2\), the module wants \(16,"):
        skeleton.prepare(replace(header, digest="1" * 64, entries=odd), part.aliases, CPU, "unet")
    with pytest.raises(SnapshotInvalid, match="1 tensors that the module lacks, first 'surprise'"):
        skeleton.prepare(header, {"surprise": "conv_in.bias"}, CPU, "unet")


def test_a_layout_is_checked_once(
    unet: tuple[Component, Header], monkeypatch: pytest.MonkeyPatch
) -> None:
    part, header = unet
    skeleton = a_skeleton(part)
    skeleton.prepare(header, part.aliases, None, "unet")
    assert skeleton.fits(header.digest)

    def again(*_: object) -> None:
        raise AssertionError("the layout was checked already")

    monkeypatch.setattr(Skeleton, "check", again)
    skeleton.bind(zeros(header), header, part.aliases, "unet")


def test_a_buffer_that_is_too_small_is_not_bound(unet: tuple[Component, Header]) -> None:
    part, header = unet
    skeleton = a_skeleton(part)
    with pytest.raises(ValueError, match="bytes for a data section of"):
        skeleton.bind(zeros(header)[:-256], header, part.aliases, "unet")


def test_data_may_lie_anywhere_in_a_larger_memory(unet: tuple[Component, Header]) -> None:
    """On the CPU a component's buffer is a range of the slab."""
    part, header = unet
    memory = torch.zeros(header.data_bytes + 8192, dtype=torch.uint8)
    data = memory[4096 : 4096 + -(-header.data_bytes // 256) * 256]
    skeleton = a_skeleton(part)
    skeleton.bind(data, header, part.aliases, "unet")
    entry = next(each for each in header.tensors if each.name == "conv_in.bias")
    bias = dict(skeleton.module.named_parameters())["conv_in.bias"]
    assert bias.data_ptr() == memory.data_ptr() + 4096 + entry.start


def test_the_pool_prefers_a_skeleton_that_knows_the_layout(
    unet: tuple[Component, Header],
) -> None:
    part, header = unet
    pool = SkeletonPool()
    plain, knowing = a_skeleton(part), a_skeleton(part)
    knowing.prepare(header, part.aliases, CPU, "unet")
    for skeleton in (plain, knowing):
        pool.put(skeleton)
    assert pool.take(part, header) is knowing
    assert pool.take(part, header) is plain
    pool.put(plain)
    pool.clear()
    assert pool.take(part, header) is not plain
