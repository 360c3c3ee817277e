"""The command lines under `deploy/` are ones that the parts understand."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.main

from quickthaw.cli.main import app
from quickthaw.cli.packer import settings as packer
from quickthaw.gateway import settings as gateway
from quickthaw.scheduler import settings as scheduler
from quickthaw.scheduler.keys import key_id_of
from quickthaw.worker import settings as worker
from support.documents import ROOT

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
DROP_INS = sorted((DEPLOY / "systemd").glob("*.service.d/*.conf"))
SPECIFIERS = {
    "%i": "0",
    "%l": "host",
    "$(POD_NAME)": "worker-0",
    "$(POD_IP)": "10.0.0.7",
}
SETTINGS = {"$(BLOB_STORE)": "s3://quickthaw/blobs", "$(PUBLIC_URL)": "https://gpu.example.com"}
READ: dict[str, Callable[[Sequence[str]], object]] = {
    "scheduler": lambda words: scheduler.parse_settings(words, {}),
    "gateway": gateway.parse_settings,
    "worker": lambda words: worker.parse(words, {}),
    "packer": packer.parse_settings,
}


def commands() -> Iterator[tuple[str, list[str]]]:
    """Where each is, and its words from the part's name on."""
    for unit in (*UNITS, *DROP_INS):
        # A drop-in says nothing first, which takes away what the unit said.
        *_, line = re.findall(r"^ExecStart=(.*)$", joined(unit), re.MULTILINE)
        program, *words = shlex.split(line)
        assert program == "/opt/quickthaw/bin/quickthaw"
        yield unit.name, words
    compose = (DEPLOY / "container" / "compose.yaml").read_text(encoding="utf-8")
    for block in re.findall(r"command: >-\n((?:      .*\n)+)", compose):
        yield "compose.yaml", block.split("\n    ports")[0].split()
    for manifest in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for block in re.findall(r"args:\n((?: +- .*\n)+)", manifest.read_text(encoding="utf-8")):
            lines = [line.partition(" #")[0] for line in block.splitlines()]
            yield manifest.name, [line.strip().removeprefix("- ") for line in lines]


def joined(unit: Path) -> str:
    return unit.read_text(encoding="utf-8").replace("\\\n", " ")


@pytest.mark.parametrize(("where", "words"), list(commands()), ids=lambda value: str(value)[:40])
def test_a_part_understands_its_command_line(where: str, words: list[str], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("qt_key\n")
    text = "\n".join(words)
    for name, value in (SPECIFIERS | SETTINGS).items():
        text = text.replace(name, value)
    part, *arguments = re.sub(r"(--key-file[=\n])\S+", rf"\g<1>{key}", text).split("\n")
    READ[part](arguments)


def test_there_is_a_command_line_of_each_part_for_each_way_to_deploy() -> None:
    found = {(where, words[0]) for where, words in commands()}
    assert {part for where, part in found if where == "compose.yaml"} == set(READ)
    of_cluster = {(f"{part}.yaml", part) for part in ("scheduler", "gateway", "worker")}
    assert of_cluster <= found
    assert {unit.stem.removeprefix("quickthaw-").rstrip("@") for unit in UNITS} == set(READ)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_understands_a_unit(unit: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze on this machine")
    # It wants the program to be there.
    copy = tmp_path / unit.name.replace("@.", "@0.")
    copy.write_text(joined(unit).replace("/opt/quickthaw/bin/quickthaw", sys.executable))
    command = [analyze, "verify", "--man=no", "--generators=no", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    about = [line for line in done.stderr.splitlines() if unit.stem.rstrip("@") in line]
    assert (about, done.returncode) == ([], 0)


def test_the_manifests_can_be_built() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl on this machine")
    command = [kubectl, "kustomize", str(DEPLOY / "kubernetes")]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert len(re.findall(r"^kind: ", built.stdout, re.MULTILINE)) == 12


def test_parts_of_a_cluster_mount_the_certificates_that_are_made_for_them() -> None:
    folder = DEPLOY / "kubernetes"
    made = set(re.findall(r"secretName: (\S+-tls)$", read(folder / "certificates.yaml"), re.M))
    for part in ("scheduler", "gateway", "worker"):
        manifest = read(folder / f"{part}.yaml")
        assert re.findall(r"secretName: (\S+-tls) ", manifest) == [f"quickthaw-{part}-tls"]
        paths = set(re.findall(r"=(/tls/\S+)", manifest))
        assert paths == {"/tls/ca.crt", "/tls/tls.crt", "/tls/tls.key"}, (
            "as cert-manager calls them"
        )
        made.remove(f"quickthaw-{part}-tls")
    assert not made


def test_a_probe_asks_as_the_command_understands() -> None:
    (block,) = re.findall(r"command:\n((?: +- .*\n)+)", read(DEPLOY / "kubernetes/scheduler.yaml"))
    program, command, *words = (line.strip().removeprefix("- ") for line in block.splitlines())
    assert program == "quickthaw"
    found: Any = typer.main.get_command(app)
    with found.commands[command].make_context(command, words) as context:
        assert context.params["grpc"] == "grpcs://localhost:7070"
        assert context.params["tls_key"] == Path("/tls/tls.key")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_page_makes_keys_that_are_some() -> None:
    page = (DEPLOY / "README.md").read_text(encoding="utf-8")
    (function,) = re.findall(r"^key\(\) \{.*\}$", page, re.MULTILINE)
    for _ in range(20):
        made = subprocess.run(
            ["bash", "-c", f"{function}; key"], capture_output=True, text=True, check=True
        )
        assert key_id_of(made.stdout.strip()) is not None


def test_an_image_without_models_lacks_the_libraries_of_workers_alone() -> None:
    program = DEPLOY / "container" / "control_requirements.py"
    said = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0] for line in said.stdout.splitlines()}
    assert {"grpcio", "sqlalchemy", "psycopg", "uvicorn"} <= names
    assert names.isdisjoint({"torch", "diffusers", "transformers", "peft", "av", "ray"})
    heavy = (
        "import sys\nfor each in ('torch', 'diffusers', 'transformers', 'peft', 'safetensors'):\n"
    )
    heavy += "    sys.modules[each] = None\n"
    modules = "import quickthaw.scheduler.__main__, quickthaw.gateway.__main__, quickthaw.cli.main"
    subprocess.run([sys.executable, "-c", heavy + modules], check=True)
