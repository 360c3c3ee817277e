"""The load path on a real device: the same bits, pinned copies, memory given back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from quickthaw.snapshot import CudaDevice, Loader, Slab, SnapshotStore, Tier
from quickthaw.snapshot.cuda import current
from quickthaw.snapshot.memory import Memory
from quickthaw.wire.errors import ResourceExhausted
from support.snapshots import BUILDERS, MIB, draw, pack_all, tensors_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[SnapshotStore, dict[str, str]]:
    root: Path = tmp_path_factory.mktemp("store")
    return SnapshotStore(root), pack_all(root)


@pytest.fixture
def device() -> CudaDevice:
    return CudaDevice(0)


@pytest.fixture
def loader(packed: tuple[SnapshotStore, dict[str, str]], device: CudaDevice) -> Iterator[Loader]:
    slab = Slab(64 * MIB, device=device, staging_bytes=16 * MIB)
    loader = Loader(packed[0], device, slab)
    yield loader
    loader.close()
    slab.close()


def assert_equal(pipeline: Any, original: Any, names: list[str]) -> None:
    for part in names:
        ours = tensors_of(getattr(pipeline, part))
        for name, tensor in tensors_of(getattr(original, part)).items():
            assert ours[name].device.type == "cuda"
            assert ours[name].dtype == tensor.dtype
            assert torch.equal(ours[name].cpu(), tensor), (part, name)


def evict_all(loader: Loader, digest: str, tier: Tier) -> None:
    for part in loader.open(digest).manifest.components:
        loader.evict(part.digest, tier)


def test_registered_memory_counts_as_pinned_until_the_slab_closes(device: CudaDevice) -> None:
    slab = Slab(8 * MIB, device=device, staging_bytes=4 * MIB)
    first = torch.frombuffer(slab.memory.view, dtype=torch.uint8)
    assert first.is_pinned()
    assert first[-1:].is_pinned()
    slab.close()
    assert not first.is_pinned()


def test_every_chunk_of_a_registration_is_pinned_and_can_be_copied_from(
    device: CudaDevice,
) -> None:
    """Chunk by chunk, as `slab.pieces` cuts: drivers may refuse what lies in two of them."""
    memory = Memory(3 * MIB)
    memory.touch(1)
    device.register(memory, MIB)
    data = torch.frombuffer(memory.view, dtype=torch.uint8)
    data.random_()
    # torch looks at where a storage begins, so each chunk has to have one of its own.
    for start in (0, MIB, 2 * MIB):
        assert torch.frombuffer(memory.view[start:], dtype=torch.uint8).is_pinned()
    buffer = device.allocate(memory.nbytes)
    for start in (0, MIB, 2 * MIB):
        device.copy(buffer, start, memory.view[start : start + MIB])
    device.fence().wait()
    assert torch.equal(buffer.data.cpu(), data)
    buffer.free()
    device.unregister(memory, MIB)


def test_a_second_registration_is_refused_in_words_and_leaves_cuda_usable(
    device: CudaDevice,
) -> None:
    memory = Memory(2 * MIB)
    memory.touch(1)
    device.register(memory, MIB)
    with pytest.raises(ResourceExhausted, match="CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"):
        device.register(memory, MIB)
    # The refusal is not left pending for the next, innocent operation.
    assert torch.ones(4, device="cuda").sum().item() == 4
    device.unregister(memory, MIB)


def test_a_thread_that_has_never_seen_the_device_registers_and_lets_go(
    device: CudaDevice,
) -> None:
    memory = Memory(2 * MIB)
    memory.touch(1)
    data = torch.frombuffer(memory.view, dtype=torch.uint8)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(device.register, memory, MIB).result()
        assert data.is_pinned()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(device.unregister, memory, MIB).result()
    assert not data.is_pinned()


def test_a_copy_from_the_slab_is_enqueued_and_not_waited_for(device: CudaDevice) -> None:
    slab = Slab(512 * MIB, device=device, staging_bytes=256 * MIB)
    buffer = device.allocate(256 * MIB)
    device.copy(buffer, 0, slab.staging.view)
    device.fence().wait()
    device.copy(buffer, 0, slab.staging.view)
    busy = not device._stream.query()  # nothing else tells whether the copy is still under way
    device.fence().wait()
    assert busy, "the copy had ended before the call returned"
    buffer.free()
    slab.close()


@pytest.mark.parametrize("family", BUILDERS)
def test_weights_on_the_device_are_those_of_the_original(
    family: str, packed: tuple[SnapshotStore, dict[str, str]], loader: Loader
) -> None:
    original, digest = BUILDERS[family](0), packed[1][family]
    for source in (Tier.DISK, Tier.VRAM, Tier.PINNED):
        with loader.load(digest) as loaded:
            assert loaded.report.source is source
            names = [part.name for part in loaded.manifest.components]
            assert_equal(loaded.pipeline, original, names)
            assert torch.isfinite(draw(loaded.pipeline)).all()
        if source is Tier.VRAM:
            evict_all(loader, digest, Tier.VRAM)


def test_weights_that_stream_through_staging_are_those_of_the_original(
    packed: tuple[SnapshotStore, dict[str, str]], device: CudaDevice
) -> None:
    slab = Slab(16 * MIB, device=device, staging_bytes=16 * MIB)
    loader = Loader(packed[0], device, slab, retain_pinned=False)
    for family, build in BUILDERS.items():
        with loader.load(packed[1][family]) as loaded:
            assert loaded.report.source is Tier.DISK
            names = [part.name for part in loaded.manifest.components]
            assert_equal(loaded.pipeline, build(0), names)
    loader.close()
    slab.close()


def test_a_model_loads_and_draws_in_a_thread_that_has_never_seen_the_device(
    packed: tuple[SnapshotStore, dict[str, str]], loader: Loader
) -> None:
    pictures: list[torch.Tensor] = []

    def work() -> None:
        with loader.load(packed[1]["sd"]) as loaded:
            pictures.append(draw(loaded.pipeline).cpu())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with loader.load(packed[1]["sd"]) as loaded:
        assert torch.equal(draw(loaded.pipeline).cpu(), pictures[0])


def test_eviction_gives_the_memory_back_to_the_driver(
    packed: tuple[SnapshotStore, dict[str, str]], loader: Loader, device: CudaDevice
) -> None:
    digest = packed[1]["sd"]
    loader.load(digest).release()  # whatever the first load of a process takes stays taken
    evict_all(loader, digest, Tier.VRAM)
    before, _ = torch.cuda.mem_get_info()
    for _ in range(3):
        loader.load(digest).release()
        assert torch.cuda.mem_get_info()[0] < before
        evict_all(loader, digest, Tier.VRAM)
        assert torch.cuda.mem_get_info()[0] == before


@pytest.mark.parametrize("nbytes", [256, MIB, 3 * MIB, 11 * MIB, 64 * MIB])
def test_what_a_buffer_takes_is_what_free_memory_falls_by(nbytes: int, device: CudaDevice) -> None:
    """Nothing of a weights' pool may count as free: activations cannot have it."""
    torch.cuda.empty_cache()
    before = device.free_bytes
    cached = before - torch.cuda.mem_get_info()[0]  # beside what other tests have left
    buffer = device.allocate(nbytes)
    driver_free, _ = torch.cuda.mem_get_info()
    # torch takes 2 MiB for a small one; larger ones leave nothing over.
    over = 2 * MIB if nbytes <= MIB else 0
    assert 0 <= device.free_bytes - driver_free - cached <= over
    assert before - device.free_bytes >= nbytes
    buffer.free()
    assert device.free_bytes == before


