"""Everything one does with a snapshot, done to a broken one, and what came of it judged."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from typer.testing import CliRunner

from quickthaw.cli.commands.snapshot import app
from quickthaw.snapshot import CpuDevice, Loader, Slab, SnapshotStore, Tier, describe
from quickthaw.snapshot.hashes import sha256_hex
from quickthaw.snapshot.manifest_json import encode_manifest, parse_manifest
from quickthaw.snapshot.verify import verify
from quickthaw.wire.errors import Internal, QuickthawError
from support.fuzz.draft import Files
from support.fuzz.watch import Watch, forget_peak, peak_bytes, resident_bytes
from support.snapshots import tensors_of

MIB = 1 << 20
SLOW_SECONDS = 3.0
"""Of CPU time for one operation: a sound snapshot of this size takes hundredths."""
PEAK_BYTES_MAX = 128 * MIB
LOADER_TRIALS_MAX = 250
MESSAGE_CHARS_MAX = 20_000


@dataclass(slots=True)
class Outcome:
    """`stage`: the last operation that succeeded. `result`: how the first that failed did."""

    stage: str = "written"
    result: str = "accepted"
    findings: list[str] = field(default_factory=list)


class Trials:
    """Runs trials in `folder`, one after the other. The store is new each time, the loader warm."""

    def __init__(self, folder: Path, watch: Watch) -> None:
        self.root = folder / "store"
        self._other = folder / "imported"
        self._watch = watch
        self._slab = Slab(8 * MIB, staging_bytes=4 * MIB, touch_threads=1)
        self._loader: Loader | None = None
        self._left = 0

    def clean(self) -> None:
        for folder in (self.root, self._other):
            if folder.is_symlink():
                folder.unlink()
            shutil.rmtree(folder, ignore_errors=True)

    def loader(self) -> Loader:
        """One for many trials: building modules anew each time would take most of the time."""
        if self._loader is None or not self._left:
            if self._loader is not None:
                self._loader.close()
            device = CpuDevice(32 * MIB)
            self._loader = Loader(SnapshotStore(self.root), device, self._slab, readers=2)
            self._left = LOADER_TRIALS_MAX
        self._left -= 1
        return self._loader

    def run(self, files: Files, contents: dict[str, bytes], random_: random.Random) -> Outcome:
        """`contents`: what was signed, by path; the only bytes that may ever be accepted."""
        outcome = Outcome()
        self._watch.take()  # making the mutant may have written through a link of its own
        for name, operation in self._operations(files, contents, random_):
            self._one(name, operation, outcome)
        return outcome

    def _operations(
        self, files: Files, contents: dict[str, bytes], random_: random.Random
    ) -> Iterator[tuple[str, Callable[[], object]]]:
        yield "inspect", lambda: describe(self.root, files.digest)
        yield "verify", lambda: self._verify(files.digest)
        if random_.random() < 0.2:
            yield "round_trip", lambda: self._round_trip(files.digest)
        loader = self.loader()
        if random_.random() < 0.2:
            yield "promote", lambda: self._promote(loader, files.digest)
        if random_.random() < 0.1:
            yield "prepare", lambda: loader.prepare(files.digest)
        yield "load", lambda: self._load(loader, files, contents)
        if random_.random() < 0.05:
            yield "import", lambda: self._import(files.digest)
        if random_.random() < 0.03:
            yield "command", lambda: self._command(files.digest)

    def _one(self, name: str, operation: Callable[[], object], outcome: Outcome) -> None:
        forget_peak()
        resident, began = resident_bytes(), time.process_time()
        self._watch.armed = True
        try:
            operation()
        except QuickthawError as error:
            self._refused(name, error, outcome)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # Rust's panics are no Exception
            outcome.findings.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        else:
            if outcome.result == "accepted":
                outcome.stage = name
        finally:
            self._watch.armed = False
        seconds = time.process_time() - began
        if seconds > SLOW_SECONDS:
            outcome.findings.append(f"{name}: took {seconds:.1f} s of CPU time")
        if (peak := peak_bytes() - resident) > PEAK_BYTES_MAX:
            outcome.findings.append(f"{name}: took {peak // MIB} MiB of memory")
        outcome.findings += [f"{name}: {each}" for each in self._watch.take()]

    def _refused(self, name: str, error: QuickthawError, outcome: Outcome) -> None:
        if outcome.result == "accepted":
            problem = error.metadata.get("problem", "")
            outcome.result = f"{error.reason}/{problem}" if problem else error.reason
        if isinstance(error, Internal):
            outcome.findings.append(f"{name}: {error.message[:300]}")
        try:
            error.message.encode()
        except UnicodeEncodeError:
            outcome.findings.append(f"{name}: the message is no valid text: {error.message!r:.200}")
        if len(error.message) > MESSAGE_CHARS_MAX:
            outcome.findings.append(f"{name}: a message of {len(error.message)} characters")
        for cause in _causes(error):
            if isinstance(cause, MemoryError) or "allocate memory" in str(cause):
                outcome.findings.append(f"{name}: ran into the memory limit: {error.message[:200]}")
            if isinstance(cause, AssertionError):
                outcome.findings.append(f"{name}: a broken assumption: {error.message[:200]}")

    def _verify(self, digest: str) -> None:
        report = verify(self.root, digest)
        if not report.intact:
            finding = report.findings[0]
            raise_finding(finding.problem, finding.message)
        for file in SnapshotStore(self.root).open(digest).manifest.files():
            content = (self.root / file.path).read_bytes()
            assert sha256_hex(content) == file.digest, "verified, but differs"

    def _round_trip(self, digest: str) -> None:
        manifest = SnapshotStore(self.root).open(digest).manifest
        assert parse_manifest(encode_manifest(manifest)) == manifest, "written, reads differently"

    def _promote(self, loader: Loader, digest: str) -> None:
        for part in loader.open(digest).manifest.components:
            loader.promote(part.digest, Tier.PINNED)

    def _load(self, loader: Loader, files: Files, contents: dict[str, bytes]) -> None:
        try:
            with loader.load(files.digest) as model:
                with model.adapted():
                    pass
                for part in model.manifest.modules:
                    path = f"components/{part.digest}.safetensors"
                    _same(getattr(model.pipeline, part.name), contents[path], part.aliases)
        finally:
            for digest, place in loader.residency().items():
                assert place.users == 0, "a user stayed behind"
                # On a CPU the one is the other's memory, so the order counts.
                for tier in (Tier.VRAM, Tier.PINNED):
                    loader.evict(digest, tier)

    def _import(self, digest: str) -> None:
        SnapshotStore(self._other).import_(self.root, digest)
        report = verify(self._other, digest)
        assert report.intact, f"imported, but {report.findings[0].message}"

    def _command(self, digest: str) -> None:
        runner = CliRunner()
        for arguments in (["inspect"], ["inspect", "--json"], ["verify"], ["list"]):
            given = [] if arguments == ["list"] else ["--digest", digest]
            done = runner.invoke(app, [*arguments, str(self.root), *given])
            if done.exception is not None and not isinstance(
                done.exception, SystemExit | QuickthawError
            ):
                raise done.exception
            assert "\x1b]" not in done.output, "a terminal would obey the snapshot"


def raise_finding(problem: str, message: str) -> None:
    from quickthaw.snapshot.format import Problem
    from quickthaw.wire.errors import SnapshotCorrupt, SnapshotInvalid

    kind = SnapshotInvalid if problem in set(Problem) else SnapshotCorrupt
    raise kind(message, metadata={"problem": problem})


def _causes(error: BaseException) -> Iterator[BaseException]:
    while (cause := error.__cause__ or error.__context__) is not None:
        yield cause
        error = cause


def _same(module: Any, content: bytes, aliases: Any) -> None:
    """By another reader of the format; bit by bit, so that NaN equals itself."""
    wanted = load_safetensors(content)
    found = tensors_of(module)
    for name, tensor in found.items():
        theirs = wanted[aliases.get(name, name)]
        assert tensor.dtype == theirs.dtype, f"{name} has another type"
        assert tensor.shape == theirs.shape, f"{name} has another shape"
        ours = tensor.contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(ours, theirs.reshape(-1).view(torch.uint8)), f"{name} differs"
