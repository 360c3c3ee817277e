"""`quickthaw env` and `quickthaw run-with`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from quickthaw.cli.main import execute
from quickthaw.cli.pointing import find_place
from quickthaw.gateway.door import Authority
from quickthaw.wire.errors import SettingsInvalid, Unavailable
from support.gateway_rig import a_gateway

NAMES = ("FAL_KEY", "HTTPS_PROXY")
SHOW = f"import json, os; print(json.dumps({{k: os.environ.get(k) for k in {NAMES}}}))"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """As `quickthaw up` leaves it."""
    (tmp_path / "admin.key").write_text("qt_secret\n")
    Authority(tmp_path / "tls")
    run = {
        "grpc": "127.0.0.1:1",
        "http": "http://127.0.0.1:7080",
        "metrics": "",
        "key_file": str(tmp_path / "admin.key"),
        "pid": 1,
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    return tmp_path


def test_the_variables_are_ones_that_a_shell_can_read(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["env", "fal", "--data-dir", str(data_dir)]) == 0
    lines = capsys.readouterr().out
    script = f'{lines}\nprintf \'%s\\n\' "$FAL_KEY" "$HTTPS_PROXY" "$SSL_CERT_FILE"'
    told = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    key, proxy, bundle = told.stdout.split()
    assert (key, proxy) == ("qt_secret", "http://127.0.0.1:7080")
    assert Path(bundle).read_text().count("BEGIN CERTIFICATE") > 50


def test_one_command_runs_with_them(data_dir: Path) -> None:
    command = [sys.executable, "-m", "quickthaw.cli", "run-with", "--data-dir", str(data_dir)]
    told = subprocess.run(
        [*command, "fal", "--", sys.executable, "-c", SHOW],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(told.stdout) == {
        "FAL_KEY": "qt_secret",
        "HTTPS_PROXY": "http://127.0.0.1:7080",
    }


def test_mistakes_are_named(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["env", "nobody", "--data-dir", str(data_dir)]) == 2
    assert "known are: fal, openai, replicate" in capsys.readouterr().err
    where = ["run-with", "--data-dir", str(data_dir), "fal"]
    assert execute([*where, "--", "no-such-program"]) == 2
    assert "no-such-program" in capsys.readouterr().err
    assert execute(["env", "fal", "--data-dir", str(data_dir / "elsewhere")]) == 1
    assert "quickthaw up" in capsys.readouterr().err


async def test_a_platform_elsewhere_gives_its_certificate_away(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, with_tls=True) as rig:
        environ = {
            "QUICKTHAW_URL": rig.listening.public_url,
            "QUICKTHAW_KEY": "qt_other",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "HOME": str(tmp_path),
        }
        place = await asyncio.to_thread(find_place, None, environ)
        assert place.key == "qt_other"
        served = (tmp_path / "tls" / "ca.pem").read_bytes()
        assert (place.tls_folder / "ca.pem").read_bytes() == served
        assert served in (place.tls_folder / "bundle.pem").read_bytes()
    with pytest.raises(Unavailable, match=r"ca\.pem"):
        find_place(None, environ)
    with pytest.raises(SettingsInvalid, match="QUICKTHAW_KEY"):
        find_place(None, {**environ, "QUICKTHAW_KEY": ""})