def test_more_than_the_offer_is_refused_with_what_is_free(
    packed: tuple[SnapshotStore, dict[str, str]],
) -> None:
    device = CudaDevice(0, offer_bytes=64 * MIB)
    assert device.total_bytes == 64 * MIB
    assert device.free_bytes == 64 * MIB, "context and activations take from the rest first"
    with pytest.raises(ResourceExhausted, match="evict") as caught:
        device.allocate(65 * MIB)
    assert caught.value.metadata["resource"] == "vram"
    buffer = device.allocate(40 * MIB)
    assert device.free_bytes == 24 * MIB
    buffer.free()


def test_a_caller_in_inference_mode_may_load(
    packed: tuple[SnapshotStore, dict[str, str]], loader: Loader
) -> None:
    """The mode is that thread's alone: memory made in it would refuse the readers' copies."""
    with torch.inference_mode():
        loaded = loader.load(packed[1]["sd"])
    names = [part.name for part in loaded.manifest.components]
    assert_equal(loaded.pipeline, BUILDERS["sd"](0), names)
    assert torch.isfinite(draw(loaded.pipeline)).all()
    loaded.release()


def test_an_overlapped_load_draws_what_a_whole_one_draws(
    packed: tuple[SnapshotStore, dict[str, str]], loader: Loader
) -> None:
    """Here the stream waits at the gates and the thread does not."""
    digest = packed[1]["sd"]
    with loader.load(digest) as whole:
        picture = draw(whole.pipeline).cpu()
    for tier in (Tier.VRAM, Tier.PINNED):
        for _ in range(5):
            evict_all(loader, digest, Tier.VRAM)
            if tier is Tier.PINNED:
                evict_all(loader, digest, Tier.PINNED)
            with loader.load(digest, overlap=True) as early:
                assert torch.equal(draw(early.pipeline).cpu(), picture)
                early.wait()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second CUDA device on this machine")
def test_weights_go_to_the_device_that_was_named_from_threads_that_have_another(
    packed: tuple[SnapshotStore, dict[str, str]],
) -> None:
    second = CudaDevice(1)
    torch.cuda.set_device(0)
    slab = Slab(64 * MIB, device=second, staging_bytes=16 * MIB)
    loader = Loader(packed[0], second, slab)
    before = torch.cuda.memory_allocated(0)
    with loader.load(packed[1]["sd"]) as loaded:
        assert loaded.pipeline.unet.device == torch.device("cuda", 1)
        names = [part.name for part in loaded.manifest.components]
        assert_equal(loaded.pipeline, BUILDERS["sd"](0), names)
        assert torch.cuda.memory_allocated(0) == before
    loader.close()
    slab.close()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second CUDA device on this machine")
def test_a_thread_has_the_device_that_it_is_given_until_the_end_of_the_block() -> None:
    torch.cuda.set_device(0)
    with current(torch.device("cuda", 1)):
        assert torch.cuda.current_device() == 1
    assert torch.cuda.current_device() == 0
