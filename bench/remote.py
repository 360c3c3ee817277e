"""How fast a component comes from another worker, beside a bare socket: `python -m bench.remote`.

A child serves one component from its page cache through the workers' own peer server. In turns,
this process reads it into touched memory by a plain socket (one connection and no checks: the
ceiling), by the load path's remote (ranges in parallel, each block checked), and as a pull to the
disk (blocks and SHA-256 checked). Records GB/s and this process's CPU seconds a GB, medians.
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from bench.support import RESULTS, record

from quickthaw.snapshot import Component, SnapshotStore
from quickthaw.snapshot.format import TensorSpec
from quickthaw.snapshot.manifest import StoredFile
from quickthaw.snapshot.memory import Memory
from quickthaw.snapshot.remote import RemoteSettings
from quickthaw.snapshot.remote.fetch import Fetch, Wanted
from quickthaw.snapshot.remote.http import HttpRemote
from quickthaw.snapshot.remote.places import Places, good_blocks
from quickthaw.snapshot.remote.source import component_path

TEMPLATE = Path(__file__).parents[1] / "models" / "shapes" / "snapshot"
PIECE_BYTES = 16 * 1024 * 1024
SERVE = """
import sys
from pathlib import Path
from quickthaw.wire.process import Address
from quickthaw.worker.peers import PeerServer
class Shelf:
    def manifest(self, digest): return None
    def pinned(self, digest): return None
    def file(self, kind, digest):
        return open(Path(sys.argv[1]) / kind / f"{digest}.safetensors", "rb", buffering=0)
server = PeerServer(Address("127.0.0.1", 0))
server.shelf = Shelf()
print(server.url, server.token, flush=True)
sys.stdin.read()
"""


def a_component(root: Path, nbytes: int) -> Component:
    """One of random bytes, described as the packaged model's first one."""
    template = SnapshotStore(TEMPLATE)
    part = template.open(template.only()).manifest.components[0]
    piece = secrets.token_bytes(PIECE_BYTES)
    specs = [TensorSpec(f"w{i}", "U8", (PIECE_BYTES,)) for i in range(nbytes // PIECE_BYTES)]
    with SnapshotStore(root).writing() as writer:
        written = writer.add_component(specs, (memoryview(piece) for _ in specs))
    return replace(
        part,
        digest=written.digest,
        header_digest=written.header_digest,
        data_start=written.data_start,
        data_bytes=written.data_bytes,
        blocks=written.blocks,
    )


def read_bare(url: str, token: str, part: Component, target: memoryview) -> None:
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port)) as connection:
        asked = (
            f"GET /{component_path(part.digest)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Authorization: Bearer {token}\r\nRange: bytes={part.data_start}-\r\n\r\n"
        )
        connection.sendall(asked.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1)
        done = 0
        while done < part.data_bytes:
            done += connection.recv_into(target[done : part.data_bytes]) or sys.exit("cut")


def read_remote(
    remote: HttpRemote, part: Component, target: memoryview, settings: RemoteSettings
) -> None:
    places = Places([remote])

    def one(start: int) -> None:
        view = target[start : min(start + settings.range_bytes, part.data_bytes)]
        path = component_path(part.digest)
        places.fill(path, part.data_start + start, view, good_blocks(part, start))

    with ThreadPoolExecutor(settings.parallel) as pool:
        list(pool.map(one, range(0, part.data_bytes, settings.range_bytes)))


def pull(remote: HttpRemote, part: Component, root: Path, settings: RemoteSettings) -> None:
    store = SnapshotStore(root)
    store.component_path(part.digest).unlink(missing_ok=True)
    path = component_path(part.digest)
    stored = StoredFile(path, part.digest, part.file_bytes)
    with store.writing():
        Fetch(root, settings, lambda _: None).run([Wanted(stored, Places([remote]), part)])


def timed(work: Callable[[], None], nbytes: int) -> tuple[float, float]:
    began, cpu = time.perf_counter(), time.process_time()
    work()
    seconds, busy = time.perf_counter() - began, time.process_time() - cpu
    return nbytes / 1e9 / seconds, busy / (nbytes / 1e9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of the component")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        part = a_component(root / "there", given.mib * 1024 * 1024)
        memory = Memory(part.data_bytes)
        memory.touch(2)
        child = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(root / "there")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        url, token = child.stdout.readline().split()
        settings = RemoteSettings(parallel=min(8, 2 * (os.cpu_count() or 1)))
        remote = HttpRemote(url, settings, token=token, kind="peer")
        ways: dict[str, Callable[[], None]] = {
            "socket": lambda: read_bare(url, token, part, memory.view),
            "peer to memory": lambda: read_remote(remote, part, memory.view, settings),
            "peer to disk": lambda: pull(remote, part, root / "here", settings),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(given.rounds):
            for name, work in ways.items():
                found[name].append(timed(work, part.data_bytes))
        remote.close()
        child.communicate("")
        content = SnapshotStore(root / "here").component_path(part.digest).read_bytes()
        assert content[part.data_start :] == bytes(memory.view[: part.data_bytes])
    answer = {
        name: {
            "gb_per_second": round(statistics.median(speed for speed, _ in runs), 3),
            "cpu_seconds_per_gb": round(statistics.median(cpu for _, cpu in runs), 3),
        }
        for name, runs in found.items()
    }
    about = {"bytes": part.data_bytes, "rounds": given.rounds, "parallel": settings.parallel}
    record("remote", about, answer, given.results)


if __name__ == "__main__":
    main()
