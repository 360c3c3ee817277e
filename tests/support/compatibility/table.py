"""Runs every published client in several versions against a platform that it starts, and writes
`docs/compatibility.md` from what they said: `scripts/compatibility`.

Each version has a folder of its own with what it needs (pip's `--target`, npm), kept in `--clients`
for the next run; what no version here needs any more is deleted there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quickthaw.cli.pointing import Place, variables
from support.compatibility.calls import LACKING, WORKS
from support.platform import Platform, running_platform

ROOT = Path(__file__).resolve().parents[3]
NODE = ROOT / "tests" / "node"
DOCUMENT = ROOT / "docs" / "compatibility.md"
CLIENTS = ROOT / ".quickthaw" / "clients"
MODEL = "quickthaw/shapes"
RUN_SECONDS_MAX = 600
INSTALL_SECONDS_MAX = 900
FAL_PYTHON = ("1.0.3", "0.13.2", "0.9.1", "0.7.0", "0.5.9")
FAL_JAVASCRIPT = ("1.10.1", "1.6.2", "1.2.3", "1.0.4")
REPLICATE_PYTHON = ("1.0.7", "0.34.2", "0.26.1")
REPLICATE_JAVASCRIPT = ("1.4.0", "0.34.1", "0.29.4")
OPENAI_PYTHON = ("3.54.0", "2.54.0", "1.109.1")
UNDICI = "7.16.0"
"""What makes Node 20 obey HTTPS_PROXY."""
NODE_VERSIONS = ("22", "24", "26")
"""Beside the one that is installed: npm's `node` is the runtime itself."""
PROXY_VERSION = (22, 21)
"""From here on Node obeys HTTPS_PROXY and has a WebSocket, without being told in code."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One client in one version, led here in one way, and what each of its calls came to."""

    client: str
    version: str
    way: str
    calls: dict[str, str]

    @property
    def column(self) -> str:
        return f"{self.version}, {self.way}"


