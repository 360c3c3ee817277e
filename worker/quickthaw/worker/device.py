"""What this worker runs on: which device, how much of it, and the host built upon it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quickthaw.snapshot import Slab
from quickthaw.snapshot.slab_index import INDEX_BYTES
from quickthaw.wire.errors import ResourceExhausted, SettingsInvalid
from quickthaw.worker.attempts import Tier
from quickthaw.worker.imports import import_families
from quickthaw.worker.nvml import Gpu, find_gpu
from quickthaw.worker.settings import WorkerSettings

if TYPE_CHECKING:
    from quickthaw.snapshot import Device
    from quickthaw.snapshot.prepared import Prepared
    from quickthaw.worker.adapters import ReadBlobTo
    from quickthaw.worker.metrics import WorkerMetrics
    from quickthaw.worker.models import ModelHost
    from quickthaw.worker.peers import PeerServer

_MIB = 1 << 20
_CUDA_RESERVE_BYTES = 1536 * _MIB
"""For the CUDA context, libraries' workspaces and what others take: left out of the offer."""
_CPU_VRAM_FRACTION = 4
"""A CPU worker offers a quarter of the machine's memory: it is seldom alone there."""
_STAGING_BYTES = {"cpu": 16 * _MIB, "cuda": 128 * _MIB}


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """The device's settings with every question answered."""

    kind: str  # cpu or cuda
    index: int
    gpu_type: str
    vram_bytes: int
    pinned_bytes: int
    gpu: Gpu | None


def memory_bytes() -> int:
    """Of this machine, or of the control group if that allows less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or "max"
        return physical
    return min(physical, limit)


def choose_device(
    settings: WorkerSettings,
    gpu_of: Callable[[str], Gpu | None] = find_gpu,
    ram_bytes: int | None = None,
) -> DeviceChoice:
    """Fills in what the settings left open. Raises SettingsInvalid for a device not there."""
    ram_bytes = memory_bytes() if ram_bytes is None else ram_bytes
    kind, _, number = settings.device.partition(":")
    index = int(number or 0)
    name = _nvml_name(index, settings.visible_gpus)
    gpu = None if kind == "cpu" or name is None else gpu_of(name)
    if kind == "auto":
        kind = "cpu" if gpu is None else "cuda"
    if kind == "cpu":
        return DeviceChoice(
            kind="cpu",
            index=0,
            gpu_type=settings.gpu_type or "cpu",
            vram_bytes=settings.vram_bytes or ram_bytes // _CPU_VRAM_FRACTION,
            pinned_bytes=settings.pinned_bytes or min(1024 * _MIB, max(64 * _MIB, ram_bytes // 64)),
            gpu=None,
        )
    if gpu is None and (settings.vram_bytes is None or settings.gpu_type is None):
        raise SettingsInvalid(
            f"--device is {settings.device!r}, but NVML finds no such GPU; check nvidia-smi, "
            "install quickthaw[gpu], or give --gpu-type and --vram-bytes as well"
        )
    if gpu is not None and settings.vram_bytes is None and gpu.divided:
        raise SettingsInvalid(
            f"{gpu.name} is divided (MIG), and a worker can have one part of it; name that in "
            "CUDA_VISIBLE_DEVICES, as nvidia-smi -L shows it (MIG-...)"
        )
    offered = gpu.total_bytes - _CUDA_RESERVE_BYTES if gpu is not None else 0
    return DeviceChoice(
        kind="cuda",
        index=index,
        gpu_type=settings.gpu_type or (gpu.type_name if gpu is not None else ""),
        vram_bytes=settings.vram_bytes or offered,
        pinned_bytes=settings.pinned_bytes or ram_bytes * 2 // 5,
        gpu=gpu,
    )


def _nvml_name(index: int, visible: tuple[str, ...] | None) -> str | None:
    """NVML's index or UUID of CUDA device `index`: NVML knows nothing of CUDA_VISIBLE_DEVICES."""
    if visible is None:
        return str(index)
    return visible[index] if index < len(visible) and visible[index] != "-1" else None


