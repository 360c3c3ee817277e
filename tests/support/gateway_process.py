"""A gateway as a process of its own, before a platform that the test plays: what it holds is
counted by the kernel and not by itself."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from quickthaw.wire.process import Address
from support.fake_inference import ADMIN_KEY, ALICE_KEY, FakePlatform, served
from support.patience import PATIENCE_SECONDS

_KIB = 1024


@dataclass
class GatewayProcess:
    pid: int
    address: Address
    metrics_url: str
    platform: FakePlatform
    http: httpx.AsyncClient
    """Sends alice's key."""

    def rss_bytes(self) -> int:
        return self._status("VmRSS")

    def peak_rss_bytes(self) -> int:
        """Since its start, or since `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * _KIB for line in lines if line.startswith(name))

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < give_up, f"{what} did not happen"
            await asyncio.sleep(0.02)


@asynccontextmanager
async def a_gateway_process(folder: Path, *flags: str) -> AsyncIterator[GatewayProcess]:
    """With a blob store, TLS and metrics; `flags` are more of the command line."""
    key_file = folder / "admin.key"
    key_file.write_text(ADMIN_KEY)
    platform = FakePlatform()
    async with served(platform) as port:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "quickthaw.gateway", "--http", "127.0.0.1:0"),
            *("--scheduler", f"127.0.0.1:{port}", "--metrics", "127.0.0.1:0"),
            *("--key-file", str(key_file), "--blob-store", str(folder / "blobs")),
            *("--tls-dir", str(folder / "tls"), "--drain-seconds", "1", "--log-level", "error"),
            *flags,
            stdout=PIPE,
            stderr=DEVNULL,
        )
        try:
            assert process.stdout is not None
            line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
            values: dict[str, str] = dict(word.split("=", 1) for word in line.split()[2:])
            url = values["http"]
            key = {"authorization": f"Key {ALICE_KEY}"}
            async with httpx.AsyncClient(base_url=url, headers=key, timeout=60) as http:
                address = Address.parse(url.removeprefix("http://"))
                yield GatewayProcess(process.pid, address, values["metrics"], platform, http)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()
