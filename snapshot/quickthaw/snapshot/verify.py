"""Checking every byte of a snapshot, and naming everything that is wrong rather than the first."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quickthaw.snapshot.copiers import Source, open_source
from quickthaw.snapshot.delta import DeltaOrigin
from quickthaw.snapshot.files import open_regular
from quickthaw.snapshot.format import DATA_ALIGNMENT, Problem, check_aligned, parse_header
from quickthaw.snapshot.hashes import BLOCK_BYTES, block_hash, sha256_hex
from quickthaw.snapshot.inspect import locate
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.reader import Snapshot, StoreReader
from quickthaw.wire.errors import QuickthawError, SnapshotCorrupt, SnapshotInvalid


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong. `block` and `offset` (in the file) are set for damaged weights."""

    part: str
    problem: str
    message: str
    block: int | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    digest: str
    findings: tuple[Finding, ...]
    checked_bytes: int

    @property
    def intact(self) -> bool:
        return not self.findings


def verify(
    path: Path | str,
    digest: str | None = None,
    *,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> VerifyReport:
    """Reads all of a snapshot and compares every hash. Arguments as for `inspect.locate`.

    A broken manifest raises, since nothing else can be checked then; all else is in the report.
    """
    return _verify(locate(path, digest), on_bytes, {})


def verify_store(
    path: Path | str, *, on_bytes: Callable[[int], None] = lambda _: None
) -> Iterator[VerifyReport]:
    """A report on each snapshot of a store, a broken manifest as a finding. What snapshots share is
    read once, and what is wrong with it told of all of them."""
    store, known = StoreReader(path), dict[_Part, tuple[Finding, ...]]()
    for digest in store:
        try:
            yield _verify(store.open(digest), on_bytes, known)
        except QuickthawError as error:
            yield VerifyReport(digest, (_finding("manifest", error),), 0)


def _verify(
    snapshot: Snapshot, on_bytes: Callable[[int], None], known: dict[_Part, tuple[Finding, ...]]
) -> VerifyReport:
    """`known` has what was found in parts that need not be read again, and gets the others."""
    checked = 0

    def count(size: int) -> None:
        nonlocal checked
        checked += size
        on_bytes(size)

    findings: list[Finding] = []
    # Once for each file, unless two parts say different things about it.
    parts = {
        (each.digest, each.header_digest, each.data_start, each.blocks, each.delta): each
        for each in snapshot.manifest.components
    }
    for key, part in parts.items():
        if key not in known:
            known[key] = tuple(_guarded(part.name, _component(snapshot.store, part, count)))
        findings += known[key]
    for processor in snapshot.manifest.processors:
        for name, blob in processor.files.items():
            try:
                count(len(snapshot.store.read_blob(blob)))
            except QuickthawError as error:
                findings.append(_finding(f"{processor.name}/{name}", error))
    return VerifyReport(snapshot.digest, tuple(findings), checked)


_Part = tuple[object, ...]
"""What tells two parts apart that need not both be read."""


def check_component(store: StoreReader, part: Component) -> None:
    """Raises `SnapshotCorrupt` with the first thing that is wrong with a component's bytes."""
    for finding in _guarded(part.name, _component(store, part, lambda _: None)):
        raise SnapshotCorrupt(
            f"component {part.name}: {finding.message}",
            metadata={"component": part.name, "digest": part.digest, "problem": finding.problem},
        )


def _guarded(part: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Ends the findings on a part with the error that kept the rest of it from being read."""
    try:
        yield from findings
    except QuickthawError as error:
        yield _finding(part, error)


def _finding(part: str, error: QuickthawError) -> Finding:
    return Finding(part, error.metadata.get("problem", error.reason.lower()), error.message)


def _wrong_size(part: str, path: Path, found_bytes: int, wanted_bytes: int) -> Finding:
    problem = Problem.TRUNCATED if found_bytes < wanted_bytes else Problem.TRAILING_BYTES
    return Finding(part, problem, f"{path} is {found_bytes} bytes long, not {wanted_bytes}")


def _component(
    store: StoreReader, part: Component, count: Callable[[int], None]
) -> Iterator[Finding]:
    path = store.component_path(part.digest)
    if part.delta is not None and not path.is_file():
        yield from _delta(store, part, count)
        return
    with os.fdopen(open_regular(path), "rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        if file_bytes != part.file_bytes:
            yield _wrong_size(part.name, path, file_bytes, part.file_bytes)
        header = file.read(part.data_start)

        def read(start: int, size: int) -> bytes:
            file.seek(part.data_start + start)
            return file.read(size)

        # Anything after the last block changes the digest.
        yield from _content(part, str(path), header, read, beyond=1, count=count)


def _delta(store: StoreReader, part: Component, count: Callable[[int], None]) -> Iterator[Finding]:
    """First the files of the chain, each by its name, then what they make together."""
    origin = DeltaOrigin(store)
    for file in part.files():
        path = store.root / file.path
        with open(open_regular(path), "rb", buffering=0) as raw:
            size = os.fstat(raw.fileno()).st_size
            if size != file.nbytes:  # a hole of terabytes is not worth hashing
                yield _wrong_size(part.name, path, size, file.nbytes)
            elif hashlib.file_digest(raw, "sha256").hexdigest() != file.digest:
                message = f"the content of {path} ({size} bytes) does not match its name"
                yield Finding(part.name, "digest", message)
        count(file.nbytes)
    header = origin.header(part)
    source = origin.open(part, lambda below: _opened(store, origin, below))
    if source is None or header is None:  # not while this is the only origin
        return
    try:
        room = memoryview(bytearray(BLOCK_BYTES))

        def read(start: int, size: int) -> bytes:
            target = room[: -(-size // DATA_ALIGNMENT) * DATA_ALIGNMENT]
            return bytes(room[: source.read_into(start, target, size)])

        where = f"what base and deltas of {part.name} make"
        yield from _content(part, where, header, read, beyond=0, count=lambda _: None)
    finally:
        source.close()


def _opened(store: StoreReader, origin: DeltaOrigin, part: Component) -> Source:
    path = store.component_path(part.digest)
    return open_source(path, part, (origin,), lambda below: _opened(store, origin, below))


def _content(
    part: Component,
    where: str,
    header: bytes,
    read: Callable[[int, int], bytes],
    *,
    beyond: int,
    count: Callable[[int], None],
) -> Iterator[Finding]:
    """`read` takes a place in the data section and a size, up to `beyond` bytes after its end."""
    count(len(header))
    yield from _header(part, where, header)
    whole = hashlib.sha256(header)
    for block in range(part.block_count):
        start = block * BLOCK_BYTES
        content = read(start, min(BLOCK_BYTES, part.data_bytes - start))
        count(len(content))
        whole.update(content)
        if block_hash(content) != part.block_hash(block):
            offset = part.data_start + start
            message = f"block {block} of {where} (offset {offset}) differs from the manifest"
            yield Finding(part.name, "corrupt", message, block, offset)
    if beyond:
        whole.update(read(part.data_bytes, beyond))
    if whole.hexdigest() != part.digest:
        yield Finding(part.name, "digest", f"the content of {where} does not match its name")


def _header(part: Component, path: str, raw: bytes) -> Iterator[Finding]:
    if sha256_hex(raw) != part.header_digest:
        yield Finding(part.name, "header_digest", f"the header of {path} was changed", None, 0)
    try:
        if len(raw) < 8 or int.from_bytes(raw[:8], "little") != len(raw) - 8:
            yield Finding(part.name, Problem.HEADER_MALFORMED, f"{path} has another header length")
        else:
            check_aligned(parse_header(raw, part.data_bytes, path), path)
    except SnapshotInvalid as error:
        yield _finding(part.name, error)
