"""Loads that return while bytes still arrive."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from quickthaw.snapshot import CpuDevice, Kind, Loader, LoadProgress, Slab, SnapshotStore, Tier
from quickthaw.snapshot.gates import Gate
from quickthaw.wire.errors import SnapshotCorrupt
from support.lagging_device import LaggingDevice
from support.snapshots import MIB, a_loader, draw, flip_bit


class Held:
    """A progress callback that lets nothing of the named components through until told.

    One call is made at a time, so with two readers it may keep components back that come before.
    """

    def __init__(self, *names: str) -> None:
        self._names = names
        self.go_on = threading.Event()
        self.waiting = threading.Event()

    def __call__(self, progress: LoadProgress) -> None:
        if progress.component in self._names:
            self.waiting.set()
            assert self.go_on.wait(30)


@contextmanager
def drawing(pipeline: object) -> Iterator[list[torch.Tensor | BaseException]]:
    """Draws in another thread; at the end of the block there is a picture or an error."""
    found: list[torch.Tensor | BaseException] = []

    def work() -> None:
        try:
            found.append(draw(pipeline))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    yield found
    thread.join(60)


def test_the_text_encoder_runs_while_the_denoiser_is_on_its_way(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    held = Held("unet")
    with a_loader(store) as loader, loader.load(digests["sd"]) as whole:
        picture = draw(whole.pipeline)
    with a_loader(store, readers=1) as loader:
        loaded = loader.load(digests["sd"], overlap=True, on_progress=held)
        assert held.waiting.wait(30)
        tokens = torch.zeros((1, 4), dtype=torch.long)
        assert torch.isfinite(loaded.pipeline.text_encoder(tokens)[0]).all()
        loaded.wait_for(Kind.TEXT_ENCODER)
        reached = threading.Event()
        loaded.pipeline.unet.register_forward_pre_hook(lambda *_: reached.set(), prepend=True)
        with drawing(loaded.pipeline) as drawn:
            assert reached.wait(30)
            assert drawn == []
            held.go_on.set()
        assert isinstance(drawn[0], torch.Tensor)
        assert torch.equal(drawn[0], picture)
        report = loaded.wait()
        assert report is loaded.report
        assert {part.source for part in report.components} == {Tier.DISK}
        assert len(loaded.pipeline.unet._forward_pre_hooks) == 1, "only the test's own is left"
        loaded.release()


@pytest.mark.parametrize("own_memory", [False, True])
def test_a_late_component_that_is_corrupt_fails_at_its_gate(
    own_memory: bool, damaged: SnapshotStore, digests: dict[str, str]
) -> None:
    part = damaged.open(digests["sd"]).manifest.component("vae")
    flip_bit(damaged.component_path(part.digest), part.data_start)
    device = LaggingDevice(64 * MIB) if own_memory else CpuDevice(64 * MIB)
    slab = Slab(24 * MIB, staging_bytes=8 * MIB)
    loader = Loader(damaged, device, slab, readers=1)
    held = Held("unet")
    loaded = loader.load(digests["sd"], overlap=True, on_progress=held)
    with drawing(loaded.pipeline) as drawn:
        held.go_on.set()
    assert isinstance(drawn[0], SnapshotCorrupt)
    assert drawn[0].metadata["component"] == "vae"
    with pytest.raises(SnapshotCorrupt, match="component vae"):
        loaded.wait()
    loaded.release()
    assert all(line.users == 0 for line in loader.residency().values())
    assert Tier.VRAM not in loader.residency()[part.digest].tiers
    with pytest.raises(SnapshotCorrupt):
        loader.load(digests["sd"])
    # Nothing of the failure sticks to modules that go to the next model.
    with loader.load(digests["flux"]) as other:
        assert torch.isfinite(draw(other.pipeline)).all()
    loader.close()
    slab.close()


def test_a_first_component_that_is_corrupt_fails_the_load_itself(
    damaged: SnapshotStore, digests: dict[str, str]
) -> None:
    part = damaged.open(digests["sd"]).manifest.components[0]
    flip_bit(damaged.component_path(part.digest), part.data_start)
    with a_loader(damaged) as loader:
        with pytest.raises(SnapshotCorrupt, match=part.name):
            loader.load(digests["sd"], overlap=True)
        assert all(line.users == 0 for line in loader.residency().values())
        assert all(Tier.VRAM not in line.tiers for line in loader.residency().values())


def test_releasing_a_model_gives_up_what_still_arrives(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    device, slab = CpuDevice(64 * MIB), Slab(24 * MIB, staging_bytes=8 * MIB)
    loader = Loader(store, device, slab, readers=1)
    held = Held("unet")
    loaded = loader.load(digests["sd"], overlap=True, on_progress=held)
    assert held.waiting.wait(30)
    threading.Timer(0.1, held.go_on.set).start()
    loaded.release()
    residency = loader.residency()
    vae = loaded.manifest.component("vae").digest
    assert residency[vae].tiers == {Tier.DISK}
    assert all(line.users == 0 for line in residency.values())
    for part in loaded.manifest.components:
        loader.evict(part.digest, Tier.VRAM)
        loader.evict(part.digest, Tier.PINNED)
    assert device.free_bytes == device.total_bytes
    assert slab.free_bytes == slab.total_bytes
    with loader.load(digests["sd"]) as again:
        assert torch.isfinite(draw(again.pipeline)).all()
    loader.close()
    slab.close()


def test_a_load_takes_over_what_another_gave_up(
    store: SnapshotStore, digests: dict[str, str]
) -> None:
    """Two models share text encoder and VAE; the first is released while they are on their way."""
    held = Held("unet", "vae")
    with a_loader(store) as loader, loader.load(digests["sd-tuned"]) as whole:
        picture = draw(whole.pipeline)
    with a_loader(store, readers=1) as loader:
        first = loader.load(digests["sd"], overlap=True, on_progress=held)
        assert held.waiting.wait(30)
        second = loader.load(digests["sd-tuned"], overlap=True)
        with drawing(second.pipeline) as drawn:
            threading.Timer(0.1, held.go_on.set).start()
            first.release()
        assert isinstance(drawn[0], torch.Tensor)
        assert torch.equal(drawn[0], picture)
        second.wait()
        second.release()


def test_a_gate_fails_only_when_nobody_hopes_any_more() -> None:
    gate = Gate()
    gate.hope()
    gate.hope()
    gate.give_up(KeyError("first"))
    assert not gate.failed
    gate.give_up(KeyError("second"))
    assert gate.failed
    with pytest.raises(KeyError, match="second"):
        gate.pass_through()
    gate.hope()
    assert not gate.failed
    gate.open(None)
    gate.pass_through()
