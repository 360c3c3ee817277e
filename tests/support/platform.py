"""A whole platform, started as a user starts it, for tests that need every real part."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quickthaw.client import AsyncClient, Client

STOP_SECONDS_MAX = 120
POLL_SECONDS = 0.02


@dataclass
class Platform:
    """A running `quickthaw up`. Make it with `running_platform`."""

    data_dir: Path
    process: subprocess.Popen[str]
    ready: dict[str, str] = field(default_factory=dict)
    """The values of the ready line: http, grpc, metrics, key-file."""

    @property
    def key(self) -> str:
        return Path(self.ready["key-file"]).read_text().strip()

    def client(self) -> Client:
        return Client(grpc=self.ready["grpc"], key=self.key)

    def async_client(self) -> AsyncClient:
        return AsyncClient(grpc=self.ready["grpc"], key=self.key)

    def environment(self) -> dict[str, str]:
        """For a command that shall talk to this platform."""
        return {**os.environ, "QUICKTHAW_DATA_DIR": str(self.data_dir)}

    def told(self, *words: str | Path) -> Any:
        """What a command that succeeds tells about this platform."""
        done = subprocess.run(
            quickthaw(*words, "--json"),
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def pids(self) -> dict[str, int]:
        """The parts' processes, as `up` has them now."""
        content = json.loads((self.data_dir / "run.json").read_text())
        return {name: int(pid) for name, pid in content["pids"].items() if pid}

    def workers(self) -> list[str]:
        """Ids of the workers that are up now."""
        return sorted(set(self.pids()) - {"scheduler", "gateway", "packer"})

    def kill(self, part: str) -> int | None:
        """`kill -9` of a part; its pid, or None if it is down at this moment anyway."""
        pid = self.pids().get(part)
        if pid is None:
            return None
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        return pid

    def logs(self) -> str:
        """The end of every part's log, for a failure's message."""
        parts = sorted((self.data_dir / "logs").glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text()[-4000:]}" for path in parts)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        return self.process.returncode


async def until(holds: Callable[[], bool], what: str, timeout_seconds: float = 60.0) -> None:
    """Looks again and again at what only another process changes."""
    for _ in range(int(timeout_seconds / POLL_SECONDS)):
        if holds():
            return
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(f"{what} did not happen within {timeout_seconds:g} s")


def quickthaw(*arguments: str | Path) -> list[str]:
    """The command line of `quickthaw`, as installed for this interpreter."""
    return [sys.executable, "-m", "quickthaw.cli", *map(str, arguments)]


@contextlib.contextmanager
def running_platform(data_dir: Path, *flags: str) -> Iterator[Platform]:
    """`quickthaw up` on free ports with `flags`, stopped with the block."""
    anywhere = "127.0.0.1:0"
    process = subprocess.Popen(
        quickthaw(
            *("up", "--data-dir", data_dir, "--device", "cpu"),
            *("--http", anywhere, "--grpc", anywhere, "--metrics", anywhere),
            *flags,
        ),
        stdout=subprocess.PIPE,
        text=True,
        # Threads that spin for each other on few cores slow every worker down.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    platform = Platform(data_dir, process)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("quickthaw ready "), f"{line!r}\n{platform.logs()}"
        platform.ready = dict(word.partition("=")[::2] for word in shlex.split(line)[2:])
        yield platform
    finally:
        platform.stop()