class Clients:
    """A folder of installed clients, by version."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._wanted: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def python(self, name: str, version: str) -> Path:
        """One version of a Python client with what it needs, to be put first on the path."""

        def install(target: Path) -> None:
            pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-compile")
            command = (*pip, "--target", str(target), f"{name}=={version}")
            subprocess.run(command, check=True, timeout=INSTALL_SECONDS_MAX)

        return self._kept(f"{name}-{version}", install)

    def node(self, name: str, *packages: str) -> Path:
        """A folder with these packages and the scripts that use them."""

        def install(target: Path) -> None:
            (target / "package.json").write_text('{"private": true, "type": "module"}\n')
            npm = ("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(target))
            subprocess.run((*npm, *packages), check=True, timeout=INSTALL_SECONDS_MAX)

        project = self._kept(f"node-{name}", install)
        for script in (*NODE.glob("*.mjs"), *NODE.glob("*.cjs")):
            shutil.copy(script, project)
        return project

    def forget_others(self) -> None:
        for each in self._folder.iterdir():
            if each.name not in self._wanted:
                shutil.rmtree(each)

    def _kept(self, name: str, install: Callable[[Path], None]) -> Path:
        """Made once, and whole or not at all."""
        self._wanted.add(name)
        target = self._folder / name
        if not target.exists():
            draft = Path(tempfile.mkdtemp(prefix=".", dir=self._folder))
            install(draft)
            draft.rename(target)
        return target


@dataclass(frozen=True, slots=True)
class Runtime:
    """One Node."""

    program: str
    version: tuple[int, ...]

    @classmethod
    def at(cls, program: str) -> Runtime:
        asked = subprocess.run((program, "--version"), capture_output=True, text=True, check=True)
        parts = asked.stdout.strip().removeprefix("v").split(".")
        return cls(program, tuple(int(part) for part in parts))

    @property
    def name(self) -> str:
        return ".".join(map(str, self.version))

    @property
    def obeys_proxy(self) -> bool:
        return self.version >= PROXY_VERSION


def runtimes(clients: Clients) -> list[Runtime]:
    """The one of this machine, and the newest of each of `NODE_VERSIONS`; none without any."""
    if shutil.which("npm") is None or (here := shutil.which("node")) is None:
        return []
    found = [Runtime.at(here)]
    for major in NODE_VERSIONS:
        if found[0].version[0] == int(major):
            continue
        project = clients.node(major, f"node@{major}")
        found.append(Runtime.at(str(project / "node_modules" / "node" / "bin" / "node")))
    return found


def told(command: Sequence[str], environment: dict[str, str]) -> dict[str, str]:
    """What became of each call; a script that broke is one that says so."""
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS_MAX,
    )
    if done.returncode != 0:
        return {"(the program)": (done.stderr.strip().splitlines() or ["no word"])[-1][:200]}
    answer: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


class Runs:
    def __init__(self, platform: Platform, clients: Clients) -> None:
        self._clients = clients
        self._base = platform.ready["http"].rstrip("/")
        self._place = Place(self._base, platform.key, platform.data_dir / "tls")

    def python(
        self, script: str, environment: dict[str, str], package: Path, *arguments: str
    ) -> dict[str, str]:
        path = f"{package}{os.pathsep}{ROOT / 'tests'}"
        module = f"support.compatibility.{script}"
        command = (sys.executable, "-P", "-m", module, MODEL, *arguments)
        return told(command, {**environment, "PYTHONPATH": path})

    def fal_python(self) -> Iterator[Tried]:
        connect = variables("fal", self._place)
        host = self._base.partition("://")[2]
        hosts = {
            **{name: connect[name] for name in ("FAL_KEY", "SSL_CERT_FILE")},
            **{"FAL_RUN_HOST": host, "FAL_QUEUE_RUN_HOST": f"{host}/queue"},
        }
        for version in FAL_PYTHON:
            package = self._clients.python("fal-client", version)
            calls = self.python("fal_python", connect, package)
            yield Tried("fal-client (Python)", version, "CONNECT", calls)
            if version == FAL_PYTHON[0]:
                calls = self.python("fal_python", hosts, package, "hosts")
                yield Tried("fal-client (Python)", version, "FAL_RUN_HOST", calls)

    def others_python(self) -> Iterator[Tried]:
        for name, versions, way in (
            ("replicate", REPLICATE_PYTHON, "REPLICATE_BASE_URL"),
            ("openai", OPENAI_PYTHON, "OPENAI_BASE_URL"),
        ):
            for version in versions:
                package = self._clients.python(name, version)
                calls = self.python(f"{name}_python", variables(name, self._place), package)
                yield Tried(f"{name} (Python)", version, way, calls)

    def fal_javascript(
        self, version: str, project: Path, runtime: Runtime, ways: Sequence[str]
    ) -> Iterator[Tried]:
        """By the client's own options that `ways` names, and by environment variables alone."""
        client = f"@fal-ai/client (Node {runtime.version[0]})"
        script = (runtime.program, str(project / "fal-calls.mjs"), MODEL)
        socket = {} if runtime.obeys_proxy else {"NODE_OPTIONS": "--experimental-websocket"}
        for way in ways:
            calls = told((*script, way, self._base), {"FAL_KEY": self._place.key, **socket})
            yield Tried(client, version, OPTION_NAMES[way], calls)
        if not runtime.obeys_proxy:
            preload = f"--experimental-websocket --require {project / 'env-proxy.cjs'}"
            socket = {"NODE_OPTIONS": preload}
        environment = {**variables("fal", self._place), **socket}
        calls = told((*script, "connect", self._base), environment)
        yield Tried(client, version, "CONNECT", calls)

    def replicate_javascript(self, version: str, project: Path, runtime: Runtime) -> Tried:
        command = (runtime.program, str(project / "replicate-calls.mjs"), MODEL, self._base)
        calls = told(command, variables("replicate", self._place))
        return Tried("replicate (Node)", version, f"Node {runtime.version[0]}", calls)

    def javascript(self, nodes: Sequence[Runtime]) -> Iterator[Tried]:
        """Every version of the clients on the first Node, the newest ones on all of them."""
        for version in FAL_JAVASCRIPT:
            packages = (f"@fal-ai/client@{version}", f"undici@{UNDICI}")
            project = self._clients.node(f"fal-{version}", *packages)
            newest = version == FAL_JAVASCRIPT[0]
            for node in nodes if newest else nodes[:1]:
                # Older versions know a proxy in browsers only.
                ways = tuple(OPTION_NAMES) if newest else ()
                yield from self.fal_javascript(version, project, node, ways)
        for version in REPLICATE_JAVASCRIPT:
            project = self._clients.node(f"replicate-{version}", f"replicate@{version}")
            newest = version == REPLICATE_JAVASCRIPT[0]
            for node in nodes if newest else nodes[:1]:
                yield self.replicate_javascript(version, project, node)


