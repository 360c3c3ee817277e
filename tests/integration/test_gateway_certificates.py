"""Certificates while gateways live on: renewed ones, new leaves, and who starts beside another."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

from quickthaw.gateway.door import Authority
from quickthaw.gateway.door.authority import LEAF_DAYS, LEAF_USED_DAYS
from quickthaw.gateway.settings import Limits
from quickthaw.wire.own_certificate import OwnCertificate
from support.gateway_rig import a_gateway
from support.patience import PATIENCE_SECONDS

NAME = "operator.localhost"
"""One that the local authority vouches for too; a gateway without it shows the operator's own."""


def shown(context: ssl.SSLContext, name: str = NAME) -> x509.Certificate:
    """What a client sees that connects now, without a network between them."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    client = anybody.wrap_bio(to_client, to_server, server_hostname=name)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    certificate = client.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate)


class Operator:
    """Renews as certbot and Kubernetes do: a new pair in new files, put in place of the old."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "operator")
        self.chain, self.key = folder / "chain.pem", folder / "key.pem"
        self.renew()

    def renew(self, *, key: bool = True) -> x509.Certificate:
        """`key`: whether both halves are there yet."""
        made = Authority(self.authority.ca_path.parent)
        leaf = made.leaf_pem(NAME)
        halves = [(self.chain, leaf)] + [(self.key, made.leaf_key_pem)] * key
        for path, content in halves:
            draft = path.with_suffix(".new")
            draft.write_bytes(content)
            draft.replace(path)
        return x509.load_pem_x509_certificate(leaf)


async def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    trusting = ssl.create_default_context(cafile=str(operator.authority.ca_path))
    limits = Limits(drain_seconds=1, tls_check_seconds=0.02)
    pair = operator.chain, operator.key
    async with a_gateway(tmp_path, own_certificate=pair, limits=limits) as rig:
        renewed = operator.renew()
        port = rig.listening.http.port
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                _, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=trusting, server_hostname=NAME
                )
                seen = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                writer.close()
                if x509.load_der_x509_certificate(seen) == renewed:
                    break


def test_half_a_renewal_changes_nothing_until_the_other_half_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    operator = Operator(tmp_path)
    own = OwnCertificate(operator.chain, operator.key)
    before = shown(own.context)
    operator.renew(key=False)
    own.refresh()
    own.refresh()
    assert shown(own.context) == before
    assert [record.levelname for record in caplog.records] == ["WARNING"], "once, not at each look"
    after = operator.renew()
    own.refresh()
    assert shown(own.context) == after != before


def test_certificate_files_that_vanish_leave_what_is_in_use(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    own = OwnCertificate(operator.chain, operator.key)
    before = shown(own.context)
    operator.key.unlink()
    own.refresh()
    assert shown(own.context) == before


def test_a_process_that_lives_for_months_shows_no_leaf_near_its_end(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    authority = Authority(tmp_path, lambda: now)
    context = authority.server_context()
    first = shown(context, "localhost")
    assert shown(context, "localhost") == first
    now += datetime.timedelta(days=LEAF_DAYS)
    later = shown(context, "localhost")
    left = later.not_valid_after_utc - now
    assert datetime.timedelta(days=LEAF_USED_DAYS) < left == datetime.timedelta(days=LEAF_DAYS)


def test_gateways_that_start_at_once_share_one_authority(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Authority(tmp_path).ca_pem, range(8)))
    assert set(made) == {(tmp_path / "ca.pem").read_bytes()}
    Authority(tmp_path)
