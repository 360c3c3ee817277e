"""`quickthaw snapshot push`, `pull` and `ls`, as one types them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from quickthaw.cli.commands.snapshot_remote import open_pushed
from quickthaw.cli.snapshots import model_of
from quickthaw.snapshot import SnapshotStore
from support.large_snapshots import MIB, a_large_snapshot, files_of
from support.platform import quickthaw
from support.remote_servers import BUCKET, WebServer, s3_server

SECRET = "a-secret-that-must-not-show"


def run(
    *arguments: str | Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        quickthaw("snapshot", *arguments),
        env={**os.environ, "AWS_SECRET_ACCESS_KEY": SECRET, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert SECRET not in done.stdout + done.stderr
    return done


def test_a_snapshot_goes_to_a_bucket_and_comes_back(tmp_path: Path) -> None:
    here, back = tmp_path / "here", tmp_path / "back"
    digest = a_large_snapshot(here, 9 * MIB)
    with s3_server() as server:
        environment = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_REGION": "us-east-1"}
        flags = ("--endpoint", server.endpoint, "--json")
        url = f"s3://{BUCKET}/from/the/command/line"
        pushed = run("push", digest, url, "--store", here, *flags, environment=environment)
        assert pushed.returncode == 0, pushed.stderr
        assert json.loads(pushed.stdout)["sent_bytes"] > 9 * MIB
        again = run("push", digest, url, "--store", here, *flags, environment=environment)
        assert json.loads(again.stdout)["sent_bytes"] == 0
        (listed,) = json.loads(run("ls", url, *flags, environment=environment).stdout)
        assert (listed["digest"], listed["weight_bytes"]) == (digest, 9 * MIB)
        pulled = run("pull", url, "--store", back, *flags, environment=environment)
        assert json.loads(pulled.stdout)["digest"] == digest
        missing = run("ls", "s3://no-such-bucket/x", *flags, environment=environment)
        assert missing.returncode == 1
        assert "no such bucket" in json.loads(missing.stdout)["error"]["message"]
    assert files_of(back) == files_of(here)


def test_a_web_server_is_read_and_never_written(tmp_path: Path) -> None:
    here = tmp_path / "here"
    digest = a_large_snapshot(here, 5 * MIB)
    with WebServer(here) as server:
        pulled = run("pull", server.url, digest, "--store", tmp_path / "back")
        assert pulled.returncode == 0, pulled.stderr
        assert "fetched" in pulled.stdout
        nameless = run("pull", server.url, "--store", tmp_path / "back")
        assert "cannot be listed" in nameless.stderr
        pushed = run("push", digest, server.url, "--store", here)
        assert "only be read from" in pushed.stderr
    assert digest in SnapshotStore(tmp_path / "back")


def test_a_model_can_be_added_where_it_is(tmp_path: Path) -> None:
    """Only its manifest is read, and the catalog is told where workers fetch the rest."""
    digest = a_large_snapshot(tmp_path, 5 * MIB)
    with WebServer(tmp_path) as server:
        found = open_pushed(server.url, digest)
        model = model_of(found, "me/model", uri=server.url)
        assert [each.path for each in server.asked] == [f"/snapshots/{digest}/manifest.json"]
    assert (model.snapshot_digest, model.snapshot_uri) == (digest, server.url)
    assert [part.size_bytes for part in model.components] == [5 * MIB]
