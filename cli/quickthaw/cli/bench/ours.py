"""Quickthaw's own rows: a worker's resident slab, or one that is made inside the timing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from quickthaw.cli.bench.lanes import Outcome, Settings
from quickthaw.cli.bench.loopback import STORE
from quickthaw.cli.bench.peers.base import wait_for
from quickthaw.cli.bench.rows import From
from quickthaw.cli.bench.subject import Subject, differences
from quickthaw.snapshot import CpuDevice, CudaDevice, Device, Loader, Slab, SnapshotStore, Tier
from quickthaw.snapshot.loaded import LoadedModel
from quickthaw.snapshot.prepared import Prepared
from quickthaw.snapshot.remote import RemoteOrigin, open_remote
from quickthaw.snapshot.report import LoadReport

STAGING_BYTES = 64 << 20
FRESH_STAGING_BYTES = 16 << 20
"""A slab that is made for one model that fits needs no more."""


class Resident:
    """As a worker is: the slab touched, skeletons and tokenizers prepared, long before."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._subject = settings.subject
        self._device = _device(settings)
        self._slab = _slab(settings, self._device, STAGING_BYTES)
        self._loader = Loader(
            SnapshotStore(self._subject.store), self._device, self._slab, readers=settings.readers
        )
        self._loader.prepare(self._subject.digest)
        self._parts = self._loader.open(self._subject.digest).manifest.components
        self._elsewhere = _Elsewhere(settings, self._device, self._slab) if settings.url else None
        self._loaded: LoadedModel | None = None

    def prepare(self, start: From) -> None:
        for part in self._parts:
            self._loader.evict(part.digest, Tier.VRAM)
            if start is From.PINNED:
                self._loader.promote(part.digest, Tier.PINNED, verify=False)
            else:
                self._loader.evict(part.digest, Tier.PINNED)

    def run(self, start: From, *, verify: bool) -> Outcome:
        loader = self._loader_for(start)
        cpu, began = time.process_time(), time.perf_counter()
        self._loaded = loader.load(self._subject.digest, verify=verify)
        wait_for(self._settings.device)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        report = self._loaded.report
        _check_source(report, start)
        return Outcome(seconds, cpu, _phases(report), _how(report))

    def _loader_for(self, start: From) -> Loader:
        if start is not From.REMOTE:
            return self._loader
        assert self._elsewhere is not None, "a web server is there when the tier is measured"
        return self._elsewhere.loader

    def wrong(self) -> list[str]:
        assert self._loaded is not None
        return _wrong(self._subject, self._loaded)

    def clear(self) -> None:
        if self._loaded is not None:
            self._loaded.release()
            self._loaded = None
        for part in self._parts:
            self._loader.evict(part.digest, Tier.VRAM)  # others need the device's memory
        if self._elsewhere is not None:
            self._elsewhere.forget()


class _Elsewhere:
    """A loader whose store has the small files and none of the weights: they come over HTTP."""

    def __init__(self, settings: Settings, device: Device, slab: Slab) -> None:
        store = SnapshotStore(settings.subject.folder / "elsewhere")
        origin = RemoteOrigin(store)
        digest = settings.subject.digest
        snapshot = origin.begin(digest, [open_remote(f"{settings.url}/{STORE}")])
        self.loader = Loader(store, device, slab, readers=settings.readers, origins=(origin,))
        self.loader.adopt(snapshot)
        self.loader.prepare(digest)
        self._parts = [part.digest for part in snapshot.manifest.components]

    def forget(self) -> None:
        for digest in self._parts:
            self.loader.evict(digest, Tier.VRAM)
            self.loader.evict(digest, Tier.PINNED)


class Fresh:
    """Like for like: peers take their memory from the kernel inside the timing, and so does this.

    The slab is mapped and touched (on a GPU: registered) before each load and given back after.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._subject = settings.subject
        self._store = SnapshotStore(self._subject.store)
        self._prepared = Prepared(self._store)
        self._held: tuple[LoadedModel, Loader, Slab] | None = None

    def prepare(self, start: From) -> None:
        """Nothing is ever left in memory."""

    def run(self, start: From, *, verify: bool) -> Outcome:
        device = _device(self._settings)
        cpu, began = time.process_time(), time.perf_counter()
        slab = _slab(self._settings, device, FRESH_STAGING_BYTES)
        slab_seconds, slab_cpu = time.perf_counter() - began, time.process_time() - cpu
        loader = Loader(
            self._store,
            device,
            slab,
            readers=self._settings.readers,
            prepared=self._prepared,
        )
        loader.prepare(self._subject.digest)
        cpu, began = time.process_time(), time.perf_counter()
        loaded = loader.load(self._subject.digest, verify=verify)
        wait_for(self._settings.device)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        self._held = loaded, loader, slab
        _check_source(loaded.report, start)
        phases = {"slab_seconds": slab_seconds, **_phases(loaded.report)}
        return Outcome(slab_seconds + seconds, slab_cpu + cpu, phases, _how(loaded.report))

    def wrong(self) -> list[str]:
        assert self._held is not None
        return _wrong(self._subject, self._held[0])

    def clear(self) -> None:
        if self._held is not None:
            loaded, loader, slab = self._held
            self._held = None
            loaded.release()
            for digest in loader.residency():
                loader.evict(digest, Tier.VRAM)
                loader.evict(digest, Tier.PINNED)
            loader.close()
            slab.close()


def _device(settings: Settings) -> Device:
    return CudaDevice(0) if settings.device == "cuda" else CpuDevice(_room_bytes(settings.subject))


def _slab(settings: Settings, device: Device, staging_bytes: int) -> Slab:
    return Slab(
        _room_bytes(settings.subject) + staging_bytes,
        device=device,
        staging_bytes=staging_bytes,
        touch_threads=settings.touch_threads,
    )


def _room_bytes(subject: Subject) -> int:
    return round(subject.nbytes * 1.01) + (4 << 20)


def _check_source(report: LoadReport, start: From) -> None:
    wanted = {From.PINNED: Tier.PINNED, From.REMOTE: Tier.REMOTE}.get(start, Tier.DISK)
    if report.source is not wanted:
        _not_measured(f"the load came from {report.source}, not from {wanted}")
    copiers = {part.copier for part in report.components if part.copier is not None}
    if start is From.DISK and "page_cache" in copiers and "direct" not in copiers:
        _not_measured("files that were cold were read through the page cache")


def _not_measured(why: str) -> NoReturn:
    raise RuntimeError(f"{why}: this row would not be what it says")


def _phases(report: LoadReport) -> dict[str, float]:
    """All of the report's seconds; those of components added up."""
    fields = {each.name: getattr(report, each.name) for each in dataclasses.fields(report)}
    found = {name: float(value) for name, value in fields.items() if name.endswith("_seconds")}
    found["read_seconds"] = sum(part.read_seconds for part in report.components)
    found["copy_seconds"] = sum(part.copy_seconds for part in report.components)
    return found


def _how(report: LoadReport) -> str:
    return ", ".join(sorted({part.copier for part in report.components if part.copier is not None}))


def _wrong(subject: Subject, loaded: LoadedModel) -> list[str]:
    found: list[str] = []
    for name, expected in subject.expected.items():
        module: Any = getattr(loaded.pipeline, name)
        tensors: Mapping[str, Any] = {
            **dict(module.named_parameters(remove_duplicate=False)),
            **dict(module.named_buffers(remove_duplicate=False)),
        }
        found += [f"{name}: {line}" for line in differences(expected, tensors)]
    return found
