"""`quickthaw up --tls-cert`: TLS for others, and the machine's own parts beside it."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import httpx

from quickthaw.client import Client, serving
from quickthaw.wire.errors import Unavailable
from support.certificates import INTERNAL, TestAuthority
from support.patience import PATIENCE_SECONDS
from support.platform import quickthaw, running_platform, until

SMALL = ("--vram-bytes", "256MiB", "--pinned-bytes", "64MiB", "--no-packer")


def said(*words: str) -> tuple[str, int]:
    done = subprocess.run(quickthaw(*words), stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout, done.returncode


async def test_others_need_tls_and_a_certificate_and_this_machine_neither(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path / "pki")
    shown, caller = authority.shown(mutual=True), authority.dialling("caller")
    flags = ["--tls-cert", str(shown.certificate), "--tls-key", str(shown.key)]
    flags += ["--tls-client-ca", str(authority.ca)]
    with running_platform(tmp_path / "data", *SMALL, *flags) as platform:
        address = platform.ready["grpc"]
        assert address.startswith("grpcs://127.0.0.1:")
        with Client(data_dir=platform.data_dir) as client:
            assert client.endpoint.tls is False
            assert [worker.state for worker in client.workers.list()] == ["ready"]

        trusting = ("--grpc", address, "--tls-ca", str(caller.ca))
        own = ("--tls-cert", str(caller.certificate), "--tls-key", str(caller.key))
        assert said("health", *trusting, *own) == ("serving\n", 0)

        context = ssl.create_default_context(cafile=str(authority.ca))
        async with httpx.AsyncClient(verify=context, timeout=PATIENCE_SECONDS) as http:
            https = httpx.URL(platform.ready["http"]).copy_with(scheme="https")
            answer = await http.get(
                https.join("/health/ready"), extensions={"sni_hostname": INTERNAL}
            )
            assert answer.status_code == 200

        def is_where_it_was() -> bool:
            try:
                return serving(address, tls=caller) and serving(data_dir=platform.data_dir)
            except Unavailable:
                return False

        assert platform.kill("scheduler") is not None
        await until(is_where_it_was, "a new scheduler at both addresses")
