"""Many threads on one loader, doing what a worker does, in no order at all."""

from __future__ import annotations

import random
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch

from quickthaw.snapshot import CpuDevice, LoadedModel, Loader, Slab, SnapshotStore, Tier
from quickthaw.wire.errors import FailedPrecondition, ResourceExhausted
from support.snapshots import MIB, tensors_of

THREADS = 4
STEPS = 60
"""Of each thread."""
VRAM_BYTES = 5 * MIB // 2
"""Less than all of the models together, so that loads are refused and have to wait for room."""


def bits(module: torch.nn.Module) -> dict[str, bytes]:
    return {
        name: tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, tensor in tensors_of(module).items()
    }


class Soak:
    """What the threads share: the loader, and what is true of it."""

    def __init__(self, store: SnapshotStore, digests: list[str]) -> None:
        self.device = CpuDevice(VRAM_BYTES)
        self.slab = Slab(5 * MIB, staging_bytes=4 * MIB, touch_threads=1)
        self.loader = Loader(store, self.device, self.slab, readers=2)
        self.digests = digests
        self.components = sorted(self.loader.residency())
        self.held: list[LoadedModel] = []
        self.failures: list[str] = []
        self.loads = 0
        self.lock = threading.Lock()
        self.wanted = {digest: self._bits_of(store, digest) for digest in digests}

    @staticmethod
    def _bits_of(store: SnapshotStore, digest: str) -> dict[str, dict[str, bytes]]:
        slab = Slab(32 * MIB, staging_bytes=8 * MIB, touch_threads=1)
        loader = Loader(store, CpuDevice(64 * MIB), slab, readers=1)
        try:
            with loader.load(digest) as model:
                parts = model.manifest.modules
                return {each.name: bits(getattr(model.pipeline, each.name)) for each in parts}
        finally:
            loader.close()
            slab.close()

    # ---- what a worker does ----------------------------------------------------------------------

    def load(self, random_: random.Random) -> None:
        model = self.loader.load(random_.choice(self.digests), overlap=random_.random() < 0.5)
        try:
            model.wait()
            self._look_at(model)
        except BaseException:
            model.release()
            raise
        with self.lock:
            self.held.append(model)
            self.loads += 1

    def release(self, random_: random.Random) -> None:
        with self.lock:
            if not self.held:
                return
            model = self.held.pop(random_.randrange(len(self.held)))
        self._look_at(model)
        model.release()

    def promote(self, random_: random.Random) -> None:
        tier = random_.choice((Tier.PINNED, Tier.VRAM))
        self.loader.promote(random_.choice(self.components), tier)

    def evict(self, random_: random.Random) -> None:
        tier = random_.choice((Tier.PINNED, Tier.VRAM))
        assert self.loader.evict(random_.choice(self.components), tier) >= 0

    def abandon(self, random_: random.Random) -> None:
        """A load that is given up halfway, as by a cancelled request."""

        class Enough(Exception):
            pass

        if random_.random() < 0.5:
            # Released while its weights are still arriving.
            self.loader.load(random_.choice(self.digests), overlap=True).release()
            return
        left = random_.randrange(4)

        def on_progress(_: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Enough

        with suppress(Enough):
            model = self.loader.load(random_.choice(self.digests), on_progress=on_progress)
            model.release()

    def look(self, random_: random.Random) -> None:
        for place in self.loader.residency().values():
            assert place.users >= 0
        assert 0 <= self.device.free_bytes <= VRAM_BYTES
        self.loader.plan(random_.choice(self.digests))

    def _look_at(self, model: LoadedModel) -> None:
        """While it is held, its tensors are those of its files, whatever others do."""
        for name, wanted in self.wanted[model.digest].items():
            assert bits(getattr(model.pipeline, name)) == wanted, f"{name} of {model.digest[:8]}"

    def run(self, seed: int) -> None:
        random_ = random.Random(seed)
        doings: tuple[Callable[[random.Random], None], ...] = (
            *(self.load, self.load, self.load, self.release, self.release, self.release),
            *(self.promote, self.promote, self.evict, self.evict, self.evict),
            *(self.abandon, self.look),
        )
        try:
            for _ in range(STEPS):
                # No room, or in use: right answers, and often.
                with suppress(ResourceExhausted, FailedPrecondition):
                    random_.choice(doings)(random_)
        except BaseException:
            self.failures.append(traceback.format_exc())


@pytest.mark.parametrize("seed", range(3))
def test_models_stay_whole_and_counts_right_whatever_threads_do_at_once(
    store: SnapshotStore, digests: dict[str, str], seed: int
) -> None:
    soak = Soak(store, [digests["sd"], digests["sd-tuned"], digests["flux"]])
    threads = [
        threading.Thread(target=soak.run, args=(seed * 1000 + index,)) for index in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a deadlock"
    assert not soak.failures, "\n".join(soak.failures)
    assert soak.loads > 5, "refused nearly always: nothing was tried"
    for model in soak.held:
        model.release()
    for component, place in soak.loader.residency().items():
        assert place.users == 0
        for tier in (Tier.VRAM, Tier.PINNED):
            soak.loader.evict(component, tier)
    assert soak.device.free_bytes == VRAM_BYTES
    assert soak.slab.free_bytes == soak.slab.total_bytes
    soak.loader.close()
    soak.slab.close()
