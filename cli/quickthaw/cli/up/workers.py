"""How many workers, and on which devices."""

from __future__ import annotations

import re
import socket

from quickthaw.cli.fleet import WorkerSpec
from quickthaw.cli.up import parts
from quickthaw.cli.up.settings import UpSettings
from quickthaw.wire.errors import SettingsInvalid


def devices(settings: UpSettings, gpus: int) -> tuple[str, ...]:
    """One entry per worker: `cpu` or `cuda:N`. Raises SettingsInvalid for what cannot work."""
    if settings.device == "cuda" and not gpus:
        raise SettingsInvalid("--device cuda: no GPU is visible here; use --device cpu or auto")
    wanted = settings.workers_max or settings.workers
    if settings.device == "cpu" or not gpus:
        return ("cpu",) * (wanted or 1)
    count = wanted or gpus
    if count > gpus and settings.vram_bytes is None:
        raise SettingsInvalid(
            f"--workers {count}: {gpus} GPU(s) are visible and a worker takes a whole one; "
            "give each its share with --vram-bytes, or start fewer"
        )
    return tuple(f"cuda:{index % gpus}" for index in range(count))


def specs(
    settings: UpSettings, gpus: int, scheduler: str, prepare: tuple[str, ...]
) -> tuple[WorkerSpec, ...]:
    """Worker ids stay the same from one `up` to the next, so that a restarted one is recognised."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:40].strip("-.") or "local"
    return tuple(
        WorkerSpec(
            worker_id=f"{host}-{index}",
            scheduler=scheduler,
            key_file=settings.data_dir / parts.WORKER_KEY_FILE,
            data_dir=settings.data_dir / f"worker-{index}",
            snapshot_store=settings.snapshots,
            blob_store=settings.blobs,
            device=device,
            vram_bytes=settings.vram_bytes,
            pinned_bytes=settings.pinned_bytes,
            prepare=prepare,
            log_level=settings.log_level,
            drain_seconds=settings.drain_seconds,
            compiled=settings.compiled,
            compiled_cache=settings.data_dir / "compiled",
            options=settings.options.get("worker", ()),
        )
        for index, device in enumerate(devices(settings, gpus))
    )
