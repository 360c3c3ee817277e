"""Everything that the core was told, and what it decided: a log that can be replayed.

Each file begins with the core's whole state, so that the newest file is enough, and holds at least
as many bytes of events; the oldest goes when a new one is begun. Fed with the same events the core
must decide the same (`replay`): a surprising decision can be looked at with a debugger, as often as
needed.

    file      MAGIC, then frames
    frame     kind (one byte), length (four bytes, little-endian), zlib-compressed body
    H         JSON: the release that wrote it. A log is replayed by the release that wrote it.
    S         the state, pickled
    E         a list of `Entry`, pickled

Pickles are read with nothing but the classes that the core itself defines (`_Unpickler`): reading a
log runs no code of its. There are no inputs and no outputs of requests in it. Frames are written
once a second; what a crash cuts off is passed over when the log is read.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import pickle
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, NamedTuple

from quickthaw.scheduler.core import commands, events
from quickthaw.scheduler.core.estimates import Estimates
from quickthaw.scheduler.core.machine import Machine
from quickthaw.scheduler.core.model import Job, RequestId
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.core.settings import CoreSettings
from quickthaw.scheduler.core.state import Decisions, State
from quickthaw.scheduler.core_kind import require_interpreted
from quickthaw.wire.errors import SettingsInvalid

logger = logging.getLogger(__name__)

MAGIC = b"QTDECIDE1\n"
SEGMENTS = 4
"""Files that share the bound."""
FLUSH_SECONDS = 1.0
CHUNK = 512
"""Entries in one frame, at most."""
FRAME_BYTES_MAX = 1 << 30
_HEADER, _STATE, _ENTRIES = b"H", b"S", b"E"
_CORE = "quickthaw.scheduler.core."
_PLAIN = frozenset(
    {
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("builtins", "object"),
        ("collections", "Counter"),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("collections", "deque"),
        ("copyreg", "_reconstructor"),
    }
)

Decided = tuple[tuple[str, str, str], ...]
"""What was decided: the command's name, the attempt or request, the worker or the state."""


class Entry(NamedTuple):
    """One call of the machine: `event` for `handle`, a job to hold for, or a hold to release."""

    now_ms: int
    told: events.Event | Job | RequestId
    decided: Decided


class RecordedMachine(Machine):
    """A machine whose every event and decision goes to a log."""

    def __init__(
        self,
        settings: CoreSettings,
        prices: PriceTable,
        log: DecisionLog,
        estimates: Estimates | None = None,
    ) -> None:
        super().__init__(settings, prices, estimates)
        self._log = log

    def handle(self, event: events.Event, now_ms: int) -> list[commands.Command]:
        if self._log.wants_state:
            self._log.begin(self._state)
        decided = super().handle(event, now_ms)
        self._log.add(Entry(now_ms, _without_payload(event), essence(decided)))
        return decided

    def hold(self, job: Job, now_ms: int) -> None:
        super().hold(job, now_ms)
        self._log.add(Entry(now_ms, job, ()))

    def release_hold(self, request_id: RequestId) -> None:
        super().release_hold(request_id)
        self._log.add(Entry(0, request_id, ()))


class DecisionLog:
    """Writes to `folder`, at most about `bytes_max` in all, or eight states where these are more:
    a bound that is too small for the fleet must not have the state written at every event. A disk
    that fails ends the recording, never the scheduler."""

    def __init__(self, folder: Path, bytes_max: int, release: str, chunk: int = CHUNK) -> None:
        self._folder = folder
        self._chunk = chunk
        self._segment_bytes = bytes_max // SEGMENTS
        self._release = release
        self._entries: list[Entry] = []
        self._file: IO[bytes] | None = None
        self._number = 0
        self._full_bytes = 0
        self._failed = False

    @property
    def wants_state(self) -> bool:
        """A new file is due, which begins with the state."""
        if self._failed:
            return False
        return self._file is None or self._file.tell() >= self._full_bytes

    def begin(self, state: State) -> None:
        """Begins the next file with the state as it is now, and forgets the oldest."""
        try:
            self.flush()
            if self._file is not None:
                self._file.close()
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            known = segments(self._folder)
            for old in known[: max(0, len(known) - SEGMENTS + 1)]:
                old.unlink(missing_ok=True)
            self._number = max(self._number, *(_number(each) for each in known), 0) + 1
            path = self._folder / f"decisions-{self._number:08}.log"
            self._file = path.open("xb")
            path.chmod(0o600)
            self._file.write(MAGIC)
            self._frame(_HEADER, json.dumps({"release": self._release}).encode())
            deciding = replace(state, out=[], decisions=Decisions(state.settings.decisions_max))
            self._frame(_STATE, pickle.dumps(deciding, protocol=5))
            self._full_bytes = max(self._segment_bytes, 2 * self._file.tell())
        except OSError as error:
            self._fail(error)

    def add(self, entry: Entry) -> None:
        if self._failed:
            return
        self._entries.append(entry)
        if len(self._entries) >= self._chunk:
            self.flush()

    def flush(self) -> None:
        entries, self._entries = self._entries, []
        if self._file is None or not entries:
            return
        try:
            self._frame(_ENTRIES, pickle.dumps([tuple(each) for each in entries], protocol=5))
            self._file.flush()
        except OSError as error:
            self._fail(error)

    async def run(self) -> None:
        """Writes once a second; never returns."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self.flush()

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                # Of what could not be written before, which it tries again.
                self._fail(error)
            self._file = None
        self._failed = True

    def _frame(self, kind: bytes, body: bytes) -> None:
        assert self._file is not None
        packed = zlib.compress(body, level=1)
        self._file.write(kind + len(packed).to_bytes(4, "little") + packed)

    def _fail(self, error: OSError) -> None:
        self._failed = True
        self._entries.clear()
        logger.warning("the decision log in %s ends: %s", self._folder, error)


def release() -> str:
    """Of the installed distribution: decisions are compared only with those of the same code."""
    try:
        return version("quickthaw")
    except PackageNotFoundError:  # run from its source folders
        return "unknown"


def essence(decided: Sequence[commands.Command]) -> Decided:
    """What of the commands are decisions: who runs, stops or ends where."""
    found = []
    for command in decided:
        match command:
            case commands.SendAssign():
                evicts = ",".join(command.evict_digests)
                found.append(("assign", str(command.attempt_id), f"{command.worker_id} {evicts}"))
            case commands.SendCancel():
                found.append(("cancel", str(command.attempt_id), str(command.worker_id)))
            case commands.TellEnd():
                found.append(("end", str(command.job.request_id), command.end.state.value))
            case commands.TellQueued():
                found.append(("queued", str(command.request_id), str(command.queue_position)))
            case _:
                continue
    return tuple(found)


def _without_payload(event: events.Event) -> events.Event:
    """Payloads pass through the core untouched; they are the requests' outputs."""
    if isinstance(event, events.AttemptFinished) and event.payload is not None:
        return event._replace(payload=None)
    return event


