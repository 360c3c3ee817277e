"""The CUDA device's own code, over a stand-in that is as late and as strict as a GPU may be.

What a real one makes of it is for tests/gpu.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from quickthaw.snapshot import CudaDevice, Loader, Slab, SnapshotStore, Tier
from quickthaw.snapshot.memory import Memory
from quickthaw.snapshot.pack import pack
from quickthaw.wire.errors import ResourceExhausted
from quickthaw.worker.faults import is_device_fault
from support.fake_cuda import CONTEXT_BYTES, MIB, FakeCuda
from support.snapshots import draw, tensors_of
from support.tiny_models import tiny_sd


@pytest.fixture
def fake() -> Iterator[FakeCuda]:
    fake = FakeCuda()
    with fake.installed():
        yield fake


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[SnapshotStore, str]:
    store = SnapshotStore(tmp_path_factory.mktemp("store"))
    return store, pack(tiny_sd(0), store)


@contextmanager
def a_loader(
    store: SnapshotStore, device: CudaDevice, *, slab_bytes: int = 24 * MIB, **settings: Any
) -> Iterator[Loader]:
    slab = Slab(slab_bytes, device=device, staging_bytes=8 * MIB, touch_threads=1)
    loader = Loader(store, device, slab, readers=2, **settings)
    try:
        yield loader
    finally:
        loader.close()
        slab.close()


def in_another_thread(work: Callable[[], object]) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def assert_equal(pipeline: Any) -> None:
    original = tiny_sd(0)
    for part in ("unet", "text_encoder", "vae"):
        ours = tensors_of(getattr(pipeline, part))
        for name, tensor in tensors_of(getattr(original, part)).items():
            assert torch.equal(ours[name], tensor), (part, name)


@pytest.mark.parametrize("retain_pinned", [True, False])
def test_what_arrives_late_is_waited_for_and_comes_from_pinned_memory(
    retain_pinned: bool, fake: FakeCuda, packed: tuple[SnapshotStore, str]
) -> None:
    store, digest = packed
    with a_loader(store, CudaDevice(0), retain_pinned=retain_pinned) as loader:
        for _ in range(2):
            with loader.load(digest) as loaded:
                assert_equal(loaded.pipeline)
            for part in loader.open(digest).manifest.components:
                loader.evict(part.digest, Tier.VRAM)
        assert fake.copies
        assert not fake.pageable_copies
    assert not fake.driver.registered


def test_an_overlapped_load_draws_what_a_whole_one_draws(
    fake: FakeCuda, packed: tuple[SnapshotStore, str]
) -> None:
    store, digest = packed
    with a_loader(store, CudaDevice(0)) as loader:
        with loader.load(digest) as whole:
            picture = draw(whole.pipeline)
        for part in loader.open(digest).manifest.components:
            loader.evict(part.digest, Tier.VRAM)
        with loader.load(digest, overlap=True) as early:
            assert torch.equal(draw(early.pipeline), picture)


def test_an_evicted_model_leaves_the_driver_what_it_had(
    fake: FakeCuda, packed: tuple[SnapshotStore, str]
) -> None:
    store, digest = packed
    device = CudaDevice(0)
    before = fake.mem_get_info(), device.free_bytes
    with a_loader(store, device) as loader:
        for _ in range(2):
            loader.load(digest).release()
            assert fake.mem_get_info() < before[0]
            for part in loader.open(digest).manifest.components:
                loader.evict(part.digest, Tier.VRAM)
            assert (fake.mem_get_info(), device.free_bytes) == before


def test_the_offer_is_for_weights_and_the_rest_for_context_and_activations(fake: FakeCuda) -> None:
    device = CudaDevice(0, offer_bytes=100 * MIB)
    activations = fake.empty(300 * MIB, torch.uint8, device.torch_device)
    assert device.free_bytes == 100 * MIB
    buffer = device.allocate(40 * MIB)
    assert device.free_bytes == 60 * MIB
    with pytest.raises(ResourceExhausted, match=f"{60 * MIB} bytes free of the {61 * MIB}"):
        device.allocate(61 * MIB)
    driver_free, _ = fake.mem_get_info()
    buffer.free()
    buffer.free()
    assert device.free_bytes == 100 * MIB
    assert fake.mem_get_info()[0] == driver_free + 40 * MIB, "though the buffer is still there"
    del activations
    assert device.free_bytes == 100 * MIB


def test_the_offer_counts_no_further_than_the_device_has_memory(fake: FakeCuda) -> None:
    device = CudaDevice(0, offer_bytes=1024 * MIB)
    fake.others_bytes = fake.total_bytes - CONTEXT_BYTES - 30 * MIB
    assert device.free_bytes == 30 * MIB
    with pytest.raises(ResourceExhausted):
        device.allocate(32 * MIB)
    device.allocate(30 * MIB).free()


def test_memory_that_torch_keeps_for_activations_is_taken_from_it_for_weights(
    fake: FakeCuda,
) -> None:
    device = CudaDevice(0)
    free, _ = fake.mem_get_info()
    activations = fake.empty(free - 10 * MIB, torch.uint8, device.torch_device)
    del activations  # into torch's cache
    assert device.free_bytes == free
    device.allocate(20 * MIB).free()


def test_what_an_allocation_that_fails_has_counted_is_given_back(
    fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = CudaDevice(0)
    before = device.free_bytes

    def out_of_memory(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(fake, "empty", out_of_memory)
        with pytest.raises(ResourceExhausted, match="evict something"):
            device.allocate(64 * MIB)
    assert device.free_bytes == before


def test_a_thread_that_has_never_seen_the_device_registers_and_copies(fake: FakeCuda) -> None:
    device = CudaDevice(0)
    memory = Memory(3 * MIB)
    memory.view[:] = bytes(range(256)) * (memory.nbytes // 256)
    in_another_thread(lambda: device.register(memory, MIB))
    buffer = device.allocate(memory.nbytes)
    in_another_thread(lambda: device.copy(buffer, 0, memory.view[:MIB]))
    device.copy(buffer, MIB, memory.view[MIB : 2 * MIB])
    assert buffer.data[0] == 0xFF, "the copy is enqueued and not waited for"
    fence = device.fence()
    in_another_thread(fence.wait)
    assert bytes(buffer.data[: 2 * MIB].tolist()) == bytes(memory.view[: 2 * MIB])
    in_another_thread(lambda: device.unregister(memory, MIB))
    assert not fake.driver.registered


def test_work_that_is_ordered_after_a_fence_finds_what_was_copied_before_it(
    fake: FakeCuda,
) -> None:
    device = CudaDevice(0)
    memory = Memory(MIB)
    memory.view[:] = b"x" * MIB
    device.register(memory, MIB)
    buffer = device.allocate(MIB)
    device.copy(buffer, 0, memory.view)
    device.fence().order()
    assert set(buffer.data.tolist()) == {ord("x")}
    device.unregister(memory, MIB)


def test_memory_is_let_go_only_when_the_copies_from_it_are_over(fake: FakeCuda) -> None:
    device = CudaDevice(0)
    slab = Slab(16 * MIB, device=device, staging_bytes=8 * MIB, touch_threads=1)
    slab.staging.view[:MIB] = b"x" * MIB
    buffer = device.allocate(MIB)
    device.copy(buffer, 0, slab.staging.view[:MIB])
    slab.close()
    assert set(buffer.data.tolist()) == {ord("x")}
    fake.synchronize()


def test_a_copy_is_one_registration_s_or_the_driver_refuses_it(fake: FakeCuda) -> None:
    device = CudaDevice(0)
    memory = Memory(2 * MIB)
    device.register(memory, MIB)
    buffer = device.allocate(2 * MIB)
    with pytest.raises(torch.AcceleratorError, match="invalid argument"):
        device.copy(buffer, 0, memory.view)
    device.unregister(memory, MIB)


def test_no_context_is_made_on_another_worker_s_device() -> None:
    """Not even by reader threads, whose own device is the first one until they are told."""
    fake = FakeCuda(gpus=2)
    with fake.installed():
        made: list[CudaDevice] = []
        in_another_thread(lambda: made.append(CudaDevice(1)))
        (device,) = made
        memory = Memory(MIB)

        def load() -> None:
            device.register(memory, MIB)
            buffer = device.allocate(MIB)
            device.copy(buffer, 0, memory.view)
            device.fence().wait()
            device.fence().order()
            buffer.free()
            device.unregister(memory, MIB)
            assert device.free_bytes
            assert fake.index == 0

        in_another_thread(load)
        assert fake.contexts == {1}


def test_a_device_that_is_lost_under_a_load_is_told_as_such(
    fake: FakeCuda, packed: tuple[SnapshotStore, str]
) -> None:
    store, digest = packed
    device = CudaDevice(0)
    slab = Slab(24 * MIB, device=device, staging_bytes=8 * MIB, touch_threads=1)
    loader = Loader(store, device, slab, readers=2)
    with pytest.raises(torch.AcceleratorError) as caught:
        loader.load(digest, on_progress=lambda _: fake.break_down())
    assert is_device_fault(caught.value)
    loader.close()
