"""What a run of the cold-start benchmark is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quickthaw.cli.bench.peers.base import Peer
from quickthaw.cli.bench.rows import From


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. `scale`: a share of the real size; None: what fits.

    `peers`: those to measure, all by default. `snapshot`: a digest in the default store, a folder
    that `snapshot pack` wrote, or a diffusers folder; it takes the place of `model`.
    `limit_seconds`: no round begins that would not end by then, but one is measured.
    """

    model: str
    folder: Path
    peers: tuple[Peer, ...]
    command: str = ""
    name: str = "cold_start"
    scale: float | None = None
    size_gb: float | None = None
    snapshot: str | None = None
    digest: str | None = None
    device: str = "cpu"
    starts: tuple[From, ...] = tuple(From)
    rounds: int = 7
    limit_seconds: float | None = None
    readers: int = 16
    torch_threads: int = 1
    seed: int = 0
    keep: bool = False