def open_slab(choice: DeviceChoice, slab_file: int | None, device: Device | None) -> Slab:
    """The same memory in the same file for every process of this choice. Touches all of it.

    Raises SettingsInvalid if it cannot be had.
    """
    staging_bytes = _STAGING_BYTES[choice.kind]
    index_bytes = 0 if slab_file is None else INDEX_BYTES
    try:
        return Slab(
            choice.pinned_bytes + staging_bytes + index_bytes,
            device=device,
            staging_bytes=staging_bytes,
            descriptor=slab_file,
        )
    except ResourceExhausted as error:
        raise SettingsInvalid(f"--pinned-bytes {choice.pinned_bytes}: {error.message}") from error


@contextmanager
def _warming(device: Device) -> Iterator[None]:
    """At the end of the block no library has anything left to do at its first use of a GPU.

    That takes up to a second, which pinning the slab takes as well. Handles belong to threads, and
    those of one that has ended are the next one's: here, of whichever thread runs first.
    """
    if device.kind == "cpu":  # the parent has done it
        yield
        return
    import torch

    from quickthaw.snapshot.prewarm import warm_kernels

    dtypes = (torch.float16, torch.bfloat16, torch.float32)
    thread = threading.Thread(
        target=warm_kernels, args=(device.torch_device, dtypes), name="warming"
    )
    thread.start()
    try:
        yield
    finally:
        thread.join()


def build_host(
    settings: WorkerSettings,
    choice: DeviceChoice,
    on_evicted: Callable[[Tier], None],
    slab_file: int | None = None,
    prepared: Prepared | None = None,
    metrics: WorkerMetrics | None = None,
    peers: PeerServer | None = None,
    read_blob_to: ReadBlobTo | None = None,
) -> ModelHost:
    """Maps and registers the slab and opens the local snapshots; imports what is not yet.

    `slab_file`: a memory file to make the slab in, with what an earlier worker left there.
    `prepared`: what the parent has made ready of the same store. `metrics`: where compiled code is
    counted. `peers`: gets its shelf. `read_blob_to`: how LoRAs of requests come. Raises
    SettingsInvalid if device or slab cannot be had.
    """
    if prepared is None:
        for _part in import_families(settings.families):
            continue
    import torch

    from quickthaw.snapshot import CpuDevice, CudaDevice, Loader, SnapshotStore
    from quickthaw.snapshot.remote import RemoteOrigin
    from quickthaw.worker.adapters import Adapters, refuse_blobs
    from quickthaw.worker.arrivals import Arrivals
    from quickthaw.worker.compiling import open_compiled
    from quickthaw.worker.models import ModelHost
    from quickthaw.worker.peers_shelf import WorkerShelf

    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    device: Device
    if choice.kind == "cuda":
        device = CudaDevice(choice.index, offer_bytes=choice.vram_bytes)
    else:
        device = CpuDevice(choice.vram_bytes)
    with _warming(device):
        slab = open_slab(choice, slab_file, device)
    store = SnapshotStore(settings.snapshot_store) if prepared is None else prepared.store
    origin = RemoteOrigin(store, settings.remote)
    loader = Loader(store, device, slab, origins=(origin,), prepared=prepared)
    ca = None if settings.scheduler_tls is None else settings.scheduler_tls.ca
    arrivals = Arrivals(store, loader, origin, metrics, ca)
    if peers is not None:
        peers.shelf = WorkerShelf(store, loader, origin)
    return ModelHost(
        store,
        loader,
        device,
        slab,
        verify=settings.verify,
        on_evicted=on_evicted,
        compiled=open_compiled(settings, device.torch_device, store.root, metrics),
        arrivals=arrivals,
        adapters=Adapters(
            store,
            settings.data_dir / "loras",
            settings.adapters,
            settings.remote,
            read_blob_to or refuse_blobs,
        ),
    )