# ---- reading -----------------------------------------------------------------------------------


class Difference(NamedTuple):
    """Where a replay decided otherwise: the entry's place in its file, from 1."""

    place: int
    told: str
    recorded: Decided
    replayed: Decided


class Replayed(NamedTuple):
    events: int
    decisions: int
    difference: Difference | None
    cut_off: bool
    """The file's end is not whole: the process that wrote it was killed."""


def segments(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob("decisions-*.log"), key=_number)


def replay(path: Path, release: str) -> Replayed:
    """Feeds one file's events to its state, up to the first difference. Raises SettingsInvalid for
    what is no log, or another release's, and where the core is compiled."""
    require_interpreted("replaying decisions")
    machine: _Restored | None = None
    count = decisions = 0
    cut_off = True
    for kind, body in _frames(path):
        if kind == _HEADER:
            _check_release(path, body, release)
        elif kind == _STATE:
            state = _unpickled(path, body)
            if not isinstance(state, State):
                raise SettingsInvalid(f"{path} does not begin with a state")
            machine = _Restored(state)
        elif kind == _ENTRIES:
            for now_ms, told, recorded in _entries(path, body):
                count += 1
                decisions += len(recorded)
                if machine is None:
                    raise SettingsInvalid(f"{path} does not begin with a state")
                if (replayed := machine.tell(now_ms, told)) != recorded:
                    difference = Difference(count, repr(told)[:400], recorded, replayed)
                    return Replayed(count, decisions, difference, False)
        else:
            cut_off = False
    return Replayed(count, decisions, None, cut_off)


class _Restored(Machine):
    def __init__(self, state: State) -> None:
        self._state = state

    def tell(self, now_ms: int, told: object) -> Decided:
        match told:
            case Job():
                self.hold(told, now_ms)
            case str():
                self.release_hold(RequestId(told))
            case _:
                # `handle` itself refuses what is no event.
                return essence(self.handle(told, now_ms))  # type: ignore[arg-type] # from a file
        return ()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        if module.startswith(_CORE) and "." not in name:
            found: object = super().find_class(module, name)
            # What a module has only imported may lead anywhere: `attrgetter` does.
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a decision log")


def _frames(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Ends with an empty kind if the file is whole."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise SettingsInvalid(f"{path} is no decision log")
            while head := file.read(5):
                size = int.from_bytes(head[1:], "little")
                body = file.read(size)
                if len(head) < 5 or len(body) < size:
                    return
                yield head[:1], zlib.decompressobj().decompress(body, FRAME_BYTES_MAX)
    except (OSError, zlib.error) as error:
        raise SettingsInvalid(f"{path}: {error}") from error
    yield b"", b""


def _check_release(path: Path, body: bytes, release: str) -> None:
    wrote = json.loads(body).get("release")
    if wrote != release:
        raise SettingsInvalid(
            f"{path} was written by release {wrote}; this is {release}, which decides otherwise"
        )


def _unpickled(path: Path, body: bytes) -> object:
    try:
        found: object = _Unpickler(io.BytesIO(body)).load()
    except Exception as error:  # a pickle can fail in any way its bytes like
        raise SettingsInvalid(f"{path} cannot be read: {error}") from error
    return found


def _entries(path: Path, body: bytes) -> Iterator[tuple[int, object, Decided]]:
    found = _unpickled(path, body)
    if not isinstance(found, list):
        raise SettingsInvalid(f"{path} holds something that is no list of events")
    yield from found


def _number(path: Path) -> int:
    text = path.stem.partition("-")[2]
    return int(text) if text.isdigit() else 0
