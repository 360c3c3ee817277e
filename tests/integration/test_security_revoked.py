"""A key that was revoked opens nothing any more, nor does anything that was made with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from quickthaw.v1 import billing_pb2
from support.strangers import Strangers, two_tenants

APPS = {"allowed_apps": ["tiny"], "token_expiration": 600}


@pytest.fixture
async def strangers(tmp_path: Path) -> AsyncIterator[Strangers]:
    async with two_tenants(tmp_path) as found:
        yield found


async def revoke_alices_key(strangers: Strangers) -> None:
    key_id = strangers.alice.key.split("_")[1]
    request = billing_pb2.RevokeKeyRequest(key_id=key_id)
    await strangers.scheduler.admin.accounts.RevokeKey(request)


async def test_tokens_and_tickets_for_uploads_die_with_their_key(strangers: Strangers) -> None:
    alice, nobody = strangers.http_alice, strangers.nobody
    token = (await alice.post("/rest/storage/auth/token", json={})).json()["token"]
    bearer = {"authorization": f"Bearer {token}", "content-type": "image/png"}
    whole = (await alice.post("/rest/storage/upload/initiate", json={})).json()["upload_url"]
    parts = (await alice.post("/rest/storage/upload/initiate-multipart", json={})).json()
    by_token = (await nobody.post("/cdn/files/upload/multipart", headers=bearer)).json()
    begun = f"{by_token['access_url']}/multipart/{by_token['uploadId']}"
    first = await nobody.put(f"{begun}/1", content=b"before")
    assert first.status_code == 200

    await revoke_alices_key(strangers)

    async def refused(
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        json: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        answer = await nobody.request(method, url, content=content, json=json, headers=headers)
        assert answer.status_code == 401, (method, url, answer.text)
        assert "revoked" in answer.text

    await refused("POST", "/cdn/files/upload", content=b"x", headers=bearer)
    await refused("POST", "/cdn/files/upload/multipart", headers=bearer)
    await refused("PUT", whole, content=b"x")
    await refused("PUT", f"{parts['upload_url']}/1", content=b"x")
    await refused("PUT", f"{begun}/2", content=b"after")
    etag = {"partNumber": 1, "etag": first.headers["etag"]}
    await refused("POST", f"{begun}/complete", json={"parts": [etag]})


async def test_tokens_for_browsers_die_with_their_key(strangers: Strangers) -> None:
    token = (await strangers.http_alice.post("/rest/tokens", json=APPS)).json()
    socket = f"{strangers.url.replace('http', 'ws')}/run/test/tiny/realtime?fal_jwt_token={token}"
    async with connect(socket):
        pass

    await revoke_alices_key(strangers)

    answer = await strangers.nobody.post(f"/run/test/tiny?fal_jwt_token={token}", json={})
    assert answer.status_code == 401
    with pytest.raises(InvalidStatus) as refused:
        async with connect(socket):
            pass
    assert refused.value.response.status_code == 401
