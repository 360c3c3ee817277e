"""Around a load: fetching a snapshot that is not here, and telling what the library reports."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import unquote, urlsplit

from quickthaw.snapshot import LoadReport, Manifest, SnapshotStore
from quickthaw.snapshot import Tier as StoreTier
from quickthaw.wire.errors import (
    FailedPrecondition,
    InvalidArgument,
    ModelCannotFit,
    NotFound,
    ResourceExhausted,
    SnapshotCorrupt,
)
from quickthaw.worker.ahead import Answers
from quickthaw.worker.attempts import ComponentLoad, LoadSummary, Tier

logger = logging.getLogger(__name__)

TIER_OF = {
    StoreTier.VRAM: Tier.VRAM,
    StoreTier.PINNED: Tier.PINNED,
    StoreTier.DISK: Tier.DISK,
    StoreTier.REMOTE: Tier.REMOTE,
}


def import_snapshot(store: SnapshotStore, digest: str, uri: str) -> None:
    """Copies the snapshot from a local folder into `store`, checking it.

    Raises FailedPrecondition for a place that cannot be read from, NotFound if it is not there.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file") or not uri:
        raise FailedPrecondition(
            f"snapshot {digest[:12]} is not on this worker, and it cannot be fetched from {uri!r}: "
            "supported are absolute folder paths and file:// URLs"
        )
    folder = Path(unquote(parts.path) if parts.scheme else uri)
    if not folder.is_absolute() or not folder.is_dir():
        raise NotFound(
            f"snapshot {digest[:12]} is not on this worker, and {folder} is no folder here; copy "
            "it there, or register the model with a place that workers reach"
        )
    logger.info("importing snapshot %s from %s", digest[:12], folder)
    if digest not in SnapshotStore(folder):
        raise NotFound(
            f"{folder} of this machine does not hold the snapshot {digest[:12]}; copy it there, or "
            "register the model with a place that workers reach"
        )
    store.import_(folder, digest)


def is_held_here(digest: str, uri: str) -> bool:
    """Whether a snapshot's place is a folder on this machine, to be copied from. Another machine's
    may have the same path here, without the snapshot."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file") or not uri:
        return False
    folder = Path(unquote(parts.path) if parts.scheme else uri)
    return folder.is_absolute() and folder.is_dir() and digest in SnapshotStore(folder)


def withdrawn(component: str, model: str) -> SnapshotCorrupt:
    return SnapshotCorrupt(
        f"component {component[:12]} of {model} was withdrawn: its content is not what its SHA-256 "
        "says; pack and push the snapshot again",
        metadata={"digest": component},
    )


def cannot_fit(model: str, manifest: Manifest, total_bytes: int) -> ModelCannotFit:
    return ModelCannotFit(
        f"{model} has {manifest.weight_bytes} bytes of weights and this worker {total_bytes} bytes "
        "of device memory; run it on a larger one"
    )


def other_family(digest: str, found: str, wanted: str) -> InvalidArgument:
    return InvalidArgument(
        f"snapshot {digest[:12]} is of the family {found!r}, not {wanted!r} as the catalog says; "
        "register the model again"
    )


def out_of_memory(what: str) -> ResourceExhausted:
    return ResourceExhausted(
        f"out of device memory while {what}, also after evicting everything idle; ask for a "
        "smaller image or fewer images, or use a worker with more memory",
        metadata={"resource": "vram"},
    )


def component_digests(manifest: Manifest) -> frozenset[str]:
    return frozenset(part.digest for part in manifest.components)


def resident_summary(manifest: Manifest) -> LoadSummary:
    """Of a model that was there already."""
    parts = {part.digest: part for part in manifest.components}.values()
    return LoadSummary(
        tuple(
            ComponentLoad(part.name, part.digest, part.data_bytes, Tier.VRAM, "", 0.0, 0.0)
            for part in parts
        )
    )


def summary_of(report: LoadReport, ahead: Answers | None = None) -> LoadSummary:
    return LoadSummary(
        tuple(
            ComponentLoad(
                part.name,
                part.digest,
                part.nbytes,
                TIER_OF[part.source],
                part.copier or "",
                part.read_seconds,
                part.copy_seconds,
                part.why,
            )
            for part in report.components
        ),
        manifest_seconds=report.manifest_seconds,
        skeleton_seconds=report.skeleton_seconds + report.tokenizer_seconds,
        bytes_seconds=report.bytes_seconds,
        bind_seconds=report.bind_seconds + report.pipeline_seconds,
        encode_seconds=ahead.seconds if ahead is not None else 0.0,
        total_seconds=report.total_seconds,
    )