OPTION_NAMES = {"proxy": "proxyUrl", "middleware": "requestMiddleware", "fetch": "fetch"}
_INTRODUCTION = """# Compatibility

What published clients, unchanged, come to against this gateway. Written by `scripts/compatibility`
from a run against `quickthaw up` with the bundled model; do not edit. **CONNECT** is environment
variables alone, as `quickthaw run-with` sets them (Node before 22.21 also needs
`tests/node/env-proxy.cjs`); the other ways are the clients' own settings, `baseUrl` for Replicate's
in Node. fal's settings do not reach the realtime socket: there the program's global `WebSocket` is
one that goes to the gateway.
{versions}

✓ works · – not in this version, or out of this way's reach · ✗ fails, explained below.
"""


def document(runs: Sequence[Tried], versions: str) -> str:
    parts = [_INTRODUCTION.format(versions=versions)]
    notes: list[str] = []
    for client in dict.fromkeys(run.client for run in runs):
        own = [run for run in runs if run.client == client]
        names = dict.fromkeys(name for run in own for name in run.calls)
        rows = [
            f"\n## {client}\n",
            f"| call | {' | '.join(run.column for run in own)} |",
            f"| --- |{' --- |' * len(own)}",
        ]
        for name in names:
            cells = []
            for run in own:
                said = run.calls.get(name, LACKING)
                cells.append({WORKS: "✓", LACKING: "–"}.get(said, "✗"))
                if cells[-1] == "✗":
                    notes.append(f"- {client} {run.column}, `{name}`: {said}")
            rows.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("\n".join(rows) + "\n")
    if notes:
        parts.append("\n## Failures\n\n" + "\n".join(notes) + "\n")
    return "".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/compatibility", description=__doc__)
    parser.add_argument("--output", type=Path, default=DOCUMENT, help="what to write")
    parser.add_argument("--clients", type=Path, default=CLIENTS, help="where they are installed")
    arguments = parser.parse_args()
    runs: list[Tried] = []
    clients = Clients(arguments.clients)
    with tempfile.TemporaryDirectory(prefix="quickthaw-compatibility-") as name:
        nodes = runtimes(clients)
        with running_platform(Path(name)) as platform:
            all_runs = Runs(platform, clients)
            ways = [all_runs.fal_python(), all_runs.others_python()]
            for found in (*ways, *([all_runs.javascript(nodes)] if nodes else [])):
                for run in found:
                    runs.append(run)
                    print(run.client, run.column, json.dumps(run.calls, indent=1), file=sys.stderr)
    clients.forget_others()
    node = "Node is not installed here: its clients were not run."
    if nodes:
        node = f"Node {', '.join(each.name for each in nodes)}."
    versions = f"Python {sys.version.split()[0]}. {node}"
    arguments.output.write_text(document(runs, versions), encoding="utf-8")
    failed = [said for run in runs for said in run.calls.values() if said not in (WORKS, LACKING)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
