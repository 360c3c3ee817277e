"""The command line teaches itself, quickly."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from typing import Any

import pytest
import typer.main

from quickthaw.cli.main import PANELS, app, execute

COMMANDS = (
    *("up", "run", "models", "workers", "requests", "usage", "prices", "keys", "explain"),
    *("quote", "snapshot", "bench", "scheduler", "worker", "gateway", "packer", "deployments"),
)


def test_every_command_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)
    assert "quickthaw run shapes prompt=" in shown


def test_a_groups_line_names_every_command_of_it() -> None:
    root: Any = typer.main.get_command(app)
    untold = {
        f"{name} {command}"
        for name, group in root.commands.items()
        for command in getattr(group, "commands", ())
        if not re.search(rf"\b{command}\b", group.help.partition("\n\n")[0])
    }
    assert untold == {"deploy create"}, "which is what `deploy PATH` is"


def test_every_command_is_in_one_section_of_the_help() -> None:
    root: Any = typer.main.get_command(app)
    assert sorted(name for names in PANELS.values() for name in names) == sorted(root.commands)


@pytest.mark.parametrize("command", ["up", "run", "deploy create", "snapshot pack", "usage"])
def test_no_option_is_cut_short_on_a_terminal_of_80_columns(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert execute([*command.split(), "--help"]) == 0
    assert "…" not in capsys.readouterr().out


def test_deploys_help_says_where_its_options_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["deploy", "--help"]) == 0
    assert "deploy create --help" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", ["up", "run", "quote", "usage", "models add", "keys create", "bench cold-start"]
)
def test_a_commands_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*command.split(), "--help"]) == 0
    assert f"quickthaw {command}" in capsys.readouterr().out


def test_help_does_not_load_what_it_does_not_need() -> None:
    program = (
        "import sys; from quickthaw.cli.main import execute; execute(['--help']);"
        "heavy = {'grpc', 'torch', 'sqlalchemy', 'asyncio', 'PIL', 'ray'} & sys.modules.keys();"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_help_is_there_before_one_can_wait_for_it() -> None:
    def processor_seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "quickthaw.cli", "--help"], capture_output=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # 0.4 s on a quiet machine; of processor time, as waiting for neighbours is not its fault.
    assert min(processor_seconds() for _ in range(3)) < 1.2


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--version"]) == 0
    assert capsys.readouterr().out.startswith("quickthaw 0.")


@pytest.mark.parametrize("part", ["scheduler", "worker", "gateway", "packer"])
def test_a_part_as_a_command_takes_its_own_arguments(part: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quickthaw.cli", part, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "HOST:PORT" in done.stdout
