"""Fetching the bytes of an output file, checked against the digest in the request's record."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO
from uuid import uuid4

from quickthaw.client import methods
from quickthaw.client.convert import artifact_from_wire
from quickthaw.client.requests import Artifact
from quickthaw.client.retry import Context, Patience
from quickthaw.client.steps import Offload, Operation, open_stream, read
from quickthaw.v1 import inference_pb2
from quickthaw.wire.errors import ArtifactCorrupt, QuickthawError, StorageFull, Unavailable


@dataclass(slots=True)
class _Check:
    """What has arrived so far, against what was promised."""

    promised: Artifact | None
    size_bytes: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def feed(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        self.digest.update(chunk)
        if self.promised is not None and self.size_bytes > self.promised.size_bytes:
            raise ArtifactCorrupt(
                f"{self.promised.uri} is longer than the {self.promised.size_bytes} bytes of its "
                "record; the blob store's copy was changed"
            )

    def finish(self, uri: str) -> None:
        if self.promised is None:
            raise Unavailable(f"the server sent nothing for {uri}")
        if self.size_bytes < self.promised.size_bytes:
            raise Unavailable(
                f"{uri} broke off after {self.size_bytes} of {self.promised.size_bytes} bytes"
            )
        if self.digest.hexdigest() != self.promised.sha256:
            raise ArtifactCorrupt(
                f"{uri} has SHA-256 {self.digest.hexdigest()}, its record says "
                f"{self.promised.sha256}; the blob store's copy was changed"
            )


def _fetch(
    context: Context, artifact: Artifact | str, sink: Callable[[bytes], object]
) -> Operation[None]:
    """One try. An `Artifact` is checked against itself, a URI against the record that comes along.

    Hashing and `sink` run where blocking is allowed.
    """
    uri = _uri(artifact)
    check = _Check(None if isinstance(artifact, str) else artifact)
    stream = yield from open_stream(
        methods.READ_ARTIFACT,
        inference_pb2.ReadArtifactRequest(uri=uri),
        context.artifact_timeout_seconds,
    )
    try:
        while (answer := (yield from read(stream, methods.READ_ARTIFACT))) is not None:
            if check.promised is None and answer.HasField("artifact"):
                check.promised = artifact_from_wire(answer.artifact)
            yield Offload(partial(_take, check, sink, answer.data))
        check.finish(uri)
    finally:
        stream.cancel()


def _take(check: _Check, sink: Callable[[bytes], object], chunk: bytes) -> None:
    check.feed(chunk)
    sink(chunk)


def _uri(artifact: Artifact | str) -> str:
    return artifact if isinstance(artifact, str) else artifact.uri


def read_artifact(context: Context, artifact: Artifact | str) -> Operation[bytes]:
    patience = Patience(context)
    while True:
        content = bytearray()
        try:
            yield from _fetch(context, artifact, content.extend)
            return bytes(content)
        except QuickthawError as error:
            yield from patience.pause_after(error)


def save_artifact(context: Context, artifact: Artifact | str, path: Path) -> Operation[Path]:
    # The name comes from the server and must not lead out of the folder.
    name = PurePosixPath(_uri(artifact)).name
    target = path / ("artifact" if name in ("", "..") else name) if path.is_dir() else path
    patience = Patience(context)
    while True:
        try:
            yield from _save_once(context, artifact, target)
            return target
        except QuickthawError as error:
            yield from patience.pause_after(error)


def _save_once(context: Context, artifact: Artifact | str, target: Path) -> Operation[None]:
    """The file appears whole or not at all: written beside its place, then renamed."""
    partial_file = target.with_name(f".{target.name}.{uuid4().hex}.part")
    try:
        with partial_file.open("xb") as file:
            yield from _fetch(context, artifact, file.write)
            yield Offload(partial(_sync, file))
        partial_file.replace(target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"{target} cannot be written: no space left under {target.parent}"
            ) from error
        raise
    finally:
        partial_file.unlink(missing_ok=True)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
