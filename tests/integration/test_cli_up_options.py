"""`up --set`: the parts get what is set for them, and say themselves what is wrong with it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from support.platform import quickthaw, running_platform

SMALL = ("--vram-bytes", "256MiB", "--pinned-bytes", "64MiB", "--no-packer")
NO_SERVER = {
    "AWS_ENDPOINT": "http://127.0.0.1:1",
    "AWS_ALLOW_HTTP": "true",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
}
ANYWHERE = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0")


def test_workers_have_the_options_that_up_was_given_for_them(tmp_path: Path) -> None:
    options = ("--set", "worker.label=zone=a", "--set", "scheduler.core=queue_ahead=2")
    with running_platform(tmp_path / "data", *SMALL, *options) as platform:
        with platform.client() as client:
            [worker] = client.workers.list()
        assert worker.labels == {"zone": "a"}, platform.logs()


def test_a_part_says_what_is_wrong_with_an_option_and_nothing_is_left(tmp_path: Path) -> None:
    done = subprocess.run(
        quickthaw("up", "--data-dir", tmp_path, *ANYWHERE, "--set", "scheduler.queue-max=many"),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 1
    assert "--queue-max 'many' must be a whole number" in " ".join(done.stderr.split())


def test_a_bucket_that_cannot_be_used_is_said_before_anything_starts(tmp_path: Path) -> None:
    bucket = ("--blob-store", "s3://no-such-bucket")
    done = subprocess.run(
        quickthaw("up", "--data-dir", tmp_path, *ANYWHERE, *bucket),
        env={**os.environ, **NO_SERVER},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 2
    told = " ".join(done.stderr.split())
    assert "--blob-store 's3://no-such-bucket' cannot be" in told
    assert "AWS_ENDPOINT" in told
    assert not (tmp_path / "logs").exists()
